"""Closed-loop load in a process of its own: so many calls are in flight all the time, each answer starts the next one.

It is one thread around a selector. A Python gRPC client would cost about as much processor as the server that it is to
measure (about 130 µs a call, and the cores are shared); what this costs is measured and told with each result.
"""

import gc
import selectors
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from faceid.metering.v1 import metering_service_pb2 as pb
from tests.benchmarks.calls import REPEATED_AFTER_BATCHES, Requests, Traffic
from tests.benchmarks.http2 import Connection, LoadError, Refusal
from tests.benchmarks.processes import answer, question

ANSWER_SECONDS_MAX = 30
"""How long no answer may come before we give up."""
_PARSE_EVERY = 101
"""So many responses come between two that are parsed; that they are OK is checked of every one."""
_PREPARED_BYTES_MAX = 256 * 1024 * 1024


class Method(StrEnum):
    """What is called."""

    RECORD_CALL = "RecordCall"
    BATCH_RECORD_CALLS = "BatchRecordCalls"
    CHECK_SERVICE_STATUS = "CheckServiceStatus"


@dataclass(frozen=True)
class LoadPlan:
    """What to do to which server."""

    host: str
    port: int
    method: Method
    connections: int
    in_flight: int
    """Requests, over all connections."""
    batch: int
    """Calls in a request: 1 but for BatchRecordCalls."""
    repeats: int
    """So many of the calls in a batch were in one before it, but for the first ones."""
    warm_up_seconds: float
    seconds: float
    gather_seconds: float
    """For how long answers are gathered before they are read. One by one, most of what they cost is system calls."""
    traffic: Traffic


@dataclass(frozen=True)
class LoadResult:
    """What came of it. A call is one request, but for BatchRecordCalls one of its records."""

    calls: int
    """Calls acknowledged during the measured time, those that were repeated included."""
    seconds: float
    """The measured time."""
    calls_in_all: int
    """Calls acknowledged during warm-up, the measured time, and while the last answers came in."""
    new_calls: int
    """Those of them that were no duplicates."""
    processor_seconds: float
    """What this process took of a processor, during the measured time."""
    p50_ms: float
    """Half of the requests took no longer than this, on average half of gather_seconds included."""
    p99_ms: float


def run(plan: LoadPlan) -> LoadResult:
    """Make the load; raises LoadError as soon as a call fails."""
    take, check = _traffic_of(plan)
    connections = [Connection(plan.host, plan.port, path(plan.method)) for _ in range(plan.connections)]
    gc.collect()
    gc.freeze()
    gc.disable()  # it ends soon, and a pause here would be counted as the server's
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
        loop = _ClosedLoop(plan, selector, take, check)
        for number in range(plan.in_flight):
            loop.call(connections[number % len(connections)])
        loop.run(connections)
    for connection in connections:
        connection.socket.close()
    return loop.result()


