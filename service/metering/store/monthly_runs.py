"""The table monthly_runs, and what the monthly run has to look at."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from metering.model import (
    AccountId,
    Bill,
    Month,
    MonthlyRunRecord,
    Page,
    RunFailure,
    ServiceState,
    SettlingAccount,
)
from metering.store.bills import bill_of_row
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

    async def unpaid_bills(self, chunk: int) -> AsyncIterator[list[tuple[AccountId, Month]]]:
        """Return all bills that are not paid, at most `chunk` at a time, ordered by account, then month."""
        account_id, month = "", date.min
        while rows := await self._database.fetch("unpaid_bills_after", account_id, month, chunk):
            account_id, month = rows[-1]["account_id"], rows[-1]["month"]
            yield [(row["account_id"], row["month"]) for row in rows]

    async def accounts_to_settle(self, after: AccountId, chunk: int) -> Sequence[SettlingAccount]:
        """Return the next accounts after `after`, with their balances and unpaid bills; none: there are no more."""
        sql = self._database.sql
        async with self._database.snapshot() as connection:
            rows = await connection.fetch(sql["accounts_to_settle"], after, chunk)
            unpaid: dict[AccountId, list[Bill]] = {row["account_id"]: [] for row in rows}
            for bill in await connection.fetch(sql["unpaid_bills_of_accounts"], list(unpaid)):
                unpaid[bill["account_id"]].append(bill_of_row(bill))
        return [
            SettlingAccount(
                row["account_id"],
                row["currency"],
                row["balance"],
                ServiceState(row["state"]),
                tuple(unpaid[row["account_id"]]),
            )
            for row in rows
        ]


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
