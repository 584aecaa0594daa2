from datetime import UTC, datetime
from itertools import pairwise
from uuid import RFC_4122, UUID, uuid4

from hypothesis import given
from hypothesis import strategies as st

from faceid_metering.uuid7 import Uuid7Generator, uuid7_time

CLOCKS = st.lists(st.integers(0, 2**48 - 2), min_size=1, max_size=20)
BYTES = st.integers(0, 255)


def make(clock_ms: list[int], byte: int = 255) -> list[UUID]:
    times = iter(clock_ms)
    generate = Uuid7Generator(lambda: next(times), lambda count: bytes([byte]) * count)
    return [generate() for _ in clock_ms]


@given(CLOCKS, BYTES)
def test_all_of_them_are_of_version_7(clock_ms: list[int], byte: int) -> None:
    assert all((uuid.version, uuid.variant) == (7, RFC_4122) for uuid in make(clock_ms, byte))


@given(CLOCKS, BYTES)
def test_each_is_larger_than_the_one_before_even_if_the_clock_is_set_back(clock_ms: list[int], byte: int) -> None:
    uuids = make(clock_ms, byte)

    assert all(earlier < later for earlier, later in pairwise(uuids))
    assert sorted(map(str, uuids)) == list(map(str, uuids))


@given(st.lists(st.integers(0, 2**47), min_size=1, max_size=20, unique=True).map(sorted), BYTES)
def test_they_hold_the_time_of_the_clock(clock_ms: list[int], byte: int) -> None:
    assert [uuid.int >> 80 for uuid in make(clock_ms, byte)] == clock_ms


def test_the_example_of_the_rfc_holds_its_time() -> None:
    uuid = UUID("017F22E2-79B0-7CC3-98C4-DC0C0C07398F")

    assert uuid7_time(uuid) == datetime(2022, 2, 22, 19, 22, 22, tzinfo=UTC)


@given(st.datetimes(datetime(1970, 1, 1), timezones=st.just(UTC)))
def test_the_time_is_read_to_the_millisecond(time: datetime) -> None:
    time = time.replace(microsecond=time.microsecond // 1000 * 1000)
    (uuid,) = make([round(time.timestamp() * 1000)])

    assert uuid7_time(uuid) == time


def test_other_uuids_hold_no_time() -> None:
    assert uuid7_time(uuid4()) is None
    assert uuid7_time(UUID(int=0)) is None


def test_a_time_after_9999_is_none() -> None:
    assert uuid7_time(UUID("ffffffff-ffff-7000-8000-000000000000")) is None
