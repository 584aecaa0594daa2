"""The tables months, bills, bill_lines and ledger_entries."""

import asyncio
import csv
import io
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import date, datetime
from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING

from metering.errors import LockedError
from metering.loop_load import next_turn
from metering.model import (
    AccountId,
    Bill,
    BillLine,
    BillLinePart,
    BillState,
    Booking,
    Money,
    Month,
    MonthProgress,
    MonthUsage,
    Page,
    PricePlan,
    ServiceState,
    ServiceStatus,
    SettlingAccount,
    month_number,
)
from metering.store.accounts import AccountStore, PlansOfAccounts, notify_status_changed, service_status
from metering.store.database import Database
from metering.store.digests import BilledCalls, add_digests
from metering.store.page_token import decode_page_token, encode_page_token

if TYPE_CHECKING:
    import asyncpg

    from metering.store.database import Connection

SEAL_TRIES = 10
SEAL_PAUSE_S = 0.5
"""Between two tries; what waits to be recorded is recorded meanwhile."""

_ROWS_PER_PART = 200
"""Rows that are written and sent together, in about a millisecond: calls that are being recorded wait for no longer."""
_BILL_COLUMNS = ("account_id", "month", "currency", "state", "total", "deducted", "issued_at", "due_date")
_LINE_COLUMNS = (
    "account_id",
    "month",
    "occurred_month",
    "api",
    "calls",
    "charged_calls",
    "parts",
    "exact_amount",
    "amount",
    "price_plan_id",
    "price_plan_version",
)

log = logging.getLogger(__name__)


class LockedAccounts:
    """Some accounts, locked until their transaction ends: what Deduct and RecordPayment change."""

    def __init__(self, database: Database, connection: "Connection", accounts: list[SettlingAccount]) -> None:
        self._database = database
        self._connection = connection
        self.accounts = accounts

    @classmethod
    async def lock(
        cls, database: Database, connection: "Connection", account_ids: Sequence[AccountId]
    ) -> "LockedAccounts":
        """Lock accounts, and read them with their unpaid bills."""
        rows = await connection.fetch(database.sql["lock_accounts"], account_ids)
        return cls(database, connection, await with_unpaid_bills(database, connection, rows))

    async def payment(self, account_id: AccountId, payment_id: str) -> Decimal | None:
        """Return the amount of a payment, None if it was not booked."""
        amount: Decimal | None = await self._connection.fetchval(self._database.sql["payment"], account_id, payment_id)
        return amount

    async def bills(self, account_id: AccountId, months: Sequence[Month]) -> list[Bill]:
        """Return the bills of months, as far as there are any, oldest first, with their lines."""
        return await read_bills(self._database, self._connection, account_id, months)

    async def book(self, bookings: Sequence[Booking], now: datetime) -> None:
        """Append entries to ledgers, and set what they change: bills, balances and states."""
        if not bookings:
            return
        account_ids = [booking.account_id for booking in bookings]
        if any(booking.entries for booking in bookings):
            last = dict(map(tuple, await self._fetch("last_entry_ids", account_ids)))
            entries = [
                (each.account_id, last[each.account_id] + number, kind, amount, payment_id, bill_month)
                for each in bookings
                for number, (kind, amount, payment_id, bill_month) in enumerate(each.entries, 1)
            ]
            await self._fetch("append_ledger_entries", *zip(*entries, strict=True), now)
        bills = [(each.account_id, bill.month, bill.state, bill.deducted) for each in bookings for bill in each.bills]
        if bills:
            await self._fetch("change_bills", *zip(*bills, strict=True))
        changes = [(each.account_id, each.state, each.balance) for each in bookings]
        await self._fetch("change_accounts", *zip(*changes, strict=True))
        await notify_status_changed(self._database, self._connection, account_ids)

    async def status(self, account_id: AccountId) -> ServiceStatus:
        """Return the service status as it is after what was booked."""
        return service_status((await self._fetch("service_statuses", [account_id]))[0])

    async def _fetch(self, query: str, *args: object) -> list["asyncpg.Record"]:
        return await self._connection.fetch(self._database.sql[query], *args)


