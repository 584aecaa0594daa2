"""Defects that were made on purpose, each of them once a plausible line of code: the simulation has to find all."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import pytest

from metering.access.feed import StatusFeed
from metering.access.statuses import Statuses
from metering.errors import DatabaseUnavailableError, RowRefusedError
from metering.model import AccountId, Call, CallKey, Month, Receipt, ServiceState, ServiceStatus
from metering.recording.batcher import Batcher
from metering.store import calls as calls_module
from metering.store import copy_rows as copy_rows_module
from metering.store.calls import CallStore

Plant = Callable[[pytest.MonkeyPatch], None]


def acknowledged_before_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer goes out when the transaction is written, not when it is committed."""
    real = Batcher._commit_batch

    async def commit_batch(self: Any, batch: Any) -> None:
        for submission in batch:
            if not submission.future.done():
                month = submission.items[0].month if isinstance(submission.items[0], Call) else None
                submission.future.set_result([Receipt(False, month)] * len(submission.items))  # type: ignore[arg-type]
        await real(self, batch)

    monkeypatch.setattr(Batcher, "_commit_batch", commit_batch)


def acknowledged_though_the_database_was_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit whose outcome is not known is taken for done."""
    real = CallStore.record

    async def record(self: CallStore, calls: Sequence[Call]) -> list[Receipt]:
        try:
            return await real(self, calls)
        except DatabaseUnavailableError:
            return [Receipt(duplicate=False, billing_month=call.month) for call in calls]

    monkeypatch.setattr(CallStore, "record", record)


def remembered_before_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this process has seen counts as recorded, although its transaction may have been rolled back."""
    real = CallStore._copy_or_insert

    async def copy_or_insert(self: CallStore, calls: Sequence[Call], call_ids: set[bytes]) -> list[Receipt]:
        recent = self._recent.among(call_ids)
        self._recent.add(call_ids)
        new = [call for call in calls if call.call_id not in recent]
        receipts = await real(self, new, {call.call_id for call in new}) if new else []
        found = dict(zip([call.key for call in new], receipts, strict=True))
        return [found.get(call.key, Receipt(duplicate=True, billing_month=call.month)) for call in calls]

    monkeypatch.setattr(CallStore, "_copy_or_insert", copy_or_insert)


def a_duplicate_key_taken_for_a_batch_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """When COPY finds one call that is there, all of the batch are answered as duplicates."""

    async def insert(_self: CallStore, calls: Sequence[Call]) -> list[Receipt]:
        return [Receipt(duplicate=True, billing_month=call.month) for call in calls]

    real = CallStore._copy

    async def copy(self: CallStore, calls: Sequence[Call]) -> dict[Month, Month] | None:
        self._insert = insert.__get__(self)  # type: ignore[method-assign]
        return await real(self, calls)

    monkeypatch.setattr(CallStore, "_copy", copy)
    monkeypatch.setattr(calls_module, "COPY_FROM_ROWS", 0)


def counts_that_leave_out_the_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The counts of a batch are those of its first attempt: each call of a copied batch counts once more than it is."""
    real = copy_rows_module.copy_rows

    def copy_rows(calls: Any, billing_months: Mapping[Month, Month]) -> tuple[bytes, bytes]:
        ordered = list(calls)
        rows, _ = real(ordered, billing_months)
        _, counts = real([(kind, [*of_kind, of_kind[0]]) for kind, of_kind in ordered], billing_months)
        return rows, counts

    monkeypatch.setattr(calls_module, "copy_rows", copy_rows)


def the_month_of_a_call_taken_for_its_bill(monkeypatch: pytest.MonkeyPatch) -> None:
    """A late call goes on the bill of the month in which it occurred, closed or not."""
    real = copy_rows_module.copy_rows

    def copy_rows(calls: Any, billing_months: Mapping[Month, Month]) -> tuple[bytes, bytes]:
        return real(calls, {month: month for month in billing_months})

    monkeypatch.setattr(calls_module, "copy_rows", copy_rows)


def receipts_in_another_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """When a batch is halved for one row, the halves' results change places."""

    async def commit_or_halve(self: Any, items: Sequence[Any]) -> Sequence[Any]:
        try:
            return await self._commit(items)
        except RowRefusedError as error:
            if len(items) == 1:
                return [await self._refuse(items[0], str(error))]
            middle = len(items) // 2
            second = await commit_or_halve(self, items[middle:])
            return [*second, *await commit_or_halve(self, items[:middle])]

    monkeypatch.setattr(Batcher, "_commit_or_halve", commit_or_halve)


