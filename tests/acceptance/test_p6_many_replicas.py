"""P6 deducted once, on many replicas: at once, and killed in the middle of Deduct, CloseMonth and the monthly run."""

import asyncio
import random
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from faceid.metering.v1 import resources_pb2 as pb
from metering import app
from tests.conftest import ServiceProcesses
from tests.support.audit import assert_books_are_right
from tests.support.locks import held, until_waiting
from tests.support.service import FakeClock, Service, Stubs, amount, reason_of
from tests.support.waiting import LONG_S

if TYPE_CHECKING:
    from collections.abc import Coroutine

    import asyncpg

NOW = datetime.now(UTC)
LAST_MONTH = NOW.replace(day=1, hour=0) - timedelta(days=5)
MONTH = LAST_MONTH.strftime("%Y-%m")
BILL = Decimal("1.25")
"""What 100 calls come to."""


async def account_with_calls(service: Stubs, account_id: str, paid: str = "") -> str:
    await service.activate(account_id)
    if paid:
        await service.pay(account_id, paid)
    await service.record_batch([service.call(account_id, at=LAST_MONTH) for _ in range(100)])
    return account_id


async def test_deducts_payments_closes_and_monthly_runs_from_several_replicas_at_once_come_out_exactly(
    processes: ServiceProcesses, db: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    replicas = [await processes.start() for _ in range(3)]
    account_ids = [f"account-{number:02}" for number in range(12)]
    for account_id in account_ids:
        await account_with_calls(replicas[0], account_id)

    async def deduct(replica: Stubs, account_id: str) -> Decimal:
        try:
            return amount((await replica.deduct(account_id, MONTH)).deducted)
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.NOT_FOUND, "only a bill that is not issued yet may be missing"
            return Decimal(0)

    async def pay(replica: Stubs, account_id: str, payment: int) -> Decimal:
        answer = await replica.pay(account_id, "0.30", f"{account_id}-{payment}")
        return Decimal(0) if answer.duplicate else Decimal("0.30")

    async def run(replica: Stubs) -> None:
        try:
            assert not (await replica.run_month()).failures
        except grpc.aio.AioRpcError as error:
            assert reason_of(error) == "MONTHLY_RUN_UNDER_WAY"

    # Each account gets 5 payments of 0.30, each of them reported to all replicas.
    closing = [replica.close_month(MONTH) for replica in replicas for _ in range(3)]
    deducting = [deduct(replica, account_id) for replica in replicas for account_id in account_ids for _ in range(5)]
    paying = [pay(replica, each, payment) for replica in replicas for each in account_ids for payment in range(5)]
    late = [replica.record(replica.call(each, at=LAST_MONTH)) for replica in replicas for each in account_ids]
    running = [run(replica) for replica in replicas for _ in range(5)]
    everything: list[Coroutine[Any, Any, object]] = [*closing, *deducting, *paying, *late, *running]
    random.Random(6).shuffle(everything)
    await asyncio.gather(*everything)

    assert await db.fetchval("SELECT count(*) FROM bills") == len(account_ids)
    assert await db.fetchval("SELECT count(*) FROM ledger_entries WHERE kind = 'PAYMENT'") == 5 * len(account_ids)
    for account_id in account_ids:
        found = (await replicas[1].deduct(account_id, MONTH)).bill
        assert found.state == pb.BILL_STATE_PAID
        assert amount((await replicas[2].account(account_id)).balance) == Decimal("1.50") - amount(found.total)
    await assert_books_are_right(processes.database_url)
    assert await db.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == 0


@pytest.mark.parametrize("table", ["ledger_entries", "bills", "accounts"])
async def test_a_replica_killed_in_the_middle_of_a_deduct_has_taken_nothing_and_another_one_takes_it_once(
    processes: ServiceProcesses, db: "asyncpg.Connection[asyncpg.Record]", table: str
) -> None:
    first, second = [await processes.start() for _ in range(2)]
    await account_with_calls(first, "acme", "10")
    await first.close_month(MONTH)
    async with held(processes.database_url, f"LOCK TABLE {table} IN SHARE MODE"):
        deducting = asyncio.gather(first.deduct("acme", MONTH), return_exceptions=True)
        await until_waiting(db)
        await first.kill()
        assert isinstance((await deducting)[0], grpc.aio.AioRpcError)
        assert await db.fetchval("SELECT balance FROM accounts") == 10
    answers = await asyncio.gather(*(second.deduct("acme", MONTH) for _ in range(5)))
    assert sorted(amount(answer.deducted) for answer in answers) == [0, 0, 0, 0, BILL]
    assert {answer.bill.state for answer in answers} == {pb.BILL_STATE_PAID}
    assert amount((await second.account("acme")).balance) == 10 - BILL
    await assert_books_are_right(processes.database_url)


@pytest.mark.parametrize("table", ["ledger_entries", "bills", "accounts"])
async def test_a_replica_killed_in_the_middle_of_a_payment_has_booked_nothing_and_another_one_books_it_once(
    processes: ServiceProcesses, db: "asyncpg.Connection[asyncpg.Record]", table: str
) -> None:
    first, second = [await processes.start() for _ in range(2)]
    await account_with_calls(first, "acme")
    await first.close_month(MONTH)
    await first.deduct("acme", MONTH)
    async with held(processes.database_url, f"LOCK TABLE {table} IN SHARE MODE"):
        paying = asyncio.gather(first.pay("acme", "2", "transfer-1"), return_exceptions=True)
        await until_waiting(db)
        await first.kill()
        assert isinstance((await paying)[0], grpc.aio.AioRpcError)
    answers = await asyncio.gather(*(second.pay("acme", "2", "transfer-1") for _ in range(5)))
    assert sorted(answer.duplicate for answer in answers) == [False, True, True, True, True]
    account = await second.account("acme")
    assert amount(account.balance) == 2 - BILL
    assert account.service_status.state == pb.SERVICE_STATE_ACTIVE
    await assert_books_are_right(processes.database_url)


@pytest.mark.parametrize("table", ["months", "bills", "bill_lines", "accounts"])
async def test_a_replica_killed_in_the_middle_of_a_close_leaves_it_to_another_one_and_each_account_gets_one_bill(
    processes: ServiceProcesses, db: "asyncpg.Connection[asyncpg.Record]", table: str
) -> None:
    first, second = [await processes.start() for _ in range(2)]
    for number in range(5):
        await account_with_calls(first, f"account-{number}")
    async with held(processes.database_url, f"LOCK TABLE {table} IN SHARE MODE"):
        closing = asyncio.gather(first.close_month(MONTH), return_exceptions=True)
        await until_waiting(db)
        await first.kill()
        assert isinstance((await closing)[0], grpc.aio.AioRpcError)
        assert await db.fetchval("SELECT count(*) FROM bills") == 0
    closed = await asyncio.gather(*(second.close_month(MONTH) for _ in range(3)))
    assert [(each.bills_issued, amount(each.totals[0])) for each in closed] == [(5, 5 * BILL)] * 3
    await assert_books_are_right(processes.database_url)


@pytest.mark.parametrize("table", ["ledger_entries", "bills", "accounts"])
async def test_the_replica_that_does_the_monthly_run_is_killed_and_another_one_takes_over(
    processes: ServiceProcesses,
    database_url: str,
    db: "asyncpg.Connection[asyncpg.Record]",
    monkeypatch: pytest.MonkeyPatch,
    table: str,
) -> None:
    monkeypatch.setattr(app, "MONTHLY_RUN_INTERVAL_S", 0.02)  # of the replica in this process
    service = await processes.start()
    account_ids = [await account_with_calls(service, f"account-{number:02}", "10") for number in range(20)]
    await service.close_month(MONTH)
    await service.kill()
    await db.execute("DELETE FROM monthly_runs")  # as if no run had ever been: one is due at once

    async with AsyncExitStack() as stack:
        async with held(database_url, f"LOCK TABLE {table} IN SHARE MODE"):
            leader = await processes.start()
            await until_waiting(db)
            other = await stack.enter_async_context(Service(database_url, FakeClock(NOW)))
            await leader.kill()
            await until_waiting(db, 2)  # the dead leader's session, and the other's behind it
            assert await db.fetchval("SELECT sum(balance) FROM accounts") == 20 * 10
        async with asyncio.timeout(LONG_S):
            while not await db.fetchval("SELECT count(*) FROM monthly_runs WHERE finished_at IS NOT NULL"):
                await asyncio.sleep(0.01)
        for account_id in account_ids:
            assert amount((await other.account(account_id)).balance) == 10 - BILL
    runs = await db.fetch("SELECT replica, finished_at IS NULL AS killed, bills_paid FROM monthly_runs ORDER BY run_id")
    assert [run["killed"] for run in runs] == [True, False]
    assert len({run["replica"] for run in runs}) == 2
    assert runs[-1]["bills_paid"] == 20
    assert await db.fetchval("SELECT count(*) FROM ledger_entries WHERE kind = 'DEDUCTION'") == len(account_ids)
    await assert_books_are_right(database_url)
