"""The torture, from the command line: `make torture SECONDS=60 SEED=7`. See docs/architecture.md."""

import argparse
import asyncio
import os
import random
import signal
import sys
import time
from pathlib import Path

from tests.torture.planted import DEFECTS
from tests.torture.run import HEALTHY_S_MAX, Outcome, Torture, run


def main() -> int:
    """Torture for some time, with one seed after the other, until one finds something."""
    parser = argparse.ArgumentParser(prog="make torture", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="how long each torture lasts")
    parser.add_argument("--seed", type=int, default=None, help="which one; without, one drawn by chance")
    parser.add_argument("--tortures", type=int, default=1, help="how many, with the seeds that follow")
    parser.add_argument("--directory", type=Path, default=Path("build/torture"), help="where histories are kept")
    parser.add_argument("--defect", choices=DEFECTS, default="none", help="plant one, to see that it is found")
    parser.add_argument("--healthy-s", type=float, default=HEALTHY_S_MAX, help="how soon all must be well again")
    arguments = parser.parse_args()
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"  # we fork only to run programs, and gRPC would remark on each
    first = random.randrange(1_000_000) if arguments.seed is None else arguments.seed
    for seed in range(first, first + arguments.tortures):
        directory = (arguments.directory / str(seed)).resolve()
        torture = Torture(seed, arguments.seconds, directory, arguments.defect, arguments.healthy_s)
        print(f"torture of {torture.seconds:.0f} s with seed {seed} …", flush=True)
        begin = time.monotonic()
        try:
            outcome = asyncio.run(run_until_terminated(torture))
        except BaseException:
            print(f"it did not come to its end: seed {seed}, history in {directory}", file=sys.stderr)
            raise
        print(
            f"  {outcome.sent:,} calls sent, {outcome.booked:,} on the books, {outcome.months_closed} months closed, "
            f"{sum(outcome.faults.values())} faults, healthy after {outcome.healthy_s:.1f} s; "
            f"{time.monotonic() - begin:.0f} s in all",
            flush=True,
        )
        if outcome.problems:
            for problem in outcome.problems:
                print(f"  ✗ {problem}")
            print(f"seed {seed} found something; the history is in {directory}")
            print(f"again: make torture SECONDS={torture.seconds:.0f} SEED={seed}")
            return 1
    return 0


async def run_until_terminated(torture: Torture) -> Outcome:
    """Run a torture; on SIGTERM, end all that it has started before it ends itself."""
    task = asyncio.ensure_future(run(torture))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


if __name__ == "__main__":
    sys.exit(main())