def neighbours_of_a_refused_row_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch with a row that the database refuses is refused as a whole."""

    async def commit_or_halve(self: Any, items: Sequence[Any]) -> Sequence[Any]:
        try:
            return await self._commit(items)
        except RowRefusedError as error:
            return [await self._refuse(item, str(error)) for item in items]

    monkeypatch.setattr(Batcher, "_commit_or_halve", commit_or_halve)


def a_batch_that_failed_not_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls whose commit failed because of the database are forgotten, and their callers answered all the same."""

    def put_back(_self: Any, batch: Any) -> None:
        for submission in batch:
            if not submission.future.done():
                submission.future.set_result([Receipt(True, submission.items[0].month)] * len(submission.items))

    monkeypatch.setattr(Batcher, "_put_back", put_back)


def a_call_on_the_books_that_is_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A repeated call is said to stand on the bill on which it would stand if it were new."""

    async def billing_months(self: CallStore, keys: Sequence[CallKey]) -> dict[CallKey, Month]:
        today = max(key[0] for key in keys) if keys else None
        return {key: Month(today.replace(day=1)) for key in keys} if today else {}

    monkeypatch.setattr(CallStore, "_billing_months", billing_months)


def an_older_status_put_over_a_newer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A status that was under way while a newer one arrived replaces it."""

    def keep(self: Statuses, status: ServiceStatus) -> ServiceStatus:
        self._statuses[status.account_id] = status
        return status

    async def look_up(self: Statuses, account_ids: Sequence[AccountId]) -> dict[AccountId, ServiceStatus]:
        return {each.account_id: self._keep(each) for each in await self._reader.statuses(account_ids)}

    monkeypatch.setattr(Statuses, "_keep", keep)
    monkeypatch.setattr(Statuses, "look_up", look_up)


def fresh_before_the_changes_are_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """The statuses are called fresh when the heartbeat is back, not when what came before it was taken in."""

    async def take_in_changes(self: StatusFeed) -> None:
        self._fresh_at = asyncio.get_running_loop().time()
        await real(self)

    real = StatusFeed._take_in_changes
    monkeypatch.setattr(StatusFeed, "_take_in_changes", take_in_changes)


def nothing_read_again_after_the_feed_was_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """What changed while nobody listened stays unknown."""

    async def resync(_self: StatusFeed) -> None:
        pass

    monkeypatch.setattr(StatusFeed, "_resync", resync)


def watchers_not_told_of_suspensions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watcher hears only of accounts that may call."""
    real = Statuses.of

    async def of(self: Statuses, account_ids: Sequence[AccountId]) -> list[ServiceStatus]:
        return [each for each in await real(self, account_ids) if each.state is ServiceState.ACTIVE]

    monkeypatch.setattr(Statuses, "of", of)


def a_committer_that_dies_of_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    """The database being away ends the batcher for good."""

    async def commit_batch(self: Any, batch: Any) -> None:
        try:
            await real(self, batch)
        except DatabaseUnavailableError as error:
            raise RuntimeError("died") from error

    real: Callable[[Any, Any], Awaitable[None]] = Batcher._commit_batch
    monkeypatch.setattr(Batcher, "_commit_batch", commit_batch)


PLANTED: tuple[Plant, ...] = (
    acknowledged_before_the_commit,
    acknowledged_though_the_database_was_away,
    remembered_before_the_commit,
    a_duplicate_key_taken_for_a_batch_that_is_there,
    counts_that_leave_out_the_replayed,
    the_month_of_a_call_taken_for_its_bill,
    receipts_in_another_order,
    neighbours_of_a_refused_row_dropped,
    a_batch_that_failed_not_put_back,
    a_call_on_the_books_that_is_not_looked_up,
    an_older_status_put_over_a_newer_one,
    fresh_before_the_changes_are_in,
    nothing_read_again_after_the_feed_was_lost,
    watchers_not_told_of_suspensions,
    a_committer_that_dies_of_an_outage,
)
