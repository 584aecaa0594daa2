"""Days and months of the billing time zone."""

import re
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from metering.billing.months import (
    BillingCalendar,
    due_date,
    format_month,
    month_of,
    next_month,
    parse_month,
    previous_month,
)
from metering.errors import MeteringError, Reason
from metering.model import EPOCH, Month

MICROSECOND = timedelta(microseconds=1)

# Where clocks were set back from just after midnight, midnight came twice. It last happened in 2010.
ZONES_WHERE_MIDNIGHT_CAME_TWICE = {
    "America/Goose_Bay",
    "America/Moncton",
    "America/St_Johns",
    "Antarctica/Casey",
    "Canada/Newfoundland",
}

zones = st.sampled_from(sorted(available_timezones())).map(ZoneInfo)
days = st.dates(date(1995, 1, 1), date(2035, 12, 31))
months = days.map(month_of)
instants = st.datetimes(datetime(1995, 1, 1), datetime(2035, 12, 31), timezones=st.just(UTC))
around_midnight = st.timedeltas(timedelta(hours=-3), timedelta(hours=3))


def micros(instant: datetime) -> int:
    return (instant - EPOCH) // MICROSECOND


def assume_one_midnight_a_day(zone: ZoneInfo, day: date) -> None:
    assume(zone.key not in ZONES_WHERE_MIDNIGHT_CAME_TWICE or day.year > 2010)


@settings(max_examples=600, deadline=None)
@given(zones, instants)
def test_the_day_of_any_instant_is_the_one_that_its_zone_says(zone: ZoneInfo, instant: datetime) -> None:
    day = instant.astimezone(zone).date()
    assume_one_midnight_a_day(zone, day)
    calendar = BillingCalendar(zone)
    assert calendar.today(instant) == day
    assert calendar.day_of(micros(instant)) == (day, day.replace(day=1))
    calendar.prepare(day - timedelta(days=2), day + timedelta(days=2))
    assert calendar.day_of(micros(instant)) == (day, day.replace(day=1))


@settings(max_examples=600, deadline=None)
@given(zones, days, around_midnight)
def test_around_midnight_the_table_of_days_says_what_the_zone_says(
    zone: ZoneInfo, near: date, offset: timedelta
) -> None:
    assume_one_midnight_a_day(zone, near)
    instant = datetime(near.year, near.month, near.day, tzinfo=zone).astimezone(UTC) + offset
    calendar = BillingCalendar(zone)
    calendar.prepare(near - timedelta(days=2), near + timedelta(days=2))
    assert calendar.day_of(micros(instant))[0] == instant.astimezone(zone).date()


@settings(deadline=None)
@given(zones, days, st.integers(0, 100), instants)
def test_instants_outside_the_table_of_days_have_their_day_all_the_same(
    zone: ZoneInfo, first: date, length: int, instant: datetime
) -> None:
    day = instant.astimezone(zone).date()
    assume_one_midnight_a_day(zone, day)
    calendar = BillingCalendar(zone)
    calendar.prepare(first, first + timedelta(days=length))
    assert calendar.day_of(micros(instant))[0] == day


@settings(max_examples=300, deadline=None)
@given(zones, days)
def test_a_day_has_its_first_instant_and_none_before_it(zone: ZoneInfo, day: date) -> None:
    assume_one_midnight_a_day(zone, day)
    calendar = BillingCalendar(zone)
    start = calendar.start_of(day)
    first = calendar.today(start)
    assert calendar.today(start - MICROSECOND) < day
    # A day that a zone left out has no instant of its own: it begins and ends with the next one.
    assert first == day or calendar.start_of(day + timedelta(days=1)) == start


@settings(max_examples=300, deadline=None)
@given(zone=zones, month=months, with_table=st.booleans())
def test_a_month_begins_with_its_first_microsecond_and_ends_before_that_of_the_next(
    *, zone: ZoneInfo, month: Month, with_table: bool
) -> None:
    assume_one_midnight_a_day(zone, month)
    assume(month > date(1995, 1, 1))  # some Pacific islands left the day before it out
    calendar = BillingCalendar(zone)
    start = micros(calendar.start_of(month))
    if with_table:
        calendar.prepare(month - timedelta(days=3), month + timedelta(days=3))
    assert calendar.day_of(start) == (month, month)
    assert calendar.day_of(start - 1)[1] == previous_month(month)


