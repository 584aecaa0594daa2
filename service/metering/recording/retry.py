"""RetryRejectedCalls: rejected calls are recorded after all, once nothing is in their way any more.

They go the way of any call, so they count once, whatever was delivered, retried or killed meanwhile. That they are
recorded is noted only after that: who is killed in between leaves calls that the next retry finds on the books.
"""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Protocol

from metering.clock import Clock
from metering.errors import MeteringError, Reason, account_not_found
from metering.model import Call, Month, Page, Receipt, RejectedCall, to_micros
from metering.recording.batcher import Batcher
from metering.recording.recorder import StatusBook
from metering.recording.validation import Calendar, CallRejectedError, CallValidator

CALLS_AT_A_TIME = 500
"""Calls that are recorded, and noted, together."""
RECORDED_KEPT = timedelta(days=90)
"""For how long a rejected call is kept once it is recorded."""
REJECTED_KEPT = timedelta(days=400)
"""For how long a rejected call is kept while it is not."""


class RejectedCallBook(Protocol):
    """Where rejected calls are kept."""

    async def list_rejected(
        self, account_id: str, page_size: int, page_token: str, *, recorded: bool | None = None
    ) -> Page[RejectedCall]:
        """Return rejected calls of an account, or of all for an empty one, oldest first."""

    async def dropped_days(self, days: Iterable[date]) -> AbstractSet[date]:
        """Return those of the days whose calls were dropped."""

    async def note_retried(
        self,
        recorded: Sequence[tuple[RejectedCall, Month]],
        still_rejected: Sequence[tuple[RejectedCall, MeteringError]],
        now: datetime,
    ) -> None:
        """Note on which bills calls stand that were rejected, and why others were rejected again."""

    async def purge(self, recorded_before: datetime, rejected_before: datetime) -> int:
        """Remove calls recorded, or rejected and never recorded, before these times; return how many."""


@dataclass(slots=True)
class RetriedCalls:
    """What became of rejected calls that were tried again, in numbers."""

    recorded: int = 0
    duplicates: int = 0
    """Were on the books already."""
    still_rejected: int = 0


class Retrier:
    """Records rejected calls, and forgets them after a time."""

    def __init__(
        self,
        book: RejectedCallBook,
        calls: Batcher[Call, Receipt],
        statuses: StatusBook,
        calendar: Calendar,
        clock: Clock,
    ) -> None:
        self._book = book
        self._calls = calls
        self._statuses = statuses
        self._clock = clock
        self._validator = CallValidator(calendar)

    async def retry(self, account_id: str, wait_s: float, *, however_old: bool) -> RetriedCalls:
        """Try to record what is still rejected, each call once, the oldest first.

        Args:
            account_id: whose calls; empty: of all accounts.
            wait_s: for how long to wait for a commit.
            however_old: record those, too, that occurred longer ago than a gateway may deliver them.

        Raises:
            MeteringError: QUEUE_FULL, DATABASE_UNAVAILABLE: do it again; it goes on with what is left.

        """
        retried, place = RetriedCalls(), ""
        while True:
            page = await self._book.list_rejected(account_id, CALLS_AT_A_TIME, place, recorded=False)
            if page.items:
                await self._retry(page.items, wait_s, retried, however_old=however_old)
            place = page.next_page_token
            if not place:
                return retried

    async def purge(self) -> int:
        """Forget calls that are kept for long enough; return how many."""
        now = self._clock.now()
        return await self._book.purge(now - RECORDED_KEPT, now - REJECTED_KEPT)

    async def _retry(
        self, rejected: Sequence[RejectedCall], wait_s: float, retried: RetriedCalls, *, however_old: bool
    ) -> None:
        known = await self._statuses.look_up(sorted({call.account_id for call in rejected}))
        calls: list[tuple[RejectedCall, Call]] = []
        again: list[tuple[RejectedCall, MeteringError]] = []
        for each in rejected:
            try:
                call = self._validate(each, however_old=however_old)
            except MeteringError as error:
                again.append((each, error))
                continue
            if each.account_id in known:
                calls.append((each, call))
            else:
                again.append((each, account_not_found(each.account_id)))
        # Of a call on such a day, nobody could tell any more whether it is a repeat.
        dropped = await self._book.dropped_days({call.occurred_on for _, call in calls})
        again += [(each, _dropped(call)) for each, call in calls if call.occurred_on in dropped]
        calls = [(each, call) for each, call in calls if call.occurred_on not in dropped]
        receipts = await self._calls.submit([call for _, call in calls], wait_s) if calls else ()
        recorded: list[tuple[RejectedCall, Month]] = []
        for (each, _), receipt in zip(calls, receipts, strict=True):
            if isinstance(receipt, MeteringError):
                again.append((each, receipt))
            else:
                recorded.append((each, receipt.billing_month))
        _count(receipts, retried)
        retried.still_rejected += len(again)
        await self._book.note_retried(recorded, again, self._clock.now())

    def _validate(self, rejected: RejectedCall, *, however_old: bool) -> Call:
        now_micros, micros = to_micros(self._clock.now()), to_micros(rejected.occurred_at)
        seconds, micros_of_second = divmod(micros, 1_000_000)
        fields = (
            rejected.account_id,
            rejected.api,
            rejected.call_id,
            seconds,
            micros_of_second * 1_000,
            rejected.result_code,
        )
        try:
            return self._validator.validate(fields, now_micros)
        except CallRejectedError as error:
            too_old = error.reason is Reason.OCCURRED_AT_OUT_OF_RANGE and micros < now_micros
            if too_old and however_old:
                return error.call
            raise


def _dropped(call: Call) -> MeteringError:
    msg = (
        f"occurred_at: the calls of {call.occurred_on} were archived and dropped; whether it is a repeat cannot be told"
    )
    return MeteringError(Reason.CALLS_DROPPED, msg)


def _count(receipts: Iterable[Receipt | MeteringError], retried: RetriedCalls) -> None:
    for receipt in receipts:
        if not isinstance(receipt, MeteringError):
            retried.duplicates += receipt.duplicate
            retried.recorded += not receipt.duplicate
