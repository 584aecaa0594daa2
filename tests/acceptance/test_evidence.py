"""A bill and its calls, from a real service to files, and checked without it; through kills of service and export."""

import asyncio
import random
import signal
import sys
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import grpc
import pytest

from faceid.metering.v1 import metering_service_pb2 as pb
from faceid_metering import MeteringClient
from faceid_metering.evidence import ListedCall, calls_digest, read_calls, verify_bill
from metering.model import from_micros
from tests.conftest import ServiceProcesses
from tests.support.command import metering
from tests.support.service import FakeClock, Service, fields_of
from tests.support.waiting import LONG_S

if TYPE_CHECKING:
    import asyncpg

    from faceid.metering.v1.resources_pb2 import RecordedCall

    Connection = asyncpg.Connection[asyncpg.Record]

OCTOBER = datetime(2026, 10, 15, tzinfo=UTC)

MANY_CALLS = """
    INSERT INTO calls (occurred_on, account_id, call_id, occurred_at, api, result_code, billing_month)
    SELECT day, $1, gen_random_uuid(), day + n * interval '1 ms', 'DetectAuth', '', '2026-10-01'
    FROM generate_series('2026-10-10'::date, '2026-10-12', '1 day') AS day, generate_series(1, $2::integer) AS n
"""
THEIR_USAGE = """
    INSERT INTO usage_daily (account_id, billing_month, occurred_on, api, result_code, calls)
    SELECT account_id, billing_month, occurred_on, api, result_code, count(*)
    FROM calls WHERE account_id = $1 GROUP BY account_id, billing_month, occurred_on, api, result_code
"""


async def with_many_calls(service: Any, db: "Connection", account_id: str, calls_of_day: int) -> None:
    """Give an account calls on three days of October, as if they had been recorded."""
    await service.activate(account_id)
    for day in ("2026-10-10", "2026-10-11", "2026-10-12"):
        await db.execute(f"SELECT ensure_calls_partition('{day}')")
    await db.execute(MANY_CALLS, account_id, calls_of_day)
    await db.execute(THEIR_USAGE, account_id)


async def pages(
    service: Any, account_id: str, month: str, page_size: int, token: str = ""
) -> AsyncIterator[pb.ListCallsResponse]:
    request = pb.ListCallsRequest(account_id=account_id, month=month, page_size=page_size, page_token=token)
    async for response in service.metering.ListCalls(request):
        yield response


async def test_a_bill_is_proved_by_its_calls_carried_and_uncharged_ones_too(
    service: Service, db: "Connection", clock: FakeClock, tmp_path: Path
) -> None:
    for account_id in ("acme", "zenith"):
        await service.activate(account_id)
        times = [OCTOBER + timedelta(hours=6 * number, microseconds=number) for number in range(60)]
        calls = [service.call(account_id, at=at, result_code="E.Uncharged" if at.day % 3 else "") for at in times]
        await service.record_batch(calls)
    await service.close_month("2026-10")
    await service.record(service.call("acme", at=OCTOBER))
    await service.record(service.call("acme", api="CompareFace"))
    clock.advance(days=20)
    await service.close_month("2026-11")
    digests = set()
    for account_id, month in (("acme", "2026-10"), ("zenith", "2026-10"), ("acme", "2026-11")):
        bill = await service.bill(account_id, month)
        listed = [ListedCall.of(each) for each in await service.list_calls(account_id, month)]
        assert listed
        assert bill.calls_digest == calls_digest(listed)
        assert verify_bill(bill, listed) == []
        digests.add(bill.calls_digest)
    assert len(digests) == 3
    assert (
        await db.fetchval("SELECT sum(calls) FROM bill_digests WHERE account_id = 'acme' AND month = '2026-11-01'") == 2
    )

    target = {"METERING_TARGET": service.target, "COLUMNS": "200"}
    code, printed = await metering("bill", "--json", "acme", "2026-10", **target)
    (tmp_path / "bill.json").write_text(printed)
    for name in ("calls.csv", "calls.parquet"):
        code, said = await metering("export-calls", "acme", "2026-10", str(tmp_path / name), **target)
        assert (code, "60 calls of acme" in said) == (0, True), said
    await service.stop()
    bill_file, calls_file = str(tmp_path / "bill.json"), tmp_path / "calls.csv"
    for name in ("calls.csv", "calls.parquet"):
        code, said = await metering("verify-bill", bill_file, str(tmp_path / name))
        assert (code, "stands on these 60 calls" in said) == (0, True), said
    calls_file.write_text(calls_file.read_text().replace("E.Uncharged", "E.Other", 1))
    code, said = await metering("verify-bill", bill_file, str(calls_file))
    assert (code, "the digest of the calls is" in said) == (3, True), said
    calls_file.write_text("nothing\n")
    code, said = await metering("verify-bill", bill_file, str(calls_file))
    assert (code, "must begin with the line" in said, "Traceback" in said) == (1, True, False), said


