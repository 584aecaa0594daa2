"""The tables calls, usage_deltas and usage_daily: writing."""

import logging
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date
from operator import itemgetter

import asyncpg

from metering.errors import RowRefusedError, TransactionConflictError, retry_conflicts
from metering.model import Call, CallKey, Month, Receipt
from metering.store.copy_rows import CALL_COLUMNS, COUNT_COLUMNS, by_kind, copy_rows
from metering.store.database import Database, is_duplicate_key
from metering.store.recent_calls import RecentCalls

log = logging.getLogger(__name__)

COPY_FROM_ROWS = 96
"""Batches of so many calls are written with COPY, smaller ones in one INSERT. COPY is faster by the row, but takes four
round trips. Measured: docs/performance.md."""

_CALL_ID = itemgetter(1)
"""Of a call."""


class CallStore:
    """Writes calls and their counts."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._partitions: set[date] = set()
        self._partitions_untold = 1  # whoever was here before may have died before it told of its last one
        self._recent = RecentCalls()

    @retry_conflicts
    async def record(self, calls: Sequence[Call]) -> list[Receipt]:
        """Commit calls, each one once, and return what became of each, in their order.

        Raises:
            DatabaseUnavailableError: they may be committed or not; recording them again is safe.
            RowRefusedError: at least one of them cannot be stored; none of them is.

        """
        call_ids = set(map(_CALL_ID, calls))
        try:
            receipts = await self._copy_or_insert(calls, call_ids)
        except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError) as error:
            if isinstance(error, asyncpg.CheckViolationError) and error.constraint_name is None:
                # No partition for a row: it was dropped, or is so new that this session has missed it. Look again.
                self._partitions.clear()
                await self._database.fetch("tell_of_calls_partitions")
                raise TransactionConflictError(str(error)) from error
            raise RowRefusedError(str(error)) from error
        self._recent.add(call_ids)
        return receipts

    async def _copy_or_insert(self, calls: Sequence[Call], call_ids: AbstractSet[bytes]) -> list[Receipt]:
        if len(calls) < COPY_FROM_ROWS:
            return await self._insert(calls)
        doubtful = self._recent.among(call_ids)
        if len(call_ids) < len(calls):
            sent = Counter(map(_CALL_ID, calls))
            doubtful |= {call_id for call_id, times in sent.items() if times > 1}
        if not doubtful:
            billing_months = await self._copy(calls)
            return await self._insert(calls) if billing_months is None else _receipts_of_new(calls, billing_months)
        named = {call.key: call for call in calls if call[1] in doubtful}
        recorded = await self._billing_months(list(named))
        missing = {key: call for key, call in named.items() if key not in recorded}
        new = [call for call in calls if call[1] not in doubtful] + list(missing.values())
        billing_months = await self._copy(new) if new else {}
        if billing_months is None:
            return await self._insert(calls)
        return _receipts(calls, doubtful, set(missing), billing_months, recorded)

    async def _copy(self, calls: Sequence[Call]) -> dict[Month, Month] | None:
        """Write calls that are all new, and return the billing month of each of their months; None if some are not."""
        sql = self._database.sql
        ordered = by_kind(calls)
        await self._ensure_partitions({kind.occurred_on for kind, _ in ordered})
        try:
            async with self._database.transaction() as connection:
                months = sorted({kind.month for kind, _ in ordered})
                opened = await connection.fetch(sql["open_months"], months)
                billing_months = {row["month"]: row["billing_month"] for row in opened}
                rows, counts = copy_rows(ordered, billing_months)
                for table, data, columns in (("calls", rows, CALL_COLUMNS), ("usage_deltas", counts, COUNT_COLUMNS)):
                    await connection.copy_to_table(table, source=_once(data), columns=columns, format="binary")
        except (asyncpg.UniqueViolationError, asyncpg.InternalServerError) as error:
            if not is_duplicate_key(error):
                raise
            return None
        return billing_months

    async def _insert(self, calls: Sequence[Call]) -> list[Receipt]:
        """Write calls some of which may be there already."""
        kinds, call_ids, _ = zip(*calls, strict=True)
        account_ids, apis, result_codes, days, own_months = zip(*kinds, strict=True)
        await self._ensure_partitions(set(days))
        months = sorted(set(own_months))
        times = [call.occurred_at for call in calls]
        row = await self._database.fetchrow(
            *("record_calls", months, days, account_ids, list(map(bytes.hex, call_ids)), times),
            *(apis, result_codes, own_months),
        )
        assert row is not None  # noqa: S101 - an aggregate without GROUP BY has one row
        billing_months = dict(zip(row["months"], row["billing_months"], strict=True))
        if row["new_calls"] == len(calls):
            return _receipts_of_new(calls, billing_months)
        keys = zip(row["occurred_on"] or (), row["account_id"] or (), row["call_id"] or (), strict=True)
        new: set[CallKey] = {(day, account_id, call_id.bytes) for day, account_id, call_id in keys}
        recorded = await self._billing_months([call.key for call in calls if call.key not in new])
        return _receipts(calls, set(call_ids), new, billing_months, recorded)

    async def _billing_months(self, keys: Sequence[CallKey]) -> dict[CallKey, Month]:
        if not keys:
            return {}
        days, account_ids, call_ids = zip(*keys, strict=True)
        rows = await self._database.fetch("billing_months_of_calls", days, account_ids, list(map(bytes.hex, call_ids)))
        return {(row["occurred_on"], row["account_id"], row["call_id"].bytes): row["billing_month"] for row in rows}

    async def _ensure_partitions(self, days: set[date]) -> None:
        if not days <= self._partitions:
            await self.ensure_partitions(sorted(days))

    async def ensure_partitions(self, days: Sequence[date]) -> None:
        """Make the partitions of `days` that are not there; raises DatabaseUnavailableError."""
        self._partitions = {row["day"] for row in await self._database.fetch("calls_partitions")}
        for day in days:
            if day not in self._partitions:
                row = await self._database.fetchrow("ensure_calls_partition", day)
                self._partitions.add(day)
                if row is not None and row["made"]:
                    self._partitions_untold += 1
                    log.info("made the partition of calls for %s", day)

    async def tell_of_partitions(self) -> None:
        """Have all sessions look at the partitions made since the last time: to be done some seconds after.

        Raises DatabaseUnavailableError.
        """
        if untold := self._partitions_untold:
            await self._database.fetch("tell_of_calls_partitions")
            self._partitions_untold -= untold

    async def fold(self, deltas_max: int) -> int | None:
        """Move at most `deltas_max` counts into usage_daily.

        Returns how many were moved; None if another replica is just doing it. Raises DatabaseUnavailableError.
        """
        async with self._database.transaction() as connection:
            if not await connection.fetchval(self._database.sql["lock_fold"]):
                return None
            folded: int = await connection.fetchval(self._database.sql["fold_usage"], deltas_max)
            return folded


def _receipts_of_new(calls: Sequence[Call], billing_months: Mapping[Month, Month]) -> list[Receipt]:
    """Return the receipts of calls that are all new: one for each month serves all its calls."""
    receipts = {month: Receipt(duplicate=False, billing_month=billing) for month, billing in billing_months.items()}
    if len(receipts) == 1:
        return [*receipts.values()] * len(calls)
    return [receipts[call.month] for call in calls]


def _receipts(
    calls: Sequence[Call],
    doubtful: AbstractSet[bytes],
    new: set[CallKey],
    billing_months: Mapping[Month, Month],
    recorded: dict[CallKey, Month],
) -> list[Receipt]:
    """Return the receipts of calls, not all of which are new.

    Args:
        calls: what was to be recorded.
        doubtful: call_ids of those that may not be new; all others are.
        new: those of them that are recorded now.
        billing_months: of the months of what is recorded now.
        recorded: the billing months of those that had been recorded before.

    """
    of_new = {month: Receipt(duplicate=False, billing_month=billing) for month, billing in billing_months.items()}
    receipts = []
    for call in calls:
        if call[1] not in doubtful:
            receipts.append(of_new[call[0][4]])
        elif (key := call.key) in new:
            new.discard(key)  # the same call further on is a duplicate of this one
            recorded[key] = billing_months[call.month]
            receipts.append(of_new[call.month])
        else:
            receipts.append(Receipt(duplicate=True, billing_month=recorded[key]))
    return receipts


async def _once(data: bytes) -> AsyncIterator[bytes]:
    """Return data as the driver wants what is to be copied."""
    yield data
