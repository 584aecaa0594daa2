"""Open-loop load in a process of its own: requests start when it is planned, whether or not others were answered.

Arrivals are fixed in advance, at random as those of many independent callers are (Poisson), and a latency counts from
the planned arrival: whatever delays a request, be it this process itself, is counted and never left out.
"""

import gc
import random
import selectors
import sys
import time
from collections import Counter
from dataclasses import dataclass
from itertools import cycle, islice

from google.rpc.code_pb2 import Code
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from tests.benchmarks.calls import Requests, Traffic
from tests.benchmarks.http2 import Connection, LoadError, Refusal
from tests.benchmarks.load import ANSWER_SECONDS_MAX, Method, path
from tests.benchmarks.processes import answer, question

_SEED = 20261125
_RESOURCE_EXHAUSTED = 8
_LEAD_SECONDS = 0.05
_STARTED_AT_ONCE = 64
"""So many requests that are late may start before answers are read again."""


@dataclass(frozen=True)
class OpenPlan:
    """What to do to which server."""

    host: str
    port: int
    connections: int
    rate: float
    """Requests a second, on average."""
    batch: int
    """Calls in a request; 1: RecordCall, more: BatchRecordCalls."""
    warm_up_seconds: float
    seconds: float
    shift_seconds: float
    """So much ahead of the clock do calls occur, each in the second of its planned arrival. 0: all in the traffic's."""
    traffic: Traffic


@dataclass(frozen=True)
class OpenResult:
    """What came of the requests planned after the warm-up, unless stated otherwise."""

    planned: int
    answers: dict[str, int]
    """How many ended with which status."""
    ok_per_second: float
    """Requests that were answered with OK during the measured time, whenever they were planned."""
    with_retry_info: int
    """Refusals that said when to try again."""
    p50_ms: float
    p99_ms: float
    p999_ms: float
    """Of those that ended with OK, from the planned arrival."""
    refused_p50_ms: float
    refused_p99_ms: float
    """Of those that were refused; 0 if none was."""
    p99_ms_of_seconds: tuple[float, ...]
    """Of those that ended with OK and were planned in each second."""
    begin: float
    """When the first of those seconds began, since 1970."""
    late_ms: float
    """By how much this process started 99 of 100 requests late, at the most: a part of the latencies."""
    acknowledged: dict[str, int]
    """Calls answered with OK, by account, the warm-up's included."""
    unknown: dict[str, int]
    """Those whose answer leaves open whether they were recorded."""


def run(plan: OpenPlan) -> OpenResult:
    """Make the load; raises LoadError if a connection breaks or answers do not come any more."""
    method = Method.RECORD_CALL if plan.batch == 1 else Method.BATCH_RECORD_CALLS
    connections = [Connection(plan.host, plan.port, path(method)) for _ in range(plan.connections)]
    loop = _OpenLoop(plan, connections)
    gc.collect()
    gc.freeze()
    gc.disable()  # it ends soon, and a pause here would be counted as the server's
    loop.run()
    for connection in connections:
        connection.socket.close()
    return loop.result()


