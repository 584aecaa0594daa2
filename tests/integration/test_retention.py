"""Raw calls are archived and dropped by day, and only what is proved to be in the archive."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import grpc
import pytest

from faceid_metering.evidence import read_calls
from tests.support.command import metering
from tests.support.service import FakeClock, Service, reason_of

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]

Run = Callable[..., Awaitable[str]]

pytestmark = pytest.mark.timeout(180)  # seconds: each test starts several commands, processes of their own

# The commands go by the system's clock, so everything is made long before it.
JANUARY = datetime(2024, 1, 15, 4, tzinfo=UTC)
FEBRUARY = datetime(2024, 2, 10, 4, tzinfo=UTC)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(FEBRUARY)


@pytest.fixture
def run(service: Service, tmp_path: Path) -> Run:
    """Return a way to run a command on the service's database and the test's archive; it ends with an exit code."""

    async def run(command: str, *arguments: str, code: int = 0) -> str:
        archive = () if command == "digest-bills" else ("--archive", str(tmp_path))
        found, said = await metering(
            command, *arguments, *archive, METERING_DATABASE_URL=service.database_url, COLUMNS="300"
        )
        assert (found, "Traceback" in said) == (code, False), said
        return said

    return run


async def make_books(service: Service, clock: FakeClock) -> None:
    """Two accounts with calls on two days of January; January is billed, and a call comes late, on February's bill."""
    for account_id in ("acme", "zenith"):
        await service.activate(account_id)
        days = (JANUARY, JANUARY + timedelta(days=1))
        calls = [service.call(account_id, at=day + timedelta(seconds=n)) for day in days for n in range(20)]
        await service.record_batch(calls)
    await service.close_month("2024-01")
    late = await service.record(service.call("acme", at=JANUARY))
    assert late.billing_month == "2024-02"
    clock.time = FEBRUARY + timedelta(days=30)


async def days_of(db: "Connection") -> set[str]:
    """Return the days of January that have a partition with calls."""
    return {str(row[0]) for row in await db.fetch("SELECT DISTINCT occurred_on FROM calls")}


async def test_days_are_archived_proved_and_dropped_and_what_was_billed_stays(
    service: Service, db: "Connection", clock: FakeClock, run: Run, tmp_path: Path
) -> None:
    await make_books(service, clock)
    await service.close_month("2024-02")
    bill, usage = await service.bill("acme", "2024-01"), await service.usage("acme", "2024-01")
    listed = await service.list_calls("acme", "2024-01")

    said = await run("drop-calls", "--months", "1", code=3)
    assert f"2024-01-15 is kept: {tmp_path}/calls-2024-01.parquet is missing: archive-calls 2024-01" in said

    assert "the 80 calls of the bills of 2024-01" in await run("archive-calls", "2024-01")
    assert "the 1 calls of the bills of 2024-02" in await run("archive-calls", "2024-02", "--format", "csv")
    assert "is there already" in await run("archive-calls", "2024-01", code=1)
    dry = await run("drop-calls", "--months", "1", "--dry-run")
    assert "  2024-01-15: 41 calls would be dropped\n  2024-01-16: 40 calls would be dropped\n" in dry
    assert await days_of(db) == {"2024-01-15", "2024-01-16"}

    said = await run("drop-calls", "--months", "1")
    assert re.search(r"\d+ days with 81 calls dropped, 0 kept that are old enough", said)
    assert await days_of(db) == set()
    assert await db.fetchval("SELECT sum(calls) FROM dropped_days") == 81
    assert "0 days with 0 calls dropped" in await run("drop-calls", "--months", "1")

    assert await service.bill("acme", "2024-01") == bill
    assert await service.usage("acme", "2024-01") == usage
    archived = [call for call in read_calls(tmp_path / "calls-2024-01.parquet") if call.account_id == "acme"]
    assert [(call.occurred_on, call.call_id) for call in archived] == [
        (each.occurred_on, each.call.call_id) for each in listed
    ]
    for month in ("2024-01", "2024-02"):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await service.list_calls("acme", month)
        assert (refused.value.code(), reason_of(refused.value)) == (
            grpc.StatusCode.FAILED_PRECONDITION,
            "CALLS_DROPPED",
        )
    assert "were dropped" in await run("archive-calls", "2024-01", "--format", "csv", code=1)


async def test_a_day_with_a_call_on_a_bill_that_is_not_old_enough_is_kept(
    service: Service, db: "Connection", clock: FakeClock, run: Run
) -> None:
    await make_books(service, clock)
    await run("archive-calls", "2024-01")

    said = await run("drop-calls", "--months", "1", code=3)

    assert "2024-01-15 is kept: 1 of its calls are to go on the bill of 2024-02, which is not closed" in said
    assert await days_of(db) == {"2024-01-15"}
    with pytest.raises(grpc.aio.AioRpcError, match=r"1 days of its calls \(2024-01-16\)"):
        await service.list_calls("acme", "2024-01")
    assert len(await service.list_calls("acme", "2024-02")) == 1


async def test_months_closed_too_lately_are_kept(
    service: Service, db: "Connection", clock: FakeClock, run: Run
) -> None:
    await make_books(service, clock)
    await service.close_month("2024-02")
    await run("archive-calls", "2024-01")
    await run("archive-calls", "2024-02")
    months = (datetime.now(UTC).year - 2024) * 12 + datetime.now(UTC).month

    assert "0 days with 0 calls dropped, 0 kept" in await run("drop-calls", "--months", str(months))
    assert len(await days_of(db)) == 2


