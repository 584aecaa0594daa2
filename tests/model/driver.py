"""Runs the real service for a state machine: a database of its own for each example, in one event loop for all."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import uuid4

import asyncpg
import pytest

from metering import app
from metering.billing.audit import Audit, audit
from metering.store.audit import AuditStore
from metering.store.database import Database
from tests.conftest import execute, with_database
from tests.support.service import FakeClock, Service

T = TypeVar("T")
LONG_S = 30.0


class Driver:
    """Starts and stops services. One for all examples of a state machine."""

    def __init__(self, server_url: str, template: str) -> None:
        self._server_url = server_url
        self._template = template
        self._runner = asyncio.Runner()
        self._patch = pytest.MonkeyPatch()
        self.examples = 0
        self.steps = 0

    def __enter__(self) -> Self:
        # The monthly run is done at the start of a service, and else when the machine says so.
        self._patch.setattr(app, "MONTHLY_RUN_INTERVAL_S", 86_400.0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._patch.undo()
        self._runner.close()

    def run(self, doing: Coroutine[Any, Any, T]) -> T:
        """Wait for something; the service runs meanwhile, and only then."""
        return self._runner.run(doing)

    def start(self, zone: str, now: datetime) -> "Running":
        """Return a service on a fresh database."""
        self.examples += 1
        running = Running(self, self._server_url, f"metering_model_{uuid4().hex}", zone, FakeClock(now))
        self.run(running.create(self._template))
        return running


class Running:
    """A service, its database, and its clock."""

    def __init__(self, driver: Driver, server_url: str, name: str, zone: str, clock: FakeClock) -> None:
        self._driver = driver
        self._server_url = server_url
        self._name = name
        self._zone = zone
        self.clock = clock

    async def create(self, template: str) -> None:
        await execute(self._server_url, f"CREATE DATABASE {self._name} TEMPLATE {template}")
        url = with_database(self._server_url, self._name)
        self.db = await asyncpg.connect(url)
        self._books = await Database.connect(url, name="model audit", connections=1)
        await self._start()

    async def _start(self) -> None:
        url = with_database(self._server_url, self._name)
        self.service = await Service(url, self.clock, billing_timezone=self._zone).__aenter__()

    async def restart(self) -> None:
        """Stop the service as SIGTERM does, and start it again."""
        await self.service.__aexit__(None, None, None)
        await self._start()

    async def drop(self) -> None:
        await self.service.__aexit__(None, None, None)
        await self._books.close()
        await self.db.close()
        await execute(self._server_url, f"DROP DATABASE {self._name} WITH (FORCE)")

    async def audit(self) -> Audit:
        return await audit(AuditStore(self._books))


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    """Wait for something to become true."""
    async with asyncio.timeout(LONG_S):
        while not await condition():
            await asyncio.sleep(0.005)
