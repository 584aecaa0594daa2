"""The audit, as a test asks for it."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, date, datetime

from metering.billing.audit import ALL_ACCOUNTS, ALL_MONTHS, Auditor
from metering.billing.months import BillingCalendar
from metering.clock import Clock
from metering.model import AccountRange, Difference
from metering.store.audit import AuditStore
from metering.store.database import Database
from metering.store.installation import InstallationStore
from tests.support.service import FakeClock

AFTER_ALL_DUE_DATES = datetime(2999, 1, 1, tzinfo=UTC)
FEW, MANY = 2, 1_000
"""Accounts in a part: small parts are where mistakes are made; thousands of accounts would take minutes in them."""


@dataclass
class Audit:
    """What an audit found."""

    accounts: int = 0
    parts: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    differences: list[Difference] = field(default_factory=list)


async def run_audit(url: str, clock: Clock | None = None, accounts_max: int = FEW) -> Audit:
    """Audit all that is in a database, so many accounts at a time."""
    database = await Database.connect(url, name="test audit", connections=1)
    try:
        return await audit_of(database, clock=clock, accounts_max=accounts_max)
    finally:
        await database.close()


async def audit_of(
    database: Database,
    accounts: AccountRange = ALL_ACCOUNTS,
    months: tuple[date, date] = ALL_MONTHS,
    accounts_max: int = FEW,
    clock: Clock | None = None,
) -> Audit:
    """Audit accounts, some at a time."""
    found = Audit()
    calendar = BillingCalendar.of_zone(await InstallationStore(database).time_zone())
    auditor = Auditor(AuditStore(database), calendar, clock or FakeClock(AFTER_ALL_DUE_DATES))
    async for part in auditor.audit(accounts, months, accounts_max):
        found.accounts += part.accounts
        found.parts += 1
        found.calls.update(part.calls)
        found.differences += part.differences
    return found


async def assert_books_are_right(url: str, accounts_max: int = FEW) -> Audit:
    """Fail with the differences if there are any."""
    found = await run_audit(url, accounts_max=accounts_max)
    assert found.differences == []
    return found
