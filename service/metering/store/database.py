"""Connections to PostgreSQL, and what can go wrong with them."""

import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import asyncpg

from metering.errors import DatabaseUnavailableError, DatabaseUnusableError, TransactionConflictError
from metering.store.sql import load_queries

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Connection = PoolConnectionProxy[asyncpg.Record]

SERVICE_ROLE = "metering_service"
"""The role the service works as: it owns nothing, and cannot touch what must not change."""

_UNAVAILABLE = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)
_CONFLICT = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError, asyncpg.LockNotAvailableError)


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn the driver's errors into ours.

    Raises:
        DatabaseUnavailableError: the database could not be reached, or refused to work at all.
        TransactionConflictError: the transaction was undone in favour of another one.

    """
    try:
        yield
    except _CONFLICT as error:
        raise TransactionConflictError(str(error)) from error
    except _UNAVAILABLE as error:
        what = str(error) or type(error).__name__
        msg = f"The database is not available: {what}. Check that PostgreSQL runs, and METERING_DATABASE_URL."
        raise DatabaseUnavailableError(msg) from error


@contextmanager
def translated_connect_errors() -> Iterator[None]:
    """Turn whatever the server says to who wants to connect into DatabaseUnavailableError.

    Raises:
        DatabaseUnusableError: the URL is none.

    """
    try:
        with translated_errors():
            yield
    except asyncpg.PostgresError as error:
        msg = f"The database does not let us in: {error}. Check METERING_DATABASE_URL, and what the server allows."
        raise DatabaseUnavailableError(msg) from error
    except (ValueError, OverflowError):
        # Without a cause: where the driver stumbled is often in the middle of the password.
        msg = (
            "METERING_DATABASE_URL is not understood. Write postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with %40 "
            "for an @ in the password, %2F for a /, %23 for a #, %25 for a %."
        )
        raise DatabaseUnusableError(msg) from None


def is_duplicate_key(error: Exception) -> bool:
    """Tell whether a write failed because a row with its key was there already: PostgreSQL and Citus say it apart."""
    if isinstance(error, asyncpg.UniqueViolationError):
        return True
    return isinstance(error, asyncpg.InternalServerError) and "duplicate key value" in str(error)


async def _keep_session(_connection: object) -> None:
    """Do nothing when a connection goes back to its pool: we never change a session, and a reset is a round trip."""


class Database:
    """A pool of connections, and the named queries to send over them."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", sql: Mapping[str, str]) -> None:
        self._pool = pool
        self.sql = sql

    @classmethod
    async def connect(cls, url: str, *, name: str, connections: int, timeout_s: float = 30.0) -> "Database":
        """Open a pool of at most `connections`.

        Args:
            url: of a PostgreSQL 15 or newer, migrated.
            name: what the connections are called in pg_stat_activity.
            connections: how many at the most; they are opened when they are needed.
            timeout_s: how long a statement may take.

        Raises:
            DatabaseUnavailableError: the URL is none. Whether it leads to a database shows with the first query.

        """
        with translated_connect_errors():
            pool = await asyncpg.create_pool(
                url,
                min_size=0,
                max_size=connections,
                max_queries=sys.maxsize,
                max_inactive_connection_lifetime=0,
                timeout=10,
                command_timeout=timeout_s,
                reset=_keep_session,
                server_settings={
                    "application_name": f"metering {name}",
                    "role": SERVICE_ROLE,
                    # An acknowledged call is on disk: promise P1 does not depend on the server's default.
                    "synchronous_commit": "on",
                    "statement_timeout": f"{round(timeout_s * 1000)}ms",
                    "idle_in_transaction_session_timeout": "1h",
                    "timezone": "UTC",
                    "jit": "off",
                },
            )
        return cls(pool, load_queries())

    async def close(self) -> None:
        """Close the pool; waits for connections in use."""
        await self._pool.close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator["Connection"]:
        """Lend a connection.

        Raises:
            DatabaseUnavailableError: there is none, or it broke.
            TransactionConflictError: do it again.

        """
        with translated_connect_errors():
            connection = await self._pool.acquire()
        try:
            with translated_errors():
                yield connection
        finally:
            with translated_errors():
                await self._pool.release(connection)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["Connection"]:
        """Lend a connection with a transaction around what is done over it; raises as `connection`."""
        async with self.connection() as connection, connection.transaction():
            yield connection

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator["Connection"]:
        """Lend a connection over which everything is read as it was at one moment; raises as `connection`."""
        async with self.connection() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
            yield connection

    async def fetch(self, query: str, *args: object) -> list[asyncpg.Record]:
        """Return the rows of a named query; raises as `connection`."""
        async with self.connection() as connection:
            return await connection.fetch(self.sql[query], *args)

    async def fetchrow(self, query: str, *args: object) -> asyncpg.Record | None:
        """Return the first row of a named query; raises as `connection`."""
        async with self.connection() as connection:
            return await connection.fetchrow(self.sql[query], *args)

    async def ping(self) -> None:
        """Return if the database answers and takes writes; raises as `connection`."""
        async with self.connection() as connection:
            if await connection.fetchval("SELECT pg_is_in_recovery()", timeout=2):
                msg = "The database is a standby: it takes no writes. Point METERING_DATABASE_URL at the primary."
                raise DatabaseUnavailableError(msg)
