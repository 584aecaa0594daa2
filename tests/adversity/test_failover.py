"""Another server becomes the primary: nothing acknowledged is lost, and the service finds it by itself."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlencode

import grpc
import pytest

from faceid.metering.v1 import resources_pb2 as pb
from metering import embedded_postgres
from metering.embedded_postgres import EmbeddedPostgres
from metering.store.schema import migrate
from tests.conftest import execute
from tests.support.audit import assert_books_are_right
from tests.support.postgres import kill_server
from tests.support.postgres_copies import Standby
from tests.support.proxy import TcpProxy
from tests.support.service import FakeClock, Service, reason_of
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(180)  # two servers, one of them a copy of the other

SUSPEND = "UPDATE accounts SET state = 'SUSPENDED', status_version = status_version + 1 WHERE account_id = 'acme'"
TELL = "SELECT pg_notify('metering_status_changed', 'acme')"


@pytest.fixture
async def primary(own_data_dir: Path) -> AsyncIterator[EmbeddedPostgres]:
    """Return a migrated server of the test's own."""
    with await asyncio.to_thread(embedded_postgres.start, own_data_dir / "first") as postgres:
        await migrate(postgres.url)
        yield postgres


@pytest.fixture
async def standby(primary: EmbeddedPostgres, own_data_dir: Path) -> AsyncIterator[Standby]:
    """Return a synchronous standby of it."""
    async with Standby.of(primary, own_data_dir / "second") as standby:
        yield standby


class Gateway:
    """Records calls all the time, and sends each again until it is acknowledged."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self.acknowledged = 0

    async def record_on(self) -> None:
        while True:
            call = self._service.call("acme")
            while not await self._record(call):
                await asyncio.sleep(0.01)
            self.acknowledged += 1

    async def _record(self, call: pb.CallRecord) -> bool:
        try:
            await self._service.record(call, timeout=1)
        except grpc.aio.AioRpcError as error:
            assert error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}, error
            return False
        return True


@asynccontextmanager
async def calls_coming_in(service: Service) -> AsyncIterator[Gateway]:
    """Record calls of acme, 20 at a time, as long as this lasts; all of them are acknowledged at its end."""
    gateway = Gateway(service)
    recording = [asyncio.create_task(gateway.record_on()) for _ in range(20)]
    try:
        yield gateway
    finally:
        for task in recording:
            task.cancel()
        await asyncio.gather(*recording, return_exceptions=True)


async def until_recorded_on(gateway: Gateway) -> None:
    """Return once some more calls are acknowledged."""
    before = gateway.acknowledged
    await until(lambda: gateway.acknowledged > before + 50)


async def test_an_address_that_leads_to_a_promoted_standby_is_followed_and_nothing_is_lost(
    primary: EmbeddedPostgres, standby: Standby, clock: FakeClock
) -> None:
    async with TcpProxy.to_postgres(primary.url) as proxy, Service(proxy.url, clock) as service:
        await service.activate("acme")
        async with calls_coming_in(service) as gateway:
            await until_recorded_on(gateway)
            kill_server(primary.data_dir)
            # The address leads to the standby before that is promoted: it must not be taken for the primary.
            proxy.connect_to = standby.socket
            await until(lambda: "takes no writes" in service.app.not_ready())
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await service.record(service.call("acme"), timeout=5)
            assert reason_of(error.value) == "DATABASE_UNAVAILABLE"
            await standby.promote()
            await until_recorded_on(gateway)
            await until(lambda: not service.app.not_ready())
        # A call whose acknowledgement did not arrive may be recorded, too.
        assert (await service.usage("acme", "2026-11")).total_calls >= gateway.acknowledged
        await execute(standby.url, SUSPEND, TELL)
        await until_suspended(service)
        await execute(standby.url, SUSPEND.replace("SUSPENDED", "ACTIVE"), TELL)
    await assert_books_are_right(standby.url)


async def test_of_several_servers_in_the_url_the_promoted_one_is_found(
    primary: EmbeddedPostgres, standby: Standby, clock: FakeClock
) -> None:
    servers = {"host": f"{primary.data_dir}/postgres,{standby.pgdata}", "port": "5432,5432"}
    async with Service(f"postgresql://postgres@/metering?{urlencode(servers)}", clock) as service:
        await service.activate("acme")
        async with calls_coming_in(service) as gateway:
            await until_recorded_on(gateway)
            kill_server(primary.data_dir)
            await standby.promote()
            await until_recorded_on(gateway)
        assert (await service.usage("acme", "2026-11")).total_calls >= gateway.acknowledged
    await assert_books_are_right(standby.url)


async def test_a_former_primary_that_lives_on_is_not_talked_to_any_more(
    primary: EmbeddedPostgres, standby: Standby, clock: FakeClock
) -> None:
    async with TcpProxy.to_postgres(primary.url) as proxy, Service(proxy.url, clock) as service:
        await service.activate("acme")
        await service.status("acme")
        async with calls_coming_in(service) as gateway:
            await until_recorded_on(gateway)
            # As whoever fails over on purpose does it: no connection is cut, and the former primary takes no writes.
            await execute(primary.url, "ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()")
            await until(lambda: "takes no writes" in service.app.not_ready())
            await standby.promote()
            proxy.connect_to = standby.socket
            await until_recorded_on(gateway)
        assert (await service.usage("acme", "2026-11")).total_calls >= gateway.acknowledged
        await execute(standby.url, SUSPEND, TELL)
        await until_suspended(service)
        await execute(standby.url, SUSPEND.replace("SUSPENDED", "ACTIVE"), TELL)
        await until(lambda: not service.app.not_ready())
    await assert_books_are_right(standby.url)


async def until_suspended(service: Service) -> None:
    """Return once the service has heard that acme is suspended."""
    async with asyncio.timeout(30):
        while (await service.status("acme")).state != pb.SERVICE_STATE_SUSPENDED:
            await asyncio.sleep(0.01)
