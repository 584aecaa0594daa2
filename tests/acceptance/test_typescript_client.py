"""The TypeScript stub against the running service: its example records calls and reads their usage."""

import asyncio
import json
import shutil
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from metering.clock import SystemClock
from tests.support.service import Service, amount

PACKAGE = Path(__file__).resolve().parents[2] / "clients/typescript"
EXAMPLE = PACKAGE / "dist/examples/record-and-read.js"
NODE = shutil.which("node")

pytestmark = [
    pytest.mark.skipif(NODE is None, reason="needs Node 20, which is not on this machine"),
    pytest.mark.skipif(not EXAMPLE.exists(), reason="the stub is not built: run 'make client-typescript'"),
]


@pytest.fixture
def clock() -> Any:
    """Return the real time: the example stamps its calls itself."""
    return SystemClock()


async def run_example(target: str, account_id: str, calls: int) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        str(NODE),
        str(EXAMPLE),
        target,
        account_id,
        str(calls),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await process.communicate()
    return process.returncode or 0, stdout.decode(), stderr.decode()


async def test_its_example_records_each_call_once_and_reads_usage_and_charges(service: Service) -> None:
    await service.activate("acme")

    code, stdout, stderr = await run_example(service.target, "acme", 5)

    assert (code, stderr) == (0, "")
    told = json.loads(stdout)
    usage = await service.usage("acme", told["month"])
    assert usage.total_calls == 5
    assert amount(usage.charges) == Decimal("0.06")  # 5 × 0.0125, rounded half up to the cent
    assert told == {
        "active": True,
        "duplicates": [False, True],
        "accepted": 4,
        "rejections": [],
        "month": told["month"],
        "calls": 5,
        "charges": "0.06 CNY",
    }


async def test_an_unknown_account_is_told_apart(service: Service) -> None:
    code, stdout, stderr = await run_example(service.target, "nobody", 1)

    assert (code, stdout) == (1, "")
    assert stderr.startswith("error 5: account_id: 'nobody' is not activated")