class _OpenLoop:
    """Starts each request at its time, or as soon after it as this process can."""

    def __init__(self, plan: OpenPlan, connections: list[Connection]) -> None:
        self._plan = plan
        self._connections = connections
        self._wall_start = time.time() + _LEAD_SECONDS
        self._arrivals = _arrivals(plan)
        self._requests = self._made()
        # Not epoll, which waits for whole milliseconds.
        self._selector = selectors.SelectSelector()
        self._open: dict[tuple[int, int], int] = {}
        count = len(self._arrivals)
        self._late = [0.0] * count
        self._waits = [0.0] * count
        self._statuses = [-1] * count
        """Of each request: gRPC's number."""
        self._hints = 0
        self._ok_measured = 0

    def _made(self) -> list[bytes]:
        """Make all requests before the clock starts."""
        requests = Requests(self._plan.traffic)
        made = []
        for arrival in self._arrivals:
            if self._plan.shift_seconds:
                requests.occur_in(int(self._wall_start + arrival + self._plan.shift_seconds))
            one = self._plan.batch == 1
            made.append(requests.record_call() if one else requests.batch_record_calls(self._plan.batch))
        return made

    def run(self) -> None:
        """Return when all requests were answered."""
        for connection in self._connections:
            self._selector.register(connection.socket, selectors.EVENT_READ, connection)
        count = len(self._arrivals)
        turn = cycle(self._connections)
        # Making the requests took its time; calls occur a little before they are sent, as they do.
        start = time.perf_counter() + _LEAD_SECONDS
        self._wall_start = time.time() + _LEAD_SECONDS
        following = 0
        while following < count or self._open:
            now = time.perf_counter() - start
            full = False
            for _ in range(_STARTED_AT_ONCE):
                if following == count or self._arrivals[following] > now:
                    break
                free = next((each for each in islice(turn, len(self._connections)) if each.has_room), None)
                if free is None:  # all are full: what is due waits here, and its time counts
                    full = True
                    break
                stream = free.call(self._requests[following])
                self._open[id(free), stream] = following
                self._late[following] = now - self._arrivals[following]
                following += 1
                self._flush(free)
            awaits_answers = full or following == count
            rest = None if awaits_answers else self._arrivals[following] - (time.perf_counter() - start)
            events = self._selector.select(ANSWER_SECONDS_MAX if rest is None else max(0.0, rest))
            if not events and rest is None:
                raise LoadError(f"{len(self._open)} requests had no answer for {ANSWER_SECONDS_MAX} s")
            now = time.perf_counter() - start
            for key, _ in events:
                self._take_in(key.data, now)

    def _take_in(self, connection: Connection, now: float) -> None:
        plan = self._plan
        measured = plan.warm_up_seconds <= now < plan.warm_up_seconds + plan.seconds
        for stream, response in connection.receive():
            number = self._open.pop((id(connection), stream))
            self._waits[number] = now - self._arrivals[number]
            if isinstance(response, Refusal):
                self._statuses[number] = response.status
                if response.status == _RESOURCE_EXHAUSTED and self._arrivals[number] >= plan.warm_up_seconds:
                    self._hints += _says_when_to_retry(response)
            else:
                self._statuses[number] = 0
                self._ok_measured += measured
        self._flush(connection)

    def result(self) -> OpenResult:
        plan = self._plan
        measured = [number for number, arrival in enumerate(self._arrivals) if arrival >= plan.warm_up_seconds]
        ok = [number for number in measured if self._statuses[number] == 0]
        refused = [number for number in measured if self._statuses[number] == _RESOURCE_EXHAUSTED]
        if not ok:
            raise LoadError("no request ended with OK")
        by_second: list[list[float]] = [[] for _ in range(int(plan.seconds) or 1)]
        for number in ok:
            second = int(self._arrivals[number] - plan.warm_up_seconds)
            by_second[min(second, len(by_second) - 1)].append(self._waits[number])
        waits = sorted(self._waits[number] for number in ok)
        refusals = sorted(self._waits[number] for number in refused)
        answers = Counter(self._statuses[number] for number in measured)
        return OpenResult(
            planned=len(measured),
            answers={Code.Name(status): number for status, number in answers.items()},
            ok_per_second=self._ok_measured / plan.seconds,
            with_retry_info=self._hints,
            p50_ms=_percentile_ms(waits, 0.5),
            p99_ms=_percentile_ms(waits, 0.99),
            p999_ms=_percentile_ms(waits, 0.999),
            refused_p50_ms=_percentile_ms(refusals, 0.5),
            refused_p99_ms=_percentile_ms(refusals, 0.99),
            p99_ms_of_seconds=tuple(_percentile_ms(sorted(each), 0.99) for each in by_second),
            begin=self._wall_start + plan.warm_up_seconds,
            late_ms=_percentile_ms(sorted(self._late[number] for number in measured), 0.99),
            acknowledged=self._calls_of_accounts({0}),
            unknown=self._calls_of_accounts(set(self._statuses) - {0, _RESOURCE_EXHAUSTED}),
        )

    def _calls_of_accounts(self, statuses: set[int]) -> dict[str, int]:
        """Return how many calls of each account were in requests that ended with one of these statuses."""
        account_ids, draws, batch = self._plan.traffic.account_ids(), self._plan.traffic.draws(), self._plan.batch
        counts: Counter[str] = Counter()
        for number, status in enumerate(self._statuses):
            if status in statuses:
                counts.update(
                    account_ids[draws[place % len(draws)]] for place in range(number * batch, (number + 1) * batch)
                )
        return dict(counts)

    def _flush(self, connection: Connection) -> None:
        wanted = selectors.EVENT_READ if connection.flush() else selectors.EVENT_READ | selectors.EVENT_WRITE
        if self._selector.get_key(connection.socket).events != wanted:
            self._selector.modify(connection.socket, wanted, connection)


def _arrivals(plan: OpenPlan) -> list[float]:
    """Return when requests start, in seconds from the beginning."""
    chance = random.Random(_SEED)
    arrivals = []
    at = chance.expovariate(plan.rate)
    while at < plan.warm_up_seconds + plan.seconds:
        arrivals.append(at)
        at += chance.expovariate(plan.rate)
    return arrivals


def _percentile_ms(ascending: list[float], share: float) -> float:
    return 1_000 * ascending[int(len(ascending) * share)] if ascending else 0.0


def _says_when_to_retry(refusal: Refusal) -> bool:
    return any(detail.Is(RetryInfo.DESCRIPTOR) for detail in Status.FromString(refusal.details).details)


if __name__ == "__main__":
    try:
        answer(run(question(OpenPlan)))
    except (LoadError, OSError) as problem:
        sys.exit(f"{problem}")
