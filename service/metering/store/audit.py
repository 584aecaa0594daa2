"""What the audit compares, as queries."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import date, timedelta
from typing import TYPE_CHECKING, NamedTuple

from metering.model import (
    AccountId,
    AuditKind,
    AuditScope,
    BillLine,
    Difference,
    Month,
    MonthUsage,
    PricePlan,
    RecordedCalls,
)
from metering.store.accounts import read_price_plan
from metering.store.bills import read_line
from metering.store.database import Database
from metering.store.digests import CALLS_IN_STATEMENT_MAX, digest_of_bill

if TYPE_CHECKING:
    import asyncpg

    from metering.store.database import Connection

_LINES_PER_READ = 200
"""Little, for all of them are rated before the event loop turns."""
_PLACES = ("billed", "carried", "open", "unrated")
_QUERIES = {
    AuditKind.BILL_CALLS: "audit_bill_calls",
    AuditKind.BILL_MONTHS: "audit_bill_months",
    AuditKind.ISSUED_BILLS: "audit_issued_bills",
    AuditKind.DIGESTS: "audit_digests",
    AuditKind.BILLS: "audit_bills",
    AuditKind.ENTRIES: "audit_entries",
    AuditKind.BALANCES: "audit_balances",
    AuditKind.STATES: "audit_states",
    AuditKind.PRICES: "audit_prices",
    AuditKind.REJECTED_CALLS: "audit_rejected",
}
_OF_MONTHS = {
    AuditKind.BILL_CALLS,
    AuditKind.BILL_MONTHS,
    AuditKind.ISSUED_BILLS,
    AuditKind.DIGESTS,
    AuditKind.BILLS,
}
"""Those whose queries ask for months."""
_UNREADABLE = (ArithmeticError, LookupError, TypeError, ValueError)
"""What a JSON document raises that was changed by hand."""


class RatedLine(NamedTuple):
    """A bill line, and what it was rated from."""

    account_id: AccountId
    month: Month
    api: str
    occurred_month: Month
    line: BillLine | None
    """None: it cannot be read."""
    currency: str | None
    """The currency of the bill; None: there is no bill."""
    usage: list[MonthUsage]
    plan: PricePlan | None
    """The plan it names; None if there is none that can be read, or the account has another one in that month."""


class AuditReader:
    """Some accounts on the books, as they were at one moment."""

    def __init__(self, database: Database, connection: "Connection", scope: AuditScope, days: Sequence[date]) -> None:
        self._sql = database.sql
        self._database = database
        self._connection = connection
        self._scope = scope
        self._accounts = scope.accounts
        self._days = [
            list(days),
            [scope.start_of(day) for day in days],
            [scope.start_of(day + timedelta(days=1)) for day in days],
        ]
        self.accounts = 0
        self.next_account: AccountId | None = None

    async def choose_accounts(self) -> None:
        """Find out how far this part goes."""
        accounts_max = self._scope.accounts_max
        rows = await self._connection.fetch(self._sql["audit_accounts"], *self._accounts, accounts_max + 1)
        self.accounts = min(len(rows), accounts_max)
        if len(rows) > accounts_max:
            self.next_account = AccountId(rows[-1]["account_id"])
            self._accounts = self._accounts._replace(end=self.next_account)

    async def calls(self) -> tuple[dict[AccountId, RecordedCalls], list[Difference]]:
        """Return how many calls each account has, and what differs: CALLS and USAGE."""
        rows = await self._connection.fetch(self._sql["audit_calls"], *self._accounts, *self._scope.months, *self._days)
        recorded = {
            row["account_id"]: RecordedCalls(row["recorded"], row["dropped"]) for row in rows if row["kind"] is None
        }
        return recorded, [_difference(AuditKind(row["kind"]), row) for row in rows if row["kind"]]

    async def places(self) -> dict[AccountId, dict[str, int]]:
        """Return where each account's calls are by the bills and by usage: billed, carried, open, unrated."""
        rows = await self._connection.fetch(self._sql["audit_places"], *self._accounts, *self._scope.months)
        return {row["account_id"]: {place: row[place] for place in _PLACES} for row in rows}

    async def differences(self, kind: AuditKind) -> list[Difference]:
        """Return what differs, for a kind that a query alone can tell."""
        if kind not in _QUERIES:
            return []
        arguments: list[object] = [*self._accounts]
        if kind in _OF_MONTHS:
            arguments += self._scope.months
        if kind is AuditKind.DIGESTS:
            arguments += [self._days[0], CALLS_IN_STATEMENT_MAX]
        elif kind is AuditKind.BILLS:
            arguments.append(self._scope.today)
        elif kind is AuditKind.ENTRIES:
            arguments += [list(self._scope.minor_units.values()), list(self._scope.minor_units)]
        elif kind is AuditKind.REJECTED_CALLS:
            arguments += self._days
        rows = await self._connection.fetch(self._sql[_QUERIES[kind]], *arguments)
        return [_difference(kind, row) for row in rows]

    async def large_digests(self) -> list[Difference]:
        """Return what differs of the digests of bills with so many calls that these are read one by one: DIGESTS."""
        found = []
        for row in await self._connection.fetch(
            self._sql["audit_large_bills"], *self._accounts, *self._scope.months, CALLS_IN_STATEMENT_MAX
        ):
            account_id, month, *digested = row
            calls, digest = await digest_of_bill(self._database, self._connection, account_id, month, date.min)
            if digested != [calls, digest]:
                was, now = (f"{number} calls, SHA-256 {each.hex()}" for number, each in (digested, (calls, digest)))
                name = f"digest of the bill of {month:%Y-%m}"
                found.append(Difference(account_id, AuditKind.DIGESTS, f"{name}: {was}", f"raw calls: {now}"))
        return found

    async def rated_lines(self) -> AsyncIterator[RatedLine]:
        """Return every bill line, a few at a time, so that memory stays flat."""
        plans: dict[tuple[str, int], PricePlan | None] = {}
        async for row in self._connection.cursor(
            self._sql["audit_rated_lines"], *self._accounts, *self._scope.months, prefetch=_LINES_PER_READ
        ):
            codes = zip(
                row["result_codes"] or (), row["calls_by_code"] or (), row["earlier_by_code"] or (), strict=True
            )
            usage = [MonthUsage(row["account_id"], row["occurred_month"], row["api"], *counts) for counts in codes]
            plan = (row["price_plan_id"], row["price_plan_version"])
            if row["prices"] is not None and plan not in plans:
                plans[plan] = _readable_plan(row)
            yield RatedLine(
                row["account_id"],
                row["month"],
                row["api"],
                row["occurred_month"],
                _readable_line(row),
                row["bill_currency"],
                usage,
                None if row["prices"] is None else plans[plan],
            )


