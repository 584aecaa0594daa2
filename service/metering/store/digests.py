"""The table bill_digests: the SHA-256 of the calls on each bill, as docs/billing.md defines it."""

import hashlib
from collections.abc import AsyncIterator, Iterable, Iterator
from datetime import date
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from metering.model import AccountId, Bill, Month
from metering.store.database import UNHURRIED_S, Database, let_take_any_time

if TYPE_CHECKING:
    from metering.store.database import Connection

CALLS_IN_STATEMENT_MAX = 200_000
"""Bills of so many calls are digested in one statement, which holds a bill's calls in memory and sorts all of them."""
_BILLS_PER_READ = 1_000


class BilledCalls(NamedTuple):
    """The calls on a bill."""

    account_id: AccountId
    month: Month
    """The bill's."""
    calls: int
    occurred_from: Month
    """The month of the first of them."""

    @classmethod
    def of(cls, bill: Bill) -> "BilledCalls":
        """Return those of a bill, which has at least one line."""
        first = min(line.occurred_month for line in bill.lines)
        return cls(bill.account_id, bill.month, sum(line.calls for line in bill.lines), first)


async def add_digests(database: Database, connection: "Connection", bills: Iterable[BilledCalls]) -> None:
    """Add the digests of bills of one closed month, in a transaction; it takes as long as there are calls."""
    sql = database.sql
    await let_take_any_time(connection)
    for group in _groups(bills):
        account_ids, month = [bill.account_id for bill in group], group[0].month
        occurred_from = min(bill.occurred_from for bill in group)
        if group[0].calls <= CALLS_IN_STATEMENT_MAX:
            await connection.execute(sql["add_digests"], account_ids, month, occurred_from, timeout=UNHURRIED_S)
            continue
        calls, digest = await digest_of_bill(database, connection, account_ids[0], month, occurred_from)
        await connection.execute(sql["add_digest"], account_ids[0], month, calls, digest)


async def digest_of_bill(
    database: Database, connection: "Connection", account_id: AccountId, month: Month, occurred_from: date
) -> tuple[int, bytes]:
    """Return how many calls stand on a bill, none of which occurred before a day, and their digest, in flat memory."""
    digest = hashlib.sha256()

    async def update(lines: bytes) -> None:
        digest.update(lines)

    # COPY writes a line for each row, and nothing in a call's line needs to be escaped.
    copied = await connection.copy_from_query(
        database.sql["call_lines"], account_id, month, occurred_from, output=update, timeout=UNHURRIED_S
    )
    return int(copied.removeprefix("COPY ")), digest.digest()


class DigestStore:
    """Gives bills their digests that were issued before there were any."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_missing(self) -> AsyncIterator[int]:
        """Add the digests that are missing, some at a time, and tell how many bills were looked at.

        Raises:
            DatabaseUnavailableError: do it again; it goes on with what is left.

        """
        month, account_id = date.min, ""
        while rows := await self._database.fetch("bills_without_digest", month, account_id, _BILLS_PER_READ):
            for _, of_month in groupby((BilledCalls(**row) for row in rows), attrgetter("month")):
                async with self._database.transaction() as connection:
                    await add_digests(self._database, connection, of_month)
            month, account_id = rows[-1]["month"], rows[-1]["account_id"]
            yield len(rows)


def _groups(bills: Iterable[BilledCalls]) -> Iterator[list[BilledCalls]]:
    """Return bills in groups, each of which has few enough calls for one statement, or is a single bill."""
    group: list[BilledCalls] = []
    calls = 0
    for bill in bills:
        if group and calls + bill.calls > CALLS_IN_STATEMENT_MAX:
            yield group
            group, calls = [], 0
        group.append(bill)
        calls += bill.calls
    if group:
        yield group
