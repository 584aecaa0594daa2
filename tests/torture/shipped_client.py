"""A gateway with the client that is shipped, on a spool that all such gateways share.

`python -m tests.torture.shipped_client JOURNAL SEED CLOCK SPOOL TARGET…`. It records until its stdin ends, and then
delivers what it has and what others have left behind, and says whom it takes for active.
"""

import asyncio
import random
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc

from faceid_metering import ClientConfig, Durability, MeteringClient, MeteringError
from faceid_metering.messages import CallRecord, Rejection
from tests.torture.client_process import run_until_stdin_ends
from tests.torture.clock import SharedClock
from tests.torture.journal import Answer, Journal, SentCall
from tests.torture.traffic import ACCOUNTS, Traffic

CALLS_A_FLUSH = 20
PAUSE_S = 0.05
WAITING = 3
"""Tasks that wait for each of their calls."""
FRESH_S = 1.5
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ShippedClient:
    """Records as a gateway does."""

    def __init__(self, journal: Journal, seed: int, clock: SharedClock, spool: Path, targets: list[str]) -> None:
        self._journal = journal
        self._rng = random.Random(seed)
        self._traffic = Traffic(self._rng, clock)
        self._clock = clock
        config = ClientConfig(
            spool_dir=spool,
            durability=Durability.DISK,
            attempt_timeout_s=1.0,
            back_off_max_s=0.5,
            on_rejected=self._note_rejection,
            on_dropped=lambda calls, why: journal.write(wrong=f"{calls} calls were dropped: {why}"),
        )
        self._metering = MeteringClient("ipv4:" + ",".join(targets), config=config)
        self._stopping = asyncio.Event()

    def _note_rejection(self, call: CallRecord, rejection: Rejection) -> None:
        self._journal.write(rejected={call.call_id.replace("-", ""): rejection.reason})

    async def run(self) -> None:
        """Record until `stop`, then deliver everything."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._record_in_the_background())
            for _ in range(WAITING):
                tasks.create_task(self._record_and_wait())
        while self._metering.stats().waiting_calls or self._metering.stats().spool_calls:
            await asyncio.sleep(0.05)
        await self._tell_statuses()
        await self._metering.aclose()
        self._journal.write(finished=True)

    def stop(self) -> None:
        """Begin no new calls."""
        self._stopping.set()

    async def _record_in_the_background(self) -> None:
        while not self._stopping.is_set():
            calls = [self._traffic.call() for _ in range(CALLS_A_FLUSH)]
            self._journal.sent(calls)
            for call in calls:
                self._metering.is_active(call.account_id)
                self._metering.record(*self._arguments(call), occurred_at=_time(call), result_code=call.result_code)
            if await self._metering.flush():
                self._journal.write(safe=[call.call_id for call in calls])
            await asyncio.sleep(self._rng.uniform(0, 2 * PAUSE_S))

    async def _record_and_wait(self) -> None:
        while not self._stopping.is_set():
            call = self._traffic.call()
            self._journal.sent([call])
            try:
                answer = await self._metering.record_call(
                    *self._arguments(call), occurred_at=_time(call), result_code=call.result_code
                )
            except MeteringError as error:
                if error.code is grpc.StatusCode.INVALID_ARGUMENT:
                    self._journal.write(rejected={call.call_id: error.reason})
                elif not error.is_retryable():
                    self._journal.write(wrong=f"record_call raised {error.code.name}: {error}")
            else:
                self._journal.acknowledged([Answer(call.call_id, answer.duplicate, answer.billing_month)])
            await asyncio.sleep(self._rng.uniform(0, 2 * PAUSE_S))

    async def _tell_statuses(self) -> None:
        for account_id in ACCOUNTS:
            self._metering.is_active(account_id)
        while self._metering.stats().status_age_s > FRESH_S:
            await asyncio.sleep(0.05)
        await asyncio.sleep(FRESH_S)  # what changed before the last word is known by now: that is promise P7
        self._journal.write(active={account_id: self._metering.is_active(account_id) for account_id in ACCOUNTS})

    @staticmethod
    def _arguments(call: SentCall) -> tuple[str, str, str]:
        return call.account_id, call.api, call.call_id


def _time(call: SentCall) -> datetime:
    return EPOCH + timedelta(microseconds=call.occurred_us)


async def _main(journal: str, seed: str, clock: str, spool: str, *targets: str) -> None:
    client = ShippedClient(Journal(Path(journal)), int(seed), SharedClock(Path(clock), 0), Path(spool), list(targets))
    await run_until_stdin_ends(client)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
