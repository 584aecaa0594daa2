"""Defects of the kind that the torture is there to find, planted on purpose to see that it does.

Runs that found them (`make torture SECONDS=… SEED=… ARGS='--defect …'`; a seed may need several runs):

    acknowledge-before-commit       a run whose seed was not kept
    acknowledge-when-unavailable    SECONDS=45 SEED=810001
    count-repeats                   SECONDS=45 SEED=810002
    count-again-after-lost-reply    SECONDS=50 SEED=820001
    tell-no-status                  SECONDS=120 SEED=830002; not SECONDS=50 SEED=820004
    close-without-seal              not SECONDS=50 SEED=820002, for the window is some milliseconds; the simulation
                                    finds it each time
    pay-again-after-lost-reply      SECONDS=60 SEED=830011
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from metering.billing.deduct import Collector
from metering.errors import DatabaseUnavailableError
from metering.model import AccountId, Bill, Call, CallKey, Money, Receipt
from metering.store import database
from metering.store.calls import CallStore
from metering.store.sql import load_queries


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


def _count_again_after_lost_reply() -> None:
    """Count calls once more that are delivered again because nobody knew whether they were committed."""
    record = CallStore.record
    unknown: set[CallKey] = set()

    async def twice(store: CallStore, calls: Sequence[Call]) -> list[Receipt]:
        try:
            receipts = await record(store, calls)
        except DatabaseUnavailableError:
            unknown.update(call.key for call in calls)
            raise
        for call, receipt in zip(calls, receipts, strict=True):
            if call.key in unknown and receipt.duplicate:
                async with store._database.connection() as connection:
                    await connection.execute(
                        "INSERT INTO usage_deltas (account_id, billing_month, occurred_on, api, result_code, calls)"
                        " VALUES ($1, $2, $3, $4, $5, 1)",
                        *(call.account_id, receipt.billing_month, call.occurred_on, call.api, call.result_code),
                    )
        unknown.difference_update(call.key for call in calls)
        return receipts

    CallStore.record = twice  # type: ignore[method-assign,assignment]


def _close_without_seal() -> None:
    """Close a month without waiting for the batches that are being recorded in it."""
    _replace_query("lock_month", "SELECT $1::integer")


def _pay_again_after_lost_reply() -> None:
    """Do a payment again whose reply was lost, and book it a second time when it was booked meanwhile."""
    record_payment = Collector.record_payment
    repeats: set[asyncio.Task[None]] = set()

    async def repeat(collector: Collector, account_id: AccountId, amount: Money, payment_id: str) -> None:
        while True:
            await asyncio.sleep(0.5)
            try:
                booked_before, _ = await record_payment(collector, account_id, amount, payment_id)
            except DatabaseUnavailableError:
                continue
            if booked_before:
                ledger: Any = collector._ledger
                async with ledger._database.connection() as connection:
                    more = "UPDATE accounts SET balance = balance + $2 WHERE account_id = $1"
                    await connection.execute(more, account_id, amount.amount)
            return

    async def careless(
        collector: Collector, account_id: AccountId, amount: Money, payment_id: str
    ) -> tuple[bool, list[Bill]]:
        try:
            return await record_payment(collector, account_id, amount, payment_id)
        except DatabaseUnavailableError:
            task = asyncio.create_task(repeat(collector, account_id, amount, payment_id))
            repeats.add(task)
            task.add_done_callback(repeats.discard)
            raise

    Collector.record_payment = careless  # type: ignore[method-assign,assignment]


def _tell_no_status() -> None:
    """Suspend and reactivate, and tell no replica of it."""
    _replace_query("notify_status_changed", "SELECT $1::text")


def _replace_query(name: str, sql: str) -> None:
    queries = {**load_queries(), name: sql}
    vars(database)["load_queries"] = lambda: queries


DEFECTS: dict[str, Callable[[], None]] = {
    "none": lambda: None,
    "acknowledge-before-commit": _acknowledge_before_commit,
    "acknowledge-when-unavailable": _acknowledge_when_unavailable,
    "count-repeats": _count_repeats,
    "count-again-after-lost-reply": _count_again_after_lost_reply,
    "close-without-seal": _close_without_seal,
    "pay-again-after-lost-reply": _pay_again_after_lost_reply,
    "tell-no-status": _tell_no_status,
}


def plant(defect: str) -> None:
    """Plant a defect in this process."""
    DEFECTS[defect]()
