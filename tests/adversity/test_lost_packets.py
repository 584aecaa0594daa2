"""A network that loses packets without a word: calls stay exact, and all goes on by itself when it is back."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Self
from uuid import uuid4

import asyncpg
import pytest

from faceid_metering import ClientConfig, MeteringClient, MeteringError
from metering import embedded_postgres
from metering.store.schema import migrate
from tests.conftest import execute
from tests.support.audit import assert_books_are_right
from tests.support.network import LossyNetwork
from tests.support.processes import ServiceProcess
from tests.support.waiting import until

ACCOUNT = "acme"
DEADLINE_S = 3.0
SLACK_S = 2.0
HEALTHY_S_MAX = 10.0

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def network() -> Iterator[LossyNetwork]:
    with LossyNetwork.laid() as network:
        yield network


@pytest.fixture
async def database_url(network: LossyNetwork, own_data_dir: Path) -> AsyncIterator[str]:
    """Return the URL of a PostgreSQL on that network."""
    with embedded_postgres.start(own_data_dir) as postgres:
        await execute(postgres.url, f"ALTER SYSTEM SET listen_addresses = '{network.database}'")
    with (own_data_dir / "postgres" / "pg_hba.conf").open("a") as who_may:
        who_may.write(f"host all all {network.service}/32 trust\n")
    with embedded_postgres.start(own_data_dir) as postgres:
        await migrate(postgres.url)
        yield postgres.url


@pytest.fixture
async def service(network: LossyNetwork, database_url: str) -> AsyncIterator[ServiceProcess]:
    """Return a service that is reached, and reaches its database, over that network only."""
    async with ServiceProcess(
        f"postgresql://postgres@{network.database}/metering",
        *("--listen", f"{network.service}:0", "--insecure-listen"),
        *("--metrics-listen", f"{network.service}:0", "--insecure-metrics-listen"),
        through=network.there,
    ) as service:
        await service.activate(ACCOUNT)
        yield service


class Gateway:
    """Records calls in the background, and others one by one, each until it is acknowledged."""

    def __init__(self, target: str, spool_dir: Path) -> None:
        self._metering = MeteringClient(target, config=ClientConfig(spool_dir=spool_dir))
        self._finished = False
        self.call_ids: list[str] = []
        self.acknowledged = 0
        self.given_up = 0
        """How often a call got an error, and was tried again."""

    async def __aenter__(self) -> Self:
        works = (self._record_in_the_background, *4 * [self._record_and_wait])
        self._tasks = [asyncio.create_task(work()) for work in works]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await self._metering.aclose()

    async def _record_in_the_background(self) -> None:
        while not self._finished:
            self.call_ids.append(self._metering.record(ACCOUNT, "DetectAuth"))
            await asyncio.sleep(0.005)

    async def _record_and_wait(self) -> None:
        while not self._finished:
            call_id, occurred_at = str(uuid4()), datetime.now(UTC)
            self.call_ids.append(call_id)
            while not await self._acknowledges(call_id, occurred_at):
                self.given_up += 1
            self.acknowledged += 1

    async def _acknowledges(self, call_id: str, occurred_at: datetime) -> bool:
        try:
            async with asyncio.timeout(DEADLINE_S + SLACK_S):
                await self._metering.record_call(
                    ACCOUNT, "DetectAuth", call_id, occurred_at=occurred_at, timeout_s=DEADLINE_S
                )
        except MeteringError as error:
            assert error.is_retryable(), error
            return False
        return True

    @property
    def delivered(self) -> int:
        """How many of the calls recorded in the background are delivered."""
        return self._metering.stats().delivered_calls

    async def until_all_goes_on(self) -> None:
        """Return once more calls of both kinds are acknowledged."""
        acknowledged, delivered = self.acknowledged, self.delivered
        await until(lambda: self.acknowledged > acknowledged + 20 and self.delivered > delivered + 100)

    async def finish(self) -> None:
        """Record no more, and return once all is acknowledged."""
        self._finished = True
        await asyncio.gather(*self._tasks)
        await until(lambda: not self._metering.stats().waiting_calls and not self._metering.stats().spool_calls)
        assert not self._metering.stats().dropped_calls
        assert not self._metering.stats().rejected_calls


def clients_and_service(network: LossyNetwork) -> None:
    network.lose_between(network.clients, network.service)


def answers_to_clients(network: LossyNetwork) -> None:
    network.lose(network.service, network.clients)


def service_and_database(network: LossyNetwork) -> None:
    network.lose_between(network.service, network.database)


def answers_of_the_database(network: LossyNetwork) -> None:
    network.lose(network.database, network.service)


@pytest.mark.parametrize(
    ("lose", "lost_s"),
    [
        # TCP waits longer and longer before it sends again: after so long, for another half a minute.
        (clients_and_service, 27.0),
        (service_and_database, 27.0),
        (answers_to_clients, 5.0),
        (answers_of_the_database, 5.0),
    ],
)
async def test_a_network_that_lost_everything_is_back_and_all_goes_on_and_each_call_is_booked_once(
    network: LossyNetwork,
    service: ServiceProcess,
    database_url: str,
    tmp_path: Path,
    lose: Callable[[LossyNetwork], None],
    lost_s: float,
) -> None:
    async with Gateway(service.target, tmp_path) as gateway:
        await gateway.until_all_goes_on()
        lose(network)
        await until(lambda: gateway.given_up)
        await asyncio.sleep(lost_s)  # how long it was away decides how long it takes to come back
        network.heal()
        async with asyncio.timeout(HEALTHY_S_MAX):
            await gateway.until_all_goes_on()
            while (await service.get("/readyz"))[0] != 200:
                await asyncio.sleep(0.05)
        await gateway.finish()

    connection = await asyncpg.connect(database_url)
    booked = [str(call_id) for (call_id,) in await connection.fetch("SELECT call_id FROM calls")]
    await connection.close()
    assert sorted(booked) == sorted(gateway.call_ids)
    await assert_books_are_right(database_url)
