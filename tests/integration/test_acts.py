"""Who did what is noted before it is done, and cannot be changed."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
import pytest

from faceid.metering.v1 import account_service_pb2 as accounts_pb
from faceid.metering.v1 import metering_service_pb2 as metering_pb
from tests.support.command import metering
from tests.support.service import Service, reason_of

if TYPE_CHECKING:
    import asyncpg

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


async def acts(db: Connection) -> list[tuple[str, str | None, Any, str | None]]:
    """Return method, account, request and outcome of all acts, in the order of their beginning."""
    rows = await db.fetch(
        "SELECT method, account_id, request, outcome FROM administrative_acts"
        " LEFT JOIN administrative_outcomes USING (act_id) ORDER BY act_id"
    )
    return [(row["method"], row["account_id"], json.loads(row["request"]), row["outcome"]) for row in rows]


async def test_every_act_is_noted_with_its_outcome(service: Service, db: Connection) -> None:
    await service.activate("acme")
    await service.record(service.call("acme"))
    await service.usage("acme", "2026-11")
    await service.close_month("2026-10", dry_run=True)
    await service.close_month("2026-10")
    with pytest.raises(grpc.aio.AioRpcError):
        await service.deduct("acme", "2026-10")
    await service.pay("acme", "7.5", "transfer-1")
    money = {"currency_code": "CNY", "units": "7", "nanos": 500_000_000}
    noted = await acts(db)
    assert [(method, account, outcome) for method, account, _, outcome in noted] == [
        ("PutPricePlan", None, "OK"),
        ("ActivateAccount", "acme", "OK"),
        ("CloseMonth", None, "OK"),
        ("Deduct", "acme", "BILL_NOT_FOUND"),
        ("RecordPayment", "acme", "OK"),
    ]
    assert noted[4][2] == {"account_id": "acme", "amount": money, "payment_id": "transfer-1"}
    rows = await db.fetch("SELECT caller, role, peer, begun_at FROM administrative_acts")
    assert {(row["caller"], row["role"]) for row in rows} == {("anybody", "admin")}
    assert all(row["peer"].startswith("ipv4:127.0.0.1:") for row in rows)
    assert {row["begun_at"] for row in rows} == {service.clock.now()}


async def test_an_act_that_cannot_be_noted_is_not_done(service: Service, db: Connection) -> None:
    await service.activate("acme")
    await db.execute("ALTER TABLE administrative_acts RENAME TO away")
    with pytest.raises(grpc.aio.AioRpcError):
        await service.pay("acme", "1")
    await db.execute("ALTER TABLE away RENAME TO administrative_acts")
    assert (await service.account("acme")).balance.units == 0
    assert await db.fetchval("SELECT count(*) FROM ledger_entries") == 0


@pytest.mark.parametrize("bad", ["", "a\0b", "'; DROP TABLE bills; --", "x" * 5_000, "\u202e\n\x1b[31m"])
async def test_whatever_is_sent_can_be_noted(service: Service, db: Connection, bad: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await service.deduct(bad, "2026-10")
    assert reason_of(error.value) == "INVALID_FIELD"
    method, account, request, outcome = (await acts(db))[-1]
    assert (method, account, outcome) == ("Deduct", None, "INVALID_FIELD")
    assert request.get("account_id", "") == bad


async def test_of_a_large_request_the_hash_is_noted(service: Service, db: Connection) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await service.metering.Deduct(metering_pb.DeductRequest(account_id="x" * 100_000))
    (_, _, request, _) = (await acts(db))[-1]
    assert request["bytes"] > 100_000
    assert len(request["sha256"]) == 64


async def test_acts_are_listed_newest_first_and_by_account(service: Service, db: Connection, tmp_path: Path) -> None:
    for account in ("acme", "globex"):
        await service.activate(account)
    await service.accounts.ListBills(accounts_pb.ListBillsRequest(account_id="acme"))

    async def run(*arguments: str) -> list[str]:
        code, said = await metering("acts", *arguments, METERING_DATABASE_URL=service.database_url, COLUMNS="200")
        assert code == 0, said
        return [line for line in said.splitlines() if " by anybody (admin) from " in line]

    assert [line.split()[4] for line in await run()] == [
        "ActivateAccount",
        "PutPricePlan",
        "ActivateAccount",
        "PutPricePlan",
    ]
    assert len(await run("--last", "2")) == 2
    (line,) = await run("--account", "globex")
    assert line.endswith(": OK")
