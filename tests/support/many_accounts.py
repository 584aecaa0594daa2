"""Thousands of accounts with calls, as fast as that goes."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from tests.support.service import PLAN, Stubs

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[asyncpg.Record]

CALLS_IN_BATCH = 6_000


async def record_calls(replica: Stubs, db: "Connection", calls: Mapping[str, int], at: datetime) -> None:
    """Have accounts with so many calls each."""
    first, *others = sorted(calls)
    await replica.activate(first)
    # As ActivateAccount would, but at once.
    for statement in (
        "INSERT INTO accounts (account_id, currency, activated_at) SELECT unnest($1::text[]), 'CNY', now()",
        (
            "INSERT INTO price_plan_assignments (account_id, from_month, price_plan_id)"
            f" SELECT unnest($1::text[]), '0001-01-01', '{PLAN}'"
        ),
    ):
        await db.execute(statement, others)
    records = [replica.call(each, at=at) for each, number in calls.items() for _ in range(number)]
    for start in range(0, len(records), CALLS_IN_BATCH):
        batch = records[start : start + CALLS_IN_BATCH]
        answer = await replica.record_batch(batch)
        assert answer.accepted == len(batch)


async def pay(db: "Connection", payments: Mapping[str, Decimal]) -> None:
    """Have accounts that have paid, and owe nothing yet, as RecordPayment would."""
    for statement in (
        (
            "INSERT INTO ledger_entries (account_id, entry_id, kind, amount, payment_id, created_at)"
            " SELECT account_id, 1, 'PAYMENT', amount, 'first', now()"
            " FROM unnest($1::text[], $2::numeric[]) AS payment (account_id, amount)"
        ),
        (
            "UPDATE accounts SET balance = payment.amount, status_version = status_version + 1"
            " FROM unnest($1::text[], $2::numeric[]) AS payment (account_id, amount)"
            " WHERE accounts.account_id = payment.account_id"
        ),
    ):
        await db.execute(statement, list(payments), list(payments.values()))
