"""The table rejected_calls."""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, date, datetime
from uuid import UUID

import asyncpg

from metering.errors import MeteringError, RowRefusedError, retry_conflicts
from metering.model import Month, Page, RejectedCall
from metering.store.database import Database
from metering.store.page_token import decode_page_token, encode_page_token, text_from_token, time_from_token

REJECTED_PER_ACCOUNT_MAX = 1_000
REJECTED_MAX = 100_000
RECORDED_MAX = 100_000
"""Of the rejected calls that were recorded later, the newest so many are kept."""

_COLUMNS = ("account_id", "call_id", "occurred_at", "rejected_at", "api", "result_code", "reason", "message")
_PLACE = (time_from_token, text_from_token, lambda text: str(UUID(text)), time_from_token)
_FIRST_PLACE = (datetime.min.replace(tzinfo=UTC), "", str(UUID(int=0)), datetime.min.replace(tzinfo=UTC))


class RejectedCallStore:
    """Reads and writes rejected calls. All methods raise DatabaseUnavailableError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def reject(self, calls: Sequence[RejectedCall]) -> int:
        """Keep calls that were not recorded, as far as the bounds go; return how many were dropped.

        Raises:
            DatabaseUnavailableError: nothing was kept.
            RowRefusedError: at least one of them cannot be stored; none of them is.

        """
        try:
            row = await self._database.fetchrow(
                "reject_calls",
                *([getattr(call, column) for call in calls] for column in _COLUMNS),
                REJECTED_PER_ACCOUNT_MAX,
                REJECTED_MAX,
            )
        except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError) as error:
            raise RowRefusedError(str(error)) from error
        assert row is not None  # noqa: S101 - it has no FROM
        dropped: int = len(calls) - row["kept"] - row["kept_before"]
        return max(0, dropped)

    async def list_rejected(
        self, account_id: str, page_size: int, page_token: str, *, recorded: bool | None = None
    ) -> Page[RejectedCall]:
        """Return rejected calls of an account, or of all for an empty one, oldest first.

        Args:
            account_id: the account.
            page_size: so many at the most.
            page_token: where to go on; empty: at the beginning.
            recorded: only those that are recorded by now, or only those that are not; None: all.

        Raises:
            MeteringError: INVALID_FIELD, the token is none of ours.

        """
        place = decode_page_token(page_token, _PLACE) or _FIRST_PLACE
        rows = await self._database.fetch("list_rejected_calls", account_id or None, recorded, *place, page_size + 1)
        items = tuple(RejectedCall(**row) for row in rows[:page_size])
        if len(rows) <= page_size:
            return Page(items, "")
        last = items[-1]
        return Page(
            items,
            encode_page_token(
                last.rejected_at.isoformat(), last.account_id, last.call_id, last.occurred_at.isoformat()
            ),
        )

    async def dropped_days(self, days: Iterable[date]) -> AbstractSet[date]:
        """Return those of the days whose calls were dropped."""
        return {row["day"] for row in await self._database.fetch("dropped_days", sorted(days))}

    @retry_conflicts
    async def note_retried(
        self,
        recorded: Sequence[tuple[RejectedCall, Month]],
        still_rejected: Sequence[tuple[RejectedCall, MeteringError]],
        now: datetime,
    ) -> None:
        """Note on which bills calls stand that were rejected, and why others were rejected again."""
        # In the order of their keys, so that two that note the same calls cannot deadlock.
        on_bills = sorted((*_key(call), month) for call, month in recorded)
        again = sorted((*_key(call), error.reason, error.message) for call, error in still_rejected)
        async with self._database.transaction() as connection:
            for query, rows in (("note_recorded", on_bills), ("note_still_rejected", again)):
                if rows:
                    await connection.execute(self._database.sql[query], now, *zip(*rows, strict=True))

    async def purge(self, recorded_before: datetime, rejected_before: datetime) -> int:
        """Remove calls recorded, or rejected and never recorded, before these times; return how many."""
        row = await self._database.fetchrow("purge_rejected_calls", recorded_before, rejected_before, RECORDED_MAX)
        assert row is not None  # noqa: S101 - it is an aggregate
        purged: int = row["purged"]
        return purged


def _key(call: RejectedCall) -> tuple[str, str, datetime]:
    return call.account_id, call.call_id, call.occurred_at
