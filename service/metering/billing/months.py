"""Days and months of the billing time zone, and what the purchase guide says about them."""

import re
from bisect import bisect_right
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from metering.errors import invalid_field
from metering.model import Month, from_micros, to_micros

ISSUE_DAY = 1
"""The first day of the next month on which a bill is issued and deducted."""
DUE_DAY = 3
"""The day of the next month from whose start on what is outstanding is overdue."""

_MONTH = re.compile(r"([0-9]{4})-(0[1-9]|1[0-2])")


def parse_month(text: str, field: str = "month") -> Month:
    """Return the month that a text such as `2026-11` names.

    Raises:
        MeteringError: INVALID_FIELD, it names none.

    """
    match = _MONTH.fullmatch(text)
    # The calendar has no year 0 and no month after 9999-12, and 0001-01 stands for the beginning.
    if not match or match[1] in {"0000", "0001", "9999"}:
        raise invalid_field(field, f"{text[:20]!r} is not a month; write it like 2026-11")
    return Month(date(int(match[1]), int(match[2]), 1))


def format_month(month: date) -> str:
    """Return the text for a month, such as `2026-11`."""
    return month.isoformat()[:7]


def month_of(day: date) -> Month:
    """Return the month of a day."""
    return Month(day.replace(day=1))


def next_month(month: Month) -> Month:
    """Return the month after."""
    return Month((month + timedelta(days=31)).replace(day=1))


def previous_month(month: Month) -> Month:
    """Return the month before."""
    return Month((month - timedelta(days=1)).replace(day=1))


def due_date(month: Month) -> date:
    """Return the day from whose start on what is outstanding of a month's bill is overdue."""
    return next_month(month).replace(day=DUE_DAY)


class BillingCalendar:
    """Tells days and months in the billing time zone. Both are half-open: [start, end)."""

    def __init__(self, zone: ZoneInfo) -> None:
        self._zone = zone
        self._starts: list[int] = []
        self._days: list[tuple[date, Month]] = []

    @classmethod
    def of_zone(cls, name: str) -> "BillingCalendar":
        """Return the calendar of a time zone; raises ValueError for a name that is none."""
        try:
            return cls(ZoneInfo(name))
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            msg = f"{name!r} is not a time zone; write it like Asia/Shanghai"
            raise ValueError(msg) from error

    @property
    def zone_name(self) -> str:
        """The name of the time zone."""
        return self._zone.key

    def today(self, now: datetime) -> date:
        """Return the day it is at an instant.

        A day ends where the next one begins for the first time, even if the clock then goes back over midnight.
        """
        day = now.astimezone(self._zone).date()
        tomorrow = day + timedelta(days=1)
        return tomorrow if now >= self.start_of(tomorrow) else day

    def start_of(self, day: date) -> datetime:
        """Return the first instant of a day, in UTC."""
        # Where the clock jumps over midnight, fold=0 takes the offset before the jump: the instant of the jump itself.
        return datetime(day.year, day.month, day.day, tzinfo=self._zone).astimezone(UTC)

    def has_ended(self, month: Month, now: datetime) -> bool:
        """Tell whether a month is over at an instant."""
        return self.today(now) >= next_month(month)

    def prepare(self, first: date, last: date) -> None:
        """Make a table of the days first to last, so that `day_of` takes no time for them."""
        days = [first + timedelta(days=number) for number in range((last - first).days + 2)]
        self._starts = [to_micros(self.start_of(day)) for day in days]
        self._days = [(day, month_of(day)) for day in days]

    def day_of(self, micros: int) -> tuple[date, Month]:
        """Return the day, and its month, of an instant given in microseconds since 1970 (UTC)."""
        starts = self._starts
        index = bisect_right(starts, micros)
        if 0 < index < len(starts):
            return self._days[index - 1]
        day = self.today(from_micros(micros))
        return day, month_of(day)
