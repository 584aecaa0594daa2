"""P5 exact: money is decimal; a line is rounded once, half up; a bill is its lines; the ledger only grows."""

from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal

import asyncpg
import grpc
import pytest
from google.type.money_pb2 import Money
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faceid.metering.v1 import account_service_pb2 as accounts_pb
from faceid.metering.v1 import resources_pb2 as pb
from tests.support.service import Service, amount, reason_of

OCTOBER = datetime(2026, 10, 15, tzinfo=UTC)
PRIVILEGES = [
    "UPDATE ledger_entries SET amount = 1",
    "DELETE FROM ledger_entries",
    "TRUNCATE ledger_entries",
    "UPDATE bill_lines SET amount = 0",
    "DELETE FROM bill_lines",
    "UPDATE bills SET total = 0",
    "DELETE FROM bills",
    "UPDATE calls SET api = 'x'",
    "DELETE FROM calls",
    "UPDATE price_plans SET prices = '[]'",
    "DELETE FROM price_plans",
    "DELETE FROM price_plan_assignments",
    "DELETE FROM monthly_runs",
    "UPDATE rejected_calls SET call_id = gen_random_uuid()",
    "DELETE FROM months",
    "UPDATE accounts SET currency = 'USD'",
    "DELETE FROM accounts",
    "DROP TABLE ledger_entries",
]


async def test_sub_cent_prices_are_added_up_exactly_and_rounded_once_per_line(service: Service) -> None:
    await service.activate("acme")
    calls = {"DetectAuth": 333, "CompareFace": 1_234, "LivenessCheck": 11}
    await service.record_batch(
        [service.call("acme", api=api, at=OCTOBER) for api, count in calls.items() for _ in range(count)]
    )
    await service.close_month("2026-10")
    bill = await service.bill("acme", "2026-10")
    lines = {line.api: line for line in bill.lines}
    # 333 × 0.0125 = 4.1625; 100 free, 900 × 0.02, 234 × 0.000000001; 11 × 0.333333333
    assert {api: line.exact_amount for api, line in lines.items()} == {
        "DetectAuth": "4.1625",
        "CompareFace": "18.000000234",
        "LivenessCheck": "3.666666663",
    }
    assert {api: amount(line.amount) for api, line in lines.items()} == {
        "DetectAuth": Decimal("4.16"),
        "CompareFace": Decimal("18.00"),
        "LivenessCheck": Decimal("3.67"),
    }
    assert amount(bill.total) == Decimal("25.83")


async def test_half_a_cent_is_rounded_up(service: Service) -> None:
    await service.activate("acme")
    await service.record_batch([service.call("acme", at=OCTOBER) for _ in range(2)])  # 2 × 0.0125 = 0.025
    await service.close_month("2026-10")
    assert amount((await service.bill("acme", "2026-10")).total) == Decimal("0.03")


async def test_uncharged_result_codes_and_free_calls_cost_nothing_but_count(service: Service) -> None:
    await service.activate("acme")
    calls = [service.call("acme", at=OCTOBER, result_code="E.Uncharged") for _ in range(5)]
    calls += [service.call("acme", at=OCTOBER, result_code="E.Charged") for _ in range(8)]
    calls += [service.call("acme", api="CompareFace", at=OCTOBER) for _ in range(100)]
    await service.record_batch(calls)
    usage = await service.usage("acme", "2026-10")
    assert (usage.total_calls, usage.charged_calls) == (113, 108)
    assert amount(usage.charges) == Decimal("0.10")
    await service.close_month("2026-10")
    bill = await service.bill("acme", "2026-10")
    assert [(line.api, line.calls, line.charged_calls, amount(line.amount)) for line in bill.lines] == [
        ("CompareFace", 100, 100, Decimal(0)),
        ("DetectAuth", 13, 8, Decimal("0.10")),
    ]


async def test_a_bill_that_comes_to_nothing_is_paid(service: Service) -> None:
    await service.activate("acme")
    await service.record(service.call("acme", at=OCTOBER, result_code="E.Uncharged"))
    await service.close_month("2026-10")
    assert (await service.bill("acme", "2026-10")).state == pb.BILL_STATE_PAID
    assert (await service.deduct("acme", "2026-10")).service_status.state == pb.SERVICE_STATE_ACTIVE


prices = st.decimals(min_value=0, max_value=1000, places=9)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    currency=st.sampled_from([("CNY", 2), ("JPY", 0), ("KWD", 3)]),
    lines=st.lists(st.tuples(st.integers(1, 60), prices), min_size=1, max_size=4),
)
async def test_any_bill_is_the_sum_of_its_lines_each_rounded_once(
    service: Service, currency: tuple[str, int], lines: list[tuple[int, Decimal]]
) -> None:
    code, decimals = currency
    account_id = f"acme-{code}-{datetime.now(UTC).timestamp()}"
    plan = pb.PricePlan(price_plan_id=account_id, currency=code)
    calls = []
    for number, (count, price) in enumerate(lines):
        plan.prices.add(api=f"api{number}", per_call=pb.PerCallPrice(unit_price=f"{price:f}"))
        calls += [service.call(account_id, api=f"api{number}") for _ in range(count)]
    await service.put_plan(plan)
    await service.activate(account_id, account_id, code)
    await service.record_batch(calls)
    expected = [(count * price).quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP) for count, price in lines]
    assert amount((await service.usage(account_id, "2026-11")).charges) == sum(expected)


@pytest.mark.parametrize("statement", PRIVILEGES)
async def test_the_service_has_no_right_to_change_what_must_not_change(
    db: "asyncpg.Connection[asyncpg.Record]", statement: str
) -> None:
    await db.execute("SET ROLE metering_service")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await db.execute(statement)


@pytest.mark.parametrize(
    ("units", "nanos"), [(0, 0), (-1, 0), (0, -10_000_000), (1, 1_000_000), (1, -500_000_000), (0, 1_000_000_000)]
)
async def test_a_payment_of_nothing_of_less_or_of_fractions_of_a_cent_is_refused(
    service: Service, units: int, nanos: int
) -> None:
    await service.activate("acme")
    request = accounts_pb.RecordPaymentRequest(
        account_id="acme", amount=Money(currency_code="CNY", units=units, nanos=nanos), payment_id="p"
    )
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await service.accounts.RecordPayment(request)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(error.value) == "INVALID_FIELD"
    assert amount((await service.account("acme")).balance) == 0
