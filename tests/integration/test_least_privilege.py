"""The service with a login of its own, which is a member of metering_service and nothing else."""

from collections.abc import AsyncIterator
from typing import TypeAlias
from uuid import uuid4

import asyncpg
import pytest

from tests.conftest import ServiceProcesses, execute, with_database
from tests.support.command import metering
from tests.support.service import Service

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

NEVER_CHANGED = {
    "calls",
    "bill_lines",
    "ledger_entries",
    "price_plans",
    "bill_digests",
    "dropped_days",
    "installation",
    "administrative_acts",
    "administrative_outcomes",
    "schema_programs",
    "schema_version",
}
CHANGED_COLUMNS = {
    "accounts": {"state", "balance", "status_version"},
    "bills": {"state", "deducted"},
    "months": {"billed_at"},
    "price_plan_assignments": {"price_plan_id"},
}
"""Of these tables, only these columns may be changed; no row of them may be deleted."""


@pytest.fixture
async def login(server_url: str, template: str) -> AsyncIterator[str]:
    """Return the name of a login that is a member of metering_service, which the migration of the template has made."""
    name = f"login_{uuid4().hex}"
    await execute(server_url, f"CREATE ROLE {name} LOGIN IN ROLE metering_service")
    yield name
    await execute(server_url, f"DROP ROLE {name}")


@pytest.fixture
def login_url(database_url: str, login: str) -> str:
    """Return the URL of a migrated database for that login."""
    return database_url.replace("postgres@", f"{login}@", 1)


async def test_it_serves_all_there_is(login_url: str, processes: ServiceProcesses) -> None:
    processes.database_url = login_url
    service = await processes.start("--workers", "2")
    await service.activate("acme")
    call = service.call("acme")
    for duplicate in (False, True):
        assert (await service.record(call)).duplicate is duplicate
    await service.pay("acme", "5")
    month = call.occurred_at.ToDatetime().strftime("%Y-%m")
    assert (await service.usage("acme", month)).total_calls == 1
    await service.until_ready()
    for command in ("audit", "acts"):
        code, said = await metering(command, METERING_DATABASE_URL=login_url)
        assert code == 0, said


async def test_it_says_so_when_the_owner_has_not_migrated(server_url: str, login: str) -> None:
    name = f"metering_test_{uuid4().hex}"
    await execute(server_url, f"CREATE DATABASE {name}")
    try:
        url = with_database(server_url, name).replace("postgres@", f"{login}@", 1)
        code, said = await metering(
            "serve", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", METERING_DATABASE_URL=url
        )
        assert (code, "metering migrate" in said, "Traceback" in said) == (1, True, False), said
    finally:
        await execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")


async def test_it_can_change_nothing_that_must_not_change(service: Service, login_url: str, db: Connection) -> None:
    await service.activate("acme")
    await service.record(service.call("acme"))
    connection = await asyncpg.connect(login_url)
    try:
        tables = [
            row["relname"]
            for row in await db.fetch(
                "SELECT relname FROM pg_class"
                " WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v')"
            )
        ]
        assert set(tables) >= NEVER_CHANGED | CHANGED_COLUMNS.keys()
        for table in tables:
            if table in NEVER_CHANGED | CHANGED_COLUMNS.keys() or table.startswith("calls_"):
                for statement in (f"DELETE FROM {table}", f"TRUNCATE {table}", f"DROP TABLE {table}"):
                    with pytest.raises(asyncpg.InsufficientPrivilegeError):
                        await connection.execute(statement)
                columns = await db.fetch(
                    "SELECT attname FROM pg_attribute"
                    " WHERE attrelid = $1::regclass AND attnum > 0 AND attidentity = '' AND NOT attisdropped",
                    table,
                )
                for (column,) in columns:
                    update = f"UPDATE {table} SET {column} = {column}"
                    if column in CHANGED_COLUMNS.get(table, ()):
                        await connection.execute(update)
                    else:
                        with pytest.raises(asyncpg.InsufficientPrivilegeError):
                            await connection.execute(update)
    finally:
        await connection.close()


async def test_it_cannot_become_more(login_url: str) -> None:
    connection = await asyncpg.connect(login_url)
    try:
        for statement in (
            "SET ROLE postgres",
            "CREATE TABLE mine (x integer)",
            "CREATE ROLE another",
            "ALTER TABLE ledger_entries DISABLE TRIGGER ALL",
            "COPY calls TO PROGRAM 'true'",
            "SELECT pg_read_file('PG_VERSION')",
        ):
            with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.InvalidParameterValueError)):
                await connection.execute(statement)
        await connection.execute("GRANT UPDATE ON ledger_entries TO metering_service")  # of which PostgreSQL warns only
        assert not await connection.fetchval("SELECT has_table_privilege('ledger_entries', 'UPDATE')")
    finally:
        await connection.close()
