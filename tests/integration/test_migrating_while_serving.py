"""Migrations of a database that is in use: whoever records does not wait for them, and the program before goes on."""

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from metering.errors import LockedError
from metering.store import schema
from metering.store.schema import migrate
from tests.conftest import execute, with_database
from tests.integration.test_operations import last_month
from tests.support.audit import assert_books_are_right
from tests.support.locks import held
from tests.support.processes import ServiceProcess
from tests.support.service import FakeClock, Service, amount

REPOSITORY = Path(__file__).parents[2]
PREVIOUS_PROGRAM = "81cf614df9b0"
"""The commit of the program that this one must be able to run beside: of the last release, once there is one.

Older ones cannot read the bills of this one, whose lines tell the tier of each part.
"""
PREVIOUS = "0003"
"""The revision of a schema all of whose tables, columns, functions and privileges are still there."""

WAITS = "migrating is put off"
ADD_COLUMN = "ALTER TABLE calls ADD COLUMN more text;"

MORE = """
from metering.store.migrations import run_sql_file

revision, down_revision, branch_labels, depends_on = "9999", "{newest}", None, None


def upgrade():
    run_sql_file(__file__)
"""

ChangedMigrations = Callable[..., AbstractContextManager[None]]


@pytest.fixture
def changed_migrations(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ChangedMigrations:
    """Return what makes the migrations others while it lasts: without those after one, or with one more."""

    @contextmanager
    def change(*, until: str = "9999", more: str = "") -> Iterator[None]:
        migrations = tmp_path / uuid4().hex
        shutil.copytree(schema.MIGRATIONS, migrations)
        versions = sorted(file for file in (migrations / "versions").glob("0*.py"))
        newest = max(file.name[:4] for file in versions if file.name[:4] <= until)
        for file in versions:
            if file.name[:4] > newest:
                file.unlink()
        if more:
            (migrations / "versions" / "9999_more.py").write_text(MORE.format(newest=newest))
            (migrations / "versions" / "9999_more.sql").write_text(more)
        with monkeypatch.context() as patch:
            patch.setattr(schema, "MIGRATIONS", migrations)
            yield

    return change


async def test_a_migration_that_waits_for_a_table_holds_up_no_call(
    service: Service, changed_migrations: ChangedMigrations, caplog: pytest.LogCaptureFixture
) -> None:
    await service.activate("acme")
    recorded = 0
    with changed_migrations(more=ADD_COLUMN):
        # Such as pg_dump, or somebody who has forgotten a session over lunch.
        async with held(service.database_url, "SELECT FROM calls"):
            migrating = asyncio.create_task(migrate(service.database_url))
            async with asyncio.timeout(45):
                while caplog.text.count(WAITS) < 3:
                    await service.record(service.call("acme"), timeout=5)
                    recorded += 1
            assert not migrating.done()
        assert (await migrating)[1] == "9999"
    await service.record(service.call("acme"))
    assert (await service.usage("acme", "2026-11")).total_calls == recorded + 1
    await assert_books_are_right(service.database_url)


async def test_a_migration_says_what_it_waited_for_when_it_gives_up(
    database_url: str, changed_migrations: ChangedMigrations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "LOCK_TRIES", 2)
    monkeypatch.setattr(schema, "LOCK_PAUSE_S", 0.01)
    with changed_migrations(more=ADD_COLUMN):
        async with held(database_url, "SELECT FROM calls"):
            with pytest.raises(LockedError, match=r"lock timeout.*Locks"):
                await migrate(database_url)
        assert (await migrate(database_url))[1] == "9999"


@pytest.fixture
async def empty_url(server_url: str) -> AsyncIterator[str]:
    """Return the URL of an empty database."""
    name = f"metering_test_{uuid4().hex}"
    await execute(server_url, f"CREATE DATABASE {name}")
    yield with_database(server_url, name)
    await execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")


Column = tuple[str, str]

COLUMNS = """
    SELECT attrelid::regclass::text AS table, attname AS column, format_type(atttypid, atttypmod) AS type,
        attnotnull AND NOT atthasdef AND attidentity = '' AS demanded
    FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v') AND attnum > 0 AND NOT attisdropped
        AND relname <> 'schema_version'
"""
FUNCTIONS = "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
PRIVILEGES = """
    SELECT table_name || '.' || column_name || ' ' || privilege_type FROM information_schema.column_privileges
    WHERE grantee = 'metering_service' AND table_schema = 'public'
"""
DELETABLE = """
    SELECT table_name FROM information_schema.table_privileges
    WHERE grantee = 'metering_service' AND table_schema = 'public' AND privilege_type = 'DELETE'
"""


async def test_the_newest_schema_takes_all_that_the_program_before_says(
    empty_url: str, database_url: str, changed_migrations: ChangedMigrations
) -> None:
    """The rules of docs/operations.md, "Migrations": add, and take nothing away that is in use."""
    with changed_migrations(until=PREVIOUS):
        assert (await migrate(empty_url))[1] == PREVIOUS
    before, after = await asyncpg.connect(empty_url), await asyncpg.connect(database_url)
    columns_before: dict[Column, str] = {
        (row["table"], row["column"]): row["type"] for row in await before.fetch(COLUMNS)
    }
    found = {(row["table"], row["column"]): row for row in await after.fetch(COLUMNS)}
    assert {column: found[column]["type"] if column in found else "gone" for column in columns_before} == columns_before
    tables = {table for table, _ in columns_before}
    new = found.keys() - columns_before.keys()
    demanded = {column for column in new if column[0] in tables and found[column]["demanded"]}
    assert not demanded, "the program before does not fill these: give them a default, or let them be null"
    for query in (FUNCTIONS, PRIVILEGES, DELETABLE):
        gone = {row[0] for row in await before.fetch(query)} - {row[0] for row in await after.fetch(query)}
        assert not gone
    await before.close()
    await after.close()


async def test_after_an_upgrade_one_can_go_back_to_the_program_before(
    database_url: str,
    clock: FakeClock,
    changed_migrations: ChangedMigrations,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with changed_migrations(more=ADD_COLUMN):
        assert (await migrate(database_url))[1] == "9999"
    assert await migrate(database_url) == ("9999", "9999")
    assert "is newer than this program" in caplog.text
    async with Service(database_url, clock) as service:
        await service.activate("acme")
        await service.record(service.call("acme"))
    await assert_books_are_right(database_url)


@pytest.fixture
def program_before(tmp_path: Path) -> Path:
    """Return where the program before stands, as it was committed."""
    git = ("git", "-C", str(REPOSITORY), "archive", PREVIOUS_PROGRAM, "proto", "service", "clients/python")
    archive = tmp_path / "before.tar"
    with archive.open("wb") as file:
        done = subprocess.run(git, stdout=file, stderr=subprocess.PIPE, check=False)
    if done.returncode:
        pytest.skip(f"commit {PREVIOUS_PROGRAM} is not in this clone: {done.stderr.decode().strip()}")
    place = tmp_path / "before"
    shutil.unpack_archive(archive, place, filter="data")
    return place


@pytest.mark.timeout(180)
async def test_the_program_before_serves_on_beside_the_new_one_that_has_migrated(
    empty_url: str, program_before: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = (program_before / part for part in ("proto", "service", "clients/python"))
    monkeypatch.setenv("PYTHONPATH", ":".join(map(str, paths)))
    async with ServiceProcess(empty_url) as before:
        monkeypatch.delenv("PYTHONPATH")
        connection = await asyncpg.connect(empty_url)
        schema_before = await connection.fetchval("SELECT version_num FROM schema_version")
        month = await last_month(before, 500)
        calls = [before.call("acme") for _ in range(500)]
        await before.record_batch(calls[:300])
        async with ServiceProcess(empty_url) as after:
            assert await connection.fetchval("SELECT version_num FROM schema_version") >= schema_before
            for number, service in enumerate((before, after, before, after)):
                part = calls[100 * number : 100 * number + 200]
                answer = await service.record_batch(part)
                assert answer.accepted + answer.duplicates == 200
                assert (await service.record(part[0])).duplicate
                assert not (await service.record(service.call("acme"))).duplicate
            await before.activate("other")
            await after.close_month(month)
            assert (await before.close_month(month)).bills_issued == 1
            assert not (await before.pay("acme", "3", "first")).duplicate
            assert (await after.pay("acme", "3", "first")).duplicate
            assert amount((await after.deduct("acme", month)).outstanding) == amount(
                (await before.deduct("acme", month)).outstanding
            )
            for service in (before, after):
                assert (await service.usage("acme", month)).total_calls == 500
                assert await _calls_in_all(service) == 504
                assert (await service.status("other")).state == (await after.status("other")).state
            await assert_books_are_right(empty_url)
        await connection.close()


async def _calls_in_all(service: ServiceProcess) -> int:
    """Return the calls of acme in this month."""
    now = service.call("acme").occurred_at.ToDatetime()
    return (await service.usage("acme", now.strftime("%Y-%m"))).total_calls


async def test_two_who_migrate_at_once_wait_for_each_other_and_not_for_a_moment_only(empty_url: str) -> None:
    async with held(empty_url, "SELECT pg_advisory_xact_lock(1147, 4)"):
        waiting = asyncio.create_task(migrate(empty_url))
        connection = await asyncpg.connect(empty_url)
        # More than the moment that migrations wait for tables.
        waits = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND now() - waitstart > interval '1500 ms'"
        async with asyncio.timeout(30):
            while not await connection.fetch(waits):
                await asyncio.sleep(0.01)
        await connection.close()
        assert not waiting.done()
    assert (await waiting)[0] is None
