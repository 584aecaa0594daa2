"""What the fake service has and the real one hasn't: a hand on its clock, its accounts and its health."""

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

import grpc
import pytest

from faceid_metering import ClientConfig, MeteringClient, MeteringError
from faceid_metering.messages import ApiPrice, PerCallPrice, PricePlan, ServiceState
from faceid_metering.testing import FakeClock, FakeMetering
from tests.support.service import Stubs, reason_of, retry_after_s

PLAN = PricePlan(
    price_plan_id="standard",
    currency="USD",
    prices=[ApiPrice(api="DetectAuth", per_call=PerCallPrice(unit_price="0.5"))],
)


@pytest.fixture
def fake() -> Iterator[FakeMetering]:
    with FakeMetering() as fake:
        fake.activate("acme")
        yield fake


@pytest.fixture
async def client(fake: FakeMetering) -> AsyncIterator[MeteringClient]:
    config = ClientConfig(back_off_initial_s=0.001, back_off_max_s=0.01)
    async with MeteringClient(fake.target, config=config) as client:
        yield client


@pytest.fixture
async def stubs(fake: FakeMetering) -> AsyncIterator[Stubs]:
    async with grpc.aio.insecure_channel(fake.target) as channel:
        yield Stubs(channel)


async def test_it_shows_what_was_recorded_and_rejected(fake: FakeMetering, client: MeteringClient) -> None:
    await client.record_call("acme", "DetectAuth", result_code="E.1")
    with pytest.raises(MeteringError):
        await client.record_call("nobody", "DetectAuth")

    (recorded,) = fake.calls()
    (rejected,) = fake.rejected_calls()
    assert (recorded.call.account_id, recorded.call.api, recorded.call.result_code) == ("acme", "DetectAuth", "E.1")
    assert (rejected.call.account_id, rejected.reason) == ("nobody", "ACCOUNT_NOT_FOUND")
    assert fake.calls("nobody") == []


async def test_a_lost_answer_is_a_call_recorded_once(fake: FakeMetering, client: MeteringClient) -> None:
    with fake.lost_answers(), pytest.raises(MeteringError) as failed:
        await client.record_call("acme", "DetectAuth", timeout_s=0.1)
    call_id = fake.calls()[0].call.call_id
    again = await client.record_call("acme", "DetectAuth", call_id)

    assert failed.value.is_retryable()
    assert again.duplicate
    assert len(fake.calls()) == 1


async def test_while_it_is_unavailable_everything_fails_and_nothing_is_done(fake: FakeMetering, stubs: Stubs) -> None:
    call = stubs.call("acme")

    with fake.unavailable(), pytest.raises(grpc.aio.AioRpcError) as failed:
        await stubs.record(call)

    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    assert (reason_of(failed.value), retry_after_s(failed.value)) == ("DATABASE_UNAVAILABLE", 0.01)
    assert fake.calls() == []
    assert not (await stubs.record(call)).duplicate


async def test_while_its_queue_is_full_it_takes_no_calls_and_answers_the_rest(fake: FakeMetering, stubs: Stubs) -> None:
    with fake.queue_full():
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stubs.record_batch([stubs.call("acme")])
        status = await stubs.status("acme")

    assert (reason_of(failed.value), retry_after_s(failed.value)) == ("QUEUE_FULL", 0.01)
    assert status.state == ServiceState.SERVICE_STATE_ACTIVE


async def test_while_it_is_slow_a_deadline_passes(fake: FakeMetering, client: MeteringClient) -> None:
    with fake.slow(60), pytest.raises(MeteringError) as failed:
        await client.record_call("acme", "DetectAuth", timeout_s=0.05)
    assert failed.value.code is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_stopped_and_started_again_it_has_its_address_and_its_calls(
    fake: FakeMetering, client: MeteringClient
) -> None:
    recorded_before = await client.record_call("acme", "DetectAuth")
    fake.stop()
    with pytest.raises(MeteringError) as failed:
        await client.record_call("acme", "DetectAuth", timeout_s=0.05)
    fake.start()
    await client.record_call("acme", "DetectAuth")

    assert failed.value.is_retryable()
    assert (recorded_before.duplicate, len(fake.calls("acme"))) == (False, 2)


async def test_suspended_by_hand_and_reactivated(fake: FakeMetering, client: MeteringClient) -> None:
    async with aclosing(client.watch_service_status(["acme"])) as watch:
        states = [(await anext(watch)).state]
        fake.suspend("acme")
        states.append((await anext(watch)).state)
        fake.reactivate("acme")
        states.append((await anext(watch)).state)

    active, suspended = ServiceState.SERVICE_STATE_ACTIVE, ServiceState.SERVICE_STATE_SUSPENDED
    assert states == [active, suspended, active]


async def test_a_month_is_billed_by_setting_the_clock(fake: FakeMetering, client: MeteringClient) -> None:
    fake.clock.set(datetime(2026, 11, 23, tzinfo=UTC))
    fake.activate("paying", PLAN)
    await client.record_call("paying", "DetectAuth", occurred_at=fake.clock.now())

    fake.clock.advance(timedelta(days=8))
    await client.close_month("2026-11")
    bill = await client.get_bill("paying", "2026-11")

    assert (bill.total.units, bill.total.nanos, bill.total.currency_code) == (0, 500_000_000, "USD")


async def test_a_day_is_dropped_as_retention_does(fake: FakeMetering, client: MeteringClient) -> None:
    fake.clock.set(datetime(2026, 11, 23, tzinfo=UTC))
    await client.record_call("acme", "DetectAuth", occurred_at=fake.clock.now())
    fake.drop_calls("2026-11-22")
    assert len([call async for call in client.list_calls("acme", "2026-11")]) == 1

    fake.drop_calls("2026-11-23")
    with pytest.raises(MeteringError, match="CALLS_DROPPED"):
        await anext(client.list_calls("acme", "2026-11"))
    assert (await client.get_monthly_usage("acme", "2026-11")).total_calls == 1


def test_an_account_is_activated_once(fake: FakeMetering) -> None:
    with pytest.raises(ValueError, match="acme was activated before"):
        fake.activate("acme")


def test_its_clock_goes_until_it_is_set() -> None:
    clock = FakeClock()
    before = datetime.now(UTC)
    assert before <= clock.now() <= datetime.now(UTC)

    clock.set(before)
    clock.advance(timedelta(hours=1))

    assert clock.now() == before + timedelta(hours=1)
    assert clock.time_s() == clock.now().timestamp()
    with pytest.raises(ValueError, match="no time zone"):
        clock.set(datetime(2026, 11, 23))
