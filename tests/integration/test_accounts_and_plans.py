"""Accounts, price plans, and what a month costs by them."""

import asyncio
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

import grpc
import pytest

from faceid.metering.v1 import account_service_pb2 as accounts_pb
from faceid.metering.v1 import resources_pb2 as pb
from tests.support.audit import assert_books_are_right
from tests.support.locks import held, until_waiting
from tests.support.service import PLAN, FakeClock, Service, amount, reason_of, standard_plan

if TYPE_CHECKING:
    import asyncpg

OCTOBER = datetime(2026, 10, 15, tzinfo=UTC)


def plan_of(price_plan_id: str, unit_price: str, api: str = "DetectAuth", currency: str = "CNY") -> pb.PricePlan:
    price = pb.ApiPrice(api=api, per_call=pb.PerCallPrice(unit_price=unit_price))
    return pb.PricePlan(price_plan_id=price_plan_id, currency=currency, prices=[price])


async def expect(reason: str, ask: object) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await ask  # type: ignore[misc]
    assert reason_of(error.value) == reason


async def test_activating_twice_with_the_same_values_is_fine_and_with_others_is_not(service: Service) -> None:
    first = await service.activate("acme")
    again = await service.activate("acme")
    assert first.activated_at == again.activated_at
    await service.put_plan(plan_of("usd", "1", currency="USD"))
    await service.put_plan(plan_of("other", "1"))
    await expect("ACCOUNT_ALREADY_ACTIVATED", service.activate("acme", "usd", "USD"))
    await expect("ACCOUNT_ALREADY_ACTIVATED", service.activate("acme", "other"))
    await expect("CURRENCY_MISMATCH", service.activate("zenith", "usd", "CNY"))
    await expect("PRICE_PLAN_NOT_FOUND", service.activate("zenith", "no-such-plan"))
    await expect("INVALID_FIELD", service.activate("zenith", "", "yuan"))


async def test_a_price_plan_gets_a_version_for_each_change(service: Service) -> None:
    assert (await service.put_plan(standard_plan())).version == 1
    assert (await service.put_plan(standard_plan())).version == 1
    changed = standard_plan()
    changed.prices[0].per_call.unit_price = "0.5"
    assert (await service.put_plan(changed)).version == 2
    request = accounts_pb.GetPricePlanRequest(price_plan_id=PLAN, version=1)
    old = (await service.accounts.GetPricePlan(request)).price_plan
    old.version = 0
    assert old == standard_plan()
    changed.currency = "USD"
    await expect("CURRENCY_MISMATCH", service.put_plan(changed))


async def test_a_plan_assigned_from_a_month_on_holds_for_it_and_the_later_ones(
    service: Service, clock: FakeClock
) -> None:
    await service.activate("acme")
    await service.put_plan(plan_of("dear", "2"))
    account = await service.assign_plan("acme", "dear", "2026-11")
    assert [(plan.price_plan_id, plan.from_month) for plan in account.price_plans] == [(PLAN, ""), ("dear", "2026-11")]
    await service.record_batch([service.call("acme", at=OCTOBER) for _ in range(8)])
    await service.record_batch([service.call("acme") for _ in range(8)])
    assert amount((await service.usage("acme", "2026-10")).charges) == Decimal("0.10")
    assert amount((await service.usage("acme", "2026-11")).charges) == 16
    clock.time = datetime(2026, 12, 5, tzinfo=UTC)
    await service.close_month("2026-11")
    await expect("MONTH_ALREADY_BILLED", service.assign_plan("acme", PLAN, "2026-11"))
    await service.assign_plan("acme", "dear", "2026-12")
    # October is not billed yet, and a plan from October on holds only up to November, where the next one begins.
    await service.assign_plan("acme", "dear", "2026-10")
    await service.close_month("2026-10")
    assert amount((await service.bill("acme", "2026-10")).total) == 16
    await expect("MONTH_ALREADY_BILLED", service.assign_plan("acme", PLAN, "2026-10"))
    await assert_books_are_right(service.database_url)


async def test_carried_calls_cost_what_they_would_have_cost_in_their_own_month(
    service: Service, clock: FakeClock
) -> None:
    await service.activate("acme")
    await service.put_plan(plan_of("dear", "2", api="CompareFace"))
    await service.assign_plan("acme", "dear", "2026-11")
    await service.record_batch([service.call("acme", api="CompareFace", at=OCTOBER) for _ in range(990)])
    await service.close_month("2026-10")
    # 10 more reach the end of the tier at 0.02, the other 10 are in the next one; no free calls a second time.
    late = [service.call("acme", api="CompareFace", at=OCTOBER) for _ in range(20)]
    assert (await service.record_batch(late)).accepted == 20
    assert amount((await service.usage("acme", "2026-11")).charges) == Decimal("0.20")
    clock.time = datetime(2026, 12, 5, tzinfo=UTC)
    await service.close_month("2026-11")
    (line,) = (await service.bill("acme", "2026-11")).lines
    assert [(part.quantity, part.unit_price) for part in line.parts] == [(10, "0.02"), (10, "0.000000001")]
    assert (line.price_plan_id, line.occurred_month) == (PLAN, "2026-10")
    await assert_books_are_right(service.database_url)


