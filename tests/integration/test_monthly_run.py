"""The monthly run in `serve`: closes and deducts on day 1 to 3, by one of the replicas."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

import grpc
import pytest

from faceid.metering.v1 import account_service_pb2 as accounts_pb
from faceid.metering.v1 import resources_pb2 as pb
from metering import app
from metering.billing.months import format_month, parse_month
from metering.store.database import Database
from metering.store.monthly_runs import MonthlyRunStore
from tests.support.audit import assert_books_are_right
from tests.support.locks import held, until_waiting
from tests.support.service import FakeClock, Service, amount, fields_of, reason_of

if TYPE_CHECKING:
    import asyncpg


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look every 20 ms whether it is time, not every minute."""
    monkeypatch.setattr(app, "MONTHLY_RUN_INTERVAL_S", 0.02)


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await condition():
            await asyncio.sleep(0.01)


async def bill_state(service: Service, account_id: str, month: str) -> "pb.BillState | None":
    try:
        return (await service.bill(account_id, month)).state
    except grpc.aio.AioRpcError:
        return None


async def test_day_1_closes_and_deducts_and_day_3_suspends_who_has_not_paid(
    database_url: str, clock: FakeClock, db: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    async with Service(database_url, clock) as service, Service(database_url, clock):
        for account_id, money in (("rich", "100"), ("poor", "1")):
            await service.activate(account_id)
            await service.pay(account_id, money)
            await service.record_batch([service.call(account_id) for _ in range(100)])

        clock.time = datetime(2026, 11, 30, 15, 59, 59, tzinfo=UTC)  # the last second of November in Shanghai
        await service.record(service.call("rich"))
        assert await db.fetchval("SELECT count(*) FROM months") == 0
        clock.time = datetime(2026, 11, 30, 16, tzinfo=UTC)

        async def rich_has_paid() -> bool:
            return await bill_state(service, "rich", "2026-11") == pb.BILL_STATE_PAID

        async def poor_is_suspended() -> bool:
            return (await service.account("poor")).service_status.state == pb.SERVICE_STATE_SUSPENDED

        await eventually(rich_has_paid)
        poor = await service.bill("poor", "2026-11")
        assert (poor.state, amount(poor.deducted)) == (pb.BILL_STATE_ISSUED, 1)
        assert not await poor_is_suspended()
        clock.time = datetime(2026, 12, 2, 16, tzinfo=UTC)  # 3 December begins in Shanghai
        await eventually(poor_is_suspended)
    await assert_books_are_right(database_url)


async def test_a_service_that_was_down_on_day_1_to_3_makes_up_for_it(database_url: str, clock: FakeClock) -> None:
    async with Service(database_url, clock) as service:
        await service.activate("acme")
        await service.record(service.call("acme"))
    clock.time = datetime(2026, 12, 20, tzinfo=UTC)
    async with Service(database_url, clock) as service:

        async def acme_is_overdue() -> bool:
            return await bill_state(service, "acme", "2026-11") == pb.BILL_STATE_OVERDUE

        await eventually(acme_is_overdue)


async def test_a_new_installation_does_not_close_last_month_under_the_feet_of_who_brings_in_old_calls(
    database_url: str, clock: FakeClock, db: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    async with Service(database_url, clock) as service:
        await service.activate("acme")
        call = service.call("acme", at=datetime(2026, 10, 15, tzinfo=UTC))
        assert (await service.record(call)).billing_month == "2026-10"
        clock.advance(days=1)
    async with Service(database_url, clock) as service:
        await asyncio.sleep(0.2)  # ten times as long as it takes to look
        assert await db.fetchval("SELECT count(*) FROM months") == 0


async def test_each_day_is_run_once_by_one_replica(
    database_url: str, clock: FakeClock, db: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    async with Service(database_url, clock), Service(database_url, clock), Service(database_url, clock):
        for day in (1, 2, 3, 4):
            clock.time = datetime(2026, 12, day, 4, tzinfo=UTC)

            async def ran(day: int = day) -> bool:
                return bool(await db.fetchval("SELECT max(run_on) = $1 FROM monthly_runs", clock.time.date()))

            if day < 4:
                await eventually(ran)
        await asyncio.sleep(0.2)  # ten times as long as it takes to look
    runs = [row["run_on"].isoformat() for row in await db.fetch("SELECT run_on FROM monthly_runs ORDER BY run_on")]
    assert runs == ["2026-11-23", "2026-12-01", "2026-12-02", "2026-12-03"]


async def runs_of(service: Service) -> list[pb.MonthlyRun]:
    return list((await service.accounts.ListMonthlyRuns(accounts_pb.ListMonthlyRunsRequest())).runs)


async def preview_of(service: Service) -> list[accounts_pb.PreviewRunMonthResponse]:
    return [each async for each in service.accounts.PreviewRunMonth(accounts_pb.PreviewRunMonthRequest())]


async def owing(service: Service) -> None:
    """Have accounts that can pay for October, that cannot, that have no price, that owe for September, that idle."""
    for account_id, money in (("rich", "100"), ("poor", "1"), ("idle", "1"), ("behind", "0.50")):
        await service.activate(account_id)
        await service.pay(account_id, money)
    await service.activate("unrated", plan="")
    september, october = datetime(2026, 9, 25, tzinfo=UTC), datetime(2026, 10, 15, tzinfo=UTC)
    await service.record_batch([service.call("behind", at=september) for _ in range(100)])
    await service.close_month("2026-09")
    for account_id in ("rich", "poor", "unrated", "behind"):
        await service.record_batch([service.call(account_id, at=october) for _ in range(100)])


async def test_a_preview_tells_what_a_run_then_does_and_changes_nothing(
    service: Service, db: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await owing(service)
    preview = {each.account_id: each for each in await preview_of(service)}
    assert list(preview) == ["behind", "poor", "rich", "unrated"]
    assert await db.fetchval("SELECT count(*) FROM months") == 1
    assert await preview_of(service) == list(preview.values())

    behind, poor, rich, unrated = preview.values()
    assert [(bill.month, amount(bill.total), bill.state) for bill in behind.bills] == [
        ("2026-10", Decimal("1.25"), pb.BILL_STATE_OVERDUE)
    ]
    assert (amount(behind.deducted), amount(behind.outstanding), behind.suspends) == (Decimal("0.5"), 2, True)
    assert (amount(poor.deducted), amount(poor.outstanding), poor.suspends) == (1, Decimal("0.25"), True)
    assert (amount(rich.deducted), amount(rich.outstanding), rich.suspends) == (Decimal("1.25"), 0, False)
    assert (list(unrated.bills), list(unrated.unrated_months)) == ([], ["2026-10"])

    run = await service.run_month()
    assert (list(run.months), run.bills_issued, run.bills_paid) == (["2026-10"], 3, 1)
    assert [amount(each) for each in run.issued] == [Decimal("3.75")]
    assert [amount(each) for each in run.deducted] == [sum(amount(each.deducted) for each in preview.values())]
    assert (run.accounts_suspended, run.accounts_unrated, run.failures) == (2, 1, 0)
    for account_id, each in preview.items():
        account = await service.account(account_id)
        assert amount(account.service_status.outstanding) == amount(each.outstanding)
        suspended = account.service_status.state == pb.SERVICE_STATE_SUSPENDED
        assert suspended == each.suspends
    assert [each.account_id for each in await preview_of(service)] == ["unrated"]
    assert (await runs_of(service))[0] == run
    await assert_books_are_right(service.database_url)


async def test_a_run_by_hand_while_another_one_is_under_way_is_refused_plainly(
    service: Service, db: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await owing(service)
    async with held(service.database_url, "SELECT FROM accounts WHERE account_id = 'poor' FOR UPDATE"):
        running = asyncio.create_task(service.run_month())
        await until_waiting(db)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await service.run_month()
        assert (error.value.code(), reason_of(error.value)) == (grpc.StatusCode.ABORTED, "MONTHLY_RUN_UNDER_WAY")
        (under_way, _) = await runs_of(service)
        assert not under_way.HasField("finished_at")
    assert (await running).bills_paid == 1


async def test_an_account_that_somebody_keeps_locked_is_noted_and_does_not_hold_up_its_neighbours(
    database_url: str, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metering.store.database.LOCK_TIMEOUT_S", 0.2)
    async with Service(database_url, clock) as service:
        for account_id, money in (("behind", "0.50"), ("poor", "1"), ("rich", "100")):
            await service.activate(account_id)
            await service.pay(account_id, money)
            calls = [service.call(account_id, at=datetime(2026, 10, 15, tzinfo=UTC)) for _ in range(100)]
            await service.record_batch(calls)
        await service.close_month("2026-10")
        async with held(database_url, "SELECT FROM accounts WHERE account_id = 'poor' FOR UPDATE"):
            run = await service.run_month()
        assert [(each.account_id, each.month) for each in run.failed] == [("poor", "2026-10")]
        assert (run.bills_paid, amount(run.deducted[0]), run.accounts_suspended) == (1, Decimal("1.75"), 1)
        again = await service.run_month()
        assert (again.failures, amount(again.deducted[0]), again.accounts_suspended) == (0, 1, 1)
    await assert_books_are_right(database_url)


async def test_runs_are_listed_newest_first_page_by_page(service: Service) -> None:
    for _ in range(4):
        await service.run_month()
    request = accounts_pb.ListMonthlyRunsRequest(page_size=3)
    first = await service.accounts.ListMonthlyRuns(request)
    request.page_token = first.next_page_token
    second = await service.accounts.ListMonthlyRuns(request)
    assert [run.run_id for run in [*first.runs, *second.runs]] == [5, 4, 3, 2, 1]
    assert second.next_page_token == ""
    for token in ("nonsense", "WyIwIl0=", "WyIxZTQwMCJd"):
        request.page_token = token
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await service.accounts.ListMonthlyRuns(request)
        assert fields_of(error.value) == ["page_token"]


async def test_a_run_that_is_cancelled_lets_the_next_one_begin(
    service: Service, db: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await owing(service)
    async with held(service.database_url, "SELECT FROM accounts WHERE account_id = 'poor' FOR UPDATE"):
        running = asyncio.create_task(service.run_month())
        await until_waiting(db)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    async def again() -> bool:
        try:
            return (await service.run_month()).bills_paid == 1
        except grpc.aio.AioRpcError as error:
            assert reason_of(error) == "MONTHLY_RUN_UNDER_WAY"
            return False

    await eventually(again)
    await assert_books_are_right(service.database_url)


async def test_months_to_close_are_open_ones_with_usage_and_closed_ones_that_are_not_billed(
    database_url: str, clock: FakeClock, db: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    async with Service(database_url, clock):
        pass  # migrates
    for month, table in (("2026-07", "daily"), ("2026-09", "deltas"), ("2026-10", "daily"), ("2026-11", "daily")):
        await db.execute(
            f"INSERT INTO usage_{table} (account_id, billing_month, occurred_on, api, result_code, calls)"
            f" VALUES ('acme', '{month}-01', '2026-07-01', 'DetectAuth', '', 1)"
        )
    for month, billed in (("2025-01", False), ("2026-06", False), ("2026-07", True), ("2026-08", True)):
        await db.execute(
            "INSERT INTO months (month, closed_at, billed_at) VALUES ($1, now(), CASE WHEN $2 THEN now() END)",
            date.fromisoformat(f"{month}-01"),
            billed,
        )
    database = await Database.connect(database_url, name="test", connections=1)
    try:
        found = await MonthlyRunStore(database).months_to_close(parse_month("2026-11"), parse_month("2025-10"))
    finally:
        await database.close()
    assert list(map(format_month, found)) == ["2026-06", "2026-09", "2026-10"]
