"""Real databases and real services. One PostgreSQL a session, a migrated template, a database for each test."""

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest

from metering import embedded_postgres
from metering.store.schema import migrate
from tests.support.processes import ServiceProcess
from tests.support.service import FakeClock, Service

TEMPLATE = "metering_test_template"


def with_database(url: str, name: str) -> str:
    """Return a URL of the same server with another database."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


async def execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    """Return the URL of a PostgreSQL server: METERING_TEST_DATABASE_URL, or an embedded one."""
    if url := os.environ.get("METERING_TEST_DATABASE_URL"):
        yield url
        return
    # Not pytest's own temporary directories: as root, PostgreSQL's user could not get into them.
    with (
        tempfile.TemporaryDirectory(prefix="metering-test-") as directory,
        embedded_postgres.start(Path(directory)) as postgres,
    ):
        yield postgres.url


@pytest.fixture(scope="session")
def template(server_url: str) -> Iterator[str]:
    """Return the name of a migrated, empty database."""

    async def make() -> None:
        drop = f"DROP DATABASE IF EXISTS {TEMPLATE} WITH (FORCE)"
        await execute(server_url, drop, f"CREATE DATABASE {TEMPLATE}")
        await migrate(with_database(server_url, TEMPLATE))

    asyncio.run(make())
    yield TEMPLATE
    asyncio.run(execute(server_url, f"DROP DATABASE {TEMPLATE} WITH (FORCE)"))


@pytest.fixture
async def database_url(server_url: str, template: str) -> AsyncIterator[str]:
    """Return the URL of a migrated database of the test's own."""
    name = f"metering_test_{uuid4().hex}"
    await execute(server_url, f"CREATE DATABASE {name} TEMPLATE {template}")
    yield with_database(server_url, name)
    await execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def db(database_url: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    """Return a connection of the test's own, as the database's owner."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture
def clock() -> FakeClock:
    """Return a clock that stands still: noon of 23 November 2026 in Shanghai, unless the test sets it."""
    return FakeClock(datetime(2026, 11, 23, 4, tzinfo=UTC))


@pytest.fixture
async def service(database_url: str, clock: FakeClock) -> AsyncIterator[Service]:
    """Return a service in this process, with its clock in the test's hands, and real gRPC on a real socket."""
    async with Service(database_url, clock) as service:
        yield service


@pytest.fixture
async def processes(database_url: str) -> AsyncIterator["ServiceProcesses"]:
    """Return a starter of `metering serve` processes on the test's database; they end with the test."""
    async with ServiceProcesses(database_url) as processes:
        yield processes


class ServiceProcesses:
    """Starts `metering serve` processes."""

    def __init__(self, database_url: str) -> None:
        self.database_url = database_url
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def start(self, *flags: str) -> ServiceProcess:
        """Start one, and return it once it serves."""
        return await self._stack.enter_async_context(ServiceProcess(self.database_url, *flags))


@pytest.fixture
def own_data_dir() -> Iterator[Path]:
    """Return a directory for an embedded PostgreSQL of the test's own."""
    with tempfile.TemporaryDirectory(prefix="metering-test-") as directory:
        yield Path(directory)
