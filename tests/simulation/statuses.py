"""Accounts whose status changes, and a feed of the changes that can be late, and break."""

import asyncio
import random
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal

from metering.errors import DatabaseUnavailableError
from metering.model import AccountId, Money, ServiceState, ServiceStatus
from tests.simulation.postgres import SimulatedPostgres

NOTIFICATION_S = (0.0005, 0.02)


class SimulatedAccounts:
    """The table of accounts, and its notifications."""

    def __init__(self, postgres: SimulatedPostgres, account_ids: Sequence[str]) -> None:
        self.postgres = postgres
        self.present = {AccountId(each): _active(each) for each in account_ids}
        self.since = {account_id: [0.0] for account_id in self.present}
        """When each version of an account began, the first one first."""
        self.listeners: dict[_FeedConnection, None] = {}

    def change(self, account_id: AccountId) -> None:
        """Suspend or reactivate an account, and notify."""
        status = self.present[account_id]
        active = status.state is ServiceState.ACTIVE
        self.present[account_id] = replace(
            status,
            state=ServiceState.SUSPENDED if active else ServiceState.ACTIVE,
            reason="overdue" if active else "",
            version=status.version + 1,
        )
        self.since[account_id].append(asyncio.get_running_loop().time())
        for listener in self.listeners:
            listener.notify(account_id)

    def version_at(self, account_id: AccountId, time_s: float) -> int:
        """Return the version that an account had at some time."""
        return max(1, bisect_right(self.since[account_id], time_s))


class Replica:
    """What a replica sees of the accounts: `AccountReader` and `FeedSource` of metering.access."""

    def __init__(self, accounts: SimulatedAccounts) -> None:
        self._accounts = accounts

    async def statuses(self, account_ids: Sequence[AccountId]) -> list[ServiceStatus]:
        postgres, present = self._accounts.postgres, self._accounts.present
        await postgres.round_trip()
        found = [present[each] for each in account_ids if each in present]
        # What was read is some time under way.
        await postgres.round_trip()
        return found

    async def account_ids(self, chunk: int) -> AsyncIterator[list[AccountId]]:
        await self._accounts.postgres.round_trip()
        everybody = sorted(self._accounts.present)
        for start in range(0, len(everybody), chunk):
            yield everybody[start : start + chunk]

    @asynccontextmanager
    async def listen(self, changed: Callable[[list[AccountId]], None]) -> AsyncIterator["_FeedConnection"]:
        await self._accounts.postgres.round_trip()
        connection = _FeedConnection(self._accounts.postgres.chance, self._accounts, changed)
        self._accounts.listeners[connection] = None
        try:
            yield connection
        finally:
            self._accounts.listeners.pop(connection, None)


class _FeedConnection:
    """Notifications come in the order in which they were sent, after a while; or no more at all."""

    def __init__(
        self, chance: random.Random, accounts: SimulatedAccounts, changed: Callable[[list[AccountId]], None]
    ) -> None:
        self._chance = chance
        self._accounts = accounts
        self._changed = changed
        self._last_at = 0.0
        self.broken = False

    def _deliver(self, what: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self._last_at = max(self._last_at, loop.time() + self._chance.uniform(*NOTIFICATION_S))
        loop.call_at(self._last_at, lambda: None if self.broken else what())

    def notify(self, account_id: AccountId) -> None:
        self._deliver(lambda: self._changed([account_id]))

    async def heartbeat(self, timeout_s: float) -> None:
        heard = asyncio.Event()
        try:
            async with asyncio.timeout(timeout_s):
                await self._accounts.postgres.round_trip()
                self._deliver(heard.set)
                await heard.wait()
        except TimeoutError as error:
            raise DatabaseUnavailableError("simulated: no heartbeat") from error


def _active(account_id: str) -> ServiceStatus:
    return ServiceStatus(
        account_id=AccountId(account_id),
        state=ServiceState.ACTIVE,
        reason="",
        outstanding=Money(Decimal(0), "CNY"),
        version=1,
    )
