"""Migrations, and what a database is set up for."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from metering import embedded_postgres
from metering.app import BillingTimeZoneError
from metering.errors import DatabaseUnavailableError
from metering.store.migrations import versions
from metering.store.schema import migrate
from tests.conftest import execute, with_database
from tests.support.proxy import TcpProxy
from tests.support.service import FakeClock, Service

NEWEST = max(path.name[:4] for path in Path(versions.__file__).parent.glob("*.sql"))


@pytest.fixture
async def empty_url(server_url: str) -> AsyncIterator[str]:
    """Return the URL of an empty database."""
    name = f"metering_test_{uuid4().hex}"
    await execute(server_url, f"CREATE DATABASE {name}")
    yield with_database(server_url, name)
    await execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")


async def test_an_empty_database_is_migrated_and_a_migrated_one_is_left_alone(empty_url: str) -> None:
    assert await migrate(empty_url) == (None, NEWEST)
    assert await migrate(empty_url) == (NEWEST, NEWEST)


async def test_replicas_that_start_together_migrate_once(empty_url: str) -> None:
    command = (sys.executable, "-m", "metering", "migrate", "--database-url", empty_url)
    processes = [await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE) for _ in range(4)]
    said = [(await process.communicate())[0].decode() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert all(f"(schema {NEWEST})" in text for text in said)


async def test_a_migration_that_fails_leaves_nothing_behind(empty_url: str) -> None:
    await execute(empty_url, "CREATE TABLE ledger_entries (x integer)")
    with pytest.raises(Exception, match="already exists"):
        await migrate(empty_url)
    connection = await asyncpg.connect(empty_url)
    tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    await connection.close()
    assert [row["tablename"] for row in tables] == ["ledger_entries"]
    await execute(empty_url, "DROP TABLE ledger_entries")
    assert (await migrate(empty_url))[1] == NEWEST


async def test_a_database_that_cannot_be_reached_is_named_plainly() -> None:
    with pytest.raises(DatabaseUnavailableError, match="METERING_DATABASE_URL"):
        await migrate("postgresql://postgres@127.0.0.1:1/metering")


async def test_a_database_that_goes_away_in_the_middle_is_one_that_cannot_be_reached(empty_url: str) -> None:
    async with TcpProxy.to_postgres(empty_url) as proxy:
        for before in (None, NEWEST):
            reply_bytes, migrated = 0, False
            while not migrated:
                reply_bytes += 400
                proxy.cut_replies_after(reply_bytes)
                try:
                    assert await migrate(proxy.url) == (before, NEWEST)
                    migrated = True
                except DatabaseUnavailableError as error:
                    assert "METERING_DATABASE_URL" in error.message


async def test_an_owner_without_superuser_rights_can_install_and_serve(server_url: str, clock: FakeClock) -> None:
    name = f"owner_{uuid4().hex}"
    await execute(
        server_url,
        f"CREATE ROLE {name} LOGIN",
        f"GRANT metering_service TO {name}",
        f"CREATE DATABASE {name} OWNER {name}",
    )
    url = with_database(server_url, name).replace("postgres@", f"{name}@", 1)
    try:
        await execute(with_database(server_url, name), f"ALTER SCHEMA public OWNER TO {name}")
        await migrate(url)
        async with Service(url, clock) as service:
            await service.activate("acme")
            assert not (await service.record(service.call("acme"))).duplicate
    finally:
        await execute(server_url, f"DROP DATABASE {name} WITH (FORCE)", f"DROP ROLE {name}")


async def test_an_owner_who_may_create_roles_installs_the_services_role_and_becomes_it(
    own_data_dir: Path, clock: FakeClock
) -> None:
    with embedded_postgres.start(own_data_dir) as postgres:
        await execute(postgres.url, "CREATE ROLE owner LOGIN CREATEROLE", "CREATE DATABASE owned OWNER owner")
        # PostgreSQL's own host-based rules let any user in over the socket.
        url = with_database(postgres.url, "owned").replace("postgres@", "owner@", 1)
        await migrate(url)
        async with Service(url, clock) as service:
            await service.activate("acme")
            assert not (await service.record(service.call("acme"))).duplicate


async def test_a_schema_of_a_newer_program_is_named_plainly(database_url: str) -> None:
    takes_away = "UPDATE schema_programs SET oldest_migration = '9999'"
    await execute(database_url, "UPDATE schema_version SET version_num = '9999'", takes_away)
    with pytest.raises(DatabaseUnavailableError, match="run the newest program"):
        await migrate(database_url)


async def test_another_billing_time_zone_is_refused_on_a_database_that_has_one(
    service: Service, clock: FakeClock
) -> None:
    with pytest.raises(BillingTimeZoneError, match="METERING_BILLING_TIMEZONE=Asia/Shanghai"):
        async with Service(service.database_url, clock, billing_timezone="Europe/Berlin"):
            pass


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ("SELECT * FROM usage_daily WHERE account_id = 'a' AND billing_month = '2026-11-01'", "usage_daily_pkey"),
        (
            "SELECT * FROM calls WHERE occurred_on = '2026-11-23' AND account_id = 'a' AND call_id > gen_random_uuid()",
            "calls_20261123_pkey",
        ),
        ("SELECT * FROM bills WHERE account_id = 'a' AND state <> 'PAID'", "bills_unpaid"),
        ("SELECT * FROM accounts WHERE account_id > 'a' ORDER BY account_id LIMIT 2000", "accounts_pkey"),
        ("SELECT * FROM ledger_entries WHERE account_id = 'a' AND payment_id = 'b'", "ledger_entries_payment_once"),
    ],
)
async def test_the_hot_queries_use_an_index(
    service: Service, db: "asyncpg.Connection[asyncpg.Record]", query: str, index: str
) -> None:
    await db.execute("SET enable_seqscan = off")  # the tables are empty here
    plan = "\n".join(row[0] for row in await db.fetch(f"EXPLAIN {query}"))
    assert index in plan