class UnbilledAccounts:
    """Some accounts, in one transaction, and what they have to be billed for in a month."""

    def __init__(
        self,
        database: Database,
        connection: "Connection",
        currencies: dict[AccountId, str],
        usage: list[MonthUsage],
        plans: PlansOfAccounts,
        give_way: Callable[[], Awaitable[object]],
    ) -> None:
        self._database = database
        self._connection = connection
        self.currencies = currencies
        self.usage = usage
        self._plans = plans
        self._give_way = give_way

    @classmethod
    async def read(
        cls,
        database: Database,
        connection: "Connection",
        month: Month,
        account_ids: Sequence[AccountId],
        give_way: Callable[[], Awaitable[object]],
        *,
        lock: bool,
    ) -> "UnbilledAccounts":
        """Read accounts, their usage on the bill of `month` unless they have it, and their plans."""
        sql = database.sql
        # Locked before it is looked for bills: of two who bill an account at once, the second one finds the bill.
        rows = await connection.fetch(sql["lock_accounts" if lock else "currencies"], account_ids)
        currencies = {row["account_id"]: row["currency"] for row in rows}
        billed = {row["account_id"] for row in await connection.fetch(sql["billed_accounts"], account_ids, month)}
        unbilled = [account_id for account_id in account_ids if account_id not in billed]
        counted = map(tuple, await connection.fetch(sql["usage_of_accounts"], unbilled, month))
        usage = await with_earlier_calls(database, connection, counted, month)
        plans = await PlansOfAccounts.read(
            database, connection, sorted({each.account_id for each in usage}), usage, month
        )
        return cls(database, connection, currencies, usage, plans, give_way)

    def plan(self, account_id: AccountId, month: Month) -> PricePlan | None:
        """Return the price plan that an account has in a month."""
        return self._plans.plan(account_id, month)

    async def issue(self, bills: Sequence[Bill]) -> None:
        """Issue bills of these accounts, which are for one month."""
        sql = self._database.sql
        account_ids = [bill.account_id for bill in bills]
        await self._copy("bills", _BILL_COLUMNS, map(_bill_row, bills))
        month = bills[0].month.isoformat()
        lines = (_line_row(bill.account_id, month, line) for bill in bills for line in bill.lines)
        await self._copy("bill_lines", _LINE_COLUMNS, lines)
        await add_digests(self._database, self._connection, map(BilledCalls.of, bills))
        await self._connection.execute(sql["bump_status_versions"], account_ids)
        await notify_status_changed(self._database, self._connection, account_ids)

    async def _copy(self, table: str, columns: Sequence[str], rows: Iterable[tuple[object, ...]]) -> None:
        """Append rows without a null to a table.

        As text, so that asyncpg need not make binary decimals and dates.
        """
        await self._connection.copy_to_table(
            table, source=_csv(rows, self._give_way), columns=columns, format="csv", force_not_null=columns
        )


