"""Defects of the kind that the torture is there to find, planted on purpose to see that it does."""

import asyncio
from collections.abc import Callable, Sequence

from metering.errors import DatabaseUnavailableError
from metering.model import Call, Receipt
from metering.store.calls import CallStore


def _acknowledge_before_commit() -> None:
    """Answer at once, and commit a little later."""
    record = CallStore.record
    tasks: set[asyncio.Task[object]] = set()

    async def early(store: CallStore, calls: Sequence[Call]) -> list[Receipt]:
        async def late() -> None:
            await asyncio.sleep(0.2)
            await record(store, calls)

        task = asyncio.create_task(late())
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return [Receipt(duplicate=False, billing_month=call.month) for call in calls]

    CallStore.record = early  # type: ignore[method-assign,assignment]


def _acknowledge_when_unavailable() -> None:
    """Take a lost reply for a commit."""
    record = CallStore.record

    async def hopeful(store: CallStore, calls: Sequence[Call]) -> list[Receipt]:
        try:
            return await record(store, calls)
        except DatabaseUnavailableError:
            return [Receipt(duplicate=False, billing_month=call.month) for call in calls]

    CallStore.record = hopeful  # type: ignore[method-assign,assignment]


def _count_repeats() -> None:
    """Tell every call as new."""
    record = CallStore.record

    async def forgetful(store: CallStore, calls: Sequence[Call]) -> list[Receipt]:
        return [Receipt(duplicate=False, billing_month=month) for _, month in await record(store, calls)]

    CallStore.record = forgetful  # type: ignore[method-assign,assignment]


DEFECTS: dict[str, Callable[[], None]] = {
    "none": lambda: None,
    "acknowledge-before-commit": _acknowledge_before_commit,
    "acknowledge-when-unavailable": _acknowledge_when_unavailable,
    "count-repeats": _count_repeats,
}


def plant(defect: str) -> None:
    """Plant a defect in this process."""
    DEFECTS[defect]()
