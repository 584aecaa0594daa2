"""Usage and the calls it was counted from: reading."""

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING
from uuid import UUID

from metering.errors import MeteringError, Reason, invalid_field
from metering.model import AccountId, Bill, Call, CallKind, Month, MonthUsage, RecordedCall, Usage, to_micros
from metering.store.accounts import PlansOfAccounts
from metering.store.bills import read_bill, with_earlier_calls
from metering.store.database import Database
from metering.store.page_token import decode_page_token, encode_page_token

if TYPE_CHECKING:
    import asyncpg

_PLACE = (AccountId, lambda text: Month(date.fromisoformat(text)), date.fromisoformat, UUID)
"""What the tokens of lists of calls hold: account, month, and the key of a call."""


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

    async def list_calls(
        self, account_id: AccountId, month: Month, page_size: int, page_token: str
    ) -> AsyncIterator[list[RecordedCall]]:
        """Return the calls on a month's bill, at most `page_size` at a time, ordered by day and call_id.

        Raises:
            MeteringError: INVALID_FIELD, the token is none of ours, or of another account or month; CALLS_DROPPED, now
                or once the calls that are still there have been returned.

        """
        place = decode_page_token(page_token, _PLACE) or (account_id, month, date.min, None)
        if place[:2] != (account_id, month):
            raise invalid_field("page_token", "from a response about another account or month; leave it empty to begin")
        _, _, first, after = place
        for day in await self._days(account_id, month):
            if day < first:
                continue
            last = after if day == first else None
            while rows := await self._database.fetch("calls_of_day", account_id, day, month, last, page_size):
                yield list(_recorded_calls(account_id, month, day, rows))
                last = rows[-1]["call_id"]
                if len(rows) < page_size:
                    break
        # A day that was dropped meanwhile looked like one without calls.
        await self._days(account_id, month)

    @staticmethod
    def token_after(recorded: RecordedCall) -> str:
        """Return the token with which `list_calls` goes on after a call."""
        call = recorded.call
        return encode_page_token(
            call.account_id, recorded.billing_month.isoformat(), call.occurred_on.isoformat(), call.call_id_text
        )

    async def _days(self, account_id: AccountId, month: Month) -> list[date]:
        """Return the days of the calls on a month's bill; raises MeteringError (CALLS_DROPPED)."""
        rows = await self._database.fetch("usage_days", account_id, month)
        if dropped := [row["occurred_on"].isoformat() for row in rows if row["dropped"]]:
            days = f"{dropped[0]} to {dropped[-1]}" if len(dropped) > 1 else dropped[0]
            msg = (
                f"month: {len(dropped)} days of its calls ({days}) were archived and dropped; usage, bill and digest "
                "stay, and the archive has the calls"
            )
            raise MeteringError(Reason.CALLS_DROPPED, msg)
        return [row["occurred_on"] for row in rows]


def _recorded_calls(
    account_id: AccountId, month: Month, day: date, rows: "Iterable[asyncpg.Record]"
) -> Iterator[RecordedCall]:
    kinds: dict[tuple[str, str], CallKind] = {}
    for call_id, occurred_at, recorded_at, api, result_code in rows:
        kind = kinds.get((api, result_code))
        if kind is None:
            kind = kinds[api, result_code] = CallKind(account_id, api, result_code, day, Month(day.replace(day=1)))
        yield RecordedCall(Call(kind, call_id.bytes, to_micros(occurred_at)), month, recorded_at)
