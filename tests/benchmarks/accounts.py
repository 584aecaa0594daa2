"""The accounts that call, in a process of its own: activates them, compares their usage with what was acknowledged."""

import asyncio
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from grpc import aio

from faceid.metering.v1 import account_service_pb2 as account_pb
from faceid.metering.v1 import account_service_pb2_grpc as account_pb_grpc
from faceid.metering.v1 import metering_service_pb2 as pb
from faceid.metering.v1 import metering_service_pb2_grpc as pb_grpc
from tests.benchmarks.calls import Traffic
from tests.benchmarks.processes import answer, question

T = TypeVar("T")

_RPC_SECONDS_MAX = 30
_RPCS_AT_ONCE = 64


@dataclass(frozen=True)
class AccountsPlan:
    """What to do to which server."""

    target: str
    """HOST:PORT."""
    traffic: Traffic
    activate: bool
    """Whether the accounts are to be activated."""
    acknowledged: tuple[int, ...]
    """How many calls were acknowledged in each load so far. Each of them began with the first call of the traffic."""


@dataclass(frozen=True)
class UsageCheck:
    """What came of it."""

    calls: int
    """Calls acknowledged, all accounts together."""
    different: tuple[str, ...]
    """Which accounts' usage is not what was acknowledged to them."""


async def run(plan: AccountsPlan) -> UsageCheck:
    """Activate the accounts if need be, and compare their usage with what was acknowledged."""
    month = f"{plan.traffic.day():%Y-%m}"
    acknowledged: Counter[str] = Counter()
    for calls in plan.acknowledged:
        acknowledged.update(plan.traffic.calls_of_accounts(calls))
    async with aio.insecure_channel(plan.target) as channel:
        accounts, metering = account_pb_grpc.AccountServiceStub(channel), pb_grpc.MeteringServiceStub(channel)

        async def activate(account_id: str) -> None:
            request = account_pb.ActivateAccountRequest(account_id=account_id, currency="CNY")
            await accounts.ActivateAccount(request, wait_for_ready=True, timeout=_RPC_SECONDS_MAX)

        async def difference(account_id: str) -> str:
            request = pb.GetMonthlyUsageRequest(account_id=account_id, month=month)
            response = await metering.GetMonthlyUsage(request, timeout=_RPC_SECONDS_MAX)
            counted, expected = response.usage.total_calls, acknowledged[account_id]
            return "" if counted == expected else f"{account_id}: {expected} acknowledged, {counted} counted"

        if plan.activate:
            await _for_each(plan.traffic.account_ids(), activate)
        differences = await _for_each(plan.traffic.account_ids(), difference)
    return UsageCheck(calls=acknowledged.total(), different=tuple(filter(None, differences)))


async def _for_each(items: Iterable[str], do: Callable[[str], Awaitable[T]]) -> list[T]:
    """Do something to each item, some at a time."""
    limit = asyncio.Semaphore(_RPCS_AT_ONCE)

    async def do_one(item: str) -> T:
        async with limit:
            return await do(item)

    return await asyncio.gather(*map(do_one, items))


if __name__ == "__main__":
    try:
        answer(asyncio.run(run(question(AccountsPlan))))
    except aio.AioRpcError as error:
        sys.exit(f"{error.code().name}: {error.details()}")
