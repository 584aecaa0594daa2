"""The tables calls, usage_deltas and usage_daily: writing."""

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import date

import asyncpg

from metering.errors import RowRefusedError, TransactionConflictError, retry_conflicts
from metering.model import Call, CallKey, Month, Receipt
from metering.store.copy_rows import CALL_COLUMNS, COUNT_COLUMNS, copy_rows
from metering.store.database import Database, is_duplicate_key

log = logging.getLogger(__name__)

COPY_FROM_ROWS = 96
"""Batches of so many calls are written with COPY, smaller ones in one INSERT. COPY is faster by the row, but takes four
round trips. Measured: docs/performance.md."""


class CallStore:
    """Writes calls and their counts."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._partitions: set[date] = set()

    @retry_conflicts
    async def record(self, calls: Sequence[Call]) -> list[Receipt]:
        """Commit calls, each one once, and return what became of each, in their order.

        Raises:
            DatabaseUnavailableError: they may be committed or not; recording them again is safe.
            RowRefusedError: at least one of them cannot be stored; none of them is.

        """
        # All writers in the same order, so that they cannot deadlock; one text is compared faster than three values.
        ordered = sorted(calls, key=_write_order)
        await self._ensure_partitions({call.occurred_on for call in ordered})
        try:
            if len(ordered) >= COPY_FROM_ROWS:
                billing_months = await self._copy(ordered)
                if billing_months is not None:
                    return _receipts_of_new(calls, billing_months)
            return await self._insert(calls, ordered)
        except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError) as error:
            if isinstance(error, asyncpg.CheckViolationError) and error.constraint_name is None:
                # No partition for a row: one that we knew of was dropped. Look again.
                self._partitions.clear()
                raise TransactionConflictError(str(error)) from error
            raise RowRefusedError(str(error)) from error

    async def _copy(self, ordered: list[Call]) -> dict[Month, Month] | None:
        """Write calls that are all new, and return the billing month of each of their months; None if some are not."""
        sql = self._database.sql
        try:
            async with self._database.transaction() as connection:
                months = sorted({call.month for call in ordered})
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

    async def _insert(self, calls: Sequence[Call], ordered: list[Call]) -> list[Receipt]:
        """Write calls some of which may be there already."""
        months = sorted({call.month for call in ordered})
        days, account_ids, call_ids, _, apis, result_codes, own_months = zip(*ordered, strict=True)
        times = [call.occurred_at for call in ordered]
        row = await self._database.fetchrow(
            "record_calls", months, days, account_ids, call_ids, times, apis, result_codes, own_months
        )
        assert row is not None  # noqa: S101 - an aggregate without GROUP BY has one row
        billing_months = dict(zip(row["months"], row["billing_months"], strict=True))
        if row["new_calls"] == len(calls):
            return _receipts_of_new(calls, billing_months)
        new: set[CallKey] = set(
            zip(row["occurred_on"] or (), row["account_id"] or (), row["call_id"] or (), strict=True)
        )
        recorded = await self._billing_months([call.key for call in ordered if call.key not in new])
        results = []
        for call in calls:
            if call.key in new:
                new.discard(call.key)  # the same call further on in the batch is a duplicate of this one
                recorded[call.key] = billing_months[call.month]
                results.append(Receipt(duplicate=False, billing_month=billing_months[call.month]))
            else:
                results.append(Receipt(duplicate=True, billing_month=recorded[call.key]))
        return results

    async def _billing_months(self, keys: Sequence[CallKey]) -> dict[CallKey, Month]:
        if not keys:
            return {}
        rows = await self._database.fetch("billing_months_of_calls", *zip(*keys, strict=True))
        return {(row["occurred_on"], row["account_id"], row["call_id"]): row["billing_month"] for row in rows}

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
                    log.info("made the partition of calls for %s", day)

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
    return [receipts[call.month] for call in calls]


def _write_order(call: Call) -> str:
    """Return what calls are sorted by before they are written; `record_calls` sorts alike."""
    return call.account_id + call.call_id


async def _once(data: bytes) -> AsyncIterator[bytes]:
    """Return data as the driver wants what is to be copied."""
    yield data
