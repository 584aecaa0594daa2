"""The audit names the account and what is wrong, whichever row of whichever table is changed by hand."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, cast

import asyncpg
import pytest

from faceid.metering.v1 import account_service_pb2 as accounts_pb
from faceid.metering.v1 import resources_pb2 as pb
from metering.model import AccountId, AccountRange, AuditKind
from metering.store import audit as store_audit
from metering.store.database import Database
from metering.store.sql import load_queries
from tests.conftest import execute, with_database
from tests.support.audit import audit_of
from tests.support.service import FakeClock, Service
from tests.support.tampering import BALANCES, BILL_CALLS, BILLS, DIGESTS, FREE_HANDS, LINES, ONE_CALL, RATING, TAMPERING
from tests.support.waiting import until_folded

if TYPE_CHECKING:
    from metering.store.database import Connection

BOOKS = "metering_test_books"
SEPTEMBER, OCTOBER = datetime(2026, 9, 25, tzinfo=UTC), datetime(2026, 10, 15, tzinfo=UTC)
NOVEMBER = datetime(2026, 11, 23, 4, tzinfo=UTC)


async def make_books(service: Service, clock: FakeClock) -> None:
    """Make accounts of every kind.

    acme's September is paid, its October is overdue, and it has carried calls on the bills of October and November;
    zenith has paid; idle has paid and not called; unpriced has no price; latecomer was activated after its first call;
    stranger never was.
    """
    for account_id in ("acme", "zenith", "idle"):
        await service.activate(account_id)
    await service.activate("unpriced", plan="")
    await service.record_batch([service.call("latecomer"), service.call("stranger")])
    await service.activate("latecomer")
    await service.accounts.RetryRejectedCalls(accounts_pb.RetryRejectedCallsRequest())
    for account_id, at, calls in [
        *(("acme", at, 200) for at in (SEPTEMBER, OCTOBER, NOVEMBER)),
        *(("zenith", at, 100) for at in (OCTOBER, NOVEMBER)),
        ("unpriced", OCTOBER, 7),
    ]:
        await service.record_batch([service.call(account_id, at=at) for _ in range(calls)])
    await service.close_month("2026-09")
    await service.record_batch([service.call("acme", at=SEPTEMBER) for _ in range(3)])
    await service.pay("acme", "3.00")
    await service.close_month("2026-10")
    await service.record(service.call("acme", at=OCTOBER))
    await service.pay("zenith", "1.25")
    await service.pay("idle", "5")
    clock.advance(hours=2)
    run = await service.accounts.RunMonth(accounts_pb.RunMonthRequest())
    assert (run.run.failures, run.run.accounts_suspended) == (0, 1)
    assert (await service.bill("acme", "2026-10")).state == pb.BILL_STATE_OVERDUE
    assert (await service.bill("zenith", "2026-10")).state == pb.BILL_STATE_PAID


async def all_folded(url: str) -> None:
    """Wait until all counts are where they stay."""
    connection = await asyncpg.connect(url)
    try:
        await until_folded(connection)
    finally:
        await connection.close()


@pytest.fixture(scope="module")
def books_url(server_url: str, template: str) -> Iterator[str]:
    """Return the URL of a database with books."""
    url = with_database(server_url, BOOKS)

    async def make() -> None:
        await execute(server_url, f"DROP DATABASE IF EXISTS {BOOKS} WITH (FORCE)")
        await execute(server_url, f"CREATE DATABASE {BOOKS} TEMPLATE {template}")
        clock = FakeClock(NOVEMBER)
        async with Service(url, clock, audit_interval_h=0.0) as service:
            await make_books(service, clock)
            await all_folded(url)
        await execute(url, *FREE_HANDS)

    asyncio.run(make())
    yield url
    asyncio.run(execute(server_url, f"DROP DATABASE {BOOKS} WITH (FORCE)"))


class TamperedBooks(Database):
    """The books, as one sees them in a transaction that is never committed."""

    def __init__(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        self.sql = load_queries()
        self._connection = cast("Connection", connection)  # it has all that the proxy of a pool has

    @asynccontextmanager
    async def connection(self) -> AsyncIterator["Connection"]:
        yield self._connection

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator["Connection"]:
        yield self._connection

    async def tamper(self, *statements: str) -> None:
        for statement in statements:
            assert await self._connection.execute(statement) not in {"UPDATE 0", "DELETE 0", "INSERT 0 0"}


@pytest.fixture
async def books(books_url: str) -> AsyncIterator[TamperedBooks]:
    """Return books to tamper with; nothing of that is left after the test."""
    connection = await asyncpg.connect(books_url, server_settings={"timezone": "UTC", "jit": "off"})
    transaction = connection.transaction()
    await transaction.start()
    yield TamperedBooks(connection)
    await transaction.rollback()
    await connection.close()


async def test_books_that_nobody_has_touched_are_right(books: TamperedBooks) -> None:
    found = await audit_of(books)
    assert (found.differences, found.accounts, found.parts) == ([], 5, 3)
    assert found.calls == {
        "recorded": 812,
        "dropped": 0,
        "billed": 500,
        "carried": 4,
        "open": 301,
        "unrated": 7,
    }


@pytest.mark.parametrize(("account_id", "statement", "kinds"), TAMPERING)
async def test_tampering_is_found(books: TamperedBooks, account_id: str, statement: str, kinds: set[AuditKind]) -> None:
    await books.tamper(statement)
    found = await audit_of(books)
    of_account = {difference.kind for difference in found.differences if difference.account_id == account_id}
    assert kinds <= of_account


async def test_only_the_accounts_that_were_tampered_with_are_named(books: TamperedBooks) -> None:
    await books.tamper("UPDATE accounts SET balance = balance + 1 WHERE account_id IN ('idle', 'zenith')")
    found = await audit_of(books)
    assert [(each.account_id, each.kind, each.found) for each in found.differences] == [
        ("idle", BALANCES, "balance 6, last entry 1"),
        ("zenith", BALANCES, "balance 1.00, last entry 2"),
    ]


@pytest.mark.parametrize(("account_id", "differences"), [("acme", 0), ("zenith", 1), ("nobody", 0)])
async def test_one_account_can_be_audited_alone(books: TamperedBooks, account_id: str, differences: int) -> None:
    await books.tamper("UPDATE accounts SET balance = balance + 1 WHERE account_id IN ('idle', 'zenith')")
    found = await audit_of(books, AccountRange.of(AccountId(account_id)))
    assert (found.accounts, found.parts, len(found.differences)) == (account_id != "nobody", 1, differences)


async def test_one_month_can_be_audited_alone(books: TamperedBooks) -> None:
    await books.tamper(
        "UPDATE bill_lines SET amount = amount + 1 WHERE account_id = 'acme'",
        "UPDATE accounts SET balance = balance + 1",
    )
    found = await audit_of(books, months=(date(2026, 9, 1), date(2026, 9, 1)))
    assert {each.kind for each in found.differences} == {LINES, RATING, BILLS}
    assert all("2026-09" in each.found for each in found.differences)
    assert found.calls == {"recorded": 200, "dropped": 0, "billed": 200, "carried": 0, "open": 0, "unrated": 0}


async def test_what_was_dropped_is_taken_as_counted_and_the_rest_is_still_checked(books: TamperedBooks) -> None:
    await books.tamper(
        "DROP TABLE calls_20260925",
        "INSERT INTO dropped_days VALUES ('2026-09-25', 203, now())",
    )
    found = await audit_of(books)
    assert (found.differences, found.calls["recorded"], found.calls["dropped"]) == ([], 812, 203)
    await books.tamper("UPDATE bill_digests SET calls = calls + 1 WHERE month = '2026-09-01'")
    await books.tamper("UPDATE usage_daily SET calls = calls + 1 WHERE occurred_on = '2026-09-25'")
    found = await audit_of(books)
    assert {DIGESTS, BILL_CALLS, RATING} <= {each.kind for each in found.differences}


async def test_the_digest_of_a_bill_with_very_many_calls_is_checked_in_flat_memory(
    books: TamperedBooks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_audit, "CALLS_IN_STATEMENT_MAX", 150)
    assert (await audit_of(books)).differences == []
    await books.tamper(f"UPDATE calls SET call_id = gen_random_uuid() WHERE {ONE_CALL}")
    (difference,) = (await audit_of(books)).differences
    assert (difference.account_id, difference.kind) == ("acme", DIGESTS)


async def test_overdue_before_the_due_date_is_found(books: TamperedBooks) -> None:
    await books.tamper(
        "UPDATE bills SET due_date = '2026-12-03', month = '2026-11-01' WHERE account_id = 'zenith'",
        "UPDATE bills SET state = 'OVERDUE', deducted = 0 WHERE account_id = 'zenith'",
    )
    found = await audit_of(books, clock=FakeClock(NOVEMBER))
    assert any(
        "ISSUED" in each.expected for each in found.differences if (each.account_id, each.kind) == ("zenith", BILLS)
    )


async def test_every_table_is_tampered_with_unless_nothing_is_promised_of_it(books_url: str) -> None:
    connection = await asyncpg.connect(books_url)
    tables = "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace"
    found = {row["relname"] for row in await connection.fetch(f"{tables} AND NOT relispartition")}
    await connection.close()
    tampered = {table for table in found if any(f" {table} " in statement for _, statement, _ in TAMPERING)}
    # Who did what cannot be told from anything else: privileges alone protect it.
    acts = {"administrative_acts", "administrative_outcomes"}
    assert found - tampered == acts | {"audit_passes", "monthly_runs", "schema_programs", "schema_version", "senders"}
