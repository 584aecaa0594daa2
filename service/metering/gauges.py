"""What a worker tells as gauges: of itself, and of the books."""

import time
from datetime import timedelta

from metering.access.feed import StatusFeed
from metering.access.statuses import Statuses
from metering.billing.audit import ASSURANCES
from metering.clock import Clock
from metering.loop_load import LoopLoad
from metering.metrics import Metrics
from metering.model import Month, month_number
from metering.recording.recorder import Recorder
from metering.recording.validation import BACK_MAX
from metering.store.audit_passes import AuditPassStore
from metering.store.bills import BillStore
from metering.store.gauges import GaugeStore
from metering.store.senders import SenderStore

SENDER_SILENT_AFTER = timedelta(minutes=1)
"""Clients report every 10 seconds, with or without calls."""
COMPLETE_SENDERS_KEPT = timedelta(days=1)
SENDERS_KEPT = BACK_MAX
"""A call older than that would be rejected anyway."""
SENDER_RANGES_KEPT = 1_000
"""Of a sender; without losses it has one, and some while batches overtake each other."""


class WorkerGauges:
    """How the worker is."""

    def __init__(
        self, metrics: Metrics, recorder: Recorder, feed: StatusFeed, statuses: Statuses, load: LoopLoad
    ) -> None:
        self._metrics = metrics
        self._batchers = ((recorder.calls, metrics.calls), (recorder.rejects, metrics.rejects))
        self._feed = feed
        self._statuses = statuses
        self._load = load

    def tell(self) -> None:
        """Set them."""
        self._metrics.loop_turned.set(time.time())
        self._metrics.loop_busy.set(self._load.share())
        for batcher, metrics in self._batchers:
            metrics.waiting.set(batcher.waiting_items)
            metrics.oldest.set(batcher.oldest_wait_s)
        self._metrics.status_feed_age.set(self._feed.age_s)
        self._metrics.status_watchers.set(self._feed.watchers)
        self._metrics.statuses.set(len(self._statuses))


class BookGauges:
    """What the books come to, whichever replica wrote them. All methods raise DatabaseUnavailableError."""

    def __init__(
        self,
        metrics: Metrics,
        gauges: GaugeStore,
        bills: BillStore,
        passes: AuditPassStore,
        senders: SenderStore,
        clock: Clock,
    ) -> None:
        self._metrics = metrics
        self._gauges = gauges
        self._bills = bills
        self._passes = passes
        self._senders = senders
        self._clock = clock

    async def tell_books(self) -> None:
        """Set what is told of accounts, bills and months."""
        books = await self._gauges.read(self._clock.now())
        self._metrics.suspended_accounts.set(books.suspended_accounts)
        self._metrics.unfolded_deltas.set(books.unfolded_deltas)
        self._metrics.bills.labels("ISSUED").set(books.issued_bills)
        self._metrics.bills.labels("OVERDUE").set(books.overdue_bills)
        self._metrics.last_closed_month.set(_gauged(books.last_closed_month))
        self._metrics.unbilled_month.set(_gauged(books.unbilled_month))
        self._metrics.close_seconds.set(books.close_seconds)
        looked_at = left = 0
        if books.unbilled_month:
            close = await self._bills.month(books.unbilled_month)
            looked_at, left = close.accounts_looked_at, close.accounts - close.accounts_looked_at
        self._metrics.close_accounts.labels("LOOKED_AT").set(looked_at)
        self._metrics.close_accounts.labels("LEFT").set(left)

    async def tell_audit(self) -> None:
        """Set what the last audit of all accounts found."""
        last = await self._passes.last_finished()
        if last is None or last.finished_at is None:
            return
        for kind in ASSURANCES:
            self._metrics.audit_drift.labels(kind).set(last.found.differences[kind])
        self._metrics.audit_finished.set(last.finished_at.timestamp())
        self._metrics.audit_duration.set((last.finished_at - last.started_at).total_seconds())

    async def tell_senders(self) -> None:
        """Set what is told of senders, once those that are of no more interest are forgotten."""
        now = self._clock.now()
        await self._senders.forget_gaps(SENDER_RANGES_KEPT)
        await self._senders.forget(now - COMPLETE_SENDERS_KEPT, now - SENDERS_KEPT)
        found = {each.state: each for each in await self._senders.gauges(now - SENDER_SILENT_AFTER)}
        for state in ("LIVE", "SILENT", "CLOSED"):
            each = found.get(state)
            self._metrics.senders.labels(state).set(each.senders if each else 0)
            self._metrics.sender_missing_calls.labels(state).set(each.missing_calls if each else 0)


def _gauged(month: Month | None) -> int:
    """Return a month as gauges tell it: 202611; 0: none."""
    return month_number(month) if month else 0
