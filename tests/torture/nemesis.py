"""The nemesis: one fault after the other, and often several at a time, by a seed."""

import asyncio
import random
import time
from pathlib import Path

from tests.torture.cluster import Cluster
from tests.torture.faults import FAULTS, Fault

PAUSE_S = 1.2
"""Between the beginnings of two faults, on average."""
AT_A_TIME = 3


class Nemesis:
    """Does what the seed says, and keeps a list of it."""

    def __init__(self, cluster: Cluster, seed: int, log: Path) -> None:
        self._cluster = cluster
        self._rng = random.Random(seed)
        self._log = log
        self._begin = time.monotonic()
        self._at_a_time = asyncio.Semaphore(AT_A_TIME)
        self.faults: dict[str, int] = {}
        """How many of each kind there were."""

    async def run(self, seconds: float) -> None:
        """Go on for so long; return once the last fault has passed."""
        end = self._begin + seconds
        async with asyncio.TaskGroup() as tasks:
            while (rest := end - time.monotonic()) > 0:
                await asyncio.sleep(min(rest, self._rng.expovariate(1 / PAUSE_S)))
                make = self._rng.choice(FAULTS)
                fault = make(self._cluster, self._rng)
                if time.monotonic() < end:
                    self.faults[make.__name__] = self.faults.get(make.__name__, 0) + 1
                    tasks.create_task(self._strike(fault))

    async def _strike(self, fault: Fault) -> None:
        async with self._at_a_time:
            self.tell(fault.what)
            await fault.happen()

    def tell(self, what: str) -> None:
        """Write down what happens, and when."""
        with self._log.open("a") as log:
            log.write(f"{time.time():.3f} {time.monotonic() - self._begin:8.2f} s  {what}\n")