@settings(max_examples=300, deadline=None)
@given(zones, months)
def test_a_month_has_ended_from_the_first_instant_of_the_next_one_on(zone: ZoneInfo, month: Month) -> None:
    assume_one_midnight_a_day(zone, month)
    calendar = BillingCalendar(zone)
    end = calendar.start_of(next_month(month))
    assert calendar.has_ended(month, end)
    assert not calendar.has_ended(month, end - MICROSECOND)


@pytest.mark.parametrize(
    ("zone", "day", "start"),
    [
        ("Asia/Shanghai", "2026-12-01", "2026-11-30T16:00"),
        ("UTC", "2026-12-01", "2026-12-01T00:00"),
        # Clocks jump over midnight: the day begins at one o'clock, at the instant of the jump.
        ("America/Sao_Paulo", "2018-11-04", "2018-11-04T03:00"),
        ("America/Havana", "2024-03-10", "2024-03-10T05:00"),
        ("Africa/Cairo", "2023-04-28", "2023-04-27T22:00"),
        # Clocks are set back at midnight: the day before has 25 hours.
        ("America/Sao_Paulo", "2018-02-18", "2018-02-18T03:00"),
        ("Africa/Cairo", "2023-10-27", "2023-10-26T22:00"),
        # Midnight comes twice on the same day, which begins with the first one.
        ("America/Havana", "2024-11-03", "2024-11-03T04:00"),
        # Odd offsets.
        ("Asia/Kathmandu", "2026-11-01", "2026-10-31T18:15"),
        ("Australia/Eucla", "2026-11-01", "2026-10-31T15:15"),
        # Samoa left out 30 December 2011.
        ("Pacific/Apia", "2011-12-30", "2011-12-30T10:00"),
        ("Pacific/Apia", "2011-12-31", "2011-12-30T10:00"),
    ],
)
def test_a_day_begins_when_the_zone_lets_it_begin(zone: str, day: str, start: str) -> None:
    assert BillingCalendar.of_zone(zone).start_of(date.fromisoformat(day)) == datetime.fromisoformat(f"{start}Z")


@pytest.mark.parametrize("with_table", [False, True])
def test_no_call_falls_on_a_day_that_a_zone_left_out(*, with_table: bool) -> None:
    calendar = BillingCalendar.of_zone("Pacific/Apia")
    if with_table:
        calendar.prepare(date(2011, 12, 20), date(2012, 1, 10))
    skipped = micros(calendar.start_of(date(2011, 12, 30)))
    assert calendar.day_of(skipped - 1)[0] == date(2011, 12, 29)
    assert calendar.day_of(skipped)[0] == date(2011, 12, 31)


@pytest.mark.parametrize(
    ("zone", "day"),
    [
        ("America/St_Johns", date(2010, 11, 7)),  # at 00:01 clocks went back to 23:01
        ("America/Goose_Bay", date(2010, 11, 7)),
        ("Antarctica/Casey", date(2010, 3, 5)),  # at 02:00 clocks went back to 23:00
    ],
)
def test_where_midnight_comes_twice_a_day_is_the_same_with_and_without_the_table(zone: str, day: date) -> None:
    without_table, with_table = BillingCalendar.of_zone(zone), BillingCalendar.of_zone(zone)
    with_table.prepare(day - timedelta(days=2), day + timedelta(days=2))
    begin = micros(without_table.start_of(day))
    for minute in range(-10, 200):
        at = begin + minute * 60_000_000
        assert without_table.day_of(at) == with_table.day_of(at)


def test_the_time_of_day_does_not_matter_to_prepare() -> None:
    calendar = BillingCalendar.of_zone("Asia/Shanghai")
    calendar.prepare(date(2026, 11, 1), date(2026, 11, 1))
    start = micros(datetime(2026, 10, 31, 16, tzinfo=UTC))
    assert calendar.day_of(start) == (date(2026, 11, 1), date(2026, 11, 1))
    assert calendar.day_of(start - 1) == (date(2026, 10, 31), date(2026, 10, 1))
    assert calendar.day_of(start + 86_400_000_000 - 1)[0] == date(2026, 11, 1)
    assert calendar.day_of(start + 86_400_000_000)[0] == date(2026, 11, 2)


