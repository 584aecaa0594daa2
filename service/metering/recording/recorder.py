"""RecordCall and BatchRecordCalls: from what was sent to a committed call."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress
from operator import itemgetter
from typing import NamedTuple, Protocol

from metering.clock import Clock
from metering.errors import MeteringError, Reason, account_not_found
from metering.model import AccountId, Call, Receipt, RejectedCall, ServiceStatus, to_micros
from metering.recording.batcher import Batcher, BatcherLimits, BatcherMetrics
from metering.recording.validation import Calendar, CallColumns, CallFields, CallRejectedError, CallValidator

REJECTING = BatcherLimits(queue_items_max=10_000, queue_wait_s=10, batch_items_max=1_000, committers=1, spacing_s=0)
"""Rejected calls are kept the same way as calls are recorded, but with less effort."""

KEEP_WAIT_S = 10.0
"""For how long a commit waits until a call is kept that the database refused."""

_KIND, _ACCOUNT_ID = itemgetter(0), itemgetter(0)
"""Of a call, and of a kind of calls."""

log = logging.getLogger(__name__)


class CallBook(Protocol):
    """Where calls are written."""

    async def record(self, calls: Sequence[Call]) -> Sequence[Receipt]:
        """Commit calls, each one once, and return what became of each."""


class RejectBook(Protocol):
    """Where rejected calls are kept."""

    async def reject(self, calls: Sequence[RejectedCall]) -> int:
        """Keep calls that were not recorded, as far as the bounds go; return how many were dropped."""


class StatusBook(Protocol):
    """Where the service status of accounts is looked up."""

    def known(self, account_id: AccountId) -> ServiceStatus | None:
        """Return the status of an account if it is in memory."""

    def unknown(self, account_ids: set[AccountId]) -> set[AccountId]:
        """Return those of `account_ids` whose status is not in memory."""

    def not_active(self, account_ids: set[AccountId]) -> list[ServiceStatus]:
        """Return the statuses in memory of those of `account_ids` that may not call."""

    async def look_up(self, account_ids: Sequence[AccountId]) -> dict[AccountId, ServiceStatus]:
        """Return the statuses of accounts; those that do not exist are left out."""


class RecordingMetrics(Protocol):
    """What recording tells of itself."""

    @property
    def calls(self) -> BatcherMetrics:
        """Of the batcher of calls."""

    @property
    def rejects(self) -> BatcherMetrics:
        """Of the batcher of rejected calls."""

    def recorded(self, new: int, duplicates: int, carried: int) -> None:
        """Calls were recorded."""

    def rejected(self, reason: str, calls: int) -> None:
        """Calls were rejected."""

    def dropped(self, calls: int) -> None:
        """Rejected calls were not kept, for there are too many."""


class Recorded(NamedTuple):
    """What became of a call."""

    receipt: Receipt
    status: ServiceStatus


@dataclass(frozen=True, slots=True)
class RecordedBatch:
    """What became of calls that were sent together."""

    accepted: int
    duplicates: int
    rejections: Sequence[tuple[int, MeteringError]]
    """(place in what was sent, why), ascending."""
    not_active: Sequence[ServiceStatus]
    """Suspended accounts among those of the recorded calls."""


class Recorder:
    """Records calls, and keeps those that it must reject."""

    def __init__(
        self,
        book: CallBook,
        rejected_calls: RejectBook,
        statuses: StatusBook,
        calendar: Calendar,
        clock: Clock,
        limits: BatcherLimits,
        metrics: RecordingMetrics,
        busy: Callable[[], float],
    ) -> None:
        self._rejected_calls = rejected_calls
        self._book = book
        self._statuses = statuses
        self._clock = clock
        self._metrics = metrics
        self._validator = CallValidator(calendar)
        self.calls = Batcher(self._commit, self._refuse, limits, metrics.calls, "calls", busy)
        self.rejects = Batcher(self._keep, self._refuse_rejected, REJECTING, metrics.rejects, "rejected calls", busy)

    async def record(self, fields: CallFields, wait_s: float) -> Recorded:
        """Record one call; return once it is committed.

        Args:
            fields: the call as it was sent.
            wait_s: for how long to wait for the commit.

        Raises:
            MeteringError: INVALID_FIELD, OCCURRED_AT_OUT_OF_RANGE, ACCOUNT_NOT_FOUND, UNRECORDABLE: it is not recorded;
                but for the first, it is kept among the rejected calls. QUEUE_FULL, DATABASE_UNAVAILABLE: send it again.

        """
        try:
            call = self._validator.validate(fields, self._now_micros())
            status = self._statuses.known(call.account_id) or await self._look_up(call)
        except CallRejectedError as rejected:
            await self._reject([rejected], wait_s)
            raise
        except MeteringError as error:
            if error.reason is Reason.INVALID_FIELD:
                self._metrics.rejected(error.reason, 1)
            raise
        (receipt,) = await self.calls.submit((call,), wait_s)
        if isinstance(receipt, MeteringError):
            raise receipt
        return Recorded(receipt, self._statuses.known(call.account_id) or status)

    async def record_batch(self, batch: CallColumns, wait_s: float) -> RecordedBatch:
        """Record calls that were sent together; return once each is committed or kept among the rejected calls.

        Raises:
            MeteringError: QUEUE_FULL, DATABASE_UNAVAILABLE: send all of them again.

        """
        calls, rejections = self._validator.validate_all(batch, self._now_micros())
        places: Sequence[int] = range(len(batch.call_ids))
        if rejections:
            places = [place for place in places if place not in rejections]
        account_ids = set(map(_ACCOUNT_ID, set(map(_KIND, calls))))
        if missing := await self._missing(account_ids):
            known = [call.account_id not in missing for call in calls]
            for call, place, is_known in zip(calls, places, known, strict=True):
                if not is_known:
                    rejections[place] = CallRejectedError(call, account_not_found(call.account_id))
            calls = list(compress(calls, known))
            places = list(compress(places, known))
        receipts = await self.calls.submit(calls, wait_s) if calls else ()
        new = duplicates = 0
        for receipt, count in Counter(receipts).items():
            if isinstance(receipt, MeteringError):
                rejections |= {place: receipt for place, each in zip(places, receipts, strict=True) if each is receipt}
            elif receipt.duplicate:
                duplicates += count
            else:
                new += count
        await self._reject([error for error in rejections.values() if isinstance(error, CallRejectedError)], wait_s)
        malformed = sum(error.reason is Reason.INVALID_FIELD for error in rejections.values())
        if malformed:
            self._metrics.rejected(Reason.INVALID_FIELD, malformed)
        return RecordedBatch(
            new, duplicates, sorted(rejections.items(), key=itemgetter(0)), self._statuses.not_active(account_ids)
        )

    def _now_micros(self) -> int:
        return to_micros(self._clock.now())

    async def _look_up(self, call: Call) -> ServiceStatus:
        status = (await self._statuses.look_up([call.account_id])).get(call.account_id)
        if status is None:
            raise CallRejectedError(call, account_not_found(call.account_id))
        return status

    async def _missing(self, account_ids: set[AccountId]) -> set[AccountId]:
        """Return the accounts that do not exist; the others are in memory then."""
        unknown = self._statuses.unknown(account_ids)
        return unknown.difference(await self._statuses.look_up(list(unknown))) if unknown else unknown

    async def _commit(self, calls: Sequence[Call]) -> Sequence[Receipt]:
        receipts = await self._book.record(calls)
        new = carried = 0
        for call, (duplicate, billing_month) in zip(calls, receipts, strict=True):
            if not duplicate:
                new += 1
                carried += billing_month != call[0][4]
        self._metrics.recorded(new, len(calls) - new, carried)
        return receipts

    async def _reject(self, rejections: Sequence["CallRejectedError"], wait_s: float) -> None:
        """Keep calls among the rejected ones."""
        if not rejections:
            return
        now = self._clock.now()
        for rejection in rejections:
            self._metrics.rejected(rejection.reason, 1)
        await self.rejects.submit([rejection.as_rejected_call(now) for rejection in rejections], wait_s)

    async def _keep(self, calls: Sequence[RejectedCall]) -> Sequence[None]:
        dropped = await self._rejected_calls.reject(calls)
        if dropped:
            self._metrics.dropped(dropped)
            log.error(
                "%d rejected calls were not kept, for there are too many; the last one: call %s of account %s, %s",
                dropped,
                calls[-1].call_id,
                calls[-1].account_id,
                calls[-1].message,
            )
        return [None] * len(calls)

    async def _refuse(self, call: Call, message: str) -> MeteringError:
        """Keep a call that looked well-formed, but that the database refuses."""
        log.error("call %s of account %s cannot be recorded: %s", call.call_id_text, call.account_id, message)
        error = MeteringError(Reason.UNRECORDABLE, f"the database refuses this call: {message}")
        await self._reject([CallRejectedError(call, error)], KEEP_WAIT_S)
        return error

    async def _refuse_rejected(self, call: RejectedCall, message: str) -> MeteringError:
        log.error("rejected call %s of account %s cannot be kept: %s", call.call_id, call.account_id, message)
        return MeteringError(Reason.UNRECORDABLE, message)