class BillStore:
    """Reads and writes bills and the ledger. All raise DatabaseUnavailableError, TransactionConflictError."""

    def __init__(self, database: Database, give_way: Callable[[], Awaitable[object]] = next_turn) -> None:
        """Take `give_way` to be awaited between any two pieces of long work."""
        self._database = database
        self._give_way = give_way

    @asynccontextmanager
    async def locked_accounts(self, account_ids: Sequence[AccountId]) -> AsyncIterator[LockedAccounts]:
        """Lock accounts for one transaction, one after the other in sorted order."""
        async with self._database.transaction() as connection:
            yield await LockedAccounts.lock(self._database, connection, account_ids)

    async def bill(self, account_id: AccountId, month: Month) -> Bill | None:
        """Return a bill with its lines, None if there is none."""
        async with self._database.snapshot() as connection:
            return await read_bill(self._database, connection, account_id, month)

    async def list_bills(self, account_id: AccountId, page_size: int, page_token: str) -> Page[Bill]:
        """Return bills of an account, newest first; raises MeteringError (INVALID_FIELD) for a token not ours."""
        before = (decode_page_token(page_token, (date.fromisoformat,)) or (date.max,))[0]
        async with self._database.snapshot() as connection:
            rows = await connection.fetch(self._database.sql["list_bills"], account_id, before, page_size + 1)
            bills = await _with_lines(self._database, connection, account_id, rows[:page_size])
        return Page(tuple(bills), encode_page_token(bills[-1].month.isoformat()) if len(rows) > page_size else "")

    async def month_is_closed(self, month: Month) -> bool:
        """Tell whether a month is closed."""
        row = await self._database.fetchrow("month_is_closed", month)
        return row is not None and row["closed"]

    async def seal(self, month: Month, now: datetime) -> bool:
        """Close a month to calls, once the batches that are being written to it are committed; False: it was closed.

        Raises:
            LockedError: a batch is not committed and does not end, try after try.

        """
        sealed = await self._seal_in_the_end(month, now)
        # Whoever reads the month's calls for the bills has to know of all their days.
        await self._database.fetch("tell_of_calls_partitions")
        return sealed

    async def _seal_in_the_end(self, month: Month, now: datetime) -> bool:
        for _ in range(SEAL_TRIES - 1):
            try:
                return await self._seal(month, now)
            except LockedError as error:
                log.warning("closing %s waits for a batch that is being recorded: %s", f"{month:%Y-%m}", error)
                await asyncio.sleep(SEAL_PAUSE_S)
        return await self._seal(month, now)

    async def _seal(self, month: Month, now: datetime) -> bool:
        async with self._database.transaction() as connection:
            await connection.execute(self._database.sql["lock_month"], month_number(month))
            return bool(await connection.fetchval(self._database.sql["seal_month"], month, now))

    def account_ids(self, chunk: int) -> AsyncIterator[list[AccountId]]:
        """Return the ids of all accounts, at most `chunk` at a time, sorted."""
        return AccountStore(self._database).account_ids(chunk)

    @asynccontextmanager
    async def unbilled_accounts(
        self, month: Month, account_ids: Sequence[AccountId], *, locked: bool
    ) -> AsyncIterator[UnbilledAccounts]:
        """Look at accounts in one transaction; with `locked`, which issuing bills needs, while nobody else does."""
        async with self._database.transaction() as connection:
            await connection.execute(self._database.sql["lock_billing"])
            yield await UnbilledAccounts.read(
                self._database, connection, month, account_ids, self._give_way, lock=locked
            )

    async def note_billed(self, month: Month, now: datetime) -> None:
        """Note that every account with usage in a month, which is closed, has its bill."""
        await self._database.fetch("note_billed", month, now)

    async def month(self, month: Month) -> MonthProgress:
        """Tell what has become of a month."""
        row = await self._database.fetchrow("month", month)
        assert row is not None  # noqa: S101 - it has no FROM
        progress = MonthProgress(**row)
        return replace(progress, accounts_looked_at=progress.accounts) if progress.billed_at else progress

    async def month_bills(self, month: Month) -> tuple[int, list[Money]]:
        """Return how many bills a month has, and their totals, one per currency."""
        rows = await self._database.fetch("month_bills", month)
        return sum(row["bills"] for row in rows), [Money(row["total"], row["currency"]) for row in rows]


async def with_earlier_calls(
    database: Database,
    connection: "Connection",
    counted: Iterable[tuple[AccountId, Month, str, str, int]],
    month: Month,
) -> list[MonthUsage]:
    """Add to counts (account_id, occurred_month, api, result_code, calls) on the bill of `month` the earlier calls.

    Only carried calls have any: calls of their own month that stand on bills before `month`. Sorted by account.
    """
    usage = [MonthUsage(*each, 0) for each in counted]
    carried = sorted({(each.account_id, each.occurred_month) for each in usage if each.occurred_month < month})
    if not carried:
        return usage
    on_this_bill = {(each.account_id, each.occurred_month, each.api) for each in usage}
    with_earlier = {each[:4]: each for each in usage}
    for row in await connection.fetch(database.sql["earlier_calls"], *zip(*carried, strict=True), month):
        line = (row["account_id"], Month(row["occurred_month"]), row["api"])
        # Earlier calls count towards the tiers whatever their result code is, be it one of no carried call.
        if line in on_this_bill:
            key = (*line, row["result_code"])
            found = with_earlier.get(key, MonthUsage(*key, 0, 0))
            with_earlier[key] = found._replace(earlier_calls=row["calls"])
    # What was added stands at the end; an account's usage belongs together, or it would get two bills.
    return sorted(with_earlier.values())


