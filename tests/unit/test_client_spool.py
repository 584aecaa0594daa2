from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faceid_metering import ClientConfig, MeteringClient
from faceid_metering.spool import Batch, SpoolFile
from faceid_metering.testing import FakeMetering

ROOM = 16 * 1024 * 1024


def batch(number: int, body: bytes = b"call") -> Batch:
    return Batch("sender", number, 1, body)


def test_batches_that_follow_each_other_are_delivered_as_one(tmp_path: Path) -> None:
    spool = SpoolFile(tmp_path, ROOM, fsync=False)
    assert spool.put([batch(1, b"a"), batch(2, b"b"), batch(9, b"c")])
    first = spool.next_batch(0, 100)
    assert first is not None
    assert (first.first_number, first.calls, first.body) == (1, 2, b"ab")
    spool.delete(first)
    assert spool.calls == 1
    spool.close()


def test_a_full_spool_takes_nothing_until_the_oldest_are_dropped(tmp_path: Path) -> None:
    spool = SpoolFile(tmp_path, ROOM, fsync=False)
    megabyte = b"x" * 1024 * 1024
    kept = 0
    while spool.put([batch(kept + 1, megabyte)]):
        kept += 1
    assert kept == 7  # and the log's 8
    dropped = spool.drop_oldest(batch(kept + 1, megabyte))
    assert dropped == 1
    assert spool.put([batch(kept + 1, megabyte)])
    assert spool.calls == kept
    first = spool.next_batch(0, 1)
    assert first is not None
    assert first.first_number == 2
    spool.close()


@settings(max_examples=10, deadline=None)
@given(sizes=st.lists(st.integers(1, 1_000_000) | st.integers(1_800, 2_300), min_size=1, max_size=20))
def test_the_files_never_take_more_than_their_bound(tmp_path_factory: pytest.TempPathFactory, sizes: list[int]) -> None:
    """Some sizes fill pages badly, so what is stored is no measure of what it takes."""
    directory = tmp_path_factory.mktemp("spool")
    spool = SpoolFile(directory, ROOM, fsync=False)
    for number in range(500):
        stored = batch(number + 1, b"x" * sizes[number % len(sizes)])
        if not spool.put([stored]):
            assert spool.drop_oldest(stored)
            assert spool.put([stored])
        assert sum(path.stat().st_size for path in directory.iterdir()) <= ROOM
    spool.close()


def test_a_file_is_adopted_once_its_client_is_gone(tmp_path: Path) -> None:
    gone, heir = SpoolFile(tmp_path, ROOM, fsync=False), SpoolFile(tmp_path, ROOM, fsync=False)
    assert gone.put([batch(1), batch(2)])
    assert heir.adopt() == 0
    gone.close()
    assert heir.adopt() == 2
    assert heir.adopt() == 0
    assert len(list(tmp_path.glob("*.spool"))) == 1
    heir.close()


async def test_a_client_without_a_directory_says_once_that_its_calls_are_not_safe(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with FakeMetering() as fake:
        fake.activate("acme")
        async with MeteringClient(fake.target) as metering:
            await metering.get_account("acme")
            assert not caplog.messages, "it may be one that only reads"
            for _ in range(2):
                metering.record("acme", "DetectAuth")
                assert await metering.flush(10)
        assert [message for message in caplog.messages if "no spool_dir is set" in message] == caplog.messages[:1]

        caplog.clear()
        async with MeteringClient(fake.target, config=ClientConfig(spool_dir=tmp_path)) as metering:
            metering.record("acme", "DetectAuth")
            assert await metering.flush(10)
    assert not caplog.messages


def test_a_bound_that_has_no_room_for_the_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="spool_bytes must be at least 16777216"):
        ClientConfig(spool_dir=tmp_path, spool_bytes=1_000_000)


async def test_disk_first_without_a_directory_is_refused_at_once() -> None:
    with FakeMetering() as fake:
        async with MeteringClient(fake.target) as metering:
            with pytest.raises(ValueError, match="set it in ClientConfig"):
                metering.record("acme", "DetectAuth", durability="disk")
            assert await metering.flush(1)
