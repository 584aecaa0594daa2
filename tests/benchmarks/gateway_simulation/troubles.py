"""What becomes of the service while the gateway goes on, one trouble after the other."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Self

from tests.benchmarks.gateway_simulation.priorities import lower
from tests.support.processes import ServiceProcess
from tests.support.proxy import TcpProxy

_DELAY_S = 0.05
_REPLY_BYTES = 300


@dataclass(frozen=True)
class Times:
    """How long everything lasts, in seconds."""

    calm_s: float = 6.0
    """Before and after each trouble."""
    stopped_s: float = 60.0
    trouble_s: float = 4.0
    """All others."""


class Troubles:
    """A service and what happens to it."""

    def __init__(self, database_url: str, times: Times) -> None:
        self._database_url = database_url
        self._times = times
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._service = await self._start("--listen", "127.0.0.1:0")
        self.target = self._service.target
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def all(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Return them by name, in order; each ends with a service that works."""
        return {
            "calm": self._calm,
            "stopped": self._stopped,
            "killed, memory empty": self._killed,
            "frozen": self._frozen,
            "behind a proxy": self._behind_a_proxy,
        }

    async def _start(self, *flags: str) -> ServiceProcess:
        service = await self._stack.enter_async_context(ServiceProcess(self._database_url, *flags))
        lower(service.process.pid)
        return service

    async def _start_again(self) -> None:
        self._service = await self._start("--listen", self.target)
        await self._calm()

    async def _calm(self) -> None:
        await asyncio.sleep(self._times.calm_s)

    async def _last(self) -> None:
        await asyncio.sleep(self._times.trouble_s)

    async def _stopped(self) -> None:
        await self._service.terminate()
        await asyncio.sleep(self._times.stopped_s)
        await self._start_again()

    async def _killed(self) -> None:
        await self._service.kill()
        await self._last()
        await self._start_again()

    async def _frozen(self) -> None:
        os.killpg(self._service.process.pid, signal.SIGSTOP)
        try:
            await self._last()
        finally:
            os.killpg(self._service.process.pid, signal.SIGCONT)
        await self._calm()

    async def _behind_a_proxy(self) -> None:
        """Put a proxy where the service was, which cuts, delays, cuts answers, and swallows everything."""
        await self._service.terminate()
        self._service = await self._start("--listen", "127.0.0.1:0")
        port = int(self.target.rpartition(":")[2])
        async with TcpProxy(self._service.target, "127.0.0.1:{port}", port=port) as proxy:
            await self._last()
            for _ in range(3):
                proxy.cut()
                await asyncio.sleep(self._times.trouble_s / 3)
            proxy.delay_s = _DELAY_S
            await self._last()
            proxy.delay_s = 0.0
            proxy.cut_replies_after(_REPLY_BYTES)
            await self._last()
            proxy.cut_replies_after(None)
            proxy.hold()
            await self._last()
            proxy.release()
            await self._calm()
        await self._service.terminate()
        await self._start_again()
