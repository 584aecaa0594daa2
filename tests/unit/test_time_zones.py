"""Days and months of every time zone there is, against what the zone itself says of each instant."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metering.billing.months import BillingCalendar, month_of, next_month, previous_month
from metering.model import Month, to_micros

MICROSECOND, DAY = timedelta(microseconds=1), timedelta(days=1)
ZONES = sorted(available_timezones())

# Zones, and days near which their clocks did something odd.
ODD_DAYS = [
    ("America/Asuncion", "2023-10-01"),  # a month without its first hour
    ("America/Asuncion", "2024-03-24"),
    ("America/Havana", "2020-11-01"),  # a month that begins with the same hour twice
    ("America/Havana", "2026-03-08"),
    ("America/Santiago", "2026-09-06"),
    ("America/Scoresbysund", "2024-03-31"),
    ("Africa/Cairo", "2026-04-24"),
    ("Africa/Cairo", "2026-10-30"),
    ("Asia/Amman", "2022-02-25"),
    ("Asia/Beirut", "2026-03-29"),
    ("Asia/Beirut", "2026-10-25"),
    ("Asia/Damascus", "2022-10-28"),
    ("Asia/Gaza", "2023-04-29"),
    ("Asia/Kathmandu", "1986-01-01"),  # a month without its first quarter of an hour
    ("Asia/Pyongyang", "2018-05-05"),
    ("Asia/Tehran", "2022-03-22"),
    ("Australia/Lord_Howe", "2026-04-05"),  # clocks move by half an hour
    ("Australia/Lord_Howe", "2026-10-04"),
    ("Pacific/Apia", "2011-12-30"),  # a day that was left out
    ("Pacific/Fakaofo", "2011-12-30"),
    ("Pacific/Kwajalein", "1993-08-21"),
    ("Pacific/Enderbury", "1994-12-31"),
    ("Pacific/Kiritimati", "1994-12-31"),
]


def months_of(year: int, last_year: int) -> Iterator[Month]:
    for number in range(12 * (last_year - year + 1)):
        yield Month(date(year + number // 12, number % 12 + 1, 1))


def day_in(zone: str, at: datetime) -> date:
    return at.astimezone(ZoneInfo(zone)).date()


@pytest.mark.parametrize("zone", ZONES)
def test_months_follow_each_other_without_gap_or_overlap_and_begin_with_their_first_microsecond(zone: str) -> None:
    calendar = BillingCalendar.of_zone(zone)
    for month in months_of(2020, 2031):
        start, end = calendar.start_of(month), calendar.start_of(next_month(month))
        assert day_in(zone, start) == month
        assert day_in(zone, start - MICROSECOND) < month
        assert day_in(zone, end - MICROSECOND) < next_month(month)
        for at, expected in (
            (start - MICROSECOND, previous_month(month)),
            (start, month),
            (end - MICROSECOND, month),
            (end, next_month(month)),
        ):
            assert calendar.day_of(to_micros(at)) == (day_in(zone, at), expected)
        assert not calendar.has_ended(month, end - MICROSECOND)
        assert calendar.has_ended(month, end)


@pytest.mark.parametrize("zone", ZONES)
def test_days_partition_the_months_of_a_year(zone: str) -> None:
    calendar = BillingCalendar.of_zone(zone)
    calendar.prepare(date(2026, 1, 1), date(2026, 12, 31))
    days = [date(2026, 1, 1) + number * DAY for number in range(365)]
    for day in days:
        start, end = calendar.start_of(day), calendar.start_of(day + DAY)
        assert timedelta(hours=22) <= end - start <= timedelta(hours=26)  # Antarctica/Troll moves by two hours
        assert calendar.day_of(to_micros(start)) == calendar.day_of(to_micros(end) - 1) == (day, month_of(day))
        assert day_in(zone, start) == day_in(zone, end - MICROSECOND) == day


@pytest.mark.parametrize(("zone", "day"), ODD_DAYS)
@pytest.mark.parametrize("with_table", [False, True])
def test_around_an_odd_day_every_quarter_of_an_hour_falls_on_the_day_that_its_zone_says(
    zone: str, day: str, *, with_table: bool
) -> None:
    odd = date.fromisoformat(day)
    calendar = BillingCalendar.of_zone(zone)
    if with_table:
        calendar.prepare(odd - 40 * DAY, odd + 40 * DAY)
    start = datetime(odd.year, odd.month, odd.day, tzinfo=UTC) - 2 * DAY
    days = []
    for number in range(4 * 24 * 5):
        at = start + number * timedelta(minutes=15)
        for instant in (at - MICROSECOND, at, at + MICROSECOND):
            found, month = calendar.day_of(to_micros(instant))
            assert (found, month) == (day_in(zone, instant), month_of(found))
            days.append(found)
    assert days == sorted(days), "a day that had ended came back"


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(ZONES), st.datetimes(datetime(2012, 1, 1), datetime(2037, 12, 31), timezones=st.just(UTC)))
def test_every_instant_is_in_exactly_one_day_and_one_month(zone: str, at: datetime) -> None:
    calendar = BillingCalendar.of_zone(zone)
    day = day_in(zone, at)
    near = [day + number * DAY for number in range(-2, 3)]
    assert [each for each in near if calendar.start_of(each) <= at < calendar.start_of(each + DAY)] == [day]
    months = [previous_month(month_of(day)), month_of(day), next_month(month_of(day))]
    holding = [each for each in months if calendar.start_of(each) <= at < calendar.start_of(next_month(each))]
    assert holding == [month_of(day)]
