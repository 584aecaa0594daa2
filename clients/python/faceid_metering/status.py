"""Which accounts may call, as far as this client has heard: asked in the path of every request."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing

from faceid.metering.v1.metering_service_pb2 import WatchServiceStatusRequest
from faceid.metering.v1.metering_service_pb2_grpc import MeteringServiceStub
from faceid.metering.v1.resources_pb2 import SERVICE_STATE_ACTIVE, ServiceStatus
from faceid_metering.config import ClientConfig, WhenLost, WhenUnknown
from faceid_metering.connection import Connection
from faceid_metering.errors import MeteringError
from faceid_metering.retry import BackOff
from faceid_metering.stats import ClientStats

log = logging.getLogger(__name__)

_WATCHED_MAX = 10_000
_SILENCE_MAX_S = 5.0
_LOST_CHECK_S = 0.5


class StatusBook:
    """The statuses of the accounts that were asked for. One stream of changes keeps them fresh.

    New accounts are asked for together: those that come while some are being fetched are the next ones.
    """

    def __init__(self, config: ClientConfig, connection: Connection, stats: ClientStats) -> None:
        """Start nothing yet."""
        self._config = config
        self._connection = connection
        self._stub = MeteringServiceStub(connection.channel)
        self._stats = stats
        self._loop = asyncio.get_running_loop()
        self._active: dict[str, bool | None] = {}
        """None: the service does not know the account."""
        self._versions: dict[str, int] = {}
        self._wanted: dict[str, None] = {}
        self._woken = asyncio.Event()
        self._following = asyncio.Event()
        self._fresh_at = float("-inf")
        self._trusted = True
        self._began_at = float("inf")
        self._tasks: list[asyncio.Task[None]] = []
        self._closed = False

    def is_active(self, account_id: str) -> bool:
        """See MeteringClient.is_active."""
        if self._trusted and self._active.get(account_id):
            return True
        return self._answer(account_id)

    def _answer(self, account_id: str) -> bool:
        known = self._active.get(account_id)
        if known is None and account_id not in self._active:
            self._want(account_id)
        if not self._trusted and self._config.status_when_lost is not WhenLost.LAST_KNOWN:
            allowed = self._config.status_when_lost is WhenLost.ALLOW
            self._stats.answered("lost_allowed" if allowed else "lost_denied")
            return allowed
        if known is None:
            allowed = self._config.status_when_unknown is WhenUnknown.ALLOW
            self._stats.answered("unknown_allowed" if allowed else "unknown_denied")
            return allowed
        if not known:
            self._stats.answered("denied")
        return known

    def _want(self, account_id: str) -> None:
        if account_id in self._wanted or len(self._wanted) >= self._config.status_accounts or self._closed:
            return
        self._wanted[account_id] = None
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:
            log.warning("a status was asked for after the event loop had ended")

    def _wake(self) -> None:
        if not self._tasks and not self._closed:
            self._began_at = self._connection.runtime.monotonic_s()
            work = {"follow": self._follow, "fetch": self._fetch, "trust": self._watch_trust}
            self._tasks = [asyncio.create_task(do(), name=f"metering status {name}") for name, do in work.items()]
        self._woken.set()

    def learn(self, status: ServiceStatus) -> None:
        """Take in a status, unless a newer one is known."""
        account_id = status.account_id
        if status.version < self._versions.get(account_id, 0):
            return
        self._set(account_id, active=status.state == SERVICE_STATE_ACTIVE, version=status.version)

    def _set(self, account_id: str, *, active: bool | None, version: int) -> None:
        if account_id not in self._active and len(self._active) >= self._config.status_accounts:
            oldest = next(iter(self._active))
            del self._active[oldest], self._versions[oldest]
        self._versions[account_id] = version
        self._active[account_id] = active

    def age_s(self) -> float:
        """Return how old what is known may be."""
        return self._connection.runtime.monotonic_s() - self._fresh_at

    def gauge(self) -> None:
        """Bring the sizes in the stats up to date."""
        self._stats.status_accounts, self._stats.status_age_s = len(self._active), self.age_s()

    async def _watch_trust(self) -> None:
        """Notice when nothing was heard for too long; a client that has just begun has heard nothing yet."""
        while True:
            since = max(self._fresh_at, self._began_at)
            silent_s = self._connection.runtime.monotonic_s() - since
            self._trusted = silent_s <= self._config.status_lost_after_s
            await asyncio.sleep(_LOST_CHECK_S)

    async def _follow(self) -> None:
        """Hear of changes, and fetch everything anew when some may have been missed."""
        request = WatchServiceStatusRequest(heartbeats=True, changes_only=True)
        await self._stream_for_ever(request, self._heard)

    def _heard(self, status: ServiceStatus | None, age_s: float) -> bool:
        if status is None:
            self._fresh_at = self._connection.runtime.monotonic_s() - age_s
            if not self._following.is_set():
                self._following.set()
                self._wanted.update(dict.fromkeys(self._active))
                self._woken.set()
        elif status.account_id in self._active or status.account_id in self._wanted:
            self.learn(status)
        return True

    async def _fetch(self) -> None:
        """Fetch those that are asked for, all that wait at once."""
        while True:
            await self._following.wait()
            await self._woken.wait()
            self._woken.clear()
            while self._wanted:
                accounts = list(self._wanted)[:_WATCHED_MAX]
                await self._stream_for_ever(
                    WatchServiceStatusRequest(account_ids=accounts, heartbeats=True), self._fetched
                )
                for account_id in accounts:
                    if account_id not in self._active:  # should the service come to know it, the changes tell
                        self._set(account_id, active=None, version=0)
                    self._wanted.pop(account_id, None)

    def _fetched(self, status: ServiceStatus | None, _age_s: float) -> bool:
        if status is not None:
            self.learn(status)
        return status is not None

    async def _stream_for_ever(
        self, request: WatchServiceStatusRequest, hear: Callable[[ServiceStatus | None, float], bool]
    ) -> None:
        """Hand on what a watch says, connecting again when it is lost, until `hear` has heard enough."""
        back_off = BackOff(self._connection.config, self._connection.runtime)
        while True:
            retry_after_s = None
            try:
                stream = self._connection.stream(
                    self._stub.WatchServiceStatus, request, message_timeout_s=_SILENCE_MAX_S
                )
                async with aclosing(stream) as responses:
                    async for response in responses:
                        back_off.reset()
                        is_status = response.HasField("service_status")
                        age_s = response.heartbeat_age.ToNanoseconds() / 1e9
                        if not hear(response.service_status if is_status else None, age_s):
                            return
            except MeteringError as error:
                retry_after_s = error.retry_after_s
                log.debug("lost the feed of service statuses: %s", error)
            if request.changes_only:
                self._following.clear()
            await self._connection.runtime.sleep(back_off.next_s(retry_after_s))

    async def close(self) -> None:
        """Stop following."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
