"""Connections to PostgreSQL, and what can go wrong with them."""

import socket
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from metering.errors import (
    DatabaseReadOnlyError,
    DatabaseUnavailableError,
    DatabaseUnusableError,
    LockedError,
    TransactionConflictError,
    UnsuitableDatabaseError,
)
from metering.store.sql import load_queries

if TYPE_CHECKING:
    import asyncio

    from asyncpg.pool import PoolConnectionProxy

    Connection = PoolConnectionProxy[asyncpg.Record]

SERVICE_ROLE = "metering_service"
"""The role the service works as: it owns nothing, and cannot touch what must not change."""

CONNECT_TIMEOUT_S = 10.0
RELEASE_TIMEOUT_S = 5.0
"""A statement that took too long is called off, and its connection is dropped if that takes longer than this."""
LOCK_TIMEOUT_S = 10.0
"""No statement waits longer for a lock, be it of a table, a row or an advisory one."""
PREPARED_STATEMENTS = 100
"""So many statements of each connection are prepared once, and sent by their name from then on."""
SILENCE_S = 10
"""A connection is given up whose other end has confirmed nothing of what was sent for so long, or did not answer
whether it is still there: a machine that is gone sends no farewell. Either end looks at it."""
WRITABLE = SessionAttribute.read_write
"""Of several servers in a URL the one that takes writes is meant; a standby is not let in for the primary."""
STATEMENT_S = 30.0
"""The time limit of a statement that somebody waits for."""
UNHURRIED_S = 6 * 3600.0
"""The time limit of statements that take as long as there are calls, which are not for somebody who waits."""

