"""P3 sealed: a closed month never changes, and a late call goes on the next open month's bill."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.audit import assert_books_are_right
from tests.support.service import FakeClock, Service, amount, standard_plan

OCTOBER_STARTS = datetime(2026, 9, 30, 16, tzinfo=UTC)  # midnight in Shanghai
NOVEMBER_STARTS = datetime(2026, 10, 31, 16, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


async def test_a_month_is_half_open_to_the_microsecond(service: Service) -> None:
    await service.activate("acme")
    for at, month in (
        (OCTOBER_STARTS - MICROSECOND, "2026-09"),
        (OCTOBER_STARTS, "2026-10"),
        (NOVEMBER_STARTS - MICROSECOND, "2026-10"),
        (NOVEMBER_STARTS, "2026-11"),
    ):
        assert (await service.record(service.call("acme", at=at))).billing_month == month
    assert [(await service.usage("acme", month)).total_calls for month in ("2026-09", "2026-10", "2026-11")] == [
        1,
        2,
        1,
    ]


async def test_nanoseconds_do_not_move_a_call_into_the_next_month(service: Service) -> None:
    await service.activate("acme")
    call = service.call("acme", at=NOVEMBER_STARTS - MICROSECOND)
    call.occurred_at.nanos += 999
    assert (await service.record(call)).billing_month == "2026-10"


async def test_a_late_call_goes_on_the_next_open_months_bill_as_a_line_of_its_own(
    service: Service, clock: FakeClock
) -> None:
    await service.activate("acme")
    october = datetime(2026, 10, 15, tzinfo=UTC)
    await service.record_batch([service.call("acme", at=october) for _ in range(100)])
    await service.close_month("2026-10")
    sealed = await service.usage("acme", "2026-10")
    october_bill = await service.bill("acme", "2026-10")

    late = service.call("acme", at=october)
    answer = await service.record(late)
    assert (answer.duplicate, answer.billing_month) == (False, "2026-11")
    again = await service.record(late)
    assert (again.duplicate, again.billing_month) == (True, "2026-11")
    assert (await service.record_batch([service.call("acme", at=october) for _ in range(200)])).accepted == 200
    await service.record(service.call("acme"))

    assert await service.usage("acme", "2026-10") == sealed
    assert await service.bill("acme", "2026-10") == october_bill
    november = await service.usage("acme", "2026-11")
    assert (november.total_calls, november.carried_calls) == (202, 201)

    clock.time = datetime(2026, 12, 1, tzinfo=UTC)
    await service.close_month("2026-11")
    lines = (await service.bill("acme", "2026-11")).lines
    assert [(line.occurred_month, line.calls) for line in lines] == [("2026-10", 201), ("2026-11", 1)]
    assert len(await service.list_calls("acme", "2026-11")) == 202
    found = await assert_books_are_right(service.database_url)
    assert (found.calls["billed"], found.calls["carried"]) == (101, 201)


async def test_late_calls_of_other_result_codes_than_the_months_own_give_each_account_one_bill(
    service: Service, clock: FakeClock
) -> None:
    account_ids = ["acme", "bolt"]
    october = datetime(2026, 10, 15, tzinfo=UTC)
    for account_id in account_ids:
        await service.activate(account_id)
        await service.record(service.call(account_id, at=october, result_code="E.1"))
    await service.close_month("2026-10")
    for account_id in account_ids:
        await service.record(service.call(account_id, at=october))

    clock.time = datetime(2026, 12, 1, tzinfo=UTC)
    assert (await service.close_month("2026-11")).bills_issued == 2
    for account_id in account_ids:
        assert [line.calls for line in (await service.bill(account_id, "2026-11")).lines] == [1]
    await assert_books_are_right(service.database_url)


async def test_usage_of_a_closed_month_equals_its_bill_even_when_the_price_plan_changes(service: Service) -> None:
    await service.activate("acme")
    at = datetime(2026, 10, 15, tzinfo=UTC)
    await service.record_batch([service.call("acme", at=at) for _ in range(7)])
    await service.close_month("2026-10")
    dearer = standard_plan()
    dearer.prices[0].per_call.unit_price = "99"
    plan = await service.put_plan(dearer)
    assert plan.version == 2
    usage = await service.usage("acme", "2026-10")
    assert usage.charges == (await service.bill("acme", "2026-10")).total
    assert amount(usage.charges) == amount((await service.bill("acme", "2026-10")).lines[0].amount)


@pytest.mark.parametrize("size", [1, 40, 400])
async def test_no_call_slips_behind_a_close_while_calls_pour_in(service: Service, size: int) -> None:
    await service.activate("acme")
    at = datetime(2026, 10, 31, 15, 59, tzinfo=UTC)
    closed = asyncio.Event()
    billing_months: dict[str, str] = {}

    async def pour() -> None:
        """Deliver calls until some time after the close, and note which bill each was said to stand on."""
        after_close = 0
        while after_close < 5:
            after_close += closed.is_set()
            calls = [service.call("acme", at=at) for _ in range(size)]
            if size == 1:
                billing_months[calls[0].call_id] = (await service.record(calls[0])).billing_month
            else:
                assert (await service.record_batch(calls)).accepted == size
                billing_months.update((call.call_id, "?") for call in calls)

    pouring = [asyncio.create_task(pour()) for _ in range(12)]
    while len(billing_months) < 5 * size:
        await asyncio.sleep(0.001)
    await service.close_month("2026-10")
    closed.set()
    await asyncio.gather(*pouring)

    october, november = await service.usage("acme", "2026-10"), await service.usage("acme", "2026-11")
    assert october.total_calls + november.total_calls == len(billing_months)
    assert november.total_calls == november.carried_calls > 0
    bill = await service.bill("acme", "2026-10")
    assert sum(line.calls for line in bill.lines) == october.total_calls > 0
    if size == 1:
        assert list(billing_months.values()).count("2026-10") == october.total_calls
    for month in ("2026-10", "2026-11"):
        for recorded in await service.list_calls("acme", month):
            assert billing_months[recorded.call.call_id] in {"?", recorded.billing_month}
    await assert_books_are_right(service.database_url)


async def test_a_late_call_with_a_result_code_of_its_own_holds_up_nobodys_bill(
    service: Service, clock: FakeClock
) -> None:
    october = clock.now() - timedelta(days=40)
    for account_id in ("acme", "zenith"):
        await service.activate(account_id)
        await service.record_batch([service.call(account_id), service.call(account_id, at=october, result_code="E.1")])
    await service.close_month("2026-10")
    await service.record(service.call("acme", at=october))
    clock.advance(days=20)
    closed = await service.close_month("2026-11")
    assert closed.bills_issued == 2
    assert [line.calls for line in (await service.bill("acme", "2026-11")).lines] == [1, 1]
