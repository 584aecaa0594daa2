"""Acts whose outcome cannot be noted any more."""

import asyncio
from datetime import datetime
from typing import Any

import pytest

from faceid.metering.v1 import metering_service_pb2 as pb
from metering.errors import DatabaseUnavailableError, MeteringError, Reason
from metering.model import Act
from metering.rpc.acts import ActNotes
from tests.support.service import FakeClock

METHOD = "/faceid.metering.v1.MeteringService/Deduct"
REQUEST = pb.DeductRequest(account_id="acme", month="2026-10")


class Log:
    """Notes acts in memory; `error` is raised when an outcome is to be noted."""

    def __init__(self, error: Exception | None = None) -> None:
        self.noted: list[Act | str] = []
        self._error = error

    async def begin(self, act: Act) -> int:
        self.noted.append(act)
        return len(self.noted)

    async def end(self, _act_id: int, outcome: str, _now: datetime) -> None:
        if self._error is not None:
            raise self._error
        self.noted.append(outcome)


class Context:
    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"


async def send(log: Log, clock: FakeClock, result: Exception | str) -> Any:
    async def behavior(_request: Any, _context: Any) -> Any:
        if isinstance(result, BaseException):
            raise result
        return result

    return await ActNotes(log, None, clock).noted(METHOD, behavior)(REQUEST, Context())  # type: ignore[arg-type]


async def test_an_act_that_was_done_is_answered_even_if_its_outcome_cannot_be_noted(
    clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    log = Log(DatabaseUnavailableError("the database has gone"))
    assert await send(log, clock, "done") == "done"
    assert "the outcome of act 1, OK, could not be noted" in caplog.text
    with pytest.raises(MeteringError, match="no such bill"):
        await send(log, clock, MeteringError(Reason.BILL_NOT_FOUND, "no such bill"))


async def test_a_defect_is_an_outcome_too(clock: FakeClock) -> None:
    log = Log()
    with pytest.raises(ZeroDivisionError):
        await send(log, clock, ZeroDivisionError())
    assert log.noted[1:] == ["INTERNAL"]


async def test_who_gives_up_leaves_no_outcome(clock: FakeClock) -> None:
    log = Log()
    with pytest.raises(asyncio.CancelledError):
        await send(log, clock, asyncio.CancelledError())  # type: ignore[arg-type]
    assert len(log.noted) == 1
