"""`metering close-month`, on a fake service: what it shows meanwhile, and what it says when it is cut off."""

import asyncio
import io
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from click.testing import CliRunner
from rich.console import Console

from faceid_metering import MeteringClient, MeteringError
from faceid_metering import messages as pb
from faceid_metering.testing import FakeMetering
from metering.commands import close_month as command

MONTH = "2020-01"


@pytest.fixture
def fake() -> Iterator[FakeMetering]:
    with FakeMetering() as fake:
        yield fake


def run(fake: FakeMetering, *arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(command.close_month, [*arguments, "--target", fake.target])
    return result.exit_code, result.output


class Closing:
    """A service that has come further with a close each time it is asked, and is done at the third time."""

    def __init__(self) -> None:
        self.asked = 0
        self.closed: asyncio.Future[pb.CloseMonthResponse] = asyncio.get_running_loop().create_future()

    async def get_month(self, month: str) -> pb.GetMonthResponse:
        assert month == MONTH
        self.asked += 1
        if self.asked == 3:
            self.closed.set_result(pb.CloseMonthResponse(bills_issued=3_000))
        return pb.GetMonthResponse(accounts=3_000, accounts_looked_at=1_000 * self.asked)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    screen = io.StringIO()
    monkeypatch.setattr(command, "out", Console(file=screen, force_terminal=True, color_system=None, width=120))
    monkeypatch.setattr(command, "ASKED_AGAIN_AFTER_S", 0)
    monkeypatch.setattr(command, "ANSWER_SHARE_MAX", 1e9)
    return screen


async def test_a_close_that_takes_some_time_shows_how_many_accounts_are_done(
    screen: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "SHOWN_AFTER_S", 0)
    service: Any = Closing()
    await command.show_progress(service, MONTH, service.closed)
    assert service.asked == 3
    assert f"closing {MONTH}" in screen.getvalue()
    assert "3000/3000 accounts" in screen.getvalue()


async def test_a_short_close_asks_nothing_and_shows_nothing(screen: io.StringIO) -> None:
    service: Any = Closing()
    service.closed.set_result(pb.CloseMonthResponse())
    await command.show_progress(service, MONTH, service.closed)
    assert (service.asked, "closing" in screen.getvalue()) == (0, False)


@pytest.mark.parametrize("code", [grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE])
def test_a_close_that_is_cut_off_says_how_it_goes_on(
    fake: FakeMetering, monkeypatch: pytest.MonkeyPatch, code: grpc.StatusCode
) -> None:
    async def cut_off(*_: object, **__: object) -> None:
        raise MeteringError(code, "cut off")

    monkeypatch.setattr(MeteringClient, "close_month", cut_off)
    exit_code, said = run(fake, MONTH)
    assert exit_code == 1
    assert f"{MONTH} is not closed to the end. The bills that were issued stay issued" in said
    assert f"`metering close-month {MONTH}` goes on with the rest" in said
    assert "cut off" in said


def test_a_month_that_has_not_ended_is_refused_and_nothing_else_is_said(fake: FakeMetering) -> None:
    exit_code, said = run(fake, "2999-01")
    assert (exit_code, said.startswith("Error: MONTH_NOT_ENDED")) == (1, True)


def test_a_month_is_closed_and_closed_again(fake: FakeMetering) -> None:
    assert run(fake, MONTH, "--dry-run") == (0, f"{MONTH} would have 0 bills: nothing to pay\n")
    assert run(fake, MONTH) == (0, f"{MONTH} has 0 bills: nothing to pay\n")
    assert run(fake, MONTH) == (0, f"{MONTH} has 0 bills: nothing to pay\nit had been closed before\n")
