"""The table monthly_runs, and what the monthly run has to look at."""

import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from metering.model import AccountId, Debtor, Month, MonthlyRunRecord, Page, RunFailure, SettlingAccount
from metering.store.bills import with_unpaid_bills
from metering.store.database import Database
from metering.store.page_token import decode_page_token, encode_page_token

if TYPE_CHECKING:
    import asyncpg

_NO_RUN_YET = 2**63 - 1
"""More than the number of any run: before it stand all of them."""


class MonthlyRunStore:
    """Reads and writes monthly runs. All methods raise DatabaseUnavailableError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def only_run(self) -> AbstractAsyncContextManager[bool]:
        """Be the one replica that does the monthly run, as long as this lasts; False: another one is."""
        return self._database.only_one("lock_monthly_run")

    async def last_runs(self, day: date) -> tuple[date | None, datetime | None]:
        """Return the last day whose run did all its work, and when a run of `day` last ended that could not."""
        row = await self._database.fetchrow("last_monthly_runs", day)
        assert row is not None  # noqa: S101 - it has no FROM
        return row["done_on"], row["failed_at"]

    async def begin(self, day: date, replica: str, now: datetime) -> MonthlyRunRecord:
        """Note that a run begins."""
        row = await self._database.fetchrow("begin_monthly_run", day, replica, now)
        assert row is not None  # noqa: S101 - it inserts one
        return MonthlyRunRecord(row["run_id"], day, replica, now)

    async def note(self, run: MonthlyRunRecord) -> None:
        """Note what a run has done so far."""
        await self._database.fetch(
            "note_monthly_run",
            run.run_id,
            run.finished_at,
            run.months,
            run.bills_issued,
            _sums_json(run.issued),
            run.bills_paid,
            _sums_json(run.deducted),
            run.accounts_suspended,
            run.accounts_unrated,
            run.failures,
            json.dumps([[each.month.isoformat(), each.account_id, each.message] for each in run.failed]),
        )

    async def list_runs(self, page_size: int, page_token: str) -> Page[MonthlyRunRecord]:
        """Return runs, newest first; raises MeteringError (INVALID_FIELD) for a token not ours."""
        (before,) = decode_page_token(page_token, (_run_id_from_token,)) or (_NO_RUN_YET,)
        rows = await self._database.fetch("list_monthly_runs", before, page_size + 1)
        runs = tuple(_run(row) for row in rows[:page_size])
        return Page(runs, encode_page_token(str(runs[-1].run_id)) if len(rows) > page_size else "")

    async def months_to_close(self, before: Month, look_back_to: Month) -> list[Month]:
        """Return, oldest first, the months before `before` that are open with usage, or closed with unbilled usage.

        The latter since `look_back_to` only.
        """
        billed = {row["month"]: row["billed"] for row in await self._database.fetch("closed_months")}
        months = {month for month in billed if look_back_to <= month < before and not billed[month]}
        used = Month(date.min)
        while (row := await self._database.fetchrow("used_month_after", used)) and row["month"]:
            used = row["month"]
            if used < before and used not in billed:
                months.add(used)
        return sorted(months)

    async def debtors(self, chunk: int) -> AsyncIterator[list[Debtor]]:
        """Return all accounts with bills that are not paid, sorted, at most `chunk` at a time."""
        after = ""
        while rows := await self._database.fetch("debtors_after", after, chunk):
            yield [Debtor(**row) for row in rows]
            after = rows[-1]["account_id"]

    async def accounts_to_settle(self, after: AccountId, chunk: int) -> list[SettlingAccount]:
        """Return the next accounts after `after`, with their balances and unpaid bills; none: there are no more."""
        async with self._database.snapshot() as connection:
            rows = await connection.fetch(self._database.sql["accounts_to_settle"], after, chunk)
            return await with_unpaid_bills(self._database, connection, rows)


def _run(row: "asyncpg.Record") -> MonthlyRunRecord:
    return MonthlyRunRecord(
        **{
            **row,
            "issued": _sums(row["issued"]),
            "deducted": _sums(row["deducted"]),
            "failed": [
                RunFailure(Month(date.fromisoformat(month)), AccountId(account_id), message)
                for month, account_id, message in json.loads(row["failed"])
            ],
        }
    )


def _sums(document: str) -> dict[str, Decimal]:
    return {currency: Decimal(amount) for currency, amount in json.loads(document).items()}


def _sums_json(sums: dict[str, Decimal]) -> str:
    return json.dumps({currency: f"{amount:f}" for currency, amount in sorted(sums.items())})


def _run_id_from_token(text: str) -> int:
    run_id = int(text)
    if not 0 < run_id <= _NO_RUN_YET:
        raise ValueError(text)
    return run_id
