"""Retention: which days' raw calls may be dropped. Usage, bills and their digests stay for ever."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import groupby
from operator import attrgetter
from typing import Protocol

from metering.billing.months import BillingCalendar, format_month, month_of
from metering.model import Month

DAYS_KEPT = timedelta(days=64)
"""Calls up to 62 days back are taken. Their days are kept, or a repeat could not be told from a new call."""


class DayCalls(Protocol):
    """The calls of a day that stand on the bills of one month."""

    @property
    def day(self) -> date:
        """The day they occurred on."""

    @property
    def month(self) -> Month:
        """On whose bills they stand, or will stand."""

    @property
    def calls(self) -> int:
        """How many they are."""

    @property
    def unbilled_accounts(self) -> int:
        """Accounts that have some of them, but not that bill."""

    @property
    def bills_without_digest(self) -> int:
        """Bills of that month, with some of them, that have no digest."""


@dataclass(frozen=True, slots=True)
class DayPlan:
    """A day whose month was closed long ago."""

    day: date
    calls: int
    months: tuple[Month, ...]
    """On whose bills its calls stand."""
    obstacles: tuple[str, ...]
    """Why it is kept all the same; none: it may be dropped once its calls are archived."""


def plan(
    stored: Sequence[date],
    counted: Sequence[DayCalls],
    closed: Mapping[Month, datetime],
    calendar: BillingCalendar,
    now: datetime,
    months_kept: int,
) -> list[DayPlan]:
    """Return the days whose own month was closed more than so many months ago, oldest first.

    Args:
        stored: the days whose calls are there.
        counted: what usage says of them, ascending.
        closed: when each month was closed that is.
        calendar: of the billing time zone.
        now: the present time.
        months_kept: raw calls are kept for so many months after their months were closed.

    """
    today = calendar.today(now)
    old = {month for month, at in closed.items() if _months_between(calendar.today(at), today) >= months_kept}
    on_bills = {day: list(of_day) for day, of_day in groupby(counted, attrgetter("day"))}
    plans = []
    for day in sorted(stored):
        if month_of(day) not in old or today - day <= DAYS_KEPT:
            continue
        calls = on_bills.get(day, [])
        obstacles = tuple(obstacle for each in calls for obstacle in _obstacles(each, old, closed, months_kept))
        months = tuple(each.month for each in calls)
        plans.append(DayPlan(day, sum(each.calls for each in calls), months, obstacles))
    return plans


def _obstacles(calls: DayCalls, old: set[Month], closed: Mapping[Month, datetime], months_kept: int) -> Iterator[str]:
    month = format_month(calls.month)
    if calls.month not in closed:
        yield f"{calls.calls:,} of its calls are to go on the bill of {month}, which is not closed"
        return
    if calls.month not in old:
        yield f"{calls.calls:,} of its calls stand on the bill of {month}, closed less than {months_kept} months ago"
    if calls.unbilled_accounts:
        yield f"{calls.unbilled_accounts:,} accounts have no bill for {month}: give them a price, then run-month"
    if calls.bills_without_digest:
        yield f"{calls.bills_without_digest:,} bills of {month} have no digest: digest-bills"


def _months_between(start: date, end: date) -> int:
    """Return how many whole months lie between two days."""
    return (end.year - start.year) * 12 + end.month - start.month - (end.day < start.day)
