"""The fake service and the real one are told the same, at random, and must answer the same."""

import asyncio
import random
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from google.protobuf.message import Message

from faceid.metering.v1 import metering_service_pb2 as metering_pb
from faceid.metering.v1 import resources_pb2 as pb
from faceid_metering.testing import FakeClock
from tests.support.service import Stubs
from tests.support.waiting import LONG_S

ACCOUNTS = ("acme", "beta")
APIS = ("DetectAuth", "CompareFace", "LivenessCheck")
MONTHS = ("2026-09", "2026-10", "2026-11")
RESULT_CODES = ("", "", "E.Uncharged", "E.1")
MIDNIGHT = datetime(2026, 10, 31, 16, tzinfo=UTC)  # October ends in Shanghai


def some_calls(metering: Stubs, chance: random.Random) -> list[pb.CallRecord]:
    """Return calls, some of them the same."""
    return [some_call(metering, chance, chance.randrange(200)) for _ in range(chance.randrange(1, 150))]


def some_call(metering: Stubs, chance: random.Random, number: int) -> pb.CallRecord:
    # All but account and day hang on the id: of two different calls with one identity, it is not said which one stands.
    api = APIS[number % len(APIS)]
    return metering.call(
        chance.choice(ACCOUNTS),
        api=api,
        call_id=str(UUID(int=number)),
        at=MIDNIGHT + timedelta(days=chance.choice((-40, -1, 0, 1)), microseconds=-(number % 2)),
        result_code=RESULT_CODES[number % len(RESULT_CODES)],
    )


async def play(metering: Stubs, seed: int, clock: FakeClock) -> list[Message]:
    """Do what the seed says, and return every answer, without times and versions."""
    chance = random.Random(seed)
    clock.set(datetime(2026, 11, 3, 4, tzinfo=UTC))
    answers: list[Message] = []
    for account_id in ACCOUNTS:
        await metering.activate(account_id)
    for _ in range(12):
        account_id, month = chance.choice(ACCOUNTS), chance.choice(MONTHS[:2])
        match chance.choice(("record", "record", "close", "deduct", "pay")):
            case "record":
                answers.append(await metering.record_batch(some_calls(metering, chance)))
            case "close":
                answers.append(await metering.close_month(month))
            case "pay":
                answers.append(await metering.pay(account_id, f"{chance.randrange(1, 9)}.5", str(chance.random())))
                await change_heard_of(metering, account_id)
            case _ if (await metering.usage(account_id, month)).state == pb.MONTH_STATE_CLOSED:
                request = {"account_id": account_id, "month": month}
                if (await metering.usage(account_id, month)).total_calls:
                    answers.append(await metering.deduct(**request))
                    await change_heard_of(metering, account_id)
    for account_id in ACCOUNTS:
        answers.append(await metering.account(account_id))
        for month in MONTHS:
            answers.append(await metering.usage(account_id, month))
            answers.extend(await metering.list_calls(account_id, month))
    return [without_times(answer) for answer in answers]


async def change_heard_of(metering: Stubs, account_id: str) -> None:
    """Wait until what is answered from memory is what stands on the books, which takes a real service a moment."""
    on_the_books = (await metering.account(account_id)).service_status.state
    async with asyncio.timeout(LONG_S):
        while (await metering.status(account_id)).state != on_the_books:
            await asyncio.sleep(0.001)


def without_times(message: Message) -> Message:
    """Return an answer without what need not be the same on every service."""
    if isinstance(message, metering_pb.BatchRecordCallsResponse):
        message.not_active.sort(key=lambda status: status.account_id)  # they come in any order
    for descriptor, value in message.ListFields():
        if descriptor.name in {"issued_at", "recorded_at", "activated_at", "version", "age", "reason", "message"}:
            message.ClearField(descriptor.name)
        elif descriptor.message_type is not None:
            for each in value if descriptor.is_repeated else [value]:
                without_times(each)
    return message


@pytest.mark.parametrize("seed", range(8))
async def test_the_fake_service_answers_as_the_real_one(
    fake_metering: Stubs, real_metering: Stubs, clock: FakeClock, seed: int
) -> None:
    fake = await play(fake_metering, seed, clock)
    real = await play(real_metering, seed, clock)
    for one, other in zip(fake, real, strict=True):
        assert str(one) == str(other)
