"""The fuzzing, from the command line: `make fuzz SECONDS=300 SEED=7`. See docs/architecture.md."""

import argparse
import asyncio
import os
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

from metering import embedded_postgres
from metering.store.schema import migrate
from tests.fuzz.run import Outcome, run


def main() -> int:
    """Fuzz a service of its own, and say what it answered."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300, help="for how long")
    parser.add_argument("--seed", type=int, default=None, help="which requests; without, drawn by chance")
    arguments = parser.parse_args()
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"  # we fork only to run programs, and gRPC would remark on each
    seed = random.randrange(1_000_000) if arguments.seed is None else arguments.seed
    print(f"fuzzing for {arguments.seconds:.0f} s with seed {seed} …", flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="metering-fuzz-") as directory,
        embedded_postgres.start(Path(directory)) as postgres,
    ):

        async def fuzz() -> Outcome:
            await migrate(postgres.url)
            return await run(postgres.url, arguments.seconds, seed)

        outcome = asyncio.run(fuzz())
    codes = Counter[str]()
    for (_, code), number in outcome.codes.items():
        codes[code] += number
    print(
        f"  {codes.total():,} requests, {outcome.connections:,} noisy connections; grew by {outcome.growth_mb:.0f} MB"
    )
    print("  " + ", ".join(f"{code} {number:,}" for code, number in codes.most_common()))
    for problem in outcome.problems:
        print(f"  ✗ {problem}")
    if outcome.problems:
        print(f"again: make fuzz SECONDS={arguments.seconds:.0f} SEED={seed}")
    return 1 if outcome.problems else 0


if __name__ == "__main__":
    sys.exit(main())
