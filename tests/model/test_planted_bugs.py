"""It can fail: a service with a bug differs from the model, and a model with a bug differs from the service."""

from collections import Counter
from collections.abc import Callable
from datetime import date, datetime, timedelta
from fractions import Fraction
from functools import partial
from operator import attrgetter

import grpc
import pytest

from tests.model.conftest import EXAMPLES, Play
from tests.model.driver import Driver
from tests.model.machine import Machine
from tests.model.planted import BUGS, Bug
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


DIFFERENCES = (AssertionError, TimeoutError, grpc.aio.AioRpcError)
"""What a bug of the service shows by: another answer, none, or an error."""
BUGS_TOLD = BUGS if EXAMPLES else BUGS[::6]
"""Those that the story is told of: all in `make test-model`, a sixth of them in `make test`."""
BUGS_OF_THE_MODEL = [
    RoundsEachTier,
    MonthsHoldBothEnds,
    LateCallsGoOnClosedBills,
    CountsRepeats,
    PaysTheNewestBillFirst,
    GivesFreeCallsTwice,
]


def story(machine: Machine) -> list[Callable[[], object]]:
    """Return, step by step, what each of these bugs shows at."""
    uncharged = frozenset({"E.A"})
    graduated = Price("graduated", ((2, Fraction("0.004")), (3, Fraction("0.014")), (0, Fraction(1))), 1, uncharged)
    volume = Price("volume", ((3, Fraction(2)), (0, Fraction(1))), 0, uncharged)
    dear = Price("per_call", ((0, Fraction(5)),), 0, frozenset())
    half = Price("per_call", ((0, Fraction("0.5")),), 0, frozenset())
    first, last, now = ("start of month", 0), ("end of month", 0), ("now", 0)
    october, november = 1, 0
    return [
        # 23 November: October is closed, with an account that has no price, and calls still come in for it.
        partial(machine.begin, "Asia/Shanghai", 326, 14_400, "CNY", (("A", graduated), ("B", volume))),
        partial(machine.activate, "cid", "JPY", ""),
        partial(machine.record, ("ann", first, "A", "")),
        partial(machine.record, ("ann", last, "A", "")),
        partial(machine.repeat, 0, "nothing"),
        partial(
            machine.record_batch, [("ann", last, "A", ""), ("ann", last, "A", "E.A"), ("ann", last, "A", "E.B")], []
        ),
        partial(machine.record_batch, [("ann", last, "B", "")] * 4 + [("cid", last, "A", "")], []),
        partial(machine.close_month, october),
        partial(machine.close_month, october),
        partial(machine.record_batch, [("ann", last, "A", ""), ("ann", last, "A", "E.A")], []),
        partial(machine.put_plan, "p", "CNY", (("A", dear), ("B", dear))),
        partial(machine.put_plan, "q", "JPY", (("A", half),)),
        partial(machine.put_plan, "r", "CNY", (("A", half), ("B", half))),
        partial(machine.assign_plan, "ann", "r", november),
        partial(machine.assign_plan, "cid", "q", october),
        partial(machine.assign_plan, "bob", "r", -1),
        partial(machine.run_month),
        # It is due since the 3rd.
        partial(machine.pay, "ann", 1, "some", 1),
        partial(machine.pay, "ann", 1, "some", 1),
        partial(machine.pay, "ann", 2, "some", 1),
        partial(machine.deduct, "ann", october),
        partial(machine.pay, "ann", 1, "all that is outstanding", 2),
        partial(machine.deduct, "ann", october),
        partial(machine.pay, "ann", 400, "some", 3),
        # November and December are closed together, and may be paid for until 3 January.
        partial(machine.record_batch, [("bob", now, "B", "")] * 2 + [("cid", now, "A", ""), ("cid", now, "B", "")], []),
        partial(machine.time_passes_to_day, 1, 0, "nothing"),
        partial(machine.record_batch, [("ann", now, "B", ""), ("bob", now, "B", "")], []),
        partial(machine.time_passes_to_day, 1, 0, "run month"),
        partial(machine.time_passes_to_day, 2, 0, "run month"),
        partial(machine.time_passes_to_day, 3, 0, "run month"),
        partial(machine.pay, "bob", 5, "some", 4),
        partial(machine.pay, "bob", 1, "all but one", 5),
        partial(machine.pay, "bob", 1, "one more", 6),
    ]


def play_story(driver: Driver, books: type[Books] = Books) -> None:
    machine = Machine(driver, books)
    try:
        for step in story(machine):
            step()
            machine.service_and_model_tell_the_same()
    finally:
        machine.teardown()


def test_the_story_finds_nothing_where_nothing_is_wrong(driver: Driver) -> None:
    play_story(driver)
    assert driver.seen["bills"] == 6
    assert driver.seen["lines of carried calls"] == 1


@pytest.mark.parametrize("bug", BUGS_OF_THE_MODEL)
def test_a_bug_of_the_model_shows(driver: Driver, bug: type[Books]) -> None:
    with pytest.raises(AssertionError):
        play_story(driver, bug)


@pytest.mark.parametrize("bug", BUGS_TOLD, ids=attrgetter("name"))
def test_a_bug_of_the_service_shows(driver: Driver, monkeypatch: pytest.MonkeyPatch, bug: Bug) -> None:
    bug.plant(monkeypatch)
    with pytest.raises(DIFFERENCES):
        play_story(driver)
    print(f"after {driver.seen['steps']} steps: {bug.name}")  # noqa: T201


by_chance = pytest.mark.skipif(not EXAMPLES, reason="takes minutes; a part of `make test-model`")


@by_chance
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("bug", BUGS_OF_THE_MODEL)
def test_chance_finds_a_bug_of_the_model(play: Play, bug: type[Books]) -> None:
    with pytest.raises(AssertionError):
        play(bug, planted=True)


@by_chance
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("bug", BUGS, ids=attrgetter("name"))
def test_chance_finds_a_bug_of_the_service(
    driver: Driver, play: Play, monkeypatch: pytest.MonkeyPatch, bug: Bug
) -> None:
    bug.plant(monkeypatch)
    with pytest.raises(DIFFERENCES):
        play(planted=True)
    print(f"after {driver.seen['steps']} steps: {bug.name}")  # noqa: T201
