"""What the audit compares, as queries."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

from metering.model import AccountId, BillLine, Month, MonthUsage, PricePlan
from metering.store.accounts import read_price_plan
from metering.store.bills import read_line
from metering.store.database import Database

if TYPE_CHECKING:
    from metering.store.database import Connection

_LINES_PER_READ = 1000


class Difference(NamedTuple):
    """Something on the books that is not as it should be."""

    account_id: str
    found: str
    expected: str


class RatedLine(NamedTuple):
    """A bill line, and what it was rated from."""

    account_id: AccountId
    month: Month
    line: BillLine
    usage: list[MonthUsage]
    plan: PricePlan | None
    """The plan it names; None if there is none, or the account has another one in the month of the calls."""


class AuditReader:
    """The books as they were at one moment."""

    def __init__(self, database: Database, connection: "Connection") -> None:
        self._sql = database.sql
        self._connection = connection

    async def differences(self, check: str, minor_units: Mapping[str, int]) -> list[Difference]:
        """Return what one check finds; `minor_units` are the decimals of each currency."""
        arguments: tuple[list[object], ...] = ()
        if check == "audit_bill_lines":
            arguments = (list(minor_units.values()), list(minor_units))
        rows = await self._connection.fetch(self._sql[check], *arguments, timeout=None)
        return [Difference(*row) for row in rows]

    async def rated_lines(self) -> AsyncIterator[RatedLine]:
        """Return every bill line, a few at a time, so that memory stays flat."""
        async for row in self._connection.cursor(
            self._sql["audit_rated_lines"], prefetch=_LINES_PER_READ, timeout=None
        ):
            codes = zip(
                row["result_codes"] or (), row["calls_by_code"] or (), row["earlier_by_code"] or (), strict=True
            )
            usage = [MonthUsage(row["account_id"], row["occurred_month"], row["api"], *counts) for counts in codes]
            plan = None if row["prices"] is None else read_price_plan(row)
            yield RatedLine(row["account_id"], row["month"], read_line(row), usage, plan)

    async def totals(self) -> dict[str, int]:
        """Return how many calls are recorded, and where they are: billed, carried, open, unrated."""
        row = await self._connection.fetchrow(self._sql["audit_totals"], timeout=None)
        return {} if row is None else dict(row)


class AuditStore:
    """Reads the books for the audit."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AuditReader]:
        """Hold one snapshot of the books; raises DatabaseUnavailableError."""
        async with self._database.snapshot() as connection:
            await connection.execute("SET LOCAL statement_timeout = 0")
            yield AuditReader(self._database, connection)
