"""Whether the service takes calls, and who may try."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from faceid_metering.config import ClientConfig
from faceid_metering.errors import MeteringError
from faceid_metering.retry import BackOff
from faceid_metering.runtime import Runtime

log = logging.getLogger(__name__)


class Health:
    """The retry budget: after a failure, one batch at a time is tried, after a pause, until one gets through.

    So a sick service gets from each client one request in `back_off_max_s`, however many calls wait.
    """

    def __init__(self, config: ClientConfig, runtime: Runtime) -> None:
        """Take it for well."""
        self.up = True
        self._back_off = BackOff(config, runtime)
        self._sleep = runtime.sleep
        self._pause_s = 0.0
        self._trying = asyncio.Lock()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait until something may be sent; tell what became of it before leaving."""
        if self.up:
            yield
            return
        async with self._trying:
            if not self.up:
                await self._sleep(self._pause_s)
            yield

    def succeeded(self) -> None:
        """A batch was answered."""
        if not self.up:
            log.info("the metering service takes calls again")
            self.up = True
            self._back_off.reset()

    def failed(self, error: MeteringError) -> None:
        """A batch was not."""
        if self.up:
            log.warning("the metering service does not take calls, they are kept and sent later: %s", error)
            self.up = False
        elif not self._trying.locked():  # it was under way when another one failed
            return
        self._pause_s = self._back_off.next_s(error.retry_after_s)
