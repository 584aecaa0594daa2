"""P4 accounted: recorded calls = billed + carried + in the open month, recomputed from the raw calls; and it shows."""

import asyncio
import os
import sys
from datetime import UTC, datetime

import asyncpg

from tests.support.audit import assert_books_are_right
from tests.support.service import FakeClock, Service

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
    while await connection.fetchval("SELECT count(*) FROM usage_deltas"):
        await asyncio.sleep(0.02)
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


async def test_metering_audit_prints_what_differs_and_exits_with_3(
    service: Service, db: "asyncpg.Connection[asyncpg.Record]", clock: FakeClock
) -> None:
    await make_books(service)
    assert await metering_audit(service.database_url) == (0, "the books are right")
    await db.execute("UPDATE accounts SET balance = balance + 1 WHERE account_id = 'zenith'")
    code, output = await metering_audit(service.database_url, whole=True)
    assert code == 3
    assert "zenith: found balance 3.50" in output
    assert "the books are NOT right" in output


async def metering_audit(url: str, *, whole: bool = False) -> tuple[int | None, str]:
    """Return the exit code and the last line, or all, of what `metering audit` prints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "metering", "audit"),
        env=os.environ | {"METERING_DATABASE_URL": url},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    text = output.decode().strip()
    return process.returncode, text if whole else text.splitlines()[-1]
