"""Simulates recording and service statuses with one seed after the other, until the time is up or a promise is broken.

The service's own code runs on a simulated database, in simulated time: hours of trouble in minutes. A seed replays
exactly: `make simulate ARGS='--seed 17 --seeds 1'`.
"""

import os
import random
import sys
import time
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait

import click
from rich.console import Console

from tests.simulation.run import Outcome, run
from tests.simulation.world import Plan


@click.command(help=__doc__)
@click.option("--seconds", default=60.0, show_default=True, help="After which no more seeds are begun.")
@click.option("--seed", type=int, help="The first one.  [default: by lot]")
@click.option("--seeds", type=click.IntRange(1), help="How many.  [default: as many as there is time for]")
@click.option("--simulated-seconds", default=120.0, show_default=True, help="That gateways call for, with each seed.")
@click.option("--batch-max", default=1_000, show_default=True, help="Calls in a batch.")
@click.option("--processes", default=os.cpu_count() or 1, show_default=True)
def main(
    seconds: float, seed: int | None, seeds: int | None, simulated_seconds: float, batch_max: int, processes: int
) -> None:
    """Run seed by seed."""
    console = Console(highlight=False)
    first = random.SystemRandom().randrange(1_000_000) if seed is None else seed
    begin, done, calls, following = time.monotonic(), 0, 0, first
    with ProcessPoolExecutor(processes) as pool:
        running: dict[Future[Outcome], int] = {}
        while True:
            while len(running) < processes and _goes_on(following - first, seeds, begin, seconds):
                plan = Plan(following, seconds=simulated_seconds, batch_max=batch_max)
                running[pool.submit(run, plan)] = following
                following += 1
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                of_seed = running.pop(future)
                if error := future.exception():
                    console.print(f"[red]seed {of_seed}: {error!r}")
                    options = (
                        f"--seed {of_seed} --seeds 1 --simulated-seconds {simulated_seconds} --batch-max {batch_max}"
                    )
                    sys.exit(f"It replays with: make simulate ARGS='{options}'")
                outcome = future.result()
                done, calls = done + 1, calls + outcome.calls
                console.print(
                    f"seed {of_seed:<8} {outcome.calls:>9,} calls, {outcome.commits:>6,} commits, "
                    f"{outcome.retries:>4} retries, {outcome.crashes:>2} crashes, {len(outcome.closed)} months closed"
                )
    passed = time.monotonic() - begin
    console.print(
        f"{done} seeds, {calls:,} calls in {passed:.0f} s: {60 * calls / passed:,.0f} a minute. All promises held."
    )


def _goes_on(begun: int, seeds: int | None, begin: float, seconds: float) -> bool:
    return begun < seeds if seeds else time.monotonic() - begin < seconds


if __name__ == "__main__":
    main()
