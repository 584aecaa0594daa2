"""A monthly run of thousands of accounts, killed at random moments while others deduct their bills and pay."""

import asyncio
import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from metering.billing.monthly_run import ACCOUNTS_PER_CHUNK
from tests.conftest import ServiceProcesses
from tests.support.audit import MANY, assert_books_are_right
from tests.support.many_accounts import pay, record_calls
from tests.support.service import Stubs

if TYPE_CHECKING:
    import asyncpg

LAST_MONTH = datetime.now(UTC).replace(day=1, hour=0) - timedelta(days=5)
MONTH = LAST_MONTH.strftime("%Y-%m")
ACCOUNTS = 15 * ACCOUNTS_PER_CHUNK
KILLS = 5
KILLED_WITHIN_S = 0.4
TOTALS = {1: Decimal("0.01"), 2: Decimal("0.03"), 3: Decimal("0.04")}
"""What so many calls come to, at 0.0125 each."""
PAID = [Decimal(0), Decimal("0.01"), Decimal("0.03"), Decimal(10)]


@pytest.mark.timeout(180)
async def test_a_run_killed_at_random_moments_while_another_replica_deducts_and_is_paid_takes_every_bill_once(
    processes: ServiceProcesses, db: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    other = await processes.start()
    calls = {f"account-{number:05}": number % 3 + 1 for number in range(ACCOUNTS)}
    paid = {account_id: PAID[number % len(PAID)] for number, account_id in enumerate(calls)}
    await record_calls(other, db, calls, LAST_MONTH)
    await pay(db, {account_id: money for account_id, money in paid.items() if money})
    assert (await other.close_month(MONTH)).bills_issued == ACCOUNTS

    story = []
    """When it was killed, and how many bills were paid then."""
    enough = asyncio.Event()
    deducting = asyncio.create_task(deduct_and_pay(other, paid, enough))
    for _ in range(KILLS):
        moment_s = random.uniform(0, KILLED_WITHIN_S)
        replica = await processes.start()
        running = asyncio.ensure_future(replica.run_month())
        await asyncio.wait({running}, timeout=moment_s)
        await replica.kill()
        await asyncio.gather(running, return_exceptions=True)
        story.append((moment_s, await db.fetchval("SELECT count(*) FROM bills WHERE state = 'PAID'")))
    enough.set()
    await deducting

    assert not (await other.run_month()).failures, story
    again = await other.run_month()
    assert (again.bills_paid, list(again.deducted), again.accounts_suspended) == (0, [], 0), story
    expected = {account_id: min(TOTALS[calls[account_id]], money) for account_id, money in paid.items()}
    assert dict(map(tuple, await db.fetch("SELECT account_id, deducted FROM bills"))) == expected, story
    balances = {account_id: paid[account_id] - taken for account_id, taken in expected.items()}
    assert dict(map(tuple, await db.fetch("SELECT account_id, balance FROM accounts"))) == balances, story
    await assert_books_are_right(processes.database_url, MANY)
    assert await db.fetchval("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()") == 0


async def deduct_and_pay(replica: Stubs, paid: dict[str, Decimal], enough: asyncio.Event) -> None:
    """Deduct bills in any order, and pay for some of them; adds up what was paid."""
    while not enough.is_set():
        account_ids = random.sample(sorted(paid), 20)
        await asyncio.gather(*(replica.deduct(account_id, MONTH) for account_id in account_ids))
        for account_id in account_ids[:5]:
            await replica.pay(account_id, "0.01")
            paid[account_id] += Decimal("0.01")
