"""What the service has on its books in the end, read past it, from the database."""

from dataclasses import dataclass, field
from decimal import Decimal
from typing import NamedTuple

import asyncpg


class BookedCall(NamedTuple):
    """A row of `calls`."""

    call_id: str
    account_id: str
    api: str
    occurred_us: int
    result_code: str
    billing_month: str


class BookedBill(NamedTuple):
    """A bill."""

    state: str
    total: Decimal
    deducted: Decimal
    calls: int
    """On its lines."""


@dataclass
class Books:
    """All of it."""

    calls: list[BookedCall] = field(default_factory=list)
    rejected: dict[str, str] = field(default_factory=dict)
    """Reasons, by call."""
    closed: set[str] = field(default_factory=set)
    """Months."""
    bills: dict[tuple[str, str], BookedBill] = field(default_factory=dict)
    """By account and month."""
    fixed_parts: dict[tuple[str, str], str] = field(default_factory=dict)
    """What of bills never changes, as the service tells it in the end."""
    payments: dict[tuple[str, str], Decimal] = field(default_factory=dict)
    """By account and payment_id."""
    balances: dict[str, Decimal] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    """Of accounts."""
    told: dict[str, dict[str, str]] = field(default_factory=dict)
    """The states of accounts as each replica tells them."""
    audit: list[str] = field(default_factory=list)
    """What `metering audit` found."""


async def read_books(url: str) -> Books:
    """Read what stands in the tables."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            calls = await connection.fetch(
                "SELECT replace(call_id::text, '-', ''), account_id, api,"
                " (extract(epoch FROM occurred_at) * 1000000)::bigint, result_code, to_char(billing_month, 'YYYY-MM')"
                " FROM calls"
            )
            rejected = await connection.fetch("SELECT replace(call_id::text, '-', ''), reason FROM rejected_calls")
            closed = await connection.fetch("SELECT to_char(month, 'YYYY-MM') FROM months")
            bills = await connection.fetch(
                "SELECT account_id, to_char(month, 'YYYY-MM'), state, total, deducted,"
                " (SELECT coalesce(sum(calls), 0)::bigint FROM bill_lines AS line"
                "  WHERE line.account_id = bills.account_id AND line.month = bills.month) FROM bills"
            )
            payments = await connection.fetch(
                "SELECT account_id, payment_id, amount FROM ledger_entries WHERE kind = 'PAYMENT'"
            )
            accounts = await connection.fetch("SELECT account_id, balance, state FROM accounts")
    finally:
        await connection.close()
    return Books(
        calls=[BookedCall(*row) for row in calls],
        rejected=dict(map(tuple, rejected)),
        closed={row[0] for row in closed},
        bills={(row[0], row[1]): BookedBill(*list(row)[2:]) for row in bills},
        payments={(row[0], row[1]): row[2] for row in payments},
        balances={row[0]: row[1] for row in accounts},
        states={row[0]: row[2] for row in accounts},
    )
