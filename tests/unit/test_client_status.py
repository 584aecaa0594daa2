"""What is_active answers, and when."""

import pytest

from faceid.metering.v1.metering_service_pb2 import WatchServiceStatusResponse
from faceid_metering import ClientConfig, MeteringClient, WhenLost, WhenUnknown
from faceid_metering.testing import FakeMetering
from tests.support.scripted_server import HANG, FakeTime, ScriptedServer
from tests.support.waiting import until

HEARTBEAT = WatchServiceStatusResponse()


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


async def test_a_client_long_idle_denies_nobody_before_it_could_hear_of_the_service(
    server: ScriptedServer, time: FakeTime
) -> None:
    server.script["WatchServiceStatus"] = [[HANG]]
    async with server.client(time.runtime, ClientConfig(status_when_lost=WhenLost.DENY)) as metering:
        await time.runtime.sleep(3600)

        assert metering.is_active("acme")
        await server.begun["WatchServiceStatus"].wait()
        assert metering.is_active("acme")


async def test_a_client_that_hears_nothing_for_too_long_denies_if_it_is_told_to(
    server: ScriptedServer, time: FakeTime
) -> None:
    server.script["WatchServiceStatus"] = [[HANG]]
    async with server.client(time.runtime, ClientConfig(status_when_lost=WhenLost.DENY)) as metering:
        assert metering.is_active("acme")
        await server.begun["WatchServiceStatus"].wait()
        await time.runtime.sleep(31)

        await until(lambda: not metering.is_active("acme"))

        assert metering.stats().status_answers["lost_denied"] == 1


@pytest.mark.parametrize("policy", WhenUnknown)
async def test_an_account_unknown_to_the_service_is_answered_by_the_policy_and_asked_for_once(
    server: ScriptedServer, time: FakeTime, policy: WhenUnknown
) -> None:
    allowed = policy is WhenUnknown.ALLOW
    server.script["WatchServiceStatus"] = [[HEARTBEAT, HANG], [HEARTBEAT]]
    async with server.client(time.runtime, ClientConfig(status_when_unknown=policy)) as metering:
        assert metering.is_active("acme") is allowed
        await until(lambda: metering.stats().status_accounts == 1)

        assert [metering.is_active("acme") for _ in range(3)] == [allowed] * 3

        assert metering.stats().status_answers[f"unknown_{'allowed' if allowed else 'denied'}"] == 4
        assert len(server.requests["WatchServiceStatus"]) == 2


async def test_an_account_unknown_at_first_is_heard_of_once_it_is_activated() -> None:
    config = ClientConfig(status_when_unknown=WhenUnknown.DENY)
    with FakeMetering() as fake:
        async with MeteringClient(fake.target, config=config) as metering:
            assert not metering.is_active("acme")
            await until(lambda: metering.stats().status_accounts == 1)

            fake.activate("acme")

            await until(lambda: metering.is_active("acme"))
