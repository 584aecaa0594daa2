"""P4 accounted: recorded calls = billed + carried + in the open month, recomputed from the raw calls; and it shows."""

import asyncio
from datetime import UTC, datetime

import asyncpg

from tests.support.audit import assert_books_are_right
from tests.support.service import Service
from tests.support.waiting import until_folded

OCTOBER = datetime(2026, 10, 15, tzinfo=UTC)


async def make_books(service: Service) -> None:
    """Two accounts with calls in October and November; October is billed, and acme has not paid all of it."""
    for account_id in ("acme", "zenith"):
        await service.activate(account_id)
        await service.record_batch([service.call(account_id, at=OCTOBER) for _ in range(200)])
        await service.record_batch([service.call(account_id) for _ in range(100)])
    await service.close_month("2026-10")
    await service.record(service.call("acme", at=OCTOBER))
    await service.pay("acme", "1")
    await service.pay("zenith", "5")
    assert (await service.deduct("acme", "2026-10")).service_status.reason
    connection = await asyncpg.connect(service.database_url)
    await until_folded(connection)
    await connection.close()


async def test_every_recorded_call_is_in_its_place(service: Service) -> None:
    await make_books(service)
    found = await assert_books_are_right(service.database_url)
    assert found.calls == {"recorded": 601, "dropped": 0, "billed": 400, "carried": 1, "open": 200, "unrated": 0}


async def test_calls_that_are_being_recorded_do_not_disturb_the_audit(service: Service) -> None:
    await service.activate("acme")
    recording = asyncio.create_task(record_for_ever(service))
    for _ in range(20):
        await assert_books_are_right(service.database_url)
    recording.cancel()


async def record_for_ever(service: Service) -> None:
    while True:
        await service.record_batch([service.call("acme") for _ in range(150)])