@given(months)
def test_a_month_reads_as_it_was_written(month: Month) -> None:
    assert parse_month(format_month(month)) == month


@given(st.dates(date(1000, 1, 1)))
def test_a_month_is_written_as_year_and_month(day: date) -> None:
    assert format_month(month_of(day)) == day.strftime("%Y-%m")


MALFORMED_MONTHS = [
    "",
    "2026",
    "2026-",
    "2026-1",
    "2026-00",
    "2026-13",
    "2026-011",
    "0000-01",
    "02026-11",
    "226-11",
    "-226-11",
    "+226-11",
    "2026-11-01",
    "2026/11",
    "202611",
    "11-2026",
    " 2026-11",
    "2026-11 ",
    "2026-11\n",
    "2026\N{EN DASH}11",
    "2026-Nov",
    "2026-11\0",
]


@pytest.mark.parametrize("text", MALFORMED_MONTHS)
def test_a_text_that_is_no_month_is_refused_by_the_name_of_its_field(text: str) -> None:
    with pytest.raises(MeteringError) as refused:
        parse_month(text, "from_month")
    assert refused.value.reason is Reason.INVALID_FIELD
    assert [violation.field for violation in refused.value.violations] == ["from_month"]


@given(st.text(max_size=10) | st.from_regex(r"\A[0-9]{1,5}-[0-9]{1,3}\Z"))
def test_only_a_year_and_a_month_are_a_month(text: str) -> None:
    well_formed = re.fullmatch(r"(?!0000|9999)[0-9]{4}-(0[1-9]|1[0-2])", text)
    try:
        month = parse_month(text)
    except MeteringError:
        assert not well_formed
    else:
        assert well_formed
        assert format_month(month) == text


@pytest.mark.parametrize("text", ["٢٠٢٦-11", "２０２６-11", "202६-11"])
def test_digits_of_other_scripts_make_no_month(text: str) -> None:
    with pytest.raises(MeteringError):
        parse_month(text)


def test_the_first_and_the_last_month_of_all_are_refused() -> None:
    with pytest.raises(MeteringError):
        parse_month("9999-12")
    with pytest.raises(MeteringError):
        parse_month("0001-01")  # stands for the beginning


@given(st.dates(date(2, 1, 1), date(9998, 12, 31)))
def test_any_month_that_can_be_written_has_a_due_date_and_an_end(day: date) -> None:
    month = parse_month(format_month(day))
    assert due_date(month) > next_month(month) > month
    calendar = BillingCalendar.of_zone("Asia/Shanghai")
    assert calendar.has_ended(month, datetime(2026, 11, 23, tzinfo=UTC)) == (month < Month(date(2026, 11, 1)))


@given(months)
def test_the_month_after_the_month_before_is_the_month_itself(month: Month) -> None:
    assert next_month(previous_month(month)) == month == previous_month(next_month(month))
    assert (next_month(month) - month).days in {28, 29, 30, 31}


@given(months)
def test_a_bill_is_due_on_the_third_day_of_the_next_month(month: Month) -> None:
    assert due_date(month) - next_month(month) == timedelta(days=2)


@pytest.mark.parametrize(
    ("month", "due"), [("2026-11", "2026-12-03"), ("2026-12", "2027-01-03"), ("2028-01", "2028-02-03")]
)
def test_due_dates(month: str, due: str) -> None:
    assert due_date(parse_month(month)).isoformat() == due


@pytest.mark.parametrize("name", ["", "Nowhere/City", "Asia", "../etc/passwd", "/etc/localtime", "a\0b", "Asia/"])
def test_a_name_that_is_no_time_zone_is_refused_in_words(name: str) -> None:
    with pytest.raises(ValueError, match="is not a time zone; write it like Asia/Shanghai"):
        BillingCalendar.of_zone(name)


def test_a_calendar_knows_the_name_of_its_zone() -> None:
    assert BillingCalendar.of_zone("Asia/Kathmandu").zone_name == "Asia/Kathmandu"
