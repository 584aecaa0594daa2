"""Usage, bills, money and status, the same on the fake service and the real one."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import grpc
import pytest

from faceid.metering.v1 import account_service_pb2 as accounts_pb
from faceid.metering.v1 import metering_service_pb2 as metering_pb
from faceid.metering.v1 import resources_pb2 as pb
from faceid_metering.testing import FakeClock
from tests.support.service import PLAN, Stubs, amount, fields_of, reason_of, standard_plan
from tests.support.waiting import LONG_S

OCTOBER = datetime(2026, 10, 12, 4, tzinfo=UTC)
DUE = datetime(2026, 11, 2, 16, tzinfo=UTC)  # 3 November begins in Shanghai


async def record(metering: Stubs, account_id: str, api: str, calls: int, result_code: str = "") -> None:
    records = [metering.call(account_id, api=api, at=OCTOBER, result_code=result_code) for _ in range(calls)]
    assert (await metering.record_batch(records)).accepted == calls


@pytest.mark.parametrize(
    ("api", "calls", "charges", "parts"),
    [
        ("DetectAuth", 1, "0.01", [(1, "0.0125", 1, 0, "0.0125")]),
        ("DetectAuth", 6, "0.08", [(6, "0.0125", 1, 0, "0.075")]),
        ("CompareFace", 100, "0", [(100, "0", 1, 100, "0")]),
        (
            "CompareFace",
            1003,
            "18",
            [(100, "0", 1, 100, "0"), (900, "0.02", 1, 1000, "18"), (3, "0.000000001", 1001, 0, "0.000000003")],
        ),
        ("LivenessCheck", 10, "5", [(10, "0.5", 1, 10, "5")]),
        ("LivenessCheck", 11, "3.67", [(11, "0.333333333", 11, 0, "3.666666663")]),
    ],
)
async def test_calls_are_rated_by_the_plan(
    metering: Stubs, api: str, calls: int, charges: str, parts: list[tuple[int, str, int, int, str]]
) -> None:
    await metering.activate("acme")
    await record(metering, "acme", api, calls)

    estimate = await metering.usage("acme", "2026-10")
    closed = await metering.close_month("2026-10")
    bill = await metering.bill("acme", "2026-10")
    usage = await metering.usage("acme", "2026-10")

    assert amount(estimate.charges) == amount(usage.charges) == amount(bill.total) == Decimal(charges)
    assert [
        (part.quantity, part.unit_price, part.tier_from, part.tier_up_to, part.exact_amount)
        for part in bill.lines[0].parts
    ] == parts
    assert (closed.bills_issued, closed.already_closed) == (1, False)
    assert (estimate.state, usage.state) == (pb.MONTH_STATE_OPEN, pb.MONTH_STATE_CLOSED)
    assert [(day.day, day.calls) for day in usage.apis[0].days] == [("2026-10-12", calls)]
    assert bill.due_date == "2026-11-03"


async def test_uncharged_result_codes_are_counted_and_not_charged(metering: Stubs) -> None:
    await metering.activate("acme")
    await record(metering, "acme", "DetectAuth", 3)
    await record(metering, "acme", "DetectAuth", 2, "E.Uncharged")
    await record(metering, "acme", "DetectAuth", 1, "E.Charged")

    usage = await metering.usage("acme", "2026-10")

    assert (usage.total_calls, usage.charged_calls, usage.apis[0].charged_calls) == (6, 4, 4)
    assert amount(usage.charges) == Decimal("0.05")


async def test_a_late_call_goes_on_the_next_open_bill_as_a_line_of_its_own(metering: Stubs) -> None:
    await metering.activate("acme")
    await record(metering, "acme", "CompareFace", 150)
    await metering.close_month("2026-10")
    sealed = await metering.usage("acme", "2026-10")

    late = metering.call("acme", api="CompareFace", at=OCTOBER)
    first, again = await metering.record(late), await metering.record(late)
    await metering.record(metering.call("acme", api="CompareFace"))

    assert (first.billing_month, first.duplicate) == ("2026-11", False)
    assert (again.billing_month, again.duplicate) == ("2026-11", True)
    assert await metering.usage("acme", "2026-10") == sealed
    usage = await metering.usage("acme", "2026-11")
    assert (usage.total_calls, usage.carried_calls) == (2, 1)
    assert amount(usage.charges) == Decimal("0.02")  # October's 100 free calls are spent, November's are not


async def test_an_api_without_a_price_is_told_and_billed_once_it_has_one(metering: Stubs) -> None:
    await metering.activate("acme")
    await record(metering, "acme", "Unpriced", 2)

    usage = await metering.usage("acme", "2026-10")
    closed = await metering.close_month("2026-10")
    plan = standard_plan()
    plan.prices.add(api="Unpriced", per_call=pb.PerCallPrice(unit_price="1"))
    stored = await metering.put_plan(plan)
    again = await metering.close_month("2026-10")

    assert (list(usage.unrated_apis), usage.HasField("charges")) == (["Unpriced"], False)
    assert (closed.bills_issued, list(closed.unrated_accounts)) == (0, ["acme"])
    assert stored.version == 2
    assert (again.bills_issued, list(again.unrated_accounts), again.already_closed) == (1, [], True)
    assert [amount(total) for total in again.totals] == [Decimal(2)]


async def test_a_month_tells_how_far_its_close_has_come(metering: Stubs, clock: FakeClock) -> None:
    for account_id in ("acme", "idle", "unpriced"):
        await metering.activate(account_id)
    await record(metering, "acme", "LivenessCheck", 2)
    await record(metering, "unpriced", "Unpriced", 1)
    month = accounts_pb.GetMonthRequest(month="2026-10")

    still_open = await metering.accounts.GetMonth(month)
    await metering.close_month("2026-10")
    closed = await metering.accounts.GetMonth(month)
    sealed_at = clock.now()
    plan = standard_plan()
    plan.prices.add(api="Unpriced", per_call=pb.PerCallPrice(unit_price="1"))
    await metering.put_plan(plan)
    clock.set(sealed_at + timedelta(hours=1))
    await metering.close_month("2026-10")
    billed = await metering.accounts.GetMonth(month)

    assert still_open == accounts_pb.GetMonthResponse(state=pb.MONTH_STATE_OPEN, accounts=3)
    assert (closed.state, closed.bills_issued) == (pb.MONTH_STATE_CLOSED, 1)
    assert (closed.closed_at.ToDatetime(UTC), closed.HasField("billed_at")) == (sealed_at, False)
    assert (closed.accounts_looked_at, closed.accounts) == (1, 3)
    assert (billed.closed_at, billed.billed_at.ToDatetime(UTC)) == (closed.closed_at, clock.now())
    assert (billed.bills_issued, billed.accounts_looked_at, billed.accounts) == (2, 3, 3)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await metering.accounts.GetMonth(accounts_pb.GetMonthRequest(month="2026-13"))
    assert (reason_of(refused.value), list(fields_of(refused.value))) == ("INVALID_FIELD", ["month"])


async def test_a_dry_run_changes_nothing(metering: Stubs) -> None:
    await metering.activate("acme")
    await record(metering, "acme", "LivenessCheck", 2)

    dry = await metering.close_month("2026-10", dry_run=True)

    assert (dry.bills_issued, [amount(total) for total in dry.totals]) == (1, [Decimal(1)])
    assert (await metering.usage("acme", "2026-10")).state == pb.MONTH_STATE_OPEN


async def test_an_overdue_bill_suspends_and_paying_reactivates(metering: Stubs, clock: FakeClock) -> None:
    await metering.activate("acme")
    await record(metering, "acme", "LivenessCheck", 10)
    await metering.pay("acme", "2")
    await metering.close_month("2026-10")
    clock.set(DUE)

    first = await metering.deduct("acme", "2026-10")
    second = await metering.deduct("acme", "2026-10")

    assert [amount(each.deducted) for each in (first, second)] == [2, 0]
    assert [amount(each.outstanding) for each in (first, second)] == [3, 3]
    assert first.bill.state == pb.BILL_STATE_OVERDUE
    assert first.service_status.state == pb.SERVICE_STATE_SUSPENDED
    recorded = await metering.record(metering.call("acme"))
    assert recorded.service_status.state == pb.SERVICE_STATE_SUSPENDED
    batch = await metering.record_batch([metering.call("acme")])
    assert (batch.accepted, [each.account_id for each in batch.not_active]) == (1, ["acme"])

    paid = await metering.pay("acme", "4.50", "transfer-1")
    repeated = await metering.pay("acme", "4.50", "transfer-1")

    assert (paid.duplicate, repeated.duplicate) == (False, True)
    assert [bill.state for bill in paid.settled_bills] == [pb.BILL_STATE_PAID]
    account = await metering.account("acme")
    assert amount(account.balance) == Decimal("1.5")
    assert account.service_status.state == pb.SERVICE_STATE_ACTIVE
    assert account.service_status.version > recorded.service_status.version


async def test_before_the_due_date_nothing_is_overdue(metering: Stubs, clock: FakeClock) -> None:
    await metering.activate("acme")
    await record(metering, "acme", "LivenessCheck", 10)
    clock.set(datetime(2026, 11, 2, 15, 59, tzinfo=UTC))
    await metering.close_month("2026-10")

    deducted = await metering.deduct("acme", "2026-10")

    assert deducted.bill.state == pb.BILL_STATE_ISSUED
    assert deducted.service_status.state == pb.SERVICE_STATE_ACTIVE
    assert amount(deducted.service_status.outstanding) == 5


async def test_a_watch_tells_the_present_status_and_every_change(metering: Stubs, clock: FakeClock) -> None:
    await metering.activate("acme")
    await metering.activate("unwatched")
    await record(metering, "acme", "LivenessCheck", 10)
    await metering.close_month("2026-10")
    clock.set(DUE)
    request = metering_pb.WatchServiceStatusRequest(account_ids=["acme", "later"])

    async with asyncio.timeout(LONG_S):
        watch = metering.metering.WatchServiceStatus(request)
        told = []

        async def until(reached: Callable[[pb.ServiceStatus], bool]) -> None:
            async for response in watch:
                told.append(response.service_status)
                if reached(told[-1]):
                    return

        await until(lambda status: status.state == pb.SERVICE_STATE_ACTIVE)
        await metering.deduct("acme", "2026-10")
        await until(lambda status: status.state == pb.SERVICE_STATE_SUSPENDED)
        await metering.pay("acme", "5")
        await until(lambda status: status.state == pb.SERVICE_STATE_ACTIVE and status.account_id == "acme")
        await metering.activate("later")
        await until(lambda status: status.account_id == "later")
        watch.cancel()

    assert {status.account_id for status in told} == {"acme", "later"}


async def test_a_watch_of_changes_begins_with_a_heartbeat_and_leaves_out_what_is(metering: Stubs) -> None:
    await metering.activate("acme")
    request = metering_pb.WatchServiceStatusRequest(changes_only=True, heartbeats=True)

    async with asyncio.timeout(LONG_S):
        watch = metering.metering.WatchServiceStatus(request)
        async for response in watch:
            assert not response.HasField("service_status")
            break
        await metering.activate("later")
        async for response in watch:
            if response.HasField("service_status"):
                assert response.service_status.account_id == "later"
                break
        watch.cancel()


async def test_bills_are_listed_newest_first_by_pages(metering: Stubs, clock: FakeClock) -> None:
    await metering.activate("acme")
    await record(metering, "acme", "DetectAuth", 1)
    await metering.record(metering.call("acme"))
    clock.set(datetime(2026, 12, 1, tzinfo=UTC))
    await metering.close_month("2026-10")
    await metering.close_month("2026-11")

    first = await metering.accounts.ListBills(accounts_pb.ListBillsRequest(account_id="acme", page_size=1))
    second = await metering.accounts.ListBills(
        accounts_pb.ListBillsRequest(account_id="acme", page_size=1, page_token=first.next_page_token)
    )

    assert [bill.month for bill in [*first.bills, *second.bills]] == ["2026-11", "2026-10"]
    assert second.next_page_token == ""


async def test_a_plan_repeated_is_no_new_version_and_versions_are_kept(metering: Stubs) -> None:
    first = await metering.put_plan(standard_plan())
    changed = standard_plan()
    changed.prices[0].per_call.unit_price = "0.02"
    second = await metering.put_plan(changed)
    repeated = await metering.put_plan(changed)
    request = accounts_pb.GetPricePlanRequest(price_plan_id=PLAN, version=1)

    assert [plan.version for plan in (first, second, repeated)] == [1, 2, 2]
    assert (await metering.accounts.GetPricePlan(request)).price_plan == first


async def test_a_price_plan_is_told_of_an_account_that_has_it(metering: Stubs) -> None:
    await metering.activate("acme")
    await metering.put_plan(pb.PricePlan(price_plan_id="others", currency="CNY", prices=standard_plan().prices))
    request = accounts_pb.GetPricePlanRequest(price_plan_id=PLAN, account_id="acme")
    assert (await metering.accounts.GetPricePlan(request)).price_plan.price_plan_id == PLAN
    for account_id, plan, reason in (
        ("acme", "others", "PRICE_PLAN_NOT_FOUND"),
        ("acme", "none", "PRICE_PLAN_NOT_FOUND"),
        ("nobody", PLAN, "ACCOUNT_NOT_FOUND"),
    ):
        request = accounts_pb.GetPricePlanRequest(price_plan_id=plan, account_id=account_id)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await metering.accounts.GetPricePlan(request)
        assert reason_of(error.value) == reason


async def test_a_plan_holds_from_its_month_on(metering: Stubs) -> None:
    await metering.activate("acme")
    price = pb.ApiPrice(api="DetectAuth", per_call=pb.PerCallPrice(unit_price="1"))
    await metering.put_plan(pb.PricePlan(price_plan_id="dear", currency="CNY", prices=[price]))

    account = await metering.assign_plan("acme", "dear", "2026-11")
    await metering.record_batch([metering.call("acme"), metering.call("acme", at=OCTOBER)])

    assert [(each.price_plan_id, each.from_month) for each in account.price_plans] == [(PLAN, ""), ("dear", "2026-11")]
    assert amount((await metering.usage("acme", "2026-10")).charges) == Decimal("0.01")
    assert amount((await metering.usage("acme", "2026-11")).charges) == 1


Refused = Callable[[Stubs], Awaitable[Any]]
REFUSALS: list[tuple[str, str, Refused, str, list[str]]] = [
    ("month of usage", "INVALID_ARGUMENT", lambda m: m.usage("acme", "2026-13"), "INVALID_FIELD", ["month"]),
    ("unknown account", "NOT_FOUND", lambda m: m.usage("nobody", "2026-10"), "ACCOUNT_NOT_FOUND", []),
    ("status of unknown", "NOT_FOUND", lambda m: m.status("nobody"), "ACCOUNT_NOT_FOUND", []),
    ("status of bad id", "INVALID_ARGUMENT", lambda m: m.status("a b"), "INVALID_FIELD", ["account_id"]),
    ("calls of unknown", "NOT_FOUND", lambda m: m.list_calls("nobody", "2026-10"), "ACCOUNT_NOT_FOUND", []),
    ("running month", "FAILED_PRECONDITION", lambda m: m.close_month("2026-11"), "MONTH_NOT_ENDED", []),
    ("no bill", "NOT_FOUND", lambda m: m.deduct("acme", "2026-09"), "BILL_NOT_FOUND", []),
    ("no bill to get", "NOT_FOUND", lambda m: m.bill("acme", "2026-09"), "BILL_NOT_FOUND", []),
    ("other currency", "ALREADY_EXISTS", lambda m: m.activate("acme", "", "CNY"), "ACCOUNT_ALREADY_ACTIVATED", []),
    ("no currency", "INVALID_ARGUMENT", lambda m: m.activate("new", "", "XXY"), "INVALID_FIELD", ["currency"]),
    ("no such plan", "NOT_FOUND", lambda m: m.activate("new", "nothing"), "PRICE_PLAN_NOT_FOUND", []),
    ("plan's currency", "FAILED_PRECONDITION", lambda m: m.activate("new", PLAN, "USD"), "CURRENCY_MISMATCH", []),
    (
        "billed month",
        "FAILED_PRECONDITION",
        lambda m: m.assign_plan("acme", PLAN, "2026-10"),
        "MONTH_ALREADY_BILLED",
        [],
    ),
    ("payment's currency", "FAILED_PRECONDITION", lambda m: m.pay("acme", "1", "p", "USD"), "CURRENCY_MISMATCH", []),
    ("payment of nothing", "INVALID_ARGUMENT", lambda m: m.pay("acme", "0", "p"), "INVALID_FIELD", ["amount"]),
    ("fraction of a fen", "INVALID_ARGUMENT", lambda m: m.pay("acme", "0.001", "p"), "INVALID_FIELD", ["amount"]),
    ("payment again", "ALREADY_EXISTS", lambda m: m.pay("acme", "2", "transfer-1"), "PAYMENT_ID_REUSED", []),
]


@pytest.mark.parametrize(
    ("code", "refused", "reason", "fields"), [each[1:] for each in REFUSALS], ids=[each[0] for each in REFUSALS]
)
async def test_what_is_refused_and_why(
    metering: Stubs, code: str, refused: Refused, reason: str, fields: list[str]
) -> None:
    await metering.activate("acme")
    await record(metering, "acme", "DetectAuth", 1)
    await metering.close_month("2026-10")
    await metering.pay("acme", "1", "transfer-1")

    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await refused(metering)

    assert failed.value.code().name == code
    assert reason_of(failed.value) == reason
    assert fields_of(failed.value) == fields


async def test_late_calls_get_no_free_calls_that_calls_with_another_result_code_have_had(metering: Stubs) -> None:
    await metering.activate("acme")
    on_time = [metering.call("acme", api="CompareFace", at=OCTOBER, result_code="E.1") for _ in range(100)]
    late = [metering.call("acme", api="CompareFace", at=OCTOBER) for _ in range(10)]
    await metering.record_batch(on_time)  # as many as are free in a month
    await metering.close_month("2026-10")
    await metering.record_batch(late)

    assert amount((await metering.usage("acme", "2026-11")).charges) == Decimal("0.2")
