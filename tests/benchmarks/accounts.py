"""Reads the usage of accounts by GetMonthlyUsage, one request after the other, in a process of its own."""

import asyncio
import sys
import time
from dataclasses import dataclass

from grpc import aio

from faceid.metering.v1 import metering_service_pb2 as pb
from faceid.metering.v1 import metering_service_pb2_grpc as pb_grpc
from tests.benchmarks.processes import answer, question

_RPC_SECONDS_MAX = 30


@dataclass(frozen=True)
class UsagePlan:
    """What to ask of which server."""

    target: str
    """HOST:PORT."""
    account_ids: tuple[str, ...]
    month: str
    """Such as `2026-11`."""


@dataclass(frozen=True)
class UsageResult:
    """What came of it."""

    calls: dict[str, int]
    """The total of each account."""
    p50_ms: float
    p99_ms: float
    """As a Python client sees it, its own cost of some 0.3 ms included."""


async def run(plan: UsagePlan) -> UsageResult:
    """Ask."""
    calls, waits = {}, []
    async with aio.insecure_channel(plan.target) as channel:
        metering = pb_grpc.MeteringServiceStub(channel)
        for account_id in plan.account_ids:
            request = pb.GetMonthlyUsageRequest(account_id=account_id, month=plan.month)
            begin = time.perf_counter()
            response = await metering.GetMonthlyUsage(request, timeout=_RPC_SECONDS_MAX)
            waits.append(1_000 * (time.perf_counter() - begin))
            calls[account_id] = response.usage.total_calls
    waits = sorted(waits[1:])  # the first one connects
    return UsageResult(calls, p50_ms=waits[len(waits) // 2], p99_ms=waits[len(waits) * 99 // 100])


if __name__ == "__main__":
    try:
        answer(asyncio.run(run(question(UsagePlan))))
    except aio.AioRpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")
