"""How recorded calls get to the service: in batches, several at once, by way of the spool if they must."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING
from uuid import uuid4

from grpc import ChannelConnectivity

from faceid.metering.v1.metering_service_pb2 import BatchRecordCallsRequest, BatchRecordCallsResponse, Sender
from faceid.metering.v1.resources_pb2 import ServiceStatus
from faceid_metering.config import ClientConfig
from faceid_metering.connection import Connection
from faceid_metering.errors import MeteringError, translated_errors
from faceid_metering.health import Health
from faceid_metering.outbox import Outbox, report_drop
from faceid_metering.runtime import Runtime
from faceid_metering.spool import Batch
from faceid_metering.spool_keeper import Spool
from faceid_metering.stats import ClientStats
from faceid_metering.tracing import batch_span

if TYPE_CHECKING:
    from grpc import aio

log = logging.getLogger(__name__)

_METHOD = "/faceid.metering.v1.MeteringService/BatchRecordCalls"
_COMPANY_CALLS = 500
"""So many calls are worth a batch of their own while another one is under way; fewer wait for it to end."""
_HOUSEKEEPING_S = 0.1
_ADOPT_INTERVAL_S = 2.0


class Delivery:
    """Takes calls from the outbox and the spool, and sends them until each is answered."""

    def __init__(
        self,
        config: ClientConfig,
        runtime: Runtime,
        connections: Sequence[Connection],
        stats: ClientStats,
        learn: Callable[[ServiceStatus], None],
    ) -> None:
        """Start nothing yet. `learn` hears of accounts that may not call."""
        self._config = config
        self._loop = asyncio.get_running_loop()
        self._stats = stats
        self._learn = learn
        self._sender_id = str(uuid4())
        self._ways: deque[tuple[aio.Channel, aio.UnaryUnaryMultiCallable[bytes, BatchRecordCallsResponse]]] = deque(
            (
                connection.channel,
                connection.channel.unary_unary(_METHOD, response_deserializer=BatchRecordCallsResponse.FromString),
            )
            for connection in connections
        )
        self._health = Health(config, runtime)
        self._spool = Spool(config, runtime, stats)
        self._fresh = asyncio.Event()
        """There may be something to send."""
        self._disk_first = asyncio.Event()
        """There may be something to write to disk."""
        self.outbox = Outbox(
            config, self._sender_id, stats, self._waker(self._fresh.set), self._waker(self._disk_first.set)
        )
        self._under_way: set[int] = set()
        """The first numbers of the batches that are neither answered nor spooled."""
        self._sending = 0
        self._turnstile = asyncio.Lock()
        self._settled = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start the work in the background, if that isn't done."""
        if self._tasks or self.outbox.closed:
            return
        if not self._spool.exists:
            log.warning(
                "no spool_dir is set: calls that cannot be delivered wait in memory, up to queue_calls (%d), and are "
                "lost with this process; set it to a directory that outlives the process",
                self._config.queue_calls,
            )
        work: dict[str, Callable[[], Awaitable[None]]] = {"report": self._report}
        for number in range(self._config.batches_in_flight):
            work[f"lane {number}"] = self._send_fresh
        if self._spool.exists:
            work |= {"housekeeping": self._keep_house, "disk first": self._write_disk_first, "adoption": self._adopt}
            for number in range(max(self._config.batches_in_flight // 2, 1)):
                work[f"spool lane {number}"] = self._send_spooled
        self._tasks = [asyncio.create_task(_watched(do), name=f"metering {name}") for name, do in work.items()]

    def _waker(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Return what wakes who waits for calls, from any thread."""

        def on_loop() -> None:
            self.start()
            wake()

        def from_any_thread() -> None:
            try:
                self._loop.call_soon_threadsafe(on_loop)
            except RuntimeError:  # its owner forgot to close us first
                log.warning("a call was recorded after the event loop had ended")

        return from_any_thread

    async def _send_fresh(self) -> None:
        """Send what is in memory, a batch at a time."""
        while True:
            await self._fresh_calls()
            async with self._health.turn():
                batch = self._next_fresh()
                if batch is not None:
                    await self._send_or_spool(batch)

    async def _fresh_calls(self) -> None:
        """Return once there is something worth a batch: anything, or some company while others are under way."""
        while True:
            while not self._worth_a_batch():
                self._fresh.clear()
                self.outbox.await_memory(self._worth_calls())
                if not self._worth_a_batch():
                    await self._fresh.wait()
            await self._turn()
            if self._worth_a_batch():
                return

    def _worth_a_batch(self) -> bool:
        return bool(self.outbox.returned) or len(self.outbox.memory) >= self._worth_calls()

    def _worth_calls(self) -> int:
        return _COMPANY_CALLS if self._sending else 1

    async def _turn(self) -> None:
        """Return when nobody else does a piece of work in this turn of the event loop; each takes up to 0.5 ms.

        So requests of the gateway get their turn between any two of them, however many answers come in at once.
        """
        async with self._turnstile:
            await asyncio.sleep(0)

    def _next_fresh(self) -> Batch | None:
        if self.outbox.returned:
            return self.outbox.returned.popleft()
        return self._take_from(self.outbox.memory)

    def _take_from(self, queue: deque[bytes]) -> Batch | None:
        batch = self.outbox.take(queue, self._config.batch_calls)
        if batch is not None:
            self._under_way.add(batch.first_number)
        return batch

    async def _send_or_spool(self, batch: Batch) -> None:
        """Send a batch of memory. Whatever ends this, the batch is answered, in the spool, or back in memory."""
        done = False
        self._sending += 1
        try:
            done = await self._send(batch) or await self._spool.put(batch)
        finally:
            self._sending -= 1
            self._settle(batch, done=done)

    def _settle(self, batch: Batch, *, done: bool) -> None:
        if done:
            self.outbox.release(batch)
            self._under_way.discard(batch.first_number)
        else:
            self.outbox.returned.append(batch)
        self._settled.set()
        self._fresh.set()

    async def _send_spooled(self) -> None:
        """Send what is in the spool, a batch at a time."""
        while True:
            batch = await self._spool.take()
            sent = False
            try:
                async with self._health.turn():
                    sent = await self._send(batch)
            finally:
                if not sent:
                    self._spool.failed()
            if sent:
                await self._spool.delivered(batch)

    async def _send(self, batch: Batch) -> bool:
        """Send a batch once; returns whether it was answered."""
        try:
            with batch_span(batch.calls):
                response = await self._request(batch, self._config.attempt_timeout_s)
        except MeteringError as error:
            self._stats.failed_batches[error.reason or error.code.name] += 1
            self._health.failed(error)
            self._stats.service_up = False
            return False
        self._health.succeeded()
        self._stats.service_up = True
        self._take_in(batch, response)
        return True

    async def _request(self, batch: Batch, timeout_s: float, *, closing: bool = False) -> BatchRecordCallsResponse:
        sender = Sender(
            sender_id=batch.sender_id,
            first_number=batch.first_number,
            # Of another client, whose calls were adopted, we know nothing more.
            numbers=self.outbox.numbers if batch.sender_id == self._sender_id else 0,
            closing=closing,
        )
        await self._turn()
        method = self._next_way()
        with translated_errors():
            response: BatchRecordCallsResponse = await method(
                batch.body + BatchRecordCallsRequest(sender=sender).SerializeToString(), timeout=timeout_s
            )
        return response

    def _next_way(self) -> "aio.UnaryUnaryMultiCallable[bytes, BatchRecordCallsResponse]":
        """Return a connection's method, of each in turn, but of those that are connected if there are any.

        After an outage they are connected again one by one, and what fails on one says nothing of the service.
        """
        for _ in range(len(self._ways)):
            self._ways.rotate(-1)
            channel, method = self._ways[0]
            if channel.get_state(try_to_connect=True) is ChannelConnectivity.READY:
                return method
        self._ways.rotate(-1)
        return self._ways[0][1]

    def _take_in(self, batch: Batch, response: BatchRecordCallsResponse) -> None:
        self._stats.delivered_batches += 1
        self._stats.delivered_calls += response.accepted + response.duplicates
        self._stats.duplicate_calls += response.duplicates
        for status in response.not_active:
            self._learn(status)
        if not response.rejections:
            return
        calls = BatchRecordCallsRequest.FromString(batch.body).calls
        for rejection in response.rejections:
            self._stats.rejected_calls[rejection.reason] += 1
            log.debug("call %s was rejected: %s %s", rejection.call_id, rejection.reason, rejection.message)
            try:
                self._config.on_rejected(calls[rejection.index], rejection)
            except Exception:
                log.exception("on_rejected failed")

    async def _write_disk_first(self) -> None:
        """Write to the spool what shall be on disk first; what comes in meanwhile is the next write."""
        while True:
            while self.outbox.disk:
                await self._turn()
                batch = self._take_from(self.outbox.disk)
                if batch is not None:
                    await self._spool_now(batch)
            self._disk_first.clear()
            self.outbox.await_disk()
            if not self.outbox.disk:
                await self._disk_first.wait()

    async def _spool_now(self, batch: Batch) -> bool:
        stored = False
        try:
            stored = await self._spool.put(batch)
        finally:
            self._settle(batch, done=stored)
        return stored

    async def _keep_house(self) -> None:
        """Spool what has been waiting for too long, and what an outage leaves."""
        ticks = max(round(self._config.spool_after_s / _HOUSEKEEPING_S), 1)
        history = [self.outbox.numbers] * ticks
        while True:
            await asyncio.sleep(min(_HOUSEKEEPING_S, self._config.spool_after_s))
            history = [*history[1:], self.outbox.numbers]
            # What was taken before the history began, and is not numbered yet, has been waiting all the time.
            overdue = history[0] - self.outbox.numbered
            crowded = self.outbox.waiting_calls > self._config.queue_calls // 2
            calls = len(self.outbox.memory) if crowded or not self._health.up else overdue
            await self._spool_memory(calls)
            await self._spool.measure_age()

    async def _spool_memory(self, calls: int) -> None:
        """Spool the oldest calls in memory, as far as there is room."""
        for _ in range(len(self.outbox.returned)):
            if not self.outbox.returned or not await self._spool_now(self.outbox.returned.popleft()):
                return
        while calls > 0 and self.outbox.memory:
            await self._turn()
            batch = self._take_from(self.outbox.memory)
            if batch is None or not await self._spool_now(batch):
                return
            calls -= batch.calls

    async def _adopt(self) -> None:
        """Take over what clients that are gone have left: at full speed, but between the batches of our own."""
        while True:
            if not await self._spool.adopt():
                await asyncio.sleep(_ADOPT_INTERVAL_S)

    async def _report(self) -> None:
        """Tell the service that we live, so that it can tell silence from no traffic."""
        while True:
            await self._send_report(closing=False)
            await asyncio.sleep(self._config.report_interval_s)

    async def _send_report(self, *, closing: bool) -> None:
        try:
            await self._request(Batch(self._sender_id, 0, 0, b""), self._config.attempt_timeout_s, closing=closing)
        except MeteringError as error:  # the batches' failures tell more
            log.debug("no report to the metering service: %s", error)

    def gauge(self) -> None:
        """Bring the sizes in the stats up to date."""
        self._stats.waiting_calls = self.outbox.waiting_calls + self.outbox.held_calls

    async def flush(self, timeout_s: float | None) -> bool:
        """See MeteringClient.flush."""
        self.start()
        last = self.outbox.numbers
        try:
            async with asyncio.timeout(timeout_s):
                while (self.outbox.numbered < last and self.outbox.waiting_calls) or min(
                    self._under_way, default=last + 1
                ) <= last:
                    self._settled.clear()
                    await self._settled.wait()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """See MeteringClient.aclose."""
        self.outbox.closed = True
        if not self._tasks:
            return
        if self._health.up or not self._spool.exists:
            await self.flush(self._config.close_timeout_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._spool_memory(len(self.outbox.memory))
        while (batch := self._take_from(self.outbox.disk)) is not None:
            await self._spool_now(batch)
        lost = self.outbox.waiting_calls + sum(batch.calls for batch in self.outbox.returned)
        if lost:
            report_drop(self._config, self._stats, lost, "closed")
            log.error("%d calls were neither delivered nor spooled when the client was closed", lost)
        if self._health.up:
            await self._send_report(closing=True)
        await self._spool.close()


async def _watched(do: Callable[[], Awaitable[None]]) -> None:
    """Do something for ever. What should never happen is logged, and does not end it: calls would be stuck."""
    while True:
        try:
            await do()
        except Exception:
            log.exception("delivery stumbled, and goes on")
            await asyncio.sleep(1)
