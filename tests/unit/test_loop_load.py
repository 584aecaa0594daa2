import asyncio
import time

import pytest

from metering.loop_load import INTERVAL_S, PAUSE_S, PAUSES_MAX, GiveWay, LoopLoad, thread_busy_s


class Times:
    """What the clock and the kernel say."""

    def __init__(self) -> None:
        self.now = 100.0
        self.busy = 3.0

    def load(self) -> LoopLoad:
        return LoopLoad(lambda: self.now, lambda: self.busy)

    def go_by(self, seconds: float, *, busy: float) -> None:
        self.now += seconds
        self.busy += busy


def test_the_share_is_that_of_the_last_interval() -> None:
    times = Times()
    load = times.load()
    assert load.share() == 0.0
    times.go_by(0.1, busy=0.03)
    assert load.share() == pytest.approx(0.3)
    times.go_by(0.1, busy=0.08)
    assert load.share() == pytest.approx(0.8)


def test_within_an_interval_the_share_stays_as_it_was() -> None:
    times = Times()
    load = times.load()
    times.go_by(0.1, busy=0.05)
    assert load.share() == pytest.approx(0.5)
    times.go_by(INTERVAL_S / 2, busy=INTERVAL_S / 2)
    assert load.share() == pytest.approx(0.5)


def test_a_clock_that_is_less_exact_than_the_kernel_does_not_make_a_share_above_1() -> None:
    times = Times()
    load = times.load()
    times.go_by(0.1, busy=0.11)
    assert load.share() == 1.0


def test_a_thread_that_works_is_busy_and_one_that_sleeps_is_not() -> None:
    before = thread_busy_s()
    end = time.thread_time() + 0.05
    while time.thread_time() < end:
        pass
    worked = thread_busy_s() - before
    assert worked >= 0.04
    before = thread_busy_s()
    time.sleep(0.2)
    assert thread_busy_s() - before < 0.15


def test_where_the_kernel_does_not_tell_the_time_on_a_processor_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setattr("metering.loop_load._SCHEDSTAT", tmp_path / "absent")  # type: ignore[operator]
    before = time.thread_time()
    assert before <= thread_busy_s() <= time.thread_time()


async def test_while_calls_are_recorded_long_work_pauses_between_any_two_pieces_whoever_does_it() -> None:
    give_way = GiveWay(lambda: True)
    loop = asyncio.get_running_loop()
    begin = loop.time()
    await asyncio.gather(*(give_way() for _ in range(5)))
    assert loop.time() - begin >= 0.9 * 5 * PAUSES_MAX * PAUSE_S


async def test_while_none_are_recorded_it_only_lets_others_have_their_turn() -> None:
    give_way = GiveWay(lambda: False)
    others: list[str] = []
    asyncio.get_running_loop().call_soon(others.append, "had a turn")
    await give_way()
    assert others
