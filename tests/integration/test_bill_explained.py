"""A bill explains itself, and an open month's charges are what its bill will be: through the real service."""

from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, TypeAlias
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faceid.metering.v1 import resources_pb2 as pb
from metering.billing import rating
from metering.model import ApiPrice, BillLinePart, PricePlan
from metering.rpc import convert
from tests.support.audit import assert_books_are_right
from tests.support.command import metering
from tests.support.prices import TRILLION, api_prices
from tests.support.service import Service, amount

if TYPE_CHECKING:
    import asyncpg

    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]

OCTOBER, AT = date(2026, 10, 1), datetime(2026, 10, 15, tzinfo=UTC)


async def used(
    db: "Connection",
    account_id: str,
    api: str,
    calls: int,
    result_code: str = "",
    month: date = OCTOBER,
) -> None:
    """Count calls without recording each."""
    row = (account_id, month, month, api, result_code, calls)
    await db.copy_records_to_table("usage_daily", records=[row])


async def test_every_line_tells_quantity_tier_unit_price_and_amounts_before_and_after_rounding(
    service: Service,
) -> None:
    await service.activate("acme")
    calls = [service.call("acme", api="CompareFace", at=AT) for _ in range(1_234)]
    calls += [service.call("acme", at=AT, result_code=code) for code in ("", "", "E.Uncharged")]
    assert (await service.record_batch(calls)).accepted == 1_237
    await service.close_month("2026-10")
    compare, detect = (await service.bill("acme", "2026-10")).lines
    assert list(compare.parts) == [
        pb.BillLinePart(quantity=100, unit_price="0", tier_from=1, tier_up_to=100, exact_amount="0"),
        pb.BillLinePart(quantity=900, unit_price="0.02", tier_from=1, tier_up_to=1000, exact_amount="18"),
        pb.BillLinePart(quantity=234, unit_price="0.000000001", tier_from=1001, exact_amount="0.000000234"),
    ]
    assert (compare.exact_amount, amount(compare.amount)) == ("18.000000234", Decimal("18.00"))
    assert (detect.calls, detect.charged_calls, detect.exact_amount) == (3, 2, "0.025")
    assert amount(detect.amount) == Decimal("0.03")

    code, said = await metering("bill", "acme", "2026-10", "--target", service.target)
    assert code == 0, said
    assert [line.split() for line in said.splitlines()[2:-1]] == [
        ["CompareFace", "2026-10", "100", "1", "to", "100", "0", "0"],
        ["900", "1", "to", "1,000", "0.02", "18"],
        ["234", "from", "1,001", "0.000000001", "0.000000234"],
        ["1,234", "18.000000234", "18"],
        ["DetectAuth", "2026-10", "2", "from", "1", "0.0125", "0.025", "0.03"],
        ["1", "not", "charged"],
    ]
    assert "18.03 CNY, 0 CNY of it deducted, 18.03 CNY outstanding; due on 2026-11-03" in said
    await assert_books_are_right(service.database_url)


async def test_a_line_from_before_tiers_were_kept_can_still_be_read(service: Service, db: "Connection") -> None:
    await service.activate("acme")
    await service.record(service.call("acme", at=AT))
    await service.close_month("2026-10")
    await db.execute("""UPDATE bill_lines SET parts = '[[1, "0.0125"]]'""")
    (line,) = (await service.bill("acme", "2026-10")).lines
    assert list(line.parts) == [pb.BillLinePart(quantity=1, unit_price="0.0125", exact_amount="0.0125")]


