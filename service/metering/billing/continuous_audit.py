"""The continuous audit: `serve` audits all accounts again and again, in small steps, at a low rate.

How far it is stands in the database: whichever replica comes first takes the next step, and what a dead one had begun
is done again.
"""

import logging
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, aclosing
from datetime import datetime, timedelta
from typing import Protocol

from metering.billing.audit import ASSURANCES, AuditedAccounts, Auditor
from metering.clock import Clock
from metering.metrics import Metrics
from metering.model import AccountRange, AuditPass

STEP_S = 1.0
"""A step ends with the part in which it has taken so long."""
STEP_RETRY = timedelta(minutes=1)
"""A step that has failed, or whose replica died, is taken again after that."""
PASSES_KEPT = timedelta(days=400)
DIFFERENCES_LOGGED_MAX = 100
"""Of a pass; further ones are only counted. `metering audit` prints all."""
DIFFERENCE_TEXT_MAX = 500

log = logging.getLogger(__name__)


class AuditPasses(Protocol):
    """Where passes are noted."""

    def only_audit(self) -> AbstractAsyncContextManager[bool]:
        """Be the one replica that audits, as long as this lasts; False: another one is."""

    async def newest(self) -> AuditPass | None:
        """Return the newest pass, under way or not; None: there was none yet."""

    async def begin(self, now: datetime, forget_before: datetime) -> AuditPass:
        """Note that a pass begins; forget those that began before a time."""

    async def note(self, audit_pass: AuditPass) -> None:
        """Note how far a pass is, and what it has found."""


class ContinuousAudit:
    """Takes a step when it is time. It may die anywhere, and another replica goes on.

    Args:
        auditor: audits some accounts.
        passes: where it is noted how far it is.
        clock: the present time.
        metrics: are told of accounts and differences at once.
        interval: from the beginning of one pass to that of the next, at least.
        share: of the time, that steps take at the most, all replicas together.
        seconds: tells a steady time, by which steps are measured.

    """

    def __init__(
        self,
        auditor: Auditor,
        passes: AuditPasses,
        clock: Clock,
        metrics: Metrics,
        interval: timedelta,
        share: float,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._auditor = auditor
        self._passes = passes
        self._clock = clock
        self._metrics = metrics
        self._interval = interval
        self._share = share
        self._seconds = seconds

    async def step_if_due(self) -> AuditPass | None:
        """Take the next step, and tell how far the pass is; None: it was not time, or another replica takes it.

        Raises:
            DatabaseUnavailableError: the step is taken again later.

        """
        if not self._is_due(await self._passes.newest()):
            return None
        async with self._passes.only_audit() as mine:
            if not mine:
                return None
            # Another replica may have taken the step while this one waited for its turn.
            newest = await self._passes.newest()
            return await self._step(newest) if self._is_due(newest) else None

    def _is_due(self, newest: AuditPass | None) -> bool:
        if newest is None:
            return True
        now = self._clock.now()
        return now >= newest.resume_at and (newest.finished_at is None or now >= newest.started_at + self._interval)

    async def _step(self, newest: AuditPass | None) -> AuditPass:
        now, begin = self._clock.now(), self._seconds()
        this = newest
        if this is None or this.finished_at is not None:
            this = await self._passes.begin(now, now - PASSES_KEPT)
        this.resume_at = now + STEP_RETRY
        await self._passes.note(this)
        async with aclosing(self._auditor.audit(AccountRange(first=this.next_account))) as parts:
            async for part in parts:
                self._tell(this, part)
                part.add_to(this.found)
                if part.next_account is None:
                    this.finished_at = self._clock.now()
                else:
                    this.next_account = part.next_account
                if self._seconds() - begin >= STEP_S:
                    break
        pause_s = (self._seconds() - begin) * (1 / self._share - 1)
        this.resume_at = self._clock.now() + timedelta(seconds=pause_s)
        await self._passes.note(this)
        if this.finished_at is not None:
            self._tell_end(this, this.finished_at)
        return this

    def _tell(self, this: AuditPass, part: AuditedAccounts) -> None:
        self._metrics.audited(part.accounts, (difference.kind for difference in part.differences))
        left = DIFFERENCES_LOGGED_MAX - this.found.differences.total()
        for difference in part.differences[: max(left, 0)]:
            log.error(
                "audit: the books of %s are wrong: %s: found %s; expected %s",
                difference.account_id[:DIFFERENCE_TEXT_MAX],
                ASSURANCES[difference.kind],
                difference.found[:DIFFERENCE_TEXT_MAX],
                difference.expected[:DIFFERENCE_TEXT_MAX],
            )
        if len(part.differences) >= left > 0:
            log.error("audit: further differences are only counted; `metering audit` prints all")

    @staticmethod
    def _tell_end(this: AuditPass, finished_at: datetime) -> None:
        found = this.found
        log.log(
            logging.INFO if found.clean else logging.ERROR,
            "audit: pass %d has looked at all %d accounts and %d calls in %s: %s",
            this.pass_id,
            found.accounts,
            found.calls["recorded"],
            str(finished_at - this.started_at).split(".")[0],
            "the books are right" if found.clean else f"{found.differences.total()} differences",
        )
