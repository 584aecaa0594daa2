"""One fuzzing: odd requests to every RPC, and noise on both ports, of a real process; then a look at what it did."""

import asyncio
import random
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from faceid.metering.v1 import account_service_pb2, metering_service_pb2
from tests.fuzz.messages import FORGED, MessageMaker, spoiled_bytes
from tests.fuzz.wire import conversation, say
from tests.support.audit import run_audit
from tests.support.processes import ServiceProcess
from tests.support.service import PLAN

FILES = (metering_service_pb2, account_service_pb2, health_pb2, reflection_pb2)
AT_A_TIME = 8
STREAM_MESSAGES_MAX = 20
RPC_S = 3.0
GROWTH_MB_MAX = 100
"""After a warm-up. What the service remembers of calls and names is bounded by more than a fuzzing fills: some ten
thousand of them are a few MB."""
DEFECTS = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS}
UNTRUE = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAUTHENTICATED}
"""The database is there all the time, so that to say it is not is wrong, too."""
_LOG_LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z [A-Z]+ +(metering|worker \d+): ")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")

NAMES: dict[str, Sequence[str]] = {
    "account_id": ("acme", "bolt", "core", "nobody"),
    "account_ids": ("acme", "bolt", "nobody"),
    "api": ("DetectAuth", "CompareFace", "LivenessCheck", "Unpriced"),
    "result_code": ("", "E.Uncharged", "E.Other"),
    "month": ("2026-10", "2026-09", "2026-11", "2026-12"),
    "from_month": ("2026-12", "2027-01", "2026-11"),
    "currency": ("CNY", "USD", "JPY"),
    "price_plan_id": (PLAN, "other", "third"),
    "payment_id": ("payment-1", "payment-2", "payment-3"),
    "unit_price": ("0.01", "0", "1.000000001", "12.5"),
    "sender_id": ("0192f0c1-2345-7abc-8def-0123456789ab",),
    "page_token": ("",),
}


