"""The notifications that tell which accounts' service status changed."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from uuid import uuid4

import asyncpg

from metering.errors import DatabaseReadOnlyError, DatabaseUnavailableError
from metering.model import AccountId
from metering.store.database import (
    CONNECT_TIMEOUT_S,
    WRITABLE,
    Database,
    client_settings,
    give_up_silent,
    translated_connect_errors,
    translated_errors,
)

STATUS_CHANGED = "metering_status_changed"


class StatusFeedConnection:
    """A connection that listens."""

    def __init__(self, database: Database, connection: "asyncpg.Connection[asyncpg.Record]", channel: str) -> None:
        self._sql = database.sql
        self._connection = connection
        self._channel = channel
        self._heard = asyncio.Event()

    def _hear(self, *_: object) -> None:
        self._heard.set()

    async def heartbeat(self, timeout_s: float) -> None:
        """Send a notification to oneself and wait for it: all changes committed before were then heard of.

        Raises:
            DatabaseUnavailableError: it did not come within `timeout_s`, or the connection is lost.

        """
        self._heard.clear()
        try:
            with translated_errors():
                async with asyncio.timeout(timeout_s):
                    writable = await self._connection.fetchval(self._sql["notify_heartbeat"], self._channel, "")
                    if not writable:
                        # After a failover the changes are made elsewhere, and this server will never hear of them.
                        raise DatabaseReadOnlyError
                    await self._heard.wait()
        except DatabaseUnavailableError as error:
            msg = f"The feed of status changes is lost (a notification to oneself did not arrive): {error.message}"
            raise DatabaseUnavailableError(msg) from error


class StatusFeedStore:
    """Opens listening connections, which are not of the pool: they last, and PgBouncer cannot share them.

    Args:
        database: has the queries.
        url: leads to a session of one's own.

    """

    def __init__(self, database: Database, url: str) -> None:
        self._database = database
        self._url = url

    @asynccontextmanager
    async def listen(self, changed: Callable[[list[AccountId]], None]) -> AsyncIterator[StatusFeedConnection]:
        """Listen as long as this lasts; `changed` is called with the accounts of each notification.

        Raises:
            DatabaseUnavailableError: the connection cannot be made.

        """

        def hear_change(_connection: object, _pid: int, _channel: str, payload: object) -> None:
            changed([AccountId(account_id) for account_id in str(payload).split(",")])

        channel = f"metering_heartbeat_{uuid4().hex}"
        with translated_connect_errors():
            connection = await asyncpg.connect(
                self._url,
                timeout=CONNECT_TIMEOUT_S,
                command_timeout=10,
                target_session_attrs=WRITABLE,
                server_settings=client_settings("status feed"),
            )
        await give_up_silent(connection)
        with translated_errors():
            try:
                feed = StatusFeedConnection(self._database, connection, channel)
                await connection.add_listener(channel, feed._hear)  # noqa: SLF001 - a part of this
                await connection.add_listener(STATUS_CHANGED, hear_change)
                yield feed
            finally:
                # It may be broken, and is not used again: no farewell, which could take its time.
                connection.terminate()