_UNAVAILABLE = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)
_BROKEN = (asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What the driver says when it has lost track of a connection that breaks."""
_CONFLICT = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
_READ_ONLY = (asyncpg.ReadOnlySQLTransactionError, asyncpg.exceptions.TargetServerAttributeNotMatched)


@contextmanager
def translated_errors() -> Iterator[None]:
    """Turn the driver's errors into ours.

    Raises:
        DatabaseUnavailableError: the database could not be reached, or refused to work at all.
        DatabaseReadOnlyError: it takes no writes.
        LockedError: another session held a lock for too long.
        TransactionConflictError: the transaction was undone in favour of another one.

    """
    try:
        yield
    except _CONFLICT as error:
        raise TransactionConflictError(str(error)) from error
    except _READ_ONLY as error:
        raise DatabaseReadOnlyError from error
    except asyncpg.LockNotAvailableError as error:
        raise LockedError(str(error)) from error
    except asyncpg.QueryCanceledError as error:
        msg = f'The database took too long: {error}. Look for locks, and at its disk: docs/operations.md, "Locks".'
        raise DatabaseUnavailableError(msg) from error
    except _UNAVAILABLE as error:
        what = str(error) or ("it did not answer in time" if isinstance(error, TimeoutError) else type(error).__name__)
        if isinstance(error, _BROKEN) and not isinstance(error, ValueError):  # that is one of the URL
            # Such as "cannot switch to state 12; another operation (2) is in progress".
            what = "the connection broke"
        elif "unsupported startup parameter" in what:
            what += " (this is PgBouncer: say --direct-database-url, too)"
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


def client_settings(name: str) -> dict[str, str]:
    """Return what any connection tells the server when it begins; PgBouncer passes it on, too."""
    return {"application_name": f"metering {name}", "timezone": "UTC"}


def _session_settings(timeout_s: float, role: str) -> dict[str, str]:
    """Return what holds for a session of the service's own; docs/operations.md has them for the PgBouncer's role."""
    return {
        "role": role,
        # An acknowledged call is on disk: promise P1 does not depend on the server's default.
        "synchronous_commit": "on",
        # Whoever looks at a month once it holds the seal must see what was committed before: see open_month.
        "default_transaction_isolation": "read committed",
        "statement_timeout": _ms(timeout_s),
        "lock_timeout": _ms(LOCK_TIMEOUT_S),
        # The locks of a service that hangs, or whose machine is gone, are free again soon.
        "idle_in_transaction_session_timeout": _ms(timeout_s),
        "tcp_user_timeout": _ms(SILENCE_S),
        "tcp_keepalives_idle": str(SILENCE_S),
        "tcp_keepalives_interval": "2",
        "tcp_keepalives_count": "3",
        "jit": "off",
    }


def _ms(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"


async def give_up_silent(connection: "asyncpg.Connection[asyncpg.Record] | Connection") -> None:
    """Have our end of a connection notice by itself that the other one is gone.

    Otherwise that takes as long as a statement may take, and the kernel's quarter of an hour for an idle connection.
    """
    # The driver sets none of these, and has no other way to its socket.
    transport: asyncio.Transport = connection._transport  # type: ignore[union-attr]  # noqa: SLF001
    ours = transport.get_extra_info("socket")
    if ours.family == socket.AF_UNIX:
        return
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        ("TCP_KEEPIDLE", SILENCE_S),
        ("TCP_KEEPINTVL", 2),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", SILENCE_S * 1000),
    ):
        if hasattr(socket, option):  # not every system has all of them
            ours.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


async def let_take_any_time(connection: "Connection") -> None:
    """Let the server take any time for what is still to be done in a transaction."""
    await connection.execute("SET LOCAL statement_timeout = 0")


async def _keep_session(_connection: object) -> None:
    """Do nothing when a connection goes back to its pool: we never change a session, and a reset is a round trip."""


class Database:
    """A pool of connections, and the named queries to send over them."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", sql: Mapping[str, str]) -> None:
        self._pool = pool
        self.sql = sql

    @classmethod
    async def connect(
        cls,
        url: str,
        *,
        name: str,
        connections: int,
        timeout_s: float = STATEMENT_S,
        pooler: bool = False,
        as_owner: bool = False,
    ) -> "Database":
        """Open a pool of at most `connections`.

        Args:
            url: of a PostgreSQL 15 or newer, migrated.
            name: what the connections are called in pg_stat_activity.
            connections: how many at the most; they are opened when they are needed.
            timeout_s: how long a statement may take, and a transaction stand still.
            pooler: the URL leads through PgBouncer in transaction mode. Each transaction may have another session
                there, so nothing is set for a session and no statement is prepared: see `check_session`.
            as_owner: work as the user of the URL, who may drop calls, and not as the service's role.

        Raises:
            DatabaseUnavailableError: the URL is none. Whether it leads to a database shows with the first query.

        """
        role = "none" if as_owner else SERVICE_ROLE
        with translated_connect_errors():
            pool = await asyncpg.create_pool(
                url,
                min_size=0,
                max_size=connections,
                max_queries=sys.maxsize,
                max_inactive_connection_lifetime=0,
                timeout=CONNECT_TIMEOUT_S,
                command_timeout=timeout_s,
                target_session_attrs=WRITABLE,
                init=give_up_silent,
                reset=_keep_session,
                server_settings=client_settings(name) | ({} if pooler else _session_settings(timeout_s, role)),
                statement_cache_size=0 if pooler else PREPARED_STATEMENTS,
            )
        return cls(pool, load_queries())

    async def close(self) -> None:
        """Close the pool; waits for connections in use."""
        await self._pool.close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator["Connection"]:
        """Lend a connection.

        Raises:
            DatabaseUnavailableError: there is none, or it broke, or what is behind it takes no writes (any more).
            TransactionConflictError: do it again.

        """
        with translated_connect_errors():
            connection = await self._pool.acquire()
        try:
            with translated_errors():
                try:
                    yield connection
                except _BROKEN:
                    # Not given back to the pool, which would talk about it in the log, and to the server in vain.
                    connection.terminate()
                    raise
        except DatabaseReadOnlyError:
            # After a failover the others lead to the same server. New ones look for the one that takes writes.
            await self._pool.expire_connections()
            raise
        finally:
            with translated_errors():
                await self._pool.release(connection, timeout=RELEASE_TIMEOUT_S)

    @asynccontextmanager
    async def transaction(self, *, unhurried: bool = False) -> AsyncIterator["Connection"]:
        """Lend a connection with a transaction around what is done over it; raises as `connection`.

        With `unhurried` the server lets statements take any time; the driver does if told so: see UNHURRIED_S.
        """
        async with self.connection() as connection, connection.transaction():
            if unhurried:
                await let_take_any_time(connection)
            yield connection

    @asynccontextmanager
    async def only_one(self, lock: str) -> AsyncIterator[bool]:
        """Hold the lock that a named query tries to take, as long as this lasts.

        False: another replica has it. It is not taken again if the connection breaks. Raises as `connection`.
        """
        async with self.transaction() as connection:
            yield bool(await connection.fetchval(self.sql[lock]))

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
            # On a standby, too.
            if await connection.fetchval("SHOW transaction_read_only", timeout=2) == "on":
                raise DatabaseReadOnlyError

    async def check_session(self) -> None:
        """Return if sessions are what the promises need them to be.

        Those that we set up ourselves are. Behind a pooler the role that it logs in with has to see to it.

        Raises:
            UnsuitableDatabaseError: what is wrong, and what to do.
            DatabaseUnavailableError: as `connection`.

        """
        wrong: list[str] = [row["wrong"] for row in await self.fetch("session_faults")]
        if wrong:
            msg = (
                f"The database's sessions are not as they must be: {'; '.join(wrong)}. "
                'docs/operations.md, "PgBouncer", has the role that they need.'
            )
            raise UnsuitableDatabaseError(msg)
