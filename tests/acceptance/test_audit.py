"""The audit by command and in `serve`: it raises no false alarm, tells what it finds, and goes on after any failure."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import uuid4

import grpc
import pytest

from metering import app
from tests.conftest import ServiceProcesses
from tests.support.audit import run_audit
from tests.support.command import metering
from tests.support.proxy import TcpProxy
from tests.support.service import FakeClock, Service
from tests.support.waiting import until, until_folded

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[asyncpg.Record]

SEPTEMBER, OCTOBER = datetime(2026, 9, 25, tzinfo=UTC), datetime(2026, 10, 15, tzinfo=UTC)
ALWAYS = 0.00001
"""An interval in hours that is over at once."""


async def for_ever(do: Callable[[], Awaitable[object]]) -> None:
    while True:
        await do()
        await asyncio.sleep(0)


async def test_traffic_closes_payments_and_deductions_are_no_differences(service: Service) -> None:
    accounts = [f"account-{number}" for number in range(5)]
    for account_id in accounts:
        await service.activate(account_id)
    months = iter([("2026-09", SEPTEMBER), ("2026-10", OCTOBER)])

    async def record() -> None:
        await service.record_batch(
            [service.call(account_id, at=at) for account_id in accounts for at in (SEPTEMBER, OCTOBER, None)]
        )

    async def collect() -> None:
        for account_id in accounts:
            await service.pay(account_id, "0.50")
            for month in ("2026-09", "2026-10"):
                with contextlib.suppress(grpc.aio.AioRpcError):  # not billed yet
                    await service.deduct(account_id, month)

    async def close() -> None:
        if month := next(months, None):
            await service.close_month(month[0])

    await record()
    traffic = [asyncio.create_task(for_ever(do)) for do in (record, collect)]
    for _ in range(4):
        closing = asyncio.create_task(close())
        found = await run_audit(service.database_url, service.clock)
        assert (found.differences, found.parts) == ([], 3)
        await closing
    for task in traffic:
        task.cancel()
    await asyncio.gather(*traffic, return_exceptions=True)
    found = await run_audit(service.database_url, service.clock)
    assert found.differences == []
    assert found.calls["billed"] > 0
    assert found.calls["carried"] > 0, "calls came in after the months were closed"


async def make_books(service: Service) -> None:
    for account_id in ("acme", "zenith"):
        await service.activate(account_id)
        await service.record_batch([service.call(account_id, at=OCTOBER) for _ in range(4)])
    await service.close_month("2026-10")


async def test_the_command_names_each_difference_by_account_and_exits_with_3(
    service: Service, db: "Connection"
) -> None:
    await make_books(service)
    url = service.database_url
    code, output = await metering("audit", METERING_DATABASE_URL=url)
    assert (code, output.splitlines()[-2:]) == (
        0,
        [
            "  8 recorded calls = 8 billed + 0 carried to a later month + 0 in open months + 0 closed without a price",
            "the books are right",
        ],
    )
    await db.execute("UPDATE accounts SET balance = 1 WHERE account_id = 'zenith'")
    await db.execute("UPDATE bill_lines SET amount = 7 WHERE account_id = 'acme'")

    code, output = await metering("audit", METERING_DATABASE_URL=url)
    lines = output.splitlines()
    assert code == 3
    assert [line.split(":")[0].strip() for line in lines[:4]] == ["acme", "acme", "acme", "zenith"]
    assert lines[3] == (
        "  zenith: balances are the sum of the ledger: found balance 1, last entry 0; "
        "expected entries add up to 0, there are 0"
    )
    assert "  ✗ balances are the sum of the ledger: 1 differences" in lines
    assert "  ✓ usage is the number of raw calls" in lines
    assert lines[-1] == "the books are NOT right"


async def test_the_command_audits_one_account_or_one_month(service: Service, db: "Connection") -> None:
    await make_books(service)
    url = service.database_url
    await db.execute("UPDATE accounts SET balance = 1 WHERE account_id = 'zenith'")
    await db.execute("UPDATE bill_lines SET amount = 7 WHERE account_id = 'acme'")
    assert (await metering("audit", "--account", "acme", METERING_DATABASE_URL=url))[1].count("zenith") == 0
    code, output = await metering("audit", "--month", "2026-11", METERING_DATABASE_URL=url)
    assert (code, "balances" in output) == (0, False), "balances are of no month"
    code, output = await metering("audit", "--account", "acmee", METERING_DATABASE_URL=url)
    assert (code, output.splitlines()[-1]) == (
        1,
        "Error: account_id: 'acmee' is not activated; ActivateAccount does it",
    )


async def gauged(service: Service, name: str, value: float, **labels: str) -> None:
    """Return once a metric has a value."""
    await until(lambda: service.metrics.registry.get_sample_value(name, labels) == value)


@pytest.fixture
def quick_gauges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "BOOK_GAUGES_INTERVAL_S", 0.05)
    monkeypatch.setattr(app, "AUDIT_INTERVAL_S", 0.02)


@pytest.mark.usefixtures("quick_gauges")
async def test_serve_finds_drift_by_itself_and_says_when_it_is_gone(
    database_url: str, db: "Connection", clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with Service(database_url, clock) as service:
        await service.activate("acme")
        await gauged(service, "metering_audit_finished_timestamp_seconds", clock.now().timestamp())
        await db.execute("UPDATE accounts SET balance = 1")
        clock.advance(hours=24)
        await gauged(service, "metering_audit_drift", 1, kind="BALANCES")
        await gauged(service, "metering_audit_drift", 0, kind="USAGE")
        await gauged(service, "metering_audit_differences_total", 1, kind="BALANCES")
        assert any("the books of acme are wrong: balances are the sum" in record.message for record in caplog.records)
        await db.execute("UPDATE accounts SET balance = 0")
        clock.advance(hours=24)
        await gauged(service, "metering_audit_drift", 0, kind="BALANCES")
        await gauged(service, "metering_audit_finished_timestamp_seconds", clock.now().timestamp())


@pytest.mark.usefixtures("quick_gauges")
async def test_several_replicas_make_one_pass_together(database_url: str, db: "Connection", clock: FakeClock) -> None:
    async with Service(database_url, clock) as one, Service(database_url, clock) as other:
        for passes in (1, 2):
            for service in (one, other):
                await gauged(service, "metering_audit_finished_timestamp_seconds", clock.now().timestamp())
            assert await db.fetchval("SELECT count(*) FROM audit_passes WHERE finished_at IS NOT NULL") == passes
            if passes == 1:
                await one.activate("acme")
                clock.advance(hours=24)
        audited = [each.metrics.registry.get_sample_value("metering_audited_accounts_total") for each in (one, other)]
        assert sum(each or 0 for each in audited) == 1


@pytest.mark.usefixtures("quick_gauges")
async def test_a_database_that_goes_away_puts_the_audit_off_and_does_not_end_it(
    database_url: str, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with TcpProxy.to_postgres(database_url) as proxy, Service(proxy.url, clock) as service:
        await service.activate("acme")
        await gauged(service, "metering_audit_finished_timestamp_seconds", clock.now().timestamp())
        await proxy.refuse()
        clock.advance(hours=24)
        await until(lambda: any("audit put off: The database" in record.message for record in caplog.records))
        await proxy.accept()
        clock.advance(minutes=1)
        await gauged(service, "metering_audit_finished_timestamp_seconds", clock.now().timestamp())


@pytest.mark.usefixtures("quick_gauges")
async def test_books_that_cannot_be_audited_are_told_of_and_recording_goes_on(
    database_url: str, db: "Connection", clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with Service(database_url, clock) as service:
        await service.activate("acme")
        await gauged(service, "metering_audit_finished_timestamp_seconds", clock.now().timestamp())
        await db.execute("ALTER TABLE rejected_calls RENAME COLUMN billing_month TO month_of_the_bill")
        clock.advance(hours=24)
        await until(lambda: any("the audit failed, and is tried again" in record.message for record in caplog.records))
        assert not (await service.record(service.call("acme"))).duplicate
        await db.execute("ALTER TABLE rejected_calls RENAME COLUMN month_of_the_bill TO billing_month")
        clock.advance(minutes=1)
        await gauged(service, "metering_audit_finished_timestamp_seconds", clock.now().timestamp())


async def test_a_killed_service_leaves_the_pass_to_the_next_one(processes: ServiceProcesses, db: "Connection") -> None:
    flags = ("--audit-interval-h", str(ALWAYS), "--audit-share", "1")
    first = await processes.start(*flags)
    for _ in range(5):
        await first.activate(uuid4().hex)
    async with asyncio.timeout(30):
        while await db.fetchval("SELECT count(*) FROM audit_passes WHERE finished_at IS NOT NULL AND accounts = 5") < 2:
            await asyncio.sleep(0.05)
    await first.kill()
    # As if it had died in the middle of a step, a minute ago.
    await db.execute(
        "INSERT INTO audit_passes (started_at, next_account, resume_at, accounts, calls, differences)"
        " SELECT now(), (SELECT max(account_id) FROM accounts), now(), 4, '{\"recorded\": 7}', '{}'"
    )
    unfinished = await db.fetchval("SELECT max(pass_id) FROM audit_passes")
    await processes.start(*flags)
    finished = "SELECT accounts, calls FROM audit_passes WHERE pass_id = $1 AND finished_at IS NOT NULL"
    async with asyncio.timeout(30):
        while not (row := await db.fetchrow(finished, unfinished)):
            await asyncio.sleep(0.05)
    assert tuple(row) == (5, '{"dropped": 0, "recorded": 7}'), "one account more, and no calls"


async def test_the_audit_can_be_turned_off(database_url: str, db: "Connection", clock: FakeClock) -> None:
    async with Service(database_url, clock, audit_interval_h=0.0) as service:
        await service.activate("acme")
        await service.record(service.call("acme"))
        await until_folded(db)  # the folder has had its turn
    assert await db.fetchval("SELECT count(*) FROM audit_passes") == 0