@pytest.mark.parametrize(
    ("unit_price", "charges"),
    [
        ("0.000000001", "1000.00"),
        ("0.012345678", "12345678000.01"),
        ("999999.999999999", "1000000000000999000.00"),
    ],
)
async def test_a_trillion_calls_and_one_are_billed_without_loss(
    service: Service, db: "Connection", unit_price: str, charges: str
) -> None:
    price = pb.ApiPrice(api="DetectAuth", per_call=pb.PerCallPrice(unit_price=unit_price))
    await service.put_plan(pb.PricePlan(price_plan_id="p", currency="CNY", prices=[price]))
    await service.activate("acme", "p")
    await used(db, "acme", "DetectAuth", TRILLION + 1)
    estimate = await service.usage("acme", "2026-10")
    await service.close_month("2026-10")
    bill = await service.bill("acme", "2026-10")
    exact = (TRILLION + 1) * Decimal(unit_price)
    assert estimate.total_calls == bill.lines[0].calls == bill.lines[0].parts[0].quantity == TRILLION + 1
    assert Decimal(bill.lines[0].exact_amount) == Decimal(bill.lines[0].parts[0].exact_amount) == exact
    assert amount(estimate.charges) == amount(bill.total) == Decimal(charges)
    code, said = await metering("bill", "acme", "2026-10", "--target", service.target)
    assert code == 0, said
    assert "1,000,000,000,001" in said
    assert "1,000,000,000,001" in (await metering("usage", "acme", "2026-10", "--target", service.target))[1]
    assert bill.lines[0].exact_amount in said
    assert f"{Decimal(charges).normalize():,f} CNY outstanding" in said


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prices=st.lists(api_prices(), min_size=1, max_size=3),
    calls=st.lists(
        st.dictionaries(st.sampled_from(["", "E.A", "E.B"]), st.integers(1, TRILLION), min_size=1),
        min_size=3,
        max_size=3,
    ),
    currency=st.sampled_from(["JPY", "CNY", "USD", "KWD"]),
)
async def test_the_charges_of_an_open_month_are_its_bill_if_nothing_arrives_in_between(
    service: Service,
    db: "Connection",
    prices: list[ApiPrice],
    calls: list[dict[str, int]],
    currency: str,
) -> None:
    account_id = uuid4().hex
    billed = await db.fetchval("SELECT count(*) FROM bills")
    month = date(2020 + billed // 12, billed % 12 + 1, 1)  # one that is still open
    named = [
        ApiPrice(f"api{index}", price.model, price.tiers, price.free_calls, frozenset({"E.A"}))
        for index, price in enumerate(prices)
    ]
    await service.put_plan(convert.price_plan(PricePlan(account_id, 0, currency, tuple(named))))
    await service.activate(account_id, account_id, currency)
    for price, by_code in zip(named, calls, strict=False):
        for code, each in by_code.items():
            await used(db, account_id, price.api, each, code, month)

    estimate = await service.usage(account_id, f"{month:%Y-%m}")
    await service.close_month(f"{month:%Y-%m}")
    bill = await service.bill(account_id, f"{month:%Y-%m}")
    closed = await service.usage(account_id, f"{month:%Y-%m}")

    assert (estimate.state, closed.state) == (pb.MONTH_STATE_OPEN, pb.MONTH_STATE_CLOSED)
    assert estimate.charges == bill.total == closed.charges
    assert estimate.apis == closed.apis
    assert estimate.charged_calls == sum(line.charged_calls for line in bill.lines)
    assert amount(bill.total) == sum(amount(line.amount) for line in bill.lines)
    for line in bill.lines:
        parts = sum(part.quantity * Fraction(part.unit_price) for part in line.parts)
        assert Fraction(line.exact_amount) == parts == sum(Fraction(part.exact_amount) for part in line.parts)


async def test_charges_and_bills_come_from_the_same_code(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    await service.activate("acme")
    await service.record(service.call("acme", at=AT))
    monkeypatch.setattr(rating, "price_calls", lambda *_: (BillLinePart(1, Decimal("7.77"), 1, None),))
    estimate = await service.usage("acme", "2026-10")
    would_be = await service.close_month("2026-10", dry_run=True)
    await service.close_month("2026-10")
    bill = await service.bill("acme", "2026-10")
    assert [amount(each) for each in (estimate.charges, would_be.totals[0], bill.total)] == [Decimal("7.77")] * 3
