"""P4 accounted: recorded calls = billed + carried + in the open month, recomputed from the raw calls; and it shows."""

import asyncio
import os
import sys
from datetime import UTC, datetime

import asyncpg
import pytest

from tests.support.audit import assert_books_are_right, run_audit
from tests.support.service import FakeClock, Service

OCTOBER = datetime(2026, 10, 15, tzinfo=UTC)

TAMPERING = {
    "usage is the number of raw calls": [
        "UPDATE usage_daily SET calls = calls + 1 WHERE account_id = 'acme'",
        "INSERT INTO usage_deltas VALUES ('acme', '2026-11-01', '2026-11-02', 'DetectAuth', '', 1)",
        "DELETE FROM calls WHERE call_id = (SELECT min(call_id::text)::uuid FROM calls)",
    ],
    "calls stand on the bill of their month or a later one": [
        "UPDATE calls SET billing_month = '2026-09-01' WHERE account_id = 'acme'",
        "UPDATE calls SET account_id = 'nobody' WHERE account_id = 'zenith'",
    ],
    "bills hold the usage of their month": ["UPDATE bill_lines SET calls = calls + 1", "DELETE FROM bill_lines"],
    "bills are of closed months": ["DELETE FROM months"],
    "lines are quantity times price, rounded once": [
        "UPDATE bill_lines SET amount = amount + 0.01",
        "UPDATE bill_lines SET exact_amount = exact_amount + 0.000000001",
        """UPDATE bill_lines SET parts = '[[1, "0.0125"]]'""",
    ],
    "lines are what rating makes of the usage and the price plan": [
        """UPDATE bill_lines SET parts = '[[200, "0.01"]]', exact_amount = 2, amount = 2""",
        "UPDATE bill_lines SET api = 'CompareFace'",
        "UPDATE bill_lines SET price_plan_version = 9",
        """UPDATE price_plans SET prices = replace(prices::text, '0.0125', '0.0126')::jsonb""",
        "UPDATE price_plan_assignments SET price_plan_id = 'other'",
        "UPDATE usage_daily SET result_code = 'E.Uncharged' WHERE billing_month = '2026-10-01'",
    ],
    "bills are the sum of their lines and of their deductions": [
        "UPDATE bills SET currency = 'USD'",
        "UPDATE bills SET due_date = '2027-11-03'",
        "UPDATE bills SET deducted = deducted + 0.01 WHERE account_id = 'acme'",
        "UPDATE bills SET total = total + 1, state = 'ISSUED'",
        "UPDATE ledger_entries SET amount = amount - 1 WHERE kind = 'DEDUCTION'",
    ],
    "balances are the sum of the ledger": [
        "UPDATE accounts SET balance = balance + 1 WHERE account_id = 'zenith'",
        "UPDATE ledger_entries SET amount = amount + 1 WHERE kind = 'PAYMENT'",
        "UPDATE ledger_entries SET entry_id = 9 WHERE kind = 'PAYMENT'",
    ],
    "accounts are suspended while a bill is overdue, and only then": [
        "UPDATE accounts SET state = 'ACTIVE' WHERE account_id = 'acme'",
        "UPDATE accounts SET state = 'SUSPENDED' WHERE account_id = 'zenith'",
        "UPDATE bills SET state = 'ISSUED' WHERE account_id = 'acme'",
        "UPDATE bills SET state = 'OVERDUE' WHERE account_id = 'zenith'",
    ],
}


async def make_books(service: Service) -> None:
    """Two accounts with calls in October and November; October is billed, and acme has not paid all of it."""
    for account_id in ("acme", "zenith"):
        await service.activate(account_id)
        await service.record_batch([service.call(account_id, at=OCTOBER) for _ in range(200)])
        await service.record_batch([service.call(account_id) for _ in range(100)])
    await service.close_month("2026-10")
    await service.record(service.call("acme", at=OCTOBER))
    await service.pay("acme", "1")
    await service.pay("zenith", "5")
    assert (await service.deduct("acme", "2026-10")).service_status.reason
    connection = await asyncpg.connect(service.database_url)
    while await connection.fetchval("SELECT count(*) FROM usage_deltas"):
        await asyncio.sleep(0.02)
    await connection.close()


async def test_every_recorded_call_is_in_its_place(service: Service) -> None:
    await make_books(service)
    found = await assert_books_are_right(service.database_url)
    assert found.totals == {"recorded": 601, "billed": 400, "carried": 1, "open": 200, "unrated": 0}


async def test_calls_that_are_being_recorded_do_not_disturb_the_audit(service: Service) -> None:
    await service.activate("acme")
    recording = asyncio.create_task(record_for_ever(service))
    for _ in range(20):
        await assert_books_are_right(service.database_url)
    recording.cancel()


async def record_for_ever(service: Service) -> None:
    while True:
        await service.record_batch([service.call("acme") for _ in range(150)])


@pytest.mark.parametrize(
    ("assurance", "statement"),
    [(name, statement) for name, statements in TAMPERING.items() for statement in statements],
)
async def test_tampering_is_found(
    service: Service, db: "asyncpg.Connection[asyncpg.Record]", assurance: str, statement: str
) -> None:
    await make_books(service)
    await db.execute("ALTER TABLE bills DROP CONSTRAINT bills_paid_when_deducted")  # whoever tampers could do that
    assert await db.execute(statement) not in {"UPDATE 0", "DELETE 0"}
    found = await run_audit(service.database_url)
    assert not found.clean
    assert {difference.account_id for difference in found.differences[assurance]} & {"acme", "zenith", "nobody"}


async def test_metering_audit_prints_what_differs_and_exits_with_3(
    service: Service, db: "asyncpg.Connection[asyncpg.Record]", clock: FakeClock
) -> None:
    await make_books(service)
    assert await metering_audit(service.database_url) == (0, "the books are right")
    await db.execute("UPDATE accounts SET balance = balance + 1 WHERE account_id = 'zenith'")
    code, output = await metering_audit(service.database_url, whole=True)
    assert code == 3
    assert "zenith: found balance 3.50" in output
    assert "the books are NOT right" in output


async def metering_audit(url: str, *, whole: bool = False) -> tuple[int | None, str]:
    """Return the exit code and the last line, or all, of what `metering audit` prints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "metering", "audit"),
        env=os.environ | {"METERING_DATABASE_URL": url},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    text = output.decode().strip()
    return process.returncode, text if whole else text.splitlines()[-1]