@pytest.mark.parametrize(
    ("tamper", "said"),
    [
        ("UPDATE calls SET api = 'CompareFace' WHERE call_id = (SELECT min(call_id::text)::uuid FROM calls)", "digest"),
        ("DELETE FROM calls WHERE call_id = (SELECT max(call_id::text)::uuid FROM calls)", "19 calls of"),
    ],
)
async def test_calls_that_are_not_what_was_billed_are_never_dropped(
    service: Service, db: "Connection", clock: FakeClock, run: Run, tamper: str, said: str
) -> None:
    await service.activate("acme")
    await service.record_batch([service.call("acme", at=JANUARY) for _ in range(20)])
    await service.close_month("2024-01")
    assert await db.execute(tamper) in {"UPDATE 1", "DELETE 1"}

    assert said in await run("archive-calls", "2024-01", code=1)
    assert "is kept" in await run("drop-calls", "--months", "1", code=3)
    assert await days_of(db) == {"2024-01-15"}


async def test_an_archive_that_was_changed_keeps_its_days(
    service: Service, db: "Connection", clock: FakeClock, run: Run, tmp_path: Path
) -> None:
    await make_books(service, clock)
    await service.close_month("2024-02")
    await run("archive-calls", "2024-02", "--format", "csv")
    await run("archive-calls", "2024-01", "--format", "csv")
    file = tmp_path / "calls-2024-01.csv"
    whole = file.read_text()
    last_line = whole.splitlines(keepends=True)[-1]
    for wrong, code in (
        (whole.removesuffix(last_line), 3),
        (whole + last_line, 3),
        (whole.replace("DetectAuth", "detectauth", 1), 3),
        (whole.replace("2024-01,", "2024-02,", 1), 1),
        (whole[:-1], 1),
    ):
        file.write_text(wrong)
        await run("drop-calls", "--months", "1", code=code)
        assert len(await days_of(db)) == 2, wrong
    file.write_text(whole)
    await run("drop-calls", "--months", "1")
    assert await days_of(db) == set()


async def test_an_account_without_a_bill_keeps_the_days_of_its_calls(
    service: Service, db: "Connection", clock: FakeClock, run: Run
) -> None:
    await service.activate("acme")
    await service.activate("unrated", plan="")
    await service.record_batch([service.call(account_id, at=JANUARY) for account_id in ("acme", "unrated")])
    await service.close_month("2024-01")
    await run("archive-calls", "2024-01")

    said = await run("drop-calls", "--months", "1", code=3)

    assert "1 accounts have no bill for 2024-01: give them a price, then run-month" in said
    assert await days_of(db) == {"2024-01-15"}


async def test_bills_older_than_digests_get_theirs_before_their_calls_may_go(
    service: Service, db: "Connection", clock: FakeClock, run: Run
) -> None:
    await make_books(service, clock)
    await service.close_month("2024-02")
    issued = (await service.bill("acme", "2024-01")).calls_digest
    await db.execute("DELETE FROM bill_digests WHERE account_id = 'acme'")
    assert not (await service.bill("acme", "2024-01")).calls_digest
    assert "1 bills of 2024-01 have no digest: digest-bills" in await run("drop-calls", "--months", "1", code=3)

    assert "2 bills had no digest" in await run("digest-bills")
    assert "0 bills had no digest" in await run("digest-bills")

    assert (await service.bill("acme", "2024-01")).calls_digest == issued


async def test_a_rejected_call_of_a_dropped_day_stays_rejected_however_old(
    service: Service, db: "Connection", clock: FakeClock, run: Run
) -> None:
    await make_books(service, clock)
    await service.close_month("2024-02")
    gone, other = service.call("late", at=JANUARY), service.call("late", at=JANUARY + timedelta(days=2))
    clock.time = FEBRUARY
    await service.record_batch([gone, other])
    await service.activate("late")
    for month in ("2024-01", "2024-02"):
        await run("archive-calls", month)
    await db.execute("UPDATE rejected_calls SET rejected_at = now()")
    await run("drop-calls", "--months", "1")
    clock.time = datetime.now(UTC)

    found, said = await metering("rejected", "retry", "--however-old", METERING_TARGET=service.target)

    assert found == 0
    assert "1 calls recorded, 0 were on the books already, 1 still rejected\n" in said
    assert {each.call.call_id: each.reason for each in await service.rejected() if not each.billing_month} == {
        gone.call_id: "CALLS_DROPPED"
    }
    assert await days_of(db) == {"2024-01-17"}


async def test_recording_waits_for_a_day_in_use_no_longer_than_half_a_second(
    service: Service, db: "Connection", clock: FakeClock, run: Run
) -> None:
    await make_books(service, clock)
    await service.close_month("2024-02")
    for month in ("2024-01", "2024-02"):
        await run("archive-calls", month)
    async with db.transaction():
        await db.execute("SELECT count(*) FROM calls")  # as a backup does, for as long as it takes
        dropping = asyncio.ensure_future(run("drop-calls", "--months", "1"))
        while not await db.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'calls'::regclass"):
            await asyncio.sleep(0.01)
        assert not (await service.record(service.call("acme"))).duplicate
    assert "dropped, 0 kept" in await dropping


async def test_the_service_itself_cannot_drop_a_call(service: Service, db: "Connection", clock: FakeClock) -> None:
    await make_books(service, clock)
    await db.execute("SET ROLE metering_service")
    for statement in (
        "SELECT drop_calls_partition('2024-01-15', 41, now())",
        "INSERT INTO dropped_days VALUES ('2024-01-15', 41, now())",
        "UPDATE bill_digests SET calls = 0",
        "DELETE FROM bill_digests",
        "DROP TABLE calls_20240115",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await db.execute(statement)
