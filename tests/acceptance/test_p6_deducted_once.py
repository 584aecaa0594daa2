"""P6 deducted once: concurrent and repeated Deducts take the money once; money, bill and status change together."""

import asyncio
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

import grpc
import pytest

from faceid.metering.v1 import resources_pb2 as pb
from tests.conftest import ServiceProcesses
from tests.support.audit import assert_books_are_right
from tests.support.service import FakeClock, Service, amount, reason_of

if TYPE_CHECKING:
    import asyncpg

OCTOBER = datetime(2026, 10, 15, tzinfo=UTC)


async def bill_october(service: Service, account_id: str = "acme") -> None:
    """Bill 1,000 calls, which is 12.50."""
    await service.activate(account_id)
    await service.record_batch([service.call(account_id, at=OCTOBER) for _ in range(1_000)])
    await service.close_month("2026-10")


async def test_50_concurrent_deducts_of_one_bill_take_the_money_once(
    service: Service, db: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await service.activate("acme")
    await service.pay("acme", "100")
    await bill_october(service)
    answers = await asyncio.gather(*(service.deduct("acme", "2026-10") for _ in range(50)))
    assert sum(amount(answer.deducted) for answer in answers) == Decimal("12.5")
    assert {answer.bill.state for answer in answers} == {pb.BILL_STATE_PAID}
    assert amount((await service.account("acme")).balance) == Decimal("87.5")
    assert await db.fetchval("SELECT count(*) FROM ledger_entries WHERE kind = 'DEDUCTION'") == 1
    await assert_books_are_right(service.database_url)


async def test_too_little_money_is_taken_and_the_rest_is_overdue_from_the_due_date_on(
    service: Service, clock: FakeClock
) -> None:
    await service.activate("acme")
    await service.pay("acme", "10")
    clock.time = datetime(2026, 11, 2, 15, 59, 59, tzinfo=UTC)  # the last second of 2 November in Shanghai
    await bill_october(service)
    before = await service.deduct("acme", "2026-10")
    assert before.bill.due_date == "2026-11-03"
    assert (amount(before.deducted), amount(before.outstanding)) == (10, Decimal("2.5"))
    assert (before.bill.state, before.service_status.state) == (pb.BILL_STATE_ISSUED, pb.SERVICE_STATE_ACTIVE)
    clock.advance(seconds=1)
    on_time = await service.deduct("acme", "2026-10")
    assert amount(on_time.deducted) == 0
    assert (on_time.bill.state, on_time.service_status.state) == (pb.BILL_STATE_OVERDUE, pb.SERVICE_STATE_SUSPENDED)
    assert amount(on_time.service_status.outstanding) == Decimal("2.5")


async def test_paying_what_is_due_settles_the_oldest_bill_first_and_reactivates(
    service: Service, clock: FakeClock
) -> None:
    await bill_october(service)
    await service.record_batch([service.call("acme") for _ in range(400)])
    clock.time = datetime(2026, 12, 5, tzinfo=UTC)
    await service.close_month("2026-11")
    for month in ("2026-10", "2026-11"):
        assert (await service.deduct("acme", month)).service_status.state == pb.SERVICE_STATE_SUSPENDED

    first = await service.pay("acme", "13")
    assert [(bill.month, bill.state) for bill in first.settled_bills] == [
        ("2026-10", pb.BILL_STATE_PAID),
        ("2026-11", pb.BILL_STATE_OVERDUE),
    ]
    assert first.account.service_status.state == pb.SERVICE_STATE_SUSPENDED
    second = await service.pay("acme", "4.50")
    assert second.account.service_status.state == pb.SERVICE_STATE_ACTIVE
    assert amount(second.account.balance) == 0
    third = await service.pay("acme", "7")
    assert (amount(third.account.balance), list(third.settled_bills)) == (7, [])
    await assert_books_are_right(service.database_url)


async def test_a_payment_is_booked_once_however_often_it_is_reported(service: Service) -> None:
    await bill_october(service)
    answers = await asyncio.gather(*(service.pay("acme", "20", "transfer-1") for _ in range(20)))
    assert [answer.duplicate for answer in answers].count(False) == 1
    assert amount((await service.account("acme")).balance) == Decimal("7.5")
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await service.pay("acme", "21", "transfer-1")
    assert error.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert reason_of(error.value) == "PAYMENT_ID_REUSED"
    await service.activate("zenith")
    assert not (await service.pay("zenith", "21", "transfer-1")).duplicate


async def test_payments_and_deducts_at_once_take_each_bill_once(service: Service) -> None:
    await bill_october(service)
    await asyncio.gather(
        *(service.deduct("acme", "2026-10") for _ in range(20)),
        *(service.pay("acme", "1", f"transfer-{number}") for number in range(20)),
    )
    account = await service.account("acme")
    assert amount(account.balance) == Decimal("7.5")
    assert account.service_status.state == pb.SERVICE_STATE_ACTIVE
    await assert_books_are_right(service.database_url)


async def test_killing_the_service_while_it_closes_and_deducts_bills_and_deducts_once(
    processes: ServiceProcesses, db: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    service = await processes.start()
    account_ids = [f"account-{number:03}" for number in range(60)]
    month = ""
    for account_id in account_ids:
        await service.activate(account_id)
        await service.pay(account_id, "100")
        at = datetime.now(UTC).replace(day=1, hour=0) - 5 * (datetime(2026, 1, 2) - datetime(2026, 1, 1))
        await service.record_batch([service.call(account_id, at=at) for _ in range(100)])
        month = at.strftime("%Y-%m")
    for _ in range(4):
        working = asyncio.gather(
            service.close_month(month),
            *(service.deduct(account_id, month) for account_id in account_ids * 3),
            return_exceptions=True,
        )
        await asyncio.sleep(0.02)  # at whatever it is just then
        await service.kill()
        await working
        service = await processes.start()
    closed = await service.close_month(month)
    assert (closed.bills_issued, amount(closed.totals[0])) == (60, Decimal(75))
    for account_id in account_ids:
        assert (await service.deduct(account_id, month)).bill.state == pb.BILL_STATE_PAID
        assert amount((await service.account(account_id)).balance) == Decimal("98.75")
    assert await db.fetchval("SELECT count(*) FROM ledger_entries WHERE kind = 'DEDUCTION'") == 60
    await assert_books_are_right(processes.database_url)
