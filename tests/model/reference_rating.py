"""What calls cost, call by call, in fractions: slow, and obviously right. Knows nothing of the service's code."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from fractions import Fraction
from math import floor
from typing import NamedTuple

MINOR_UNITS = {"CNY": 2, "JPY": 0, "KWD": 3}


class Tier(NamedTuple):
    """Calls of a month that have the same price: the first one, the last one (0: no end), and the price of each."""

    first: int
    last: int
    unit_price: Fraction


@dataclass(frozen=True)
class Price:
    """The price of one api. `tiers` are (last call, price of each); last call 0: no end."""

    model: str
    tiers: tuple[tuple[int, Fraction], ...]
    free: int
    uncharged: frozenset[str]

    def tier(self, number: int, calls_of_month: int) -> Tier:
        """Return the tier of one charged call, the `number`th of its month."""
        if number <= self.free:
            return Tier(1, self.free, Fraction(0))
        reached = calls_of_month if self.model == "volume" else number
        first = 1
        for last, unit_price in self.tiers:
            if last == 0 or reached <= last:
                return Tier(first, last, unit_price)
            first = last + 1
        raise AssertionError(self.tiers)


@dataclass(frozen=True)
class Plan:
    """A version of a price plan."""

    plan_id: str
    version: int
    currency: str
    prices: tuple[tuple[str, Price], ...]


@dataclass(frozen=True)
class Line:
    """A line of a bill; `parts` are (calls, tier)."""

    month: date
    api: str
    calls: int
    charged: int
    parts: tuple[tuple[int, Tier], ...]
    exact: Fraction
    amount: Fraction
    plan_id: str
    version: int


class Rater:
    """Prices the calls of a line, given the result codes of its calls and of the calls billed before them."""

    def line(self, month: date, api: str, codes: Sequence[str], earlier_codes: Sequence[str], plan: Plan) -> Line:
        price = dict(plan.prices)[api]
        charged = sum(code not in price.uncharged for code in codes)
        before = sum(code not in price.uncharged for code in earlier_codes)
        numbers = range(before + 1, before + charged + 1)
        parts = Counter(price.tier(number, before + charged) for number in numbers)
        exact = sum((calls * tier.unit_price for tier, calls in parts.items()), Fraction(0))
        return Line(
            month,
            api,
            len(codes),
            charged,
            tuple((calls, tier) for tier, calls in parts.items()),
            exact,
            self.amount(exact, parts, plan.currency),
            plan.plan_id,
            plan.version,
        )

    def amount(self, exact: Fraction, parts: Counter[Tier], currency: str) -> Fraction:
        """Round once, half up."""
        return half_up(exact, currency)


def half_up(amount: Fraction, currency: str) -> Fraction:
    units = 10 ** MINOR_UNITS[currency]
    return Fraction(floor(amount * units + Fraction(1, 2)), units)
