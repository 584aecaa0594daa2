"""How busy a thread is: the event loop's, where everything of a worker happens; and who gives way to whom on it."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

INTERVAL_S = 0.05
"""The share is that of the last interval at least so long."""


PAUSE_S, PAUSES_MAX = 0.003, 3
"""Long work is done a millisecond at a time, and pauses for so long while calls are recorded, up to so many times.
docs/performance.md."""


async def next_turn() -> None:
    """Let all who are ready do what they have to do, once."""
    await asyncio.sleep(0)


class GiveWay:
    """Has long work give way to calls that are being recorded: to be awaited between any two pieces of it.

    Args:
        recording: tells whether calls are being recorded just now.

    """

    def __init__(self, recording: Callable[[], bool]) -> None:
        self._recording = recording
        self._one_at_a_time = asyncio.Lock()

    async def __call__(self) -> None:
        """Return when it is time for the next piece."""
        # However many do such work, calls have their time between any two pieces.
        async with self._one_at_a_time:
            await next_turn()
            for _ in range(PAUSES_MAX):
                if not self._recording():
                    return
                await asyncio.sleep(PAUSE_S)


class LoopLoad:
    """For which share of its time the thread that asks has been running, or waiting for a processor to run on.

    Args:
        clock: seconds that pass.
        busy_s: seconds that this thread has been busy for, in all.

    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, busy_s: "Callable[[], float] | None" = None
    ) -> None:
        self._clock = clock
        self._busy_s = busy_s or thread_busy_s
        self._share = 0.0
        self._since = self._clock()
        self._busy_then = self._busy_s()

    def share(self) -> float:
        """Return the share of the last moment, 0 to 1. Costs nothing but once in INTERVAL_S."""
        now = self._clock()
        if now - self._since >= INTERVAL_S:
            busy = self._busy_s()
            self._share = min(1.0, (busy - self._busy_then) / (now - self._since))
            self._since, self._busy_then = now, busy
        return self._share


def thread_busy_s() -> float:
    """Return for how many seconds this thread has been busy: on a processor, or waiting for one.

    The wait counts, since on a machine where all processors are busy a thread that has too much to do does not get to
    run all the time. Only Linux tells it (proc(5), schedstat); elsewhere only the time on a processor counts.
    """
    try:
        ran_ns, waited_ns, _ = _SCHEDSTAT.read_text().split()
    except OSError:
        return time.thread_time()
    return (int(ran_ns) + int(waited_ns)) / 1e9


_SCHEDSTAT = Path("/proc/thread-self/schedstat")
