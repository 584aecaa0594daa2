"""Days and months of odd time zones, through the service and its database."""

from collections import Counter
from datetime import UTC, date, datetime, timedelta
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import pytest

from metering.billing.months import BillingCalendar, format_month, next_month, parse_month, previous_month
from tests.conftest import ServiceProcesses, execute
from tests.support.audit import assert_books_are_right
from tests.support.command import metering
from tests.support.service import FakeClock, Service

MICROSECOND = timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("zone", "month"),
    [
        ("America/Asuncion", "2023-09"),  # its last day is followed by one o'clock
        ("America/Asuncion", "2023-10"),
        ("America/Havana", "2020-11"),  # begins with the same hour twice
        ("Asia/Kathmandu", "2026-02"),
        ("Australia/Lord_Howe", "2026-04"),
        ("Asia/Beirut", "2026-03"),
        ("Africa/Cairo", "2026-10"),
        ("Pacific/Apia", "2011-12"),  # its 30th was left out
        ("Pacific/Kiritimati", "1994-12"),  # so was its last day
    ],
)
async def test_calls_at_both_ends_of_a_month_fall_on_their_side_wherever_the_database_is(
    database_url: str, zone: str, month: str
) -> None:
    name = urlsplit(database_url).path.removeprefix("/")
    await execute(database_url, f"ALTER DATABASE {name} SET timezone = 'America/Havana'")
    calendar, own = BillingCalendar.of_zone(zone), parse_month(month)
    start, end = calendar.start_of(own), calendar.start_of(next_month(own))
    clock = FakeClock(end + timedelta(days=4))
    async with Service(database_url, clock, billing_timezone=zone) as service:
        await service.activate("acme")
        sides = {
            start - MICROSECOND: previous_month(own),
            start: own,
            end - MICROSECOND: own,
            end: next_month(own),
        }
        for at, side in sides.items():
            assert (await service.record(service.call("acme", at=at))).billing_month == format_month(side)
        for at, side in sides.items():
            listed = await service.list_calls("acme", format_month(side))
            (day,) = {each.occurred_on for each in listed if each.call.occurred_at.ToDatetime(UTC) == at}
            assert date.fromisoformat(day) == at.astimezone(ZoneInfo(zone)).date()
        await service.close_month(month)
        bill = await service.bill("acme", month)
        assert [(line.occurred_month, line.calls) for line in bill.lines] == [(month, 2)]
        late = await service.record(service.call("acme", at=end - 2 * MICROSECOND))
        assert late.billing_month == format_month(next_month(own))
    found = await assert_books_are_right(database_url)
    assert found.calls == Counter(recorded=5, billed=2, carried=1, open=2)


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_serve_refuses_another_time_zone_on_a_database_with_data_and_leaves_the_data_alone(
    processes: ServiceProcesses, workers: str
) -> None:
    service = await processes.start()
    await service.activate("acme")
    recorded = await service.record(service.call("acme", at=datetime.now(UTC)))
    await service.terminate()
    code, said = await metering(
        *("serve", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--workers", workers),
        METERING_DATABASE_URL=processes.database_url,
        METERING_BILLING_TIMEZONE="Europe/Berlin",
    )
    assert code == 1
    assert "this database is billed in Asia/Shanghai, not in Europe/Berlin" in said
    assert "Set METERING_BILLING_TIMEZONE=Asia/Shanghai, or use another database." in said
    assert "Traceback" not in said
    again = await processes.start()
    assert (await again.usage("acme", recorded.billing_month)).total_calls == 1
