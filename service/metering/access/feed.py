"""The feed of status changes: keeps the statuses in memory fresh, and tells watchers."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from metering.access.statuses import ACCOUNTS_PER_LOOK_UP, Statuses
from metering.errors import DatabaseUnavailableError, MeteringError, Reason
from metering.model import AccountId, ServiceStatus

HEARTBEAT_INTERVAL_S = 0.5
HEARTBEAT_TIMEOUT_S = 5.0
RECONNECT_INTERVAL_S = 0.5
WATCH_HEARTBEAT_INTERVAL_S = 1.0

log = logging.getLogger(__name__)


class FeedConnection(Protocol):
    """A connection that notifications come over."""

    async def heartbeat(self, timeout_s: float) -> None:
        """Return once all changes committed before were heard of; raises DatabaseUnavailableError."""


class FeedSource(Protocol):
    """Where notifications come from."""

    def listen(self, changed: Callable[[list[AccountId]], None]) -> AbstractAsyncContextManager[FeedConnection]:
        """Listen as long as this lasts; `changed` is called with the accounts of each notification."""


class AccountReader(Protocol):
    """Where accounts are kept."""

    def account_ids(self, chunk: int) -> AsyncIterator[list[AccountId]]:
        """Return the ids of all accounts, at most `chunk` at a time, sorted."""

    async def statuses(self, account_ids: Sequence[AccountId]) -> list[ServiceStatus]:
        """Return the statuses of accounts; unknown ones are left out."""


class _Watcher:
    """Who wants to hear of changes, and of which accounts something is new to it."""

    def __init__(self, accounts: frozenset[AccountId] | None, *, changes_only: bool) -> None:
        self.accounts = accounts
        self.changes_only = changes_only
        self.changed: dict[AccountId, None] = {}
        self.all_is_news = not changes_only
        self.woken = asyncio.Event()
        self.woken.set()

    def tell(self, account_ids: Collection[AccountId]) -> None:
        """Note changes. An account is noted once, however often it changed: a slow reader costs no memory."""
        mine = account_ids if self.accounts is None else self.accounts.intersection(account_ids)
        if mine:
            self.changed.update(dict.fromkeys(mine))
            self.woken.set()

    def tell_all(self) -> None:
        """Note that any account may have changed."""
        self.all_is_news = True
        self.woken.set()


class StatusFeed:
    """Hears of every change of a status, in whichever replica it was made."""

    def __init__(self, source: FeedSource, accounts: AccountReader, statuses: Statuses) -> None:
        self._source = source
        self._accounts = accounts
        self._statuses = statuses
        self._watchers: set[_Watcher] = set()
        self._changed: set[AccountId] = set()
        self._woken = asyncio.Event()
        self._fresh_at = float("-inf")
        self._up = False
        self._stopping = False

    @property
    def age_s(self) -> float:
        """How old a status in memory may be: the time since we last knew that we had heard of every change."""
        return asyncio.get_running_loop().time() - self._fresh_at

    @property
    def up(self) -> bool:
        """Changes are being heard of."""
        return self._up

    @property
    def watchers(self) -> int:
        """How many watch."""
        return len(self._watchers)

    async def run(self) -> None:
        """Listen until cancelled; connect again when the connection is lost."""
        while True:
            try:
                async with self._source.listen(self._hear) as connection:
                    await self._resync()
                    await self._follow(connection)
            except DatabaseUnavailableError as error:
                if self._up:
                    log.error("service statuses grow old until the database is back. %s", error)  # noqa: TRY400
                self._up = False
            await asyncio.sleep(RECONNECT_INTERVAL_S)

    def _hear(self, account_ids: list[AccountId]) -> None:
        self._changed.update(account_ids)
        self._woken.set()

    async def _follow(self, connection: FeedConnection) -> None:
        """Take in changes as they come, and make sure by heartbeats that they do come."""
        loop = asyncio.get_running_loop()
        while True:
            asked_at = loop.time()
            await connection.heartbeat(HEARTBEAT_TIMEOUT_S)
            await self._take_in_changes()
            self._fresh_at = asked_at
            if not self._up:
                self._up = True
                log.info("following the changes of service statuses")
            while (rest_s := asked_at + HEARTBEAT_INTERVAL_S - loop.time()) > 0:
                try:
                    await asyncio.wait_for(self._woken.wait(), rest_s)
                except TimeoutError:
                    break
                await self._take_in_changes()

    async def _take_in_changes(self) -> None:
        self._woken.clear()
        changed, self._changed = self._changed, set()
        if changed:
            await self._statuses.refresh(changed)
            for watcher in self._watchers:
                watcher.tell(changed)

    async def _resync(self) -> None:
        """Read everything again that could have changed unheard."""
        await self._statuses.refresh(self._statuses.known_accounts())
        for watcher in self._watchers:
            watcher.tell_all()

    async def watch(
        self, account_ids: Collection[AccountId], *, changes_only: bool = False, heartbeats: bool = False
    ) -> AsyncIterator[list[ServiceStatus]]:
        """Return the present statuses of accounts (of all, if none are named), then every change, until closed.

        A status may come twice; its version tells. While the database is away nothing comes; then, all of it again.
        With `heartbeats`, an empty list says that all is told: after the present statuses, then once a second.

        Raises:
            MeteringError: SHUTTING_DOWN; DATABASE_UNAVAILABLE, for `changes_only`: a change may have been missed.

        """
        watcher = _Watcher(frozenset(account_ids) or None, changes_only=changes_only)
        self._watchers.add(watcher)
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(watcher.woken.wait(), WATCH_HEARTBEAT_INTERVAL_S if heartbeats else None)
                if self._stopping:
                    msg = "this server is stopping; watch another one"
                    raise MeteringError(Reason.SHUTTING_DOWN, msg, retry_after_s=0.1)
                if watcher.changes_only and watcher.all_is_news:
                    msg = "this server may have missed a change; read the statuses again"
                    raise DatabaseUnavailableError(msg)
                try:
                    if watcher.woken.is_set():
                        async for statuses in self._news_for(watcher):
                            yield statuses
                except DatabaseUnavailableError as error:
                    log.warning("a watcher waits for the database: %s", error)
                    watcher.tell_all()
                    await asyncio.sleep(RECONNECT_INTERVAL_S)
                else:
                    if heartbeats:
                        yield []
        finally:
            self._watchers.discard(watcher)

    def stop_watching(self) -> None:
        """End all watches: this server is stopping."""
        self._stopping = True
        for watcher in self._watchers:
            watcher.woken.set()

    async def _news_for(self, watcher: _Watcher) -> AsyncIterator[list[ServiceStatus]]:
        watcher.woken.clear()
        changed, watcher.changed = list(watcher.changed), {}
        if not watcher.all_is_news:
            yield await self._statuses.of(changed)
            return
        watcher.all_is_news = False
        if watcher.accounts is not None:
            yield await self._statuses.of(sorted(watcher.accounts))
            return
        async for account_ids in self._accounts.account_ids(ACCOUNTS_PER_LOOK_UP):
            yield await self._accounts.statuses(account_ids)