@dataclass
class Outcome:
    """What a fuzzing came to."""

    problems: list[str] = field(default_factory=list)
    codes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How often each method ended how."""
    connections: int = 0
    """With noise on them."""
    growth_mb: float = 0.0

    def wrong(self, problem: str) -> None:
        """Note a problem, once."""
        if problem not in self.problems:
            self.problems.append(problem)


class Fuzzing:
    """Sends it."""

    def __init__(self, service: ServiceProcess, rng: random.Random, outcome: Outcome) -> None:
        self._service = service
        self._rng = rng
        self._outcome = outcome
        self._maker = MessageMaker(rng, NAMES)
        self.methods = [
            method
            for file in FILES
            for service_descriptor in file.DESCRIPTOR.services_by_name.values()
            for method in service_descriptor.methods
        ]

    async def run(self, seconds: float) -> None:
        """Go on for so long."""
        end = time.monotonic() + seconds
        await asyncio.gather(*(self._send_until(end) for _ in range(AT_A_TIME)), self._make_noise_until(end))

    async def _send_until(self, end: float) -> None:
        while time.monotonic() < end and self._service.process.returncode is None:
            method = self._rng.choice(self.methods)
            nastiness = self._rng.choice((0.0, 0.05, 0.3, 0.8))
            request = self._maker.make(method.input_type, nastiness).SerializeToString()
            if self._rng.random() < 0.2:
                request = spoiled_bytes(request, self._rng)
            await self._send(method, request)

    async def _send(self, method: MethodDescriptor, request: bytes) -> None:
        try:
            async for response in self._responses(method, request):
                answer = message_factory.GetMessageClass(method.output_type).FromString(response)
                self._maker.learn(answer)
                for field_descriptor, value in answer.ListFields():
                    if field_descriptor.message_type and not field_descriptor.is_repeated:
                        self._maker.learn(value)
            code = grpc.StatusCode.OK
        except grpc.aio.AioRpcError as error:
            code = error.code()
            if code in DEFECTS or code in UNTRUE:
                shown = request[:300].hex()
                self._outcome.wrong(f"{method.full_name}: {code.name}: {error.details()}; the request: {shown}")
        self._outcome.codes[method.name, code.name] += 1

    async def _responses(self, method: MethodDescriptor, request: bytes) -> AsyncIterator[bytes]:
        path = f"/{method.containing_service.full_name}/{method.name}"
        channel: Any = self._service.channel  # bytes go over it as they are
        options = {"timeout": RPC_S, "metadata": self._metadata()}
        if method.client_streaming:
            stream = channel.stream_stream(path)(iter([request]), **options)
        elif method.server_streaming:
            stream = channel.unary_stream(path)(request, **options)
        else:
            yield await channel.unary_unary(path)(request, **options)
            return
        for _ in range(STREAM_MESSAGES_MAX):
            # A watch does not end, and says nothing while nothing changes.
            try:
                response = await asyncio.wait_for(stream.read(), 0.3)
            except TimeoutError:
                break
            if response is grpc.aio.EOF:
                break
            yield response
        stream.cancel()

    def _metadata(self) -> list[tuple[str, str | bytes]]:
        rng = self._rng
        if rng.random() < 0.9:
            return []
        odd: Sequence[list[tuple[str, str | bytes]]] = (
            [("x-big", "v" * rng.choice((4_000, 7_000)))],
            [(f"x-{number}", "v") for number in range(200)],
            [("x-bin", rng.randbytes(500))],
            [("authorization", "Bearer ' OR 1=1 --")],
        )
        return rng.choice(odd)

    async def _make_noise_until(self, end: float) -> None:
        http = self._service.http.removeprefix("http://")
        while time.monotonic() < end and self._service.process.returncode is None:
            method = self._rng.choice(self.methods)
            path = f"/{method.containing_service.full_name}/{method.name}"
            message = self._maker.make(method.input_type, 0.3).SerializeToString()
            target = self._service.target if self._rng.random() < 0.8 else http
            try:
                await say(target, conversation(path, message, self._rng), close=self._rng.random() < 0.5)
            except ConnectionRefusedError:  # it has just ended, which is seen a little later, or it is deaf
                self._outcome.wrong(f"{target} refuses connections")
                await asyncio.sleep(1)
            self._outcome.connections += 1


async def run(database_url: str, seconds: float, seed: int) -> Outcome:
    """Fuzz a service on a migrated database for so long, and look at it then."""
    outcome = Outcome()
    async with ServiceProcess(database_url) as service:
        tables = await _tables(database_url)
        for account_id in ("acme", "bolt", "core"):
            await service.activate(account_id)
        fuzzing = Fuzzing(service, random.Random(seed), outcome)
        await fuzzing.run(seconds / 3)
        before_mb = _resident_mb(service.process.pid)
        await fuzzing.run(seconds * 2 / 3)
        if service.process.returncode is not None:
            outcome.wrong(f"the service ended with {service.process.returncode}")
            return outcome
        outcome.growth_mb = _resident_mb(service.process.pid) - before_mb
        if outcome.growth_mb > GROWTH_MB_MAX:
            outcome.wrong(f"the service grew by {outcome.growth_mb:.0f} MB")
        await _check_that_it_serves(service, outcome)
        exit_code = await service.terminate()
        if exit_code != 0:
            outcome.wrong(f"it stopped with exit code {exit_code}")
    for line in service.output[
        service.output.index("  Stop with Ctrl-C: calls under way are committed first.\n") + 1 :
    ]:
        _check_line(line, outcome)
    audit = await run_audit(database_url)
    outcome.problems += [f"the audit found: {difference}" for difference in audit.differences]
    if await _tables(database_url) != tables:
        outcome.wrong(f"the tables are {await _tables(database_url)}, and were {tables}")
    missing = {method.name for method in fuzzing.methods} - {name for name, _ in outcome.codes}
    if missing:
        outcome.wrong(f"there was no time for {missing}: fuzz for longer")
    return outcome


async def _check_that_it_serves(service: ServiceProcess, outcome: Outcome) -> None:
    answer = await service.record(service.call("acme"))
    if answer.duplicate:
        outcome.wrong("a new call was told as a repeat")
    status, _ = await service.get("/metrics")
    if status != 200:
        outcome.wrong(f"/metrics answers {status}")


def _check_line(line: str, outcome: Outcome) -> None:
    """Every line of the log is one of ours, and what clients sent cannot make it look otherwise."""
    known = _LOG_LINE.match(line) or line.startswith(("    ", "stopped; ", "\n"))
    if not known or line.startswith(FORGED[:4] + "-01-01") or _CONTROL.search(line):
        outcome.wrong(f"in the log: {line[:300]!r}")
    if " ERROR " in line and (" failed" in line or ": Unexpected [" in line):
        outcome.wrong(f"a defect in the log: {line[:300]!r}")


async def _tables(url: str) -> list[str]:
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename !~ '^calls_\\d{8}$' ORDER BY 1"
        )
    finally:
        await connection.close()
    return [row["tablename"] for row in rows]


def _resident_mb(pid: int) -> float:
    statm = Path(f"/proc/{pid}/statm")
    return int(statm.read_text().split()[1]) * 4096 / 1024**2 if statm.exists() else 0.0
