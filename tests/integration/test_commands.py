"""The commands for price plans, the monthly run and rejected calls, on a running service."""

import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.command import metering
from tests.support.service import FakeClock, Service

Run = Callable[..., Awaitable[str]]

OCTOBER = datetime(2026, 10, 15, tzinfo=UTC)
(STANDARD,) = re.findall(
    r"```toml\n(.*?)```", (Path(__file__).parents[2] / "docs" / "billing.md").read_text(), re.DOTALL
)


@pytest.fixture
def run(service: Service) -> Run:
    """Return a way to run a command on the service, which ends with an exit code."""

    async def run(*arguments: str, code: int = 0) -> str:
        found, said = await metering(*arguments, METERING_TARGET=service.target, COLUMNS="200")
        assert (found, "Traceback" in said) == (code, False), said
        return said

    return run


async def test_price_plans_are_put_listed_shown_changed_and_put_again(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "standard.toml"
    file.write_text(STANDARD)
    assert await run("price-plans", "put", str(file)) == "standard: version 1\n"
    assert await run("price-plans", "put", str(file)) == "standard: version 1 (unchanged)\n"
    shown = await run("price-plans", "show", "standard")
    shown_file = tmp_path / "shown.toml"
    shown_file.write_text(shown)
    assert await run("price-plans", "put", str(shown_file)) == "standard: version 1 (unchanged)\n"
    shown_file.write_text(shown.replace('"0.02"', '"0.03"'))
    other = tmp_path / "other.json"
    other.write_text(
        '{"price_plan_id": "other", "currency": "USD", "prices": [{"api": "X", "per_call": {"unit_price": "1"}}]}'
    )
    assert await run("price-plans", "put", str(shown_file), str(other)) == "standard: version 2\nother: version 1\n"
    listed = [line.rstrip().split(maxsplit=3) for line in (await run("price-plans", "list")).splitlines()[1:]]
    assert listed == [
        ["other", "1", "USD", "X"],
        ["standard", "2", "CNY", "DetectAuth, CompareFace, LivenessCheck"],
    ]
    assert await run("price-plans", "show", "standard", "--version", "1") == shown
    assert "Error: PRICE_PLAN_NOT_FOUND" in await run("price-plans", "show", "none", code=1)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (
            '"0.02"',
            '"-0.02"',
            "line 15: prices[1].graduated.tiers[0].unit_price: '-0.02' is not a price; write a decimal such as 0.0125",
        ),
        ("10000,", "2000000,", "line 16: prices[1].graduated.tiers[1].up_to: 1000000 is not more than 2000000"),
        ("100\n", "-1\n", "line 7: prices[0].free_calls: -1 is less than 0"),
        ("LivenessCheck", "DetectAuth", "line 22: prices[2].api: DetectAuth has a price already"),
        ("CNY", "XXX", "line 2: currency: 'XXX' is not an ISO 4217 currency code"),
        ("InternalError", "In ternal", "line 13: prices[1].uncharged_result_codes[0]: 'In ternal' is malformed"),
        ('"standard"', '""', "line 1: price_plan_id: is missing"),
        ("unit_price", "unit_prise", "line 8: prices[0].per_call.unit_prise: is not known; there are unit_price"),
        ("per_call", "# per_call", "line 6: prices[0]: has no price; set per_call, graduated or volume"),
    ],
)
async def test_a_price_plan_that_is_wrong_is_told_by_file_line_and_field_and_nothing_is_stored(
    run: Run, tmp_path: Path, before: str, after: str, said: str
) -> None:
    file = tmp_path / "standard.toml"
    file.write_text(STANDARD.replace(before, after, 1))
    assert f"Error: {file}, {said}" in await run("price-plans", "put", str(file), code=1)
    assert len((await run("price-plans", "list")).splitlines()) == 1


async def test_a_file_that_is_not_there_is_named_plainly(run: Run, tmp_path: Path) -> None:
    assert str(tmp_path / "none.toml") in await run("price-plans", "put", str(tmp_path / "none.toml"), code=1)


async def test_the_month_is_run_by_hand_and_its_runs_are_listed(run: Run, service: Service) -> None:
    for account_id, paid in (("rich", "100"), ("poor", "1")):
        await service.activate(account_id)
        await service.pay(account_id, paid)
        await service.record_batch([service.call(account_id, at=OCTOBER) for _ in range(100)])
    await service.activate("unrated", plan="")
    await service.record(service.call("unrated", at=OCTOBER))

    dry = await run("run-month", "--dry-run")
    assert "  poor: bill of 2026-10 1.25 CNY, deduct 1 CNY, 0.25 CNY outstanding, suspend\n" in dry
    assert "  rich: bill of 2026-10 1.25 CNY, deduct 1.25 CNY\n" in dry
    assert "  unrated: 2026-10 has no price\n" in dry
    assert "2 bills would be issued: 2.5 CNY; deducted: 2.25 CNY; 1 accounts suspended; 1 without a price" in dry
    assert "closed no month" not in dry

    did = await run("run-month")
    assert "closed 2026-10\n" in did
    assert "2 bills issued: 2.5 CNY\n" in did
    assert "2.25 CNY deducted, 1 bills paid\n" in did
    assert "1 accounts suspended\n" in did
    assert "1 accounts have calls without a price" in did
    assert "closed no month" in await run("run-month")

    newest, first = (await run("runs", "--last", "2")).splitlines()[1:]
    assert newest.split()[:2] == ["3", "2026-11-23"]
    assert re.search(r"2026-10\s+2: 2.5 CNY\s+2.25 CNY\s+1\s+1", first)


async def test_rejected_calls_are_listed_and_retried(run: Run, service: Service, clock: FakeClock) -> None:
    call = service.call("acme", result_code="E.Busy")
    await service.record_batch([call, service.call("zenith")])
    assert "2 calls\n" in await run("rejected", "list")
    assert "ACCOUNT_NOT_FOUND: account_id: 'acme' is not activated" in await run(
        "rejected", "list", "--account", "acme"
    )
    await service.activate("acme")
    clock.advance(days=63)
    said = await run("rejected", "retry")
    assert "0 calls recorded, 0 were on the books already, 2 still rejected\n" in said
    said = await run("rejected", "retry", "--however-old", "--account", "acme")
    assert said == "1 calls recorded, 0 were on the books already, 0 still rejected\n"
    recorded = await run("rejected", "list", "--state", "recorded")
    assert f"acme DetectAuth E.Busy {call.call_id} of 2026-11-23 04:00:00 UTC: recorded on 2027-01-25" in recorded
    assert "on the bill of 2026-11\n1 calls\n" in recorded
    assert "1 calls\n" in await run("rejected", "list", "--state", "rejected")