class _ClosedLoop:
    """Replaces each call that has ended by a new one, until the time is up."""

    def __init__(
        self,
        plan: LoadPlan,
        selector: selectors.BaseSelector,
        take: Callable[[], bytes],
        check: Callable[[bytes], int],
    ) -> None:
        self._plan = plan
        self._selector = selector
        self._take = take
        self._check = check
        self._check_every = 1 if plan.repeats else _PARSE_EVERY
        self._duplicates = 0
        self._started: dict[tuple[int, int], float] = {}
        self._answers = 0
        self._waits: list[float] = []
        """Of the requests that were answered during the measured time, in seconds."""
        self._processor_seconds = 0.0

    def call(self, connection: Connection) -> None:
        self._started[id(connection), connection.call(self._take())] = time.perf_counter()

    def run(self, connections: list[Connection]) -> None:
        """Return when the time is up and the last answer has come."""
        begin = time.perf_counter() + self._plan.warm_up_seconds
        end = begin + self._plan.seconds
        for connection in connections:
            self._flush(connection)
        while self._started:
            events = self._selector.select(ANSWER_SECONDS_MAX)
            if not events:
                raise LoadError(f"{len(self._started)} calls had no answer for {ANSWER_SECONDS_MAX} s")
            if self._plan.gather_seconds:
                time.sleep(self._plan.gather_seconds)
                events = self._selector.select(0)
            now = time.perf_counter()
            if now < begin:
                self._processor_seconds = -time.process_time()
            elif now >= end and self._processor_seconds < 0:
                self._processor_seconds += time.process_time()
            for key, _ in events:
                self._replace_ended(key.data, now, measured=begin <= now < end, more=now < end)

    def _replace_ended(self, connection: Connection, now: float, *, measured: bool, more: bool) -> None:
        for stream, response in connection.receive():
            wait = now - self._started.pop((id(connection), stream))
            if measured:
                self._waits.append(wait)
            if more:
                self.call(connection)
            if isinstance(response, Refusal):
                raise LoadError(f"a call failed with gRPC status {response.status}: {response.message}")
            if self._answers % self._check_every == 0:
                self._duplicates += self._check(response)
            self._answers += 1
        self._flush(connection)

    def result(self) -> LoadResult:
        if not self._waits:
            raise LoadError(f"no call was answered within {self._plan.seconds} s")
        repeated = self._plan.repeats * max(0, self._answers - REPEATED_AFTER_BATCHES)
        if self._duplicates != repeated:
            raise LoadError(f"{repeated} calls were sent again, and {self._duplicates} were taken for duplicates")
        waits = sorted(self._waits)
        return LoadResult(
            calls=len(waits) * self._plan.batch,
            seconds=self._plan.seconds,
            calls_in_all=self._answers * self._plan.batch,
            new_calls=self._answers * self._plan.batch - repeated,
            processor_seconds=self._processor_seconds,
            p50_ms=1_000 * waits[len(waits) // 2],
            p99_ms=1_000 * waits[len(waits) * 99 // 100],
        )

    def _flush(self, connection: Connection) -> None:
        wanted = selectors.EVENT_READ if connection.flush() else selectors.EVENT_READ | selectors.EVENT_WRITE
        if self._selector.get_key(connection.socket).events != wanted:
            self._selector.modify(connection.socket, wanted, connection)


def path(method: Method) -> str:
    """Return the path of a method."""
    return f"/faceid.metering.v1.MeteringService/{method}"


def _traffic_of(plan: LoadPlan) -> tuple[Callable[[], bytes], Callable[[bytes], int]]:
    """Return what gives the next request, and what checks a response and tells how many duplicates it speaks of."""
    requests = Requests(plan.traffic)
    match plan.method:
        case Method.RECORD_CALL:
            return requests.record_call, _check_recorded
        case Method.CHECK_SERVICE_STATUS:
            return requests.check_service_status, _check_active
        case Method.BATCH_RECORD_CALLS:
            # More than a server on this machine can take.
            calls = 250_000 * (plan.warm_up_seconds + plan.seconds)
            batches = prepared(lambda: requests.batch_record_calls(plan.batch, plan.repeats), int(calls / plan.batch))
            return batches, lambda response: _check_batch(response, plan)


def prepared(make: Callable[[], bytes], count: int) -> Callable[[], bytes]:
    """Return what gives the next batch. Most are made before the clock starts, since it takes some time to make them.

    Should they not be enough, the others are made as they are needed.
    """
    ready = deque((make(),))
    count = min(count, _PREPARED_BYTES_MAX // len(ready[0]))
    ready.extend(make() for _ in range(count))
    return lambda: ready.popleft() if ready else make()


def _check_recorded(response: bytes) -> int:
    message = pb.RecordCallResponse.FromString(response)
    if message.duplicate or not message.billing_month or message.service_status.state != 1:
        raise LoadError(f"a new call of an active account was answered: {message}")
    return 0


def _check_active(response: bytes) -> int:
    message = pb.CheckServiceStatusResponse.FromString(response)
    if message.service_status.state != 1:
        raise LoadError(f"an active account's status was answered: {message}")
    return 0


def _check_batch(response: bytes, plan: LoadPlan) -> int:
    message = pb.BatchRecordCallsResponse.FromString(response)
    # A call that is on its way twice at once is new in one batch, whichever, and a duplicate in the other.
    if (
        message.accepted + message.duplicates != plan.batch
        or (message.duplicates and not plan.repeats)
        or message.rejections
        or message.not_active
    ):
        raise LoadError(f"{plan.batch} calls of active accounts, {plan.repeats} repeated, were answered: {message}")
    return message.duplicates


if __name__ == "__main__":
    try:
        answer(run(question(LoadPlan)))
    except (LoadError, OSError) as problem:
        sys.exit(f"{problem}")
