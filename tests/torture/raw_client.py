"""A client that knows nothing but the contract: it sends calls until they are acknowledged, and many once more.

`python -m tests.torture.raw_client JOURNAL SEED CLOCK TARGET…`. It records until its stdin ends, and then until
everything is acknowledged.
"""

import asyncio
import random
import sys
from collections import deque
from pathlib import Path

import grpc

from faceid.metering.v1 import metering_service_pb2 as metering_pb
from tests.support.service import Stubs, reason_of
from tests.torture.client_process import run_until_stdin_ends
from tests.torture.clock import SharedClock
from tests.torture.journal import Answer, Journal, SentCall
from tests.torture.traffic import Traffic, record_of

ONE_BY_ONE = 6
BATCHES = 2
PAUSE_S = 0.03
"""Between two calls, or batches, of one task: the processor is for faults, not for load."""
ATTEMPT_S = 2.0
AGAIN = 0.15
"""How often a call that is acknowledged is delivered again."""
REMEMBERED = 5_000
CHANNEL_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)
RETRIABLE = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,  # what gRPC makes of a request that a stopping server has not looked at
}


class RawClient:
    """Records over the stubs."""

    def __init__(self, journal: Journal, seed: int, clock: SharedClock, targets: list[str]) -> None:
        self._journal = journal
        self._rng = random.Random(seed)
        self._traffic = Traffic(self._rng, clock)
        self._replicas = [Stubs(grpc.aio.insecure_channel(target, CHANNEL_OPTIONS)) for target in targets]
        self._recorded: deque[SentCall] = deque(maxlen=REMEMBERED)
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Record until `stop`."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(ONE_BY_ONE):
                tasks.create_task(self._record_one_by_one())
            for _ in range(BATCHES):
                tasks.create_task(self._record_batches())
        self._journal.write(finished=True)

    def stop(self) -> None:
        """Begin no new calls."""
        self._stopping.set()

    def _new_calls(self, number: int) -> list[SentCall]:
        calls = [self._traffic.call() for _ in range(number)]
        self._journal.sent(calls)
        return calls

    async def _record_one_by_one(self) -> None:
        while not self._stopping.is_set():
            (call,) = self._new_calls(1)
            # Some through two replicas at the same time.
            await asyncio.gather(*(self._deliver(call) for _ in range(1 + (self._rng.random() < 0.1))))
            self._recorded.append(call)
            if self._rng.random() < AGAIN:
                await self._deliver(self._rng.choice(self._recorded))
            await asyncio.sleep(self._rng.uniform(0, 2 * PAUSE_S))

    async def _record_batches(self) -> None:
        while not self._stopping.is_set():
            calls = self._new_calls(self._rng.randint(1, self._rng.choice((10, 150))))
            repeated = self._rng.sample(self._recorded, min(len(self._recorded), self._rng.randint(0, 5)))
            await self._deliver_batch([*calls, *repeated])
            self._recorded.extend(calls)
            await asyncio.sleep(self._rng.uniform(0, 4 * PAUSE_S))

    async def _deliver(self, call: SentCall) -> None:
        """Send a call until it is answered."""
        request = metering_pb.RecordCallRequest.FromString(record_of(call).SerializeToString())
        while True:
            try:
                answer = await self._replica().metering.RecordCall(request, timeout=ATTEMPT_S)
            except grpc.aio.AioRpcError as error:
                if await self._is_refused(error):
                    self._journal.write(rejected={call.call_id: self._reason(error)})
                    return
            else:
                told = Answer(call.call_id, answer.duplicate, answer.billing_month)
                self._journal.acknowledged([told])
                return

    async def _deliver_batch(self, calls: list[SentCall]) -> None:
        """Send calls together until they are answered."""
        while True:
            try:
                answer = await self._replica().record_batch(map(record_of, calls), timeout=ATTEMPT_S)
            except grpc.aio.AioRpcError as error:
                if await self._is_refused(error):
                    self._journal.write(wrong=f"a batch was refused as a whole: {error}")
                    return
                continue
            if answer.accepted + answer.duplicates + len(answer.rejections) != len(calls):
                self._journal.write(wrong=f"a batch of {len(calls)} calls does not add up: {answer}")
            rejected = {calls[rejection.index].call_id: rejection.reason for rejection in answer.rejections}
            self._journal.write(rejected=rejected)
            self._journal.acknowledged(
                [Answer(call.call_id, None, None) for call in calls if call.call_id not in rejected]
            )
            return

    def _replica(self) -> Stubs:
        return self._rng.choice(self._replicas)

    async def _is_refused(self, error: grpc.aio.AioRpcError) -> bool:
        """Tell whether an error is final; if it is not, wait a little."""
        if error.code() not in RETRIABLE:
            return True
        await asyncio.sleep(self._rng.uniform(0.02, 0.3))
        return False

    def _reason(self, error: grpc.aio.AioRpcError) -> str:
        if error.code() is not grpc.StatusCode.INVALID_ARGUMENT:
            self._journal.write(wrong=f"a good call got {error.code().name}: {error.details()}")
            return error.code().name
        return reason_of(error)


async def _main(journal: str, seed: str, clock: str, *targets: str) -> None:
    client = RawClient(Journal(Path(journal)), int(seed), SharedClock(Path(clock), 0), list(targets))
    await run_until_stdin_ends(client)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
