"""The continuous audit: steps, their pace, and what is left of a pass when a replica dies."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

import pytest
from prometheus_client import CollectorRegistry

from metering.billing.audit import ALL_ACCOUNTS, ALL_MONTHS, AuditedAccounts, Auditor
from metering.billing.continuous_audit import DIFFERENCES_LOGGED_MAX, STEP_RETRY, ContinuousAudit
from metering.errors import DatabaseUnavailableError
from metering.metrics import Metrics
from metering.model import AccountId, AccountRange, AuditKind, AuditPass, Difference
from tests.support.service import FakeClock

NOON = datetime(2026, 11, 23, 4, tzinfo=UTC)
INTERVAL = timedelta(hours=24)


@dataclass
class Passes:
    """Passes in memory, as all replicas see them."""

    noted: list[AuditPass] = field(default_factory=list)
    busy: bool = False

    @asynccontextmanager
    async def only_audit(self) -> AsyncIterator[bool]:
        mine, self.busy = not self.busy, True
        try:
            yield mine
        finally:
            self.busy = not mine

    async def newest(self) -> AuditPass | None:
        return deepcopy(self.noted[-1]) if self.noted else None

    async def begin(self, now: datetime, forget_before: datetime) -> AuditPass:
        assert self.busy
        self.noted = [each for each in self.noted if each.started_at >= forget_before]
        self.noted.append(AuditPass(len(self.noted) + 1, now, now))
        return deepcopy(self.noted[-1])

    async def note(self, audit_pass: AuditPass) -> None:
        assert self.busy
        self.noted[-1] = deepcopy(audit_pass)


class Parts(Auditor):
    """Accounts of whose audit something is known beforehand: what differs, or what it fails with."""

    def __init__(self, accounts: int, seconds_a_part: float) -> None:
        self.seconds_a_part = seconds_a_part
        self.seconds = 0.0
        self.accounts = [AccountId(f"account-{number}") for number in range(accounts)]
        self.wrong: Counter[str] = Counter()
        self.failing: dict[str, BaseException] = {}
        self.audited: list[str] = []

    async def audit(
        self,
        accounts: AccountRange = ALL_ACCOUNTS,
        months: tuple[date, date] = ALL_MONTHS,
        accounts_max: int = 0,
    ) -> AsyncGenerator[AuditedAccounts, None]:
        mine = [each for each in self.accounts if each >= accounts.first]
        for account_id, following in zip(mine, [*mine[1:], None], strict=True):
            if account_id in self.failing:
                raise self.failing[account_id]
            self.audited.append(account_id)
            self.seconds += self.seconds_a_part
            differences = [
                Difference(account_id, AuditKind.BALANCES, f"balance {number}", "another")
                for number in range(self.wrong[account_id])
            ]
            yield AuditedAccounts(1, following, Counter(recorded=10), differences)


class Replicas:
    """Replicas on the same books, and one clock."""

    def __init__(self, accounts: int, seconds_a_part: float = 0.0) -> None:
        self.clock = FakeClock(NOON)
        self.passes = Passes()
        self.auditor = Parts(accounts, seconds_a_part)
        self.metrics = Metrics(CollectorRegistry())

    def one(self, share: float = 0.05) -> ContinuousAudit:
        return ContinuousAudit(
            self.auditor, self.passes, self.clock, self.metrics, INTERVAL, share, lambda: self.auditor.seconds
        )

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


async def test_a_pass_looks_at_every_account_once_and_the_next_begins_an_interval_later() -> None:
    replicas = Replicas(3)
    audit = replicas.one()
    this = await audit.step_if_due()
    assert this is not None
    assert (this.finished_at, this.found.accounts, this.found.calls) == (NOON, 3, {"recorded": 30})
    replicas.clock.advance(hours=23, minutes=59)
    assert await audit.step_if_due() is None
    replicas.clock.advance(minutes=1)
    following = await audit.step_if_due()
    assert following is not None
    assert (following.pass_id, following.found.accounts) == (2, 3)
    assert replicas.metric("metering_audited_accounts_total") == 6


async def test_whichever_replica_comes_first_takes_the_next_step() -> None:
    replicas = Replicas(4, seconds_a_part=1.0)
    for step in range(4):
        this = await replicas.one().step_if_due()
        assert this is not None
        assert (this.pass_id, this.found.accounts, this.finished_at is None) == (1, step + 1, step < 3)
        replicas.clock.advance(seconds=60)
    assert replicas.auditor.audited == replicas.auditor.accounts


async def test_after_a_step_all_replicas_pause_as_the_share_says() -> None:
    replicas = Replicas(2, seconds_a_part=2.0)
    this = await replicas.one(share=0.1).step_if_due()
    assert this is not None
    assert this.resume_at == NOON + timedelta(seconds=18)
    replicas.clock.advance(seconds=17)
    assert await replicas.one().step_if_due() is None


async def test_only_one_replica_takes_a_step() -> None:
    replicas = Replicas(2)
    async with replicas.passes.only_audit():
        assert await replicas.one().step_if_due() is None
    assert replicas.auditor.audited == []


@pytest.mark.parametrize(
    "death", [DatabaseUnavailableError("away"), asyncio.CancelledError(), RuntimeError("a defect")]
)
async def test_a_step_that_failed_is_taken_again_after_a_while_and_counts_nothing_twice(death: BaseException) -> None:
    replicas = Replicas(3, seconds_a_part=1.0)
    await replicas.one().step_if_due()
    replicas.clock.advance(minutes=1)
    replicas.auditor.failing = {"account-1": death}
    with pytest.raises(type(death)):
        await replicas.one().step_if_due()
    assert await replicas.one().step_if_due() is None, "not at once"
    replicas.auditor.failing = {}
    replicas.clock.time += STEP_RETRY
    await replicas.one().step_if_due()
    replicas.clock.time += STEP_RETRY
    this = await replicas.one().step_if_due()
    assert this is not None
    assert (this.pass_id, this.found.accounts, this.finished_at) == (1, 3, replicas.clock.now())


async def test_differences_are_counted_and_logged_with_account_and_what_differs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    replicas = Replicas(3)
    replicas.auditor.wrong = Counter({"account-1": 2})
    with caplog.at_level(logging.INFO):
        this = await replicas.one().step_if_due()
    assert this is not None
    assert this.found.differences == {"BALANCES": 2}
    assert replicas.metric("metering_audit_differences_total", kind="BALANCES") == 2
    wrong = "audit: the books of account-1 are wrong: balances are the sum of the ledger: found balance"
    assert [record.message for record in caplog.records if record.levelno == logging.ERROR] == [
        f"{wrong} 0; expected another",
        f"{wrong} 1; expected another",
        "audit: pass 1 has looked at all 3 accounts and 30 calls in 0:00:00: 2 differences",
    ]


async def test_the_log_of_a_pass_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    replicas = Replicas(3, seconds_a_part=1.0)
    replicas.auditor.wrong = Counter(dict.fromkeys(replicas.auditor.accounts, DIFFERENCES_LOGGED_MAX - 1))
    for _ in replicas.auditor.accounts:
        await replicas.one().step_if_due()
        replicas.clock.advance(minutes=1)
    messages = [record.message for record in caplog.records]
    assert sum("the books of" in message for message in messages) == DIFFERENCES_LOGGED_MAX
    assert sum("further differences are only counted" in message for message in messages) == 1
    this = await replicas.passes.newest()
    assert this is not None
    assert this.found.differences["BALANCES"] == 3 * (DIFFERENCES_LOGGED_MAX - 1)
