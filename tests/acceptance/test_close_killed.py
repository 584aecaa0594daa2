"""A close of thousands of accounts, killed at random moments: in a chunk, between two of them, before and after."""

import asyncio
import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from faceid.metering.v1.account_service_pb2 import GetMonthRequest
from tests.conftest import ServiceProcesses
from tests.support.audit import MANY, assert_books_are_right
from tests.support.many_accounts import record_calls
from tests.support.processes import ServiceProcess
from tests.support.service import amount

if TYPE_CHECKING:
    import asyncpg

LAST_MONTH = datetime.now(UTC).replace(day=1, hour=0) - timedelta(days=5)
MONTH = LAST_MONTH.strftime("%Y-%m")
ACCOUNTS = 6_000
"""Six chunks, in two lanes."""
KILLS = 5
KILLED_WITHIN_S = 0.4
TOTALS = {1: Decimal("0.01"), 2: Decimal("0.03"), 3: Decimal("0.04")}
"""What so many calls come to, at 0.0125 each."""


Calls = dict[str, int]


@pytest.fixture
async def calls(processes: ServiceProcesses, db: "asyncpg.Connection[asyncpg.Record]") -> Calls:
    """Have accounts with so many calls last month."""
    replica = await processes.start()
    calls = {f"account-{number:04}": number % 3 + 1 for number in range(ACCOUNTS)}
    await record_calls(replica, db, calls, LAST_MONTH)
    assert await replica.terminate() == 0
    return calls


@pytest.mark.timeout(180)
async def test_a_close_killed_at_random_moments_and_run_again_gives_every_account_one_right_bill(
    calls: Calls, processes: ServiceProcesses, db: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    story = []
    """When it was killed, and how many bills there were then."""
    replica = await processes.start()
    for _ in range(KILLS):
        moment_s = random.uniform(0, KILLED_WITHIN_S)
        closing = asyncio.ensure_future(replica.close_month(MONTH))
        await asyncio.wait({closing}, timeout=moment_s)
        await replica.kill()
        await asyncio.gather(closing, return_exceptions=True)
        replica = await processes.start()
        story.append((moment_s, await db.fetchval("SELECT count(*) FROM bills")))
    await assert_closed(replica, calls, processes, db, story)


@pytest.mark.timeout(180)
async def test_a_close_by_two_replicas_one_of_which_is_killed_gives_every_account_one_right_bill(
    calls: Calls, processes: ServiceProcesses, db: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    killed, other = await processes.start(), await processes.start()
    closing = [asyncio.ensure_future(each.close_month(MONTH)) for each in (killed, other)]
    moment_s = random.uniform(0, KILLED_WITHIN_S)
    await asyncio.wait(closing[:1], timeout=moment_s)
    await killed.kill()
    await asyncio.gather(closing[0], return_exceptions=True)
    assert (await closing[1]).bills_issued == ACCOUNTS, moment_s
    await assert_closed(other, calls, processes, db, moment_s)


async def assert_closed(
    replica: ServiceProcess,
    calls: Calls,
    processes: ServiceProcesses,
    db: "asyncpg.Connection[asyncpg.Record]",
    story: object,
) -> None:
    """Close once more, and look at every bill."""
    closed = await replica.close_month(MONTH)
    expected = {account_id: TOTALS[number] for account_id, number in calls.items()}
    assert (closed.bills_issued, amount(closed.totals[0])) == (ACCOUNTS, sum(expected.values())), story
    assert dict(map(tuple, await db.fetch("SELECT account_id, total FROM bills"))) == expected, story
    assert await db.fetchval("SELECT count(*) FROM bills") == ACCOUNTS, story
    progress = await replica.accounts.GetMonth(GetMonthRequest(month=MONTH))
    assert progress.HasField("billed_at"), story
    assert (progress.bills_issued, progress.accounts_looked_at) == (ACCOUNTS, progress.accounts), story
    await assert_books_are_right(processes.database_url, MANY)
