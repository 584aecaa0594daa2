"""Migrations: they bring a database's schema up to date.

In a module of its own, since Alembic takes most of a second to import, and workers do without.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, NullPool, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine

from metering.errors import DatabaseUnavailableError, DatabaseUnusableError, LockedError, TransactionConflictError
from metering.store.database import (
    CONNECT_TIMEOUT_S,
    WRITABLE,
    client_settings,
    translated_connect_errors,
    translated_errors,
)

MIGRATIONS = Path(__file__).parent / "migrations"
OLDEST_POSTGRESQL = 150000
VERSION_TABLE = "schema_version"
LOCK_TRIES = 60
LOCK_PAUSE_S = 2.0
"""Between two tries of a migration that did not get its locks; what waits to be recorded is recorded meanwhile."""

log = logging.getLogger(__name__)


@contextmanager
def _driver_errors() -> Iterator[None]:
    """Raise the driver's own errors in place of those that SQLAlchemy makes of them."""
    try:
        yield
    except DBAPIError as error:
        driver_error = error.orig and error.orig.__cause__
        if not isinstance(driver_error, Exception):
            raise
        raise driver_error from error


def _migrate(connection: Connection) -> tuple[str | None, str]:
    """Apply what is missing; return the revision before and after."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    config.attributes["version_table"] = VERSION_TABLE
    before = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()
    migrations = ScriptDirectory.from_config(config)
    newest = migrations.get_current_head()
    assert newest is not None  # noqa: S101 - there is at least one
    known = {migration.revision for migration in migrations.walk_revisions()}
    if before is not None and before not in known and _may_run_on_newer(connection, newest):
        log.warning("the schema (%s) is newer than this program (%s), which may run on it", before, newest)
        return before, before
    command.upgrade(config, "head")
    return before, newest


def _may_run_on_newer(connection: Connection, newest: str) -> bool:
    """Tell whether a newer schema still has all that a program with these migrations needs."""
    if connection.scalar(text("SELECT to_regclass('schema_programs')")) is None:
        return False
    oldest: str = connection.scalar(text("SELECT oldest_migration FROM schema_programs"))
    return newest >= oldest


async def migrate(url: str) -> tuple[str | None, str]:
    """Bring the database's schema up to date; safe to do from several processes at once (not twice in one).

    Recording goes on meanwhile: whatever other transactions hold, it waits for a moment at the most. A schema that a
    newer program has migrated is left as it is, if this one may run on it.

    Args:
        url: of a PostgreSQL 15 or newer, without a pooler; its user becomes the owner of the schema.

    Returns:
        The revision before (None: the database was empty) and after.

    Raises:
        DatabaseUnavailableError: it cannot be reached, or is too old.
        DatabaseUnusableError: it lets its user not create tables, or the URL is none.
        LockedError: another transaction has held a table for minutes.

    """
    for number in range(1, LOCK_TRIES):
        try:
            return await _migrate_once(url)
        except (LockedError, TransactionConflictError) as error:
            log.warning("migrating is put off (try %d of %d); recording goes on. %s", number, LOCK_TRIES, error)
            await asyncio.sleep(LOCK_PAUSE_S)
    return await _migrate_once(url)


async def _migrate_once(url: str) -> tuple[str | None, str]:
    async def connect() -> "asyncpg.Connection[asyncpg.Record]":
        return await asyncpg.connect(
            url,
            timeout=CONNECT_TIMEOUT_S,
            target_session_attrs=WRITABLE,
            # Whoever waits for another replica that migrates waits as long as that takes.
            server_settings=client_settings("migrate") | {"statement_timeout": "0", "lock_timeout": "0"},
        )

    with translated_connect_errors():
        connection = await connect()
    with translated_errors():
        version = int(await connection.fetchval("SHOW server_version_num"))
        await connection.close()
        if version < OLDEST_POSTGRESQL:
            msg = f"PostgreSQL {version // 10000} is too old: use 15 or newer."
            raise DatabaseUnavailableError(msg)
        engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)
        try:
            with _driver_errors():
                async with engine.begin() as sql_connection:
                    return await sql_connection.run_sync(_migrate)
        except CommandError as error:
            msg = f"The database's schema is not one that this program knows ({error}): run the newest program on it."
            raise DatabaseUnavailableError(msg) from error
        except asyncpg.InsufficientPrivilegeError as error:
            msg = (
                f"The database lets its user not set up the schema: {error}. Run `metering migrate` as the owner "
                "first; or let this user own the database and create the role metering_service, or create that role "
                "beforehand and grant it to the user."
            )
            raise DatabaseUnusableError(msg) from error
        finally:
            await engine.dispose()