async def test_carried_calls_with_another_result_code_get_no_free_calls_a_second_time(
    service: Service, clock: FakeClock
) -> None:
    await service.activate("acme")
    await service.record_batch([service.call("acme", api="CompareFace", at=OCTOBER) for _ in range(990)])
    await service.close_month("2026-10")
    late = [service.call("acme", api="CompareFace", at=OCTOBER, result_code="E.NoFace") for _ in range(20)]
    await service.record_batch(late)
    assert amount((await service.usage("acme", "2026-11")).charges) == Decimal("0.20")
    clock.time = datetime(2026, 12, 5, tzinfo=UTC)
    await service.close_month("2026-11")
    (line,) = (await service.bill("acme", "2026-11")).lines
    assert [(part.quantity, part.unit_price) for part in line.parts] == [(10, "0.02"), (10, "0.000000001")]


async def test_an_account_whose_calls_have_no_price_is_sealed_reported_and_billed_once_it_has_one(
    service: Service,
) -> None:
    await service.activate("acme", plan="")
    await service.activate("zenith")
    for account_id in ("acme", "zenith"):
        await service.record(service.call(account_id, at=OCTOBER))
    usage = await service.usage("acme", "2026-10")
    assert (usage.total_calls, list(usage.unrated_apis), usage.HasField("charges")) == (1, ["DetectAuth"], False)

    closed = await service.close_month("2026-10")
    assert (closed.bills_issued, list(closed.unrated_accounts), closed.already_closed) == (1, ["acme"], False)
    assert (await service.record(service.call("acme", at=OCTOBER))).billing_month == "2026-11"
    await expect("BILL_NOT_FOUND", service.deduct("acme", "2026-10"))

    await service.assign_plan("acme", PLAN, "2026-10")
    closed = await service.close_month("2026-10")
    assert (closed.bills_issued, list(closed.unrated_accounts), closed.already_closed) == (2, [], True)
    assert [line.calls for line in (await service.bill("acme", "2026-10")).lines] == [1]
    await assert_books_are_right(service.database_url)


async def test_carried_calls_have_the_prices_that_their_month_was_billed_with_though_they_have_changed(
    service: Service, clock: FakeClock
) -> None:
    await service.put_plan(plan_of("changing", "2"))
    await service.activate("acme", "changing")
    await service.record(service.call("acme", at=OCTOBER))
    await service.close_month("2026-10")
    await service.put_plan(plan_of("changing", "3"))
    late = [service.call("acme", at=OCTOBER) for _ in range(10)]
    assert (await service.record_batch([*late, service.call("acme")])).accepted == 11
    assert amount((await service.usage("acme", "2026-11")).charges) == 10 * 2 + 3
    clock.time = datetime(2026, 12, 5, tzinfo=UTC)
    await service.close_month("2026-11")
    lines = (await service.bill("acme", "2026-11")).lines
    assert [(line.occurred_month, line.price_plan_version, amount(line.amount)) for line in lines] == [
        ("2026-10", 1, 20),
        ("2026-11", 2, 3),
    ]
    await assert_books_are_right(service.database_url)


async def test_carried_calls_of_an_api_that_had_no_price_then_have_the_newest_ones(service: Service) -> None:
    await service.put_plan(plan_of("growing", "2"))
    await service.activate("acme", "growing")
    await service.record(service.call("acme", at=OCTOBER))
    await service.close_month("2026-10")
    await service.record(service.call("acme", api="CompareFace", at=OCTOBER))
    assert list((await service.usage("acme", "2026-11")).unrated_apis) == ["CompareFace"]
    both = plan_of("growing", "3")
    both.prices.append(pb.ApiPrice(api="CompareFace", per_call=pb.PerCallPrice(unit_price="5")))
    await service.put_plan(both)
    assert amount((await service.usage("acme", "2026-11")).charges) == 5