async def read_bill(database: Database, connection: "Connection", account_id: AccountId, month: Month) -> Bill | None:
    """Return a bill with its lines, None if there is none."""
    bills = await read_bills(database, connection, account_id, [month])
    return bills[0] if bills else None


async def read_bills(
    database: Database, connection: "Connection", account_id: AccountId, months: Sequence[Month]
) -> list[Bill]:
    """Return the bills of months, as far as there are any, oldest first, with their lines."""
    rows = await connection.fetch(database.sql["bills"], account_id, months)
    return await _with_lines(database, connection, account_id, rows)


async def with_unpaid_bills(
    database: Database, connection: "Connection", accounts: Sequence["asyncpg.Record"]
) -> list[SettlingAccount]:
    """Make accounts of rows with their balances, and read their unpaid bills."""
    unpaid: dict[AccountId, list[Bill]] = {row["account_id"]: [] for row in accounts}
    for bill in await connection.fetch(database.sql["unpaid_bills"], list(unpaid)):
        unpaid[bill["account_id"]].append(bill_of_row(bill))
    return [
        SettlingAccount(
            row["account_id"],
            row["currency"],
            row["balance"],
            ServiceState(row["state"]),
            tuple(unpaid[row["account_id"]]),
        )
        for row in accounts
    ]


async def _with_lines(
    database: Database, connection: "Connection", account_id: AccountId, rows: Sequence["asyncpg.Record"]
) -> list[Bill]:
    """Make bills of rows of `bills`, and read their lines."""
    lines: dict[Month, list[BillLine]] = {row["month"]: [] for row in rows}
    if rows:
        for row in await connection.fetch(database.sql["bill_lines"], account_id, list(lines)):
            lines[row["month"]].append(read_line(row))
    return [bill_of_row(row, tuple(lines[row["month"]])) for row in rows]


def bill_of_row(row: "asyncpg.Record", lines: tuple[BillLine, ...] = ()) -> Bill:
    """Return the bill in a row of `bills`."""
    return Bill(**{**row, "state": BillState(row["state"])}, lines=lines)


async def _csv(rows: Iterable[tuple[object, ...]], give_way: Callable[[], Awaitable[object]]) -> AsyncIterator[bytes]:
    """Write rows as CSV, part by part: meanwhile PostgreSQL works on the last one, and calls are recorded."""
    waiting = iter(rows)
    while part := list(islice(waiting, _ROWS_PER_PART)):
        text = io.StringIO(newline="")
        csv.writer(text).writerows(part)
        await give_way()
        yield text.getvalue().encode()


def _bill_row(bill: Bill) -> tuple[object, ...]:
    return tuple(getattr(bill, column) for column in _BILL_COLUMNS)


def read_line(row: "asyncpg.Record") -> BillLine:
    """Make a line of a row of `bill_lines`."""
    parts = tuple(_read_part(*part) for part in json.loads(row["parts"]))
    return BillLine(
        row["api"],
        row["occurred_month"],
        row["calls"],
        row["charged_calls"],
        parts,
        row["exact_amount"],
        row["amount"],
        row["price_plan_id"],
        row["price_plan_version"],
    )


def _read_part(quantity: int, unit_price: str, tier_from: int = 0, tier_up_to: int | None = None) -> BillLinePart:
    # The first bills kept no tiers.
    return BillLinePart(quantity, Decimal(unit_price), tier_from, tier_up_to)


def _line_row(account_id: AccountId, month: str, line: BillLine) -> tuple[object, ...]:
    # Neither a number nor a decimal has anything to escape, and json.dumps takes several times as long.
    parts = ", ".join(
        f'[{quantity}, "{unit_price:f}", {tier_from}, {"null" if tier_up_to is None else tier_up_to}]'
        for quantity, unit_price, tier_from, tier_up_to in line.parts
    )
    return (
        account_id,
        month,
        line.occurred_month,
        line.api,
        line.calls,
        line.charged_calls,
        f"[{parts}]",
        line.exact_amount,
        line.amount,
        line.price_plan_id,
        line.price_plan_version,
    )
