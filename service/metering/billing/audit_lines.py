"""Bill lines, computed once more: their own arithmetic, and what rating makes of the usage and the price plan."""

from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Protocol

from metering.billing.currencies import MINOR_UNITS, round_to_minor_unit
from metering.billing.months import format_month
from metering.billing.rating import rate
from metering.model import EXACT, AccountId, AuditKind, BillLine, Difference, Month, MonthUsage, PricePlan

_UNUSABLE = (ArithmeticError, LookupError, StopIteration, TypeError, ValueError)
"""What a price plan may raise that was changed by hand."""


class RatedLine(Protocol):
    """A bill line, and what it was rated from."""

    @property
    def account_id(self) -> AccountId:
        """Whose."""

    @property
    def month(self) -> Month:
        """Of which month's bill."""

    @property
    def api(self) -> str:
        """Of which api."""

    @property
    def occurred_month(self) -> Month:
        """In which month its calls occurred."""

    @property
    def line(self) -> BillLine | None:
        """As it stands on the bill; None: it cannot be read."""

    @property
    def currency(self) -> str | None:
        """The currency of the bill; None: there is no bill."""

    @property
    def usage(self) -> Sequence[MonthUsage]:
        """What is counted for it now."""

    @property
    def plan(self) -> PricePlan | None:
        """The plan it names; None if there is none that can be read, or the account has another one in that month."""


def check_line(rated: RatedLine) -> Iterator[Difference]:
    """Return how a line differs from what it should be."""
    name = f"{rated.api} of {format_month(rated.occurred_month)} on the bill of {format_month(rated.month)}"
    if rated.line is None:
        yield Difference(rated.account_id, AuditKind.LINES, f"{name}: cannot be read", "quantities and unit prices")
        return
    found = f"{name}: {describe(rated.line)}"
    if (computed := _computed(rated.line, rated.currency)) != _written(rated.line):
        yield Difference(rated.account_id, AuditKind.LINES, found, computed)
    if (expected := _rated(rated)) is not None:
        yield Difference(rated.account_id, AuditKind.RATING, found, expected)


def describe(line: BillLine) -> str:
    """Return how a line came about."""
    parts = " + ".join(f"{part.quantity} at {part.unit_price:f}" for part in line.parts) or "nothing charged"
    return f"{parts} by {line.price_plan_id} version {line.price_plan_version}; {_written(line)}"


def _written(line: BillLine) -> str:
    return _sums(line.charged_calls, line.exact_amount, line.amount)


def _computed(line: BillLine, currency: str | None) -> str:
    """Return what the parts of a line come to."""
    exact = Decimal(0)
    for part in line.parts:
        exact = EXACT.fma(Decimal(part.quantity), part.unit_price, exact)
    if currency not in MINOR_UNITS:
        return "a bill in a currency that there is"
    return _sums(sum(part.quantity for part in line.parts), exact, round_to_minor_unit(exact, currency))


def _sums(charged_calls: int, exact: Decimal, amount: Decimal) -> str:
    return f"{charged_calls} calls charged, {exact.normalize():f}, rounded {amount.normalize():f}"


def _rated(rated: RatedLine) -> str | None:
    """Rate a line once more, with the code that bills are made with; return what it should be, None if it is that."""
    try:
        lines, _ = rate(rated.usage, lambda _: rated.plan)
    except _UNUSABLE as error:
        return f"a price plan that can be used: {error!r}"
    if lines == (rated.line,):
        return None
    return "; ".join(map(describe, lines)) or "no line: no usage, or not a price plan of the account with that price"
