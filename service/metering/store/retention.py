"""Raw calls that are kept no longer: reading them once more, and dropping their days."""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import date, datetime
from typing import NamedTuple

import asyncpg

from metering.errors import DatabaseUnavailableError
from metering.model import AccountId, Month
from metering.store.database import UNHURRIED_S, Database

_BILLS_PER_READ = 1_000
_CALLS_PER_READ = 5_000
LOCK_WAIT_MS = 500
"""For so long recording may have to wait until a day can be dropped."""


class DayCalls(NamedTuple):
    """The calls of a day that stand on the bills of one month."""

    day: date
    month: Month
    calls: int
    unbilled_accounts: int
    """Accounts that have some of these calls, but not that bill."""
    bills_without_digest: int


class BillDigest(NamedTuple):
    """What the calls on a bill come to."""

    account_id: AccountId
    calls: int
    digest: str


class RetentionStore:
    """Reads what is archived, and drops it. All methods raise DatabaseUnavailableError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def stored_days(self) -> Sequence[date]:
        """Return the days that have a partition of calls."""
        return [row["day"] for row in await self._database.fetch("calls_partitions")]

    async def counted_days(self, before: date) -> Sequence[DayCalls]:
        """Return what is counted of the days before a day that are not dropped, ascending. Reads all usage there is."""
        async with self._database.transaction(unhurried=True) as connection:
            rows = await connection.fetch(self._database.sql["counted_days"], before, timeout=UNHURRIED_S)
        return [DayCalls(**row) for row in rows]

    async def closed_months(self) -> Mapping[Month, datetime]:
        """Return when each month was closed that is."""
        return {row["month"]: row["closed_at"] for row in await self._database.fetch("closed_months")}

    async def dropped_days(self, month: Month) -> Sequence[date]:
        """Return the days of calls on bills of a month that were dropped."""
        async with self._database.transaction(unhurried=True) as connection:
            rows = await connection.fetch(self._database.sql["dropped_days_of_month"], month, timeout=UNHURRIED_S)
        return [row["day"] for row in rows]

    async def digests(self, month: Month) -> AsyncIterator[list[BillDigest]]:
        """Return the digests of a month's bills, some at a time, in order of the accounts."""
        last = ""
        while rows := await self._database.fetch("digests_after", month, last, _BILLS_PER_READ):
            yield [BillDigest(**row) for row in rows]
            last = rows[-1]["account_id"]

    async def calls(self, month: Month) -> AsyncIterator[list[tuple[str, str, int, str, str, str, str, int]]]:
        """Return the calls on a month's bills, as rows of an archive, some at a time, in order of the accounts."""
        async for bills in self.digests(month):
            account_ids = [bill.account_id for bill in bills]
            async with self._database.transaction(unhurried=True) as connection:
                cursor = await connection.cursor(
                    self._database.sql["calls_of_bills"], account_ids, month, timeout=UNHURRIED_S
                )
                while rows := await cursor.fetch(_CALLS_PER_READ, timeout=UNHURRIED_S):
                    yield [(*row,) for row in rows]

    async def drop(self, day: date, calls: int, now: datetime) -> None:
        """Drop the calls of a day for ever; the database must be connected to as its owner.

        Raises:
            LockedError, TransactionConflictError: something uses the calls; nothing was dropped.
            DatabaseUnavailableError: or there are not as many as that, or the user may not; nothing was dropped.

        """
        try:
            async with self._database.transaction(unhurried=True) as connection:
                await connection.execute(f"SET LOCAL lock_timeout = {LOCK_WAIT_MS}")
                await connection.execute(self._database.sql["drop_day"], day, calls, now, timeout=UNHURRIED_S)
        except (asyncpg.RaiseError, asyncpg.InsufficientPrivilegeError) as error:
            msg = f"{day} is not dropped: {error}. Connect as the owner of the database; if the calls differ, audit."
            raise DatabaseUnavailableError(msg) from error
