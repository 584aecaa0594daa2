"""Runs the real service for a state machine: a database of its own for each example, in one event loop for all."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import datetime
from types import TracebackType
from typing import Self, TypeVar
from uuid import uuid4

import asyncpg
import pytest

from metering import app
from tests.conftest import execute, with_database
from tests.model.reference import Books
from tests.support.audit import Audit, run_audit
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
        self.seen: Counter[str] = Counter()
        """What happened, in numbers."""

    def __enter__(self) -> Self:
        # The monthly run is done at the start of a service, and else when the machine says so.
        self._patch.setattr(app, "MONTHLY_RUN_INTERVAL_S", 86_400.0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._patch.undo()
        self._runner.close()

    def wait(self, doing: Awaitable[T]) -> T:
        """Wait for something; the service runs meanwhile, and only then."""

        async def wait() -> T:
            return await doing

        return self._runner.run(wait())

    def start(self, zone: str, now: datetime) -> "Running":
        """Return a service on a fresh database."""
        running = Running(self._server_url, f"metering_model_{uuid4().hex}", zone, FakeClock(now))
        self.wait(running.create(self._template))
        return running

    def end(self, running: "Running", books: Books) -> None:
        """Stop a service, and note what it has been through."""
        self.wait(running.drop())
        bills = [bill for account in books.accounts.values() for bill in account.bills.values()]
        entries = [amount for account in books.accounts.values() for amount, _ in account.ledger]
        self.seen += Counter(
            {
                "examples": 1,
                "accounts": len(books.accounts),
                "calls": len(books.calls),
                "carried calls": books.totals()["carried"],
                "rejected calls recorded later": sum(each.billing_month is not None for each in books.rejected),
                "bills": len(bills),
                "lines of carried calls": sum(line.month < bill.month for bill in bills for line in bill.lines),
                "lines of several tiers": sum(len(line.parts) > 1 for bill in bills for line in bill.lines),
                "bills overdue in the end": sum(bill.state == "OVERDUE" for bill in bills),
                "payments": sum(amount > 0 for amount in entries),
                "deductions": sum(amount < 0 for amount in entries),
            }
        )
        print(f"example {self.seen['examples']}, {self.seen['steps']} steps so far", flush=True)  # noqa: T201


class Running:
    """A service, its database, and its clock."""

    def __init__(self, server_url: str, name: str, zone: str, clock: FakeClock) -> None:
        self._server_url = server_url
        self._name = name
        self._zone = zone
        self.clock = clock

    async def create(self, template: str) -> None:
        await execute(self._server_url, f"CREATE DATABASE {self._name} TEMPLATE {template}")
        url = with_database(self._server_url, self._name)
        self.db = await asyncpg.connect(url)
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
        await self.db.close()
        await execute(self._server_url, f"DROP DATABASE {self._name} WITH (FORCE)")

    async def audit(self) -> Audit:
        return await run_audit(with_database(self._server_url, self._name), clock=self.clock)


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    """Wait for something to become true."""
    async with asyncio.timeout(LONG_S):
        while not await condition():
            await asyncio.sleep(0.005)
