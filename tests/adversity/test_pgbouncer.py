"""PgBouncer in transaction mode stands between the service and PostgreSQL: a session lasts for a transaction."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import grpc
import pytest

from faceid.metering.v1 import resources_pb2 as pb
from metering.errors import DatabaseUnavailableError, UnsuitableDatabaseError
from metering.store.database import Database
from tests.adversity.test_database_trouble import record_until_acknowledged
from tests.conftest import execute
from tests.support.audit import assert_books_are_right
from tests.support.command import metering
from tests.support.pgbouncer import PgBouncer
from tests.support.service import FakeClock, Service, amount
from tests.support.waiting import until

DOCS = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()


def documented_role(name: str) -> list[str]:
    """Return the statements by which docs/operations.md makes the role that logs in, with another name for it."""
    statements = re.findall(r"^    ((?:CREATE|ALTER) ROLE metering_pooled [^;]*;)", DOCS, re.MULTILINE)
    assert len(statements) > 3
    return [statement.replace("metering_pooled", name) for statement in statements]


@pytest.fixture
async def pooled_role(database_url: str) -> AsyncIterator[str]:
    """Return a role of the test's own, as documented."""
    name = f"pooled_{uuid4().hex}"
    await execute(database_url, *documented_role(name))
    yield name
    await execute(database_url, f"DROP ROLE {name}")


@pytest.fixture
async def pgbouncer(database_url: str, pooled_role: str) -> AsyncIterator[PgBouncer]:
    """Return a PgBouncer in front of the test's database."""
    async with PgBouncer.to(database_url, pooled_role) as pgbouncer:
        yield pgbouncer


@pytest.fixture
async def service(pgbouncer: PgBouncer, database_url: str, clock: FakeClock) -> AsyncIterator[Service]:
    """Return a service behind it."""
    async with Service(pgbouncer.url, clock, direct_database_url=database_url) as service:
        yield service


async def test_everything_works_with_fewer_sessions_than_the_service_has_connections(
    service: Service, database_url: str, clock: FakeClock
) -> None:
    await service.activate("acme")
    last_month = [service.call("acme", at=clock.now().replace(month=10)) for _ in range(700)]
    now = [service.call("acme") for _ in range(150)]
    # Batches large enough for COPY, small ones and single calls, each twice and all at once.
    await asyncio.gather(
        *(service.record_batch(last_month) for _ in range(2)), *(service.record(call) for call in now for _ in range(2))
    )
    assert (await service.usage("acme", "2026-10")).total_calls == 700
    assert (await service.usage("acme", "2026-11")).total_calls == 150
    assert (await service.close_month("2026-10")).bills_issued == 1
    assert amount((await service.deduct("acme", "2026-10")).outstanding) == amount(
        (await service.bill("acme", "2026-10")).total
    )
    # Suspended and reactivated: heard over the connection that goes past PgBouncer.
    assert (await service.status("acme")).state == pb.SERVICE_STATE_SUSPENDED
    await service.pay("acme", "100")
    async with asyncio.timeout(10):
        while (await service.status("acme")).state != pb.SERVICE_STATE_ACTIVE:
            await asyncio.sleep(0.01)
    assert len(await service.list_calls("acme", "2026-10")) == 700
    assert not service.app.not_ready()
    await assert_books_are_right(database_url)


async def test_a_pgbouncer_that_is_killed_and_started_again_loses_and_doubles_nothing(
    service: Service, pgbouncer: PgBouncer, database_url: str
) -> None:
    await service.activate("acme")
    calls = [service.call("acme") for _ in range(400)]
    recorded = 0

    async def record(mine: list[pb.CallRecord]) -> None:
        nonlocal recorded
        for call in mine:
            await record_until_acknowledged(service, call)
            recorded += 1

    recording = [asyncio.create_task(record(calls[start::20])) for start in range(20)]
    for some in (50, 120, 200, 300):
        await until(lambda enough=some: recorded >= enough)  # type: ignore[misc]
        pgbouncer.kill()
        await pgbouncer.start()
    await asyncio.gather(*recording)
    async with asyncio.timeout(30):
        while service.app.not_ready():
            await asyncio.sleep(0.01)
    assert (await service.usage("acme", "2026-11")).total_calls == 400
    await assert_books_are_right(database_url)


async def test_a_role_that_promises_cannot_rest_on_is_refused_at_start(database_url: str) -> None:
    async with PgBouncer.to(database_url, "postgres") as pgbouncer:
        code, said = await metering(
            *("serve", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"),
            METERING_DATABASE_URL=pgbouncer.url,
            METERING_DIRECT_DATABASE_URL=database_url,
        )
    assert code == 1
    assert "the role postgres may change the ledger" in said
    assert "lock_timeout is off" in said
    assert "docs/operations.md" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("synchronous_commit", "off"),
        ("synchronous_commit", "local"),
        ("default_transaction_isolation", "'repeatable read'"),
        ("statement_timeout", "0"),
        ("lock_timeout", "0"),
        ("idle_in_transaction_session_timeout", "0"),
    ],
)
async def test_a_session_without_what_a_promise_needs_is_named(
    database_url: str, pooled_role: str, parameter: str, value: str
) -> None:
    await execute(database_url, f"ALTER ROLE {pooled_role} SET {parameter} = {value}")
    async with PgBouncer.to(database_url, pooled_role) as pgbouncer:
        database = await Database.connect(pgbouncer.url, name="test", connections=1, pooler=True)
        with pytest.raises(UnsuitableDatabaseError, match=f"{parameter} is"):
            await database.check_session()
        await database.close()


async def test_a_pooler_that_is_not_said_to_be_one_is_told_apart(pgbouncer: PgBouncer) -> None:
    database = await Database.connect(pgbouncer.url, name="test", connections=1)
    with pytest.raises(DatabaseUnavailableError, match="--direct-database-url"):
        await database.ping()
    await database.close()


async def test_the_defaults_of_database_and_server_do_not_matter_without_a_pooler(
    database_url: str, clock: FakeClock
) -> None:
    name = database_url.partition("?")[0].rpartition("/")[2]
    for parameter, value in (
        ("synchronous_commit", "off"),
        ("default_transaction_isolation", "serializable"),
        ("lock_timeout", "0"),
        ("timezone", "'Asia/Kathmandu'"),
    ):
        await execute(database_url, f"ALTER DATABASE {name} SET {parameter} = {value}")
    async with Service(database_url, clock) as service:
        await service.activate("acme")
        await asyncio.gather(*(service.record(service.call("acme")) for _ in range(50)))
        assert (await service.usage("acme", "2026-11")).total_calls == 50
        with pytest.raises(grpc.aio.AioRpcError):
            await service.close_month("2026-11")
    await assert_books_are_right(database_url)
