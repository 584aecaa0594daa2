"""Usage and the calls it was counted from: reading."""

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from metering.model import AccountId, Bill, Call, CallKind, Month, MonthUsage, RecordedCall, Usage, to_micros
from metering.store.accounts import PlansOfAccounts
from metering.store.bills import read_bill, with_earlier_calls
from metering.store.database import Database

if TYPE_CHECKING:
    from uuid import UUID

CALLS_PER_READ = 1_000


@dataclass(frozen=True, slots=True)
class AccountMonth:
    """What there is about an account in a month."""

    currency: str
    closed: bool
    bill: Bill | None
    daily: list[Usage]
    """What stands on the month's bill, by day."""
    usage: list[MonthUsage]
    """The same, by the month of the calls."""
    plans: PlansOfAccounts


class UsageStore:
    """Reads usage. All methods raise DatabaseUnavailableError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def account_month(self, account_id: AccountId, month: Month) -> AccountMonth | None:
        """Return all there is about an account in a month; None if there is no such account.

        Every call that was committed before is counted. Everything is of one snapshot.
        """
        sql = self._database.sql
        async with self._database.snapshot() as connection:
            account = await connection.fetchrow(sql["account"], account_id)
            if account is None:
                return None
            daily = [Usage(*row) for row in await connection.fetch(sql["usage_of_month"], account_id, month)]
            monthly: Counter[tuple[Month, str, str]] = Counter()
            for usage in daily:
                monthly[Month(usage.occurred_on.replace(day=1)), usage.api, usage.result_code] += usage.calls
            counted = [(account_id, *key, calls) for key, calls in monthly.items()]
            by_month = await with_earlier_calls(self._database, connection, counted, month)
            return AccountMonth(
                currency=account["currency"],
                closed=await connection.fetchval(sql["month_is_closed"], month),
                bill=await read_bill(self._database, connection, account_id, month),
                daily=daily,
                usage=by_month,
                plans=await PlansOfAccounts.read(self._database, connection, [account_id], by_month, month),
            )

    async def list_calls(self, account_id: AccountId, month: Month) -> AsyncIterator[list[RecordedCall]]:
        """Return the calls on a month's bill, some at a time, ordered by day and call_id."""
        days = [row["occurred_on"] for row in await self._database.fetch("usage_days", account_id, month)]
        for day in days:
            after: UUID | None = None
            while rows := await self._database.fetch("calls_of_day", account_id, day, month, after, CALLS_PER_READ):
                yield [
                    RecordedCall(
                        Call(
                            CallKind(account_id, row["api"], row["result_code"], day, Month(day.replace(day=1))),
                            row["call_id"].bytes,
                            to_micros(row["occurred_at"]),
                        ),
                        month,
                        row["recorded_at"],
                    )
                    for row in rows
                ]
                after = rows[-1]["call_id"]
