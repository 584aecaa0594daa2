"""The client for threads is the client: the same methods, waited for."""

import inspect
import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from faceid_metering import MeteringClient, MeteringError, SyncMeteringClient
from faceid_metering.testing import FakeMetering


@pytest.fixture
def fake() -> Iterator[FakeMetering]:
    with FakeMetering() as fake:
        fake.activate("acme")
        yield fake


def public_methods(client: type) -> set[str]:
    return {name for name, _ in inspect.getmembers(client, callable) if not name.startswith("_")}


def test_it_has_every_method_of_the_asynchronous_client() -> None:
    assert public_methods(MeteringClient) - public_methods(SyncMeteringClient) == set()


def test_what_was_recorded_is_listed(fake: FakeMetering) -> None:
    with SyncMeteringClient(fake.target) as metering:
        metering.wait_until_connected(10)
        calls = [metering.call_record("acme", "DetectAuth") for _ in range(3)]
        metering.batch_record_calls(calls)

        month = calls[0].occurred_at.ToDatetime().strftime("%Y-%m")
        listed = [recorded.call.call_id for recorded in metering.list_calls("acme", month)]

        assert listed == sorted(call.call_id for call in calls)


def test_errors_come_out_of_an_iterator(fake: FakeMetering) -> None:
    with SyncMeteringClient(fake.target) as metering, pytest.raises(MeteringError) as caught:
        list(metering.list_calls("acme", "November"))

    assert caught.value.reason == "INVALID_FIELD"


def test_a_watch_that_is_left_ends_and_the_client_can_be_closed(fake: FakeMetering) -> None:
    with SyncMeteringClient(fake.target) as metering:
        with closing(metering.watch_service_status(["acme"])) as statuses:
            assert next(statuses).account_id == "acme"
        assert list(statuses) == []


def test_a_thread_that_watches_ends_when_the_client_is_closed(fake: FakeMetering) -> None:
    metering = SyncMeteringClient(fake.target)
    statuses = metering.watch_service_status(["acme"])
    next(statuses)
    rest: list[object] = []
    watching = threading.Thread(target=lambda: rest.append(list(statuses)))
    watching.start()

    metering.close()

    watching.join(10)
    assert rest == [[]]
