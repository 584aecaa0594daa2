"""What deducting does to bills and balance."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.billing.months import due_date, next_month
from metering.billing.settlement import settle
from metering.model import AccountId, Bill, BillState, EntryKind, Month

NOVEMBER = Month(date(2026, 11, 1))
DUE = date(2026, 12, 3)
DAY = timedelta(days=1)


def bill_of(
    total: Decimal, deducted: Decimal = Decimal(0), state: BillState = BillState.ISSUED, month: Month = NOVEMBER
) -> Bill:
    return Bill(
        account_id=AccountId("acme"),
        month=month,
        currency="CNY",
        state=state,
        total=total,
        deducted=deducted,
        issued_at=datetime(2026, 12, 1, tzinfo=UTC),
        due_date=due_date(month),
    )


cents = st.integers(0, 10**20).map(lambda number: Decimal(number).scaleb(-2))
few_cents = st.integers(0, 500).map(lambda number: Decimal(number).scaleb(-2))
amounts = few_cents | cents
todays = st.dates(date(2026, 11, 25), date(2027, 6, 1))


@st.composite
def bills_oldest_first(draw: st.DrawFn) -> list[Bill]:
    """Bills of months in a row, in any state that they can be in."""
    bills: list[Bill] = []
    month = NOVEMBER
    for _ in range(draw(st.integers(0, 5))):
        total = draw(amounts)
        if total == 0 or draw(st.integers(0, 3)) == 0:
            bills.append(bill_of(total, total, BillState.PAID, month))
        else:
            deducted = draw(st.sampled_from([Decimal(0), total - Decimal("0.01"), total / 4])).quantize(Decimal("0.01"))
            deducted = min(deducted, total - Decimal("0.01"))
            state = draw(st.sampled_from([BillState.ISSUED, BillState.OVERDUE]))
            bills.append(bill_of(total, deducted, state, month))
        month = next_month(month)
    return bills


def after(bills: list[Bill], changed: tuple[Bill, ...]) -> list[Bill]:
    by_month = {bill.month: bill for bill in changed}
    return [by_month.get(bill.month, bill) for bill in bills]


@given(amounts, bills_oldest_first(), todays)
def test_money_is_neither_made_nor_lost(balance: Decimal, bills: list[Bill], today: date) -> None:
    settlement = settle(balance, bills, today)
    paid_off = sum((bill.deducted for bill in after(bills, settlement.changed_bills)), Decimal(0))
    before = sum((bill.deducted for bill in bills), Decimal(0))
    assert settlement.balance + settlement.deducted == balance
    assert paid_off - before == settlement.deducted
    assert sum((entry.amount for entry in settlement.entries), balance) == settlement.balance


@given(amounts, bills_oldest_first(), todays)
def test_neither_the_balance_nor_what_is_outstanding_is_ever_less_than_nothing(
    balance: Decimal, bills: list[Bill], today: date
) -> None:
    settlement = settle(balance, bills, today)
    assert settlement.balance >= 0
    assert all(bill.outstanding >= 0 for bill in settlement.changed_bills)


@given(amounts, bills_oldest_first(), todays)
def test_as_much_is_taken_as_there_is_and_no_more_than_is_outstanding(
    balance: Decimal, bills: list[Bill], today: date
) -> None:
    outstanding = sum((bill.outstanding for bill in bills), Decimal(0))
    assert settle(balance, bills, today).deducted == min(balance, outstanding)


@given(amounts, bills_oldest_first(), todays)
def test_the_oldest_bill_is_settled_first(balance: Decimal, bills: list[Bill], today: date) -> None:
    settlement = settle(balance, bills, today)
    settled_for = [entry.bill_month for entry in settlement.entries]
    unpaid_after = [bill.month for bill in after(bills, settlement.changed_bills) if bill.outstanding]
    assert settled_for == [bill.month for bill in bills if bill.outstanding][: len(settled_for)]
    # Only the last one that money was taken for may still be unpaid: what comes before it is paid in full.
    assert set(settled_for[:-1]).isdisjoint(unpaid_after)


@given(amounts, bills_oldest_first(), todays)
def test_each_entry_takes_something_for_one_bill(balance: Decimal, bills: list[Bill], today: date) -> None:
    entries = settle(balance, bills, today).entries
    assert all(entry.amount < 0 and entry.kind is EntryKind.DEDUCTION and not entry.payment_id for entry in entries)
    assert len({entry.bill_month for entry in entries}) == len(entries)


ALLOWED = {
    (BillState.ISSUED, BillState.PAID),
    (BillState.ISSUED, BillState.OVERDUE),
    (BillState.OVERDUE, BillState.PAID),
}


@given(amounts, bills_oldest_first(), todays)
def test_a_bill_goes_only_from_issued_to_paid_or_to_overdue_and_from_there_to_paid(
    balance: Decimal, bills: list[Bill], today: date
) -> None:
    for before, now in zip(bills, after(bills, settle(balance, bills, today).changed_bills), strict=True):
        assert now.state is before.state or (before.state, now.state) in ALLOWED
        assert (now.state is BillState.PAID) == (now.outstanding == 0)
        assert now.state is not BillState.ISSUED or today < now.due_date


@given(amounts, bills_oldest_first(), todays)
def test_only_state_and_deducted_ever_change_and_a_paid_bill_not_at_all(
    balance: Decimal, bills: list[Bill], today: date
) -> None:
    before = {bill.month: bill for bill in bills}
    for bill in settle(balance, bills, today).changed_bills:
        old = before[bill.month]
        assert old.state is not BillState.PAID
        assert old != bill == replace(old, state=bill.state, deducted=bill.deducted)
        assert bill.deducted >= old.deducted


@given(amounts, bills_oldest_first(), todays)
def test_settling_again_on_the_same_day_does_nothing(balance: Decimal, bills: list[Bill], today: date) -> None:
    first = settle(balance, bills, today)
    again = settle(first.balance, after(bills, first.changed_bills), today)
    assert (again.balance, again.entries, again.changed_bills) == (first.balance, (), ())


@given(amounts, amounts, bills_oldest_first(), todays)
def test_two_payments_settle_what_one_of_their_sum_settles(
    one: Decimal, two: Decimal, bills: list[Bill], today: date
) -> None:
    at_once = settle(one + two, bills, today)
    first = settle(one, bills, today)
    bills_between = after(bills, first.changed_bills)
    second = settle(first.balance + two, bills_between, today)
    assert second.balance == at_once.balance
    assert after(bills_between, second.changed_bills) == after(bills, at_once.changed_bills)


@pytest.mark.parametrize(
    ("today", "state"),
    [
        (DUE - 2 * DAY, BillState.ISSUED),
        (DUE - DAY, BillState.ISSUED),
        (DUE, BillState.OVERDUE),
        (DUE + DAY, BillState.OVERDUE),
    ],
)
def test_what_is_outstanding_is_overdue_from_the_due_date_on(today: date, state: BillState) -> None:
    (bill,) = settle(Decimal("0.01"), [bill_of(Decimal(1))], today).changed_bills
    assert (bill.state, bill.deducted) == (state, Decimal("0.01"))


def test_on_its_due_date_a_bill_that_can_be_paid_is_paid_and_not_overdue() -> None:
    settlement = settle(Decimal(5), [bill_of(Decimal(2))], DUE)
    assert [bill.state for bill in settlement.changed_bills] == [BillState.PAID]
    assert settlement.balance == 3


def test_a_bill_without_money_is_unchanged_until_its_due_date() -> None:
    assert settle(Decimal(0), [bill_of(Decimal(2))], DUE - DAY).changed_bills == ()


def test_an_overdue_bill_stays_overdue_until_it_is_paid_in_full_whatever_the_clock_says() -> None:
    overdue = bill_of(Decimal(2), state=BillState.OVERDUE)
    (bill,) = settle(Decimal(1), [overdue], DUE - DAY).changed_bills
    assert bill.state is BillState.OVERDUE
    (bill,) = settle(Decimal(1), [bill], DUE - DAY).changed_bills
    assert bill.state is BillState.PAID


def test_no_bills_leave_the_balance_alone() -> None:
    settlement = settle(Decimal("7.50"), [], DUE)
    assert (settlement.balance, settlement.deducted, settlement.entries) == (Decimal("7.50"), Decimal(0), ())