async def test_a_month_without_a_price_can_be_billed_after_later_months_are(service: Service, clock: FakeClock) -> None:
    await service.activate("acme", plan="")
    await service.record(service.call("acme", at=OCTOBER))
    await service.close_month("2026-10")
    await service.put_plan(standard_plan())
    await service.assign_plan("acme", PLAN, "2026-11")
    await service.record(service.call("acme"))
    clock.time = datetime(2026, 12, 5, tzinfo=UTC)
    assert (await service.close_month("2026-11")).bills_issued == 1
    await service.assign_plan("acme", PLAN, "2026-10")
    closed = await service.close_month("2026-10")
    assert (closed.bills_issued, list(closed.unrated_accounts)) == (1, [])
    await assert_books_are_right(service.database_url)


async def test_a_bill_is_made_wholly_before_or_wholly_after_a_change_of_prices(
    service: Service, db: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    await service.activate("acme")
    await service.put_plan(plan_of("dear", "2"))
    await service.record(service.call("acme", at=OCTOBER))
    dearer = plan_of(PLAN, "3")
    async with held(service.database_url, "LOCK TABLE bill_lines IN SHARE MODE"):
        closing = asyncio.create_task(service.close_month("2026-10"))
        await until_waiting(db, 1)
        assigning = asyncio.create_task(service.assign_plan("acme", "dear", "2026-10"))
        await until_waiting(db, 2)
        putting = asyncio.create_task(service.put_plan(dearer))
        await until_waiting(db, 3)
    assert (await closing).bills_issued == 1
    await expect("MONTH_ALREADY_BILLED", assigning)
    assert (await putting).version == 2
    (line,) = (await service.bill("acme", "2026-10")).lines
    assert (line.price_plan_id, line.price_plan_version, line.exact_amount) == (PLAN, 1, "0.0125")


async def test_price_plans_are_listed_in_their_newest_versions_page_by_page(service: Service) -> None:
    for name in ("c", "a", "b"):
        await service.put_plan(plan_of(name, "1"))
    await service.put_plan(plan_of("b", "2"))
    request = accounts_pb.ListPricePlansRequest(page_size=2)
    first = await service.accounts.ListPricePlans(request)
    request.page_token = first.next_page_token
    second = await service.accounts.ListPricePlans(request)
    listed = [(plan.price_plan_id, plan.version) for plan in [*first.price_plans, *second.price_plans]]
    assert listed == [("a", 1), ("b", 2), ("c", 1)]
    assert second.next_page_token == ""


async def test_a_dry_run_tells_what_a_close_would_do_and_changes_nothing(service: Service) -> None:
    await service.activate("acme")
    await service.record_batch([service.call("acme", at=OCTOBER) for _ in range(80)])
    dry = await service.close_month("2026-10", dry_run=True)
    assert (dry.bills_issued, amount(dry.totals[0]), dry.already_closed) == (1, 1, False)
    assert (await service.usage("acme", "2026-10")).state == pb.MONTH_STATE_OPEN
    assert (await service.record(service.call("acme", at=OCTOBER))).billing_month == "2026-10"
    await expect("BILL_NOT_FOUND", service.bill("acme", "2026-10"))
    real = await service.close_month("2026-10")
    assert (real.bills_issued, amount(real.totals[0])) == (1, Decimal("1.01"))
    dry.already_closed = True
    again = await service.close_month("2026-10", dry_run=True)
    assert (again.bills_issued, again.totals, again.already_closed) == (1, real.totals, True)


async def test_totals_of_a_close_are_per_currency_and_accounts_without_calls_get_no_bill(service: Service) -> None:
    await service.put_plan(plan_of("yen", "3", currency="JPY"))
    await service.activate("acme")
    await service.activate("nippon", "yen", "JPY")
    await service.activate("idle")
    await service.record_batch([service.call("acme", at=OCTOBER) for _ in range(80)])
    await service.record_batch([service.call("nippon", at=OCTOBER) for _ in range(5)])
    closed = await service.close_month("2026-10")
    assert closed.bills_issued == 2
    assert {total.currency_code: amount(total) for total in closed.totals} == {"CNY": 1, "JPY": 15}
    await expect("BILL_NOT_FOUND", service.bill("idle", "2026-10"))


async def test_bills_are_listed_newest_first_page_by_page(service: Service, clock: FakeClock) -> None:
    await service.activate("acme")
    months = []
    for month in range(6, 12):
        clock.time = datetime(2026, month, 10, tzinfo=UTC)
        months.append(f"2026-{month:02}")
        await service.record(service.call("acme"))
    clock.time = datetime(2026, 12, 10, tzinfo=UTC)
    for name in months:
        await service.close_month(name)
    request = accounts_pb.ListBillsRequest(account_id="acme", page_size=4)
    first = await service.accounts.ListBills(request)
    request.page_token = first.next_page_token
    second = await service.accounts.ListBills(request)
    assert [bill.month for bill in [*first.bills, *second.bills]] == months[::-1]
    assert second.next_page_token == ""
    assert all(len(bill.lines) == 1 for bill in first.bills)