class AuditStore:
    """Reads the books for the audit."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def read(self, scope: AuditScope) -> AsyncIterator[AuditReader]:
        """Hold one snapshot of some accounts; raises DatabaseUnavailableError."""
        sql = self._database.sql
        async with self._database.snapshot() as connection:
            await connection.execute(sql["lock_days"])
            await connection.execute(sql["join_whole_sets"])
            days = sorted(row["day"] for row in await connection.fetch(sql["calls_partitions"]))
            reader = AuditReader(self._database, connection, scope, days)
            await reader.choose_accounts()
            yield reader

    async def accounts(self) -> int:
        """Return how many accounts there are; raises DatabaseUnavailableError."""
        row = await self._database.fetchrow("count_accounts")
        return 0 if row is None else row["accounts"]


def _difference(kind: AuditKind, row: "asyncpg.Record") -> Difference:
    return Difference(row["account_id"], kind, row["found"], row["expected"])


def _readable_line(row: "asyncpg.Record") -> BillLine | None:
    try:
        line = read_line(row)
        readable = all(part.quantity == int(part.quantity) and part.unit_price.is_finite() for part in line.parts)
    except _UNREADABLE:
        return None
    return line if readable else None


def _readable_plan(row: "asyncpg.Record") -> PricePlan | None:
    try:
        return read_price_plan(row)
    except _UNREADABLE:
        return None
