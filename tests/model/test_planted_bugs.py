"""It can fail: a model with a bug differs from the service, as a service with that bug would from the model."""

from collections import Counter
from collections.abc import Callable
from datetime import date, datetime, timedelta
from fractions import Fraction
from functools import partial

import pytest

from tests.model.conftest import EXAMPLES
from tests.model.driver import Driver
from tests.model.machine import Machine
from tests.model.reference import Books
from tests.model.reference_rating import Price, Rater, Tier, half_up
from tests.model.values import Account, Call, Recorded


class RaterOfTiers(Rater):
    def amount(self, exact: Fraction, parts: Counter[Tier], currency: str) -> Fraction:
        return sum((half_up(calls * tier.unit_price, currency) for tier, calls in parts.items()), Fraction(0))


class RoundsEachTier(Books):
    rater = RaterOfTiers()


class MonthsHoldBothEnds(Books):
    def day_of(self, at: datetime) -> date:
        return super().day_of(at - timedelta(microseconds=1)) if super().day_of(at).day == 1 else super().day_of(at)


class LateCallsGoOnClosedBills(Books):
    def billing_month(self, month: date) -> date:
        return month


class CountsRepeats(Books):
    def same(self, known: Recorded, call: Call, day: date) -> bool:
        return False


class PaysTheNewestBillFirst(Books):
    def order_of_payment(self, account: Account) -> list[date]:
        return super().order_of_payment(account)[::-1]


class GivesFreeCallsTwice(Books):
    def earlier(self, account: Account, occurred: date, api: str, month: date) -> list[Recorded]:
        return []


BUGS = [
    RoundsEachTier,
    MonthsHoldBothEnds,
    LateCallsGoOnClosedBills,
    CountsRepeats,
    PaysTheNewestBillFirst,
    GivesFreeCallsTwice,
]


def story(machine: Machine) -> list[Callable[[], object]]:
    """Return, step by step, what each of these bugs shows at."""
    graduated = Price("graduated", ((2, Fraction("0.004")), (3, Fraction("0.014")), (0, Fraction(1))), 1, frozenset())
    per_call = Price("per_call", ((0, Fraction(2)),), 0, frozenset())
    first, last = ("start of month", 0), ("end of month", 0)
    return [
        partial(machine.begin, "Asia/Shanghai", 326, 14_400, "CNY", (("A", graduated), ("B", per_call))),
        partial(machine.record, ("ann", first, "A", "")),
        partial(machine.record, ("ann", last, "A", "")),
        partial(machine.repeat, 0, "nothing"),
        partial(machine.record_batch, [("ann", last, "A", "")] * 3 + [("ann", last, "B", "")], []),
        partial(machine.close_month, 1),
        partial(machine.record, ("ann", last, "A", "")),
        partial(machine.time_passes_to_day, 1, 0, "run month"),
        partial(machine.pay, "ann", 1, "some", 1),
        partial(machine.time_passes_to_day, 3, 0, "run month"),
        partial(machine.pay, "ann", 1, "all that is outstanding", 2),
    ]


def play_story(driver: Driver, books: type[Books]) -> None:
    machine = Machine(driver, books)
    try:
        for step in story(machine):
            step()
            machine.service_and_model_tell_the_same()
    finally:
        machine.teardown()


def test_the_story_finds_nothing_where_nothing_is_wrong(driver: Driver) -> None:
    play_story(driver, Books)
    assert driver.seen["bills"] == 2
    assert driver.seen["lines of carried calls"] == 1


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_shows(driver: Driver, bug: type[Books]) -> None:
    with pytest.raises(AssertionError):
        play_story(driver, bug)


@pytest.mark.skipif(not EXAMPLES, reason="takes minutes; a part of `make test-model`")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("bug", BUGS)
def test_chance_finds_a_planted_bug(play: Callable[[type[Books]], None], bug: type[Books]) -> None:
    with pytest.raises(AssertionError):
        play(bug)