async def test_an_account_with_too_many_calls_for_one_statement_has_the_same_kind_of_digest(
    service: Service, db: "Connection", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metering.store.digests.CALLS_IN_STATEMENT_MAX", 100)
    for account_id, calls_of_day in (("few", 10), ("many", 50), ("more", 20)):
        await with_many_calls(service, db, account_id, calls_of_day)
    await service.close_month("2026-10")
    for account_id in ("few", "many", "more"):
        listed = [ListedCall.of(each) for each in await service.list_calls(account_id, "2026-10")]
        assert verify_bill(await service.bill(account_id, "2026-10"), listed) == []
    assert [row[0] for row in await db.fetch("SELECT calls FROM bill_digests ORDER BY account_id")] == [30, 150, 60]


async def test_a_list_goes_on_after_any_token_on_any_replica(
    service: Service, db: "Connection", clock: FakeClock
) -> None:
    await with_many_calls(service, db, "acme", 25)
    await with_many_calls(service, db, "zenith", 1)
    whole = await service.list_calls("acme", "2026-10")
    assert len(whole) == 75
    tokens: list[tuple[str, int]] = []
    for page_size in (0, 1, 10, 25, 1000, 5000):
        found: list[RecordedCall] = []
        tokens = [("", 0)]
        async for response in pages(service, "acme", "2026-10", page_size):
            found += response.calls or [response.call]
            tokens.append((response.next_page_token, len(found)))
        assert found == whole
    async with Service(service.database_url, clock) as replica:
        for token, number in tokens:
            rest = [call async for page in pages(replica, "acme", "2026-10", 7, token) for call in page.calls]
            assert rest == whole[number:]
        for account_id, month in (("zenith", "2026-10"), ("acme", "2026-11")):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                [page async for page in pages(replica, account_id, month, 10, tokens[-1][0])]
            assert (refused.value.code(), fields_of(refused.value)) == (
                grpc.StatusCode.INVALID_ARGUMENT,
                ["page_token"],
            )


@pytest.mark.parametrize("seed", range(3))
async def test_postgresql_and_python_write_the_same_line(db: "Connection", seed: int) -> None:
    chance = random.Random(seed)
    names = "ABCXYZabcxyz0189._:@/-"
    calls = [
        ListedCall(
            date.fromordinal(chance.randrange(366, date.max.toordinal())).isoformat(),
            str(UUID(int=chance.choice((0, 2**128 - 1, chance.getrandbits(128))))),
            chance.choice((0, -1, 1, chance.randrange(-(10**16), 10**17))),
            "".join(chance.choices(names, k=chance.randrange(1, 65))),
            "".join(chance.choices(names, k=chance.randrange(1, 65))),
            "".join(chance.choices(names, k=chance.choice((0, 64)))),
            "2026-10",
            0,
        )
        for _ in range(500)
    ]
    days, ids, times, accounts, apis, codes, _, _ = zip(*calls, strict=True)
    await db.execute("SET datestyle = 'German'; SET timezone = 'America/St_Johns'")
    rows = await db.fetch(
        "SELECT call_line(day, id, at, account, api, code)"
        " FROM unnest($1::date[], $2::uuid[], $3::timestamptz[], $4::text[], $5::text[], $6::text[])"
        " WITH ORDINALITY AS call (day, id, at, account, api, code, place) ORDER BY place",
        *(list(map(date.fromisoformat, days)), ids, list(map(from_micros, times)), accounts, apis, codes),
    )
    assert [f"{row[0]}\n".encode() for row in rows] == [call.line for call in calls]


@pytest.mark.parametrize(
    ("field", "request_fields"), [("page_token", {"page_token": "x"}), ("page_size", {"page_size": -1})]
)
async def test_a_malformed_token_or_size_is_named(service: Service, field: str, request_fields: dict[str, Any]) -> None:
    await service.activate("acme")
    request = pb.ListCallsRequest(account_id="acme", month="2026-10", **request_fields)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await anext(aiter(service.metering.ListCalls(request)))
    assert (refused.value.code(), fields_of(refused.value)) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


@pytest.mark.timeout(180)
async def test_a_list_survives_the_death_of_the_service_in_the_middle(
    processes: ServiceProcesses, db: "Connection"
) -> None:
    replica = await processes.start()
    await with_many_calls(replica, db, "acme", 4_000)
    async with MeteringClient(replica.target) as client:
        found: list[ListedCall] = []
        last_token = ""
        async for page in client.list_call_pages("acme", "2026-10", page_size=500):
            found += map(ListedCall.of, page.calls)
            last_token = page.next_page_token
            if len(found) == 3_000:
                await replica.kill()
                break
    replica = await processes.start()
    async with MeteringClient(replica.target) as client:
        async for page in client.list_call_pages("acme", "2026-10", page_token=last_token):
            found += map(ListedCall.of, page.calls)
    expected = await db.fetch("SELECT call_id::text FROM calls ORDER BY occurred_on, call_id")
    assert [call.call_id for call in found] == [row[0] for row in expected]
    await replica.close_month("2026-10")
    assert verify_bill(await replica.bill("acme", "2026-10"), found) == []


@pytest.mark.timeout(180)
async def test_an_export_killed_in_the_middle_leaves_no_file_that_looks_whole_and_a_csv_goes_on_where_it_was(
    processes: ServiceProcesses, db: "Connection", tmp_path: Path
) -> None:
    replica = await processes.start()
    await with_many_calls(replica, db, "acme", 20_000)
    await replica.close_month("2026-10")
    for name in ("calls.csv", "calls.parquet"):
        file, part = tmp_path / name, tmp_path / f"{name}.part"
        command = (sys.executable, "-m", "metering", "export-calls", "acme", "2026-10", str(file))
        process = await asyncio.create_subprocess_exec(
            *command, "--target", replica.target, stdout=asyncio.subprocess.DEVNULL
        )
        async with asyncio.timeout(LONG_S):
            while not (tmp_path / f"{name}.part.place" if name == "calls.csv" else part).exists():
                await asyncio.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        await process.wait()
        assert (file.exists(), part.exists()) == (False, True)

        code, said = await metering("export-calls", "acme", "2026-10", str(file), METERING_TARGET=replica.target)
        assert (code, "60,000 calls" in said, "going on after" in said) == (0, True, name == "calls.csv"), said
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted({"calls.csv", name})
        assert verify_bill(await replica.bill("acme", "2026-10"), read_calls(file)) == []


@pytest.mark.timeout(180)
async def test_memory_of_service_and_export_does_not_grow_with_the_calls(
    processes: ServiceProcesses, db: "Connection", tmp_path: Path
) -> None:
    replica = await processes.start()
    await with_many_calls(replica, db, "small", 10_000)
    await with_many_calls(replica, db, "large", 100_000)
    peaks = {}
    for account_id in ("small", "large"):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PEAK_OF_EXPORT, account_id, str(tmp_path / f"{account_id}.csv"), replica.target),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        peaks[account_id] = (int(output.split()[-1]), peak_kb(replica.process.pid))
    (client_small, server_small), (client_large, server_large) = peaks["small"], peaks["large"]
    assert max(client_large - client_small, server_large - server_small) < MEMORY_KB_MAX, peaks
    assert sum(1 for _ in read_calls(tmp_path / "large.csv")) == 300_000


MEMORY_KB_MAX = 30_000
"""A list of 300,000 calls would take some 300 MB."""
PEAK_OF_EXPORT = """
import resource, sys
from metering.cli import main
account_id, file, target = sys.argv[1:]
main(["export-calls", account_id, "2026-10", file, "--target", target], standalone_mode=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_kb(pid: int) -> int:
    """Return the most memory that a process has held."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0])
