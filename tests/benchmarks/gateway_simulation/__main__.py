"""Simulates a gateway at 5,000 requests/s while the metering service has its troubles: `make gateway-simulation`.

The service is stopped for a minute, killed and started with an empty memory, frozen, and put behind a proxy that cuts,
delays, swallows answers, and swallows everything. Then gateways are killed, with their calls on disk first. In the end,
every call must be on the books exactly once. Some 5 minutes.
"""

import asyncio
import sys
import tempfile
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from faceid_metering import ClientConfig, Durability
from metering.embedded_postgres import EmbeddedPostgresError
from tests.benchmarks.gateway_simulation.kills import kill_gateways
from tests.benchmarks.gateway_simulation.measures import Costs
from tests.benchmarks.gateway_simulation.priorities import lower_postgres
from tests.benchmarks.gateway_simulation.simulation import Outcome, simulate
from tests.benchmarks.gateway_simulation.troubles import Times
from tests.benchmarks.processes import BenchmarkError
from tests.benchmarks.service import another_database, fresh_postgres

_DIRECTORY = Path("build/gateway-simulation")
_LINES = {
    "in_path": "in is_active() and record()",
    "extra": "extra because of the meter",
    "queued": "… and of requests before it",
    "latency": "all in all, with the meter",
    "latency_without": "all in all, without a meter",
}


@click.command(help=__doc__)
@click.option(
    "--durability",
    "modes",
    type=click.Choice([each.value for each in Durability]),
    multiple=True,
    default=[each.value for each in Durability],
    help="Where calls are put first; may be repeated. Both, unless said.",
)
@click.option("--rate", type=click.FloatRange(1), default=5_000, show_default=True, help="Requests a second.")
@click.option("--stopped-s", type=click.FloatRange(1), default=60, show_default=True, help="How long it is stopped.")
@click.option("--kills", type=click.IntRange(0), default=3, show_default=True, help="How many gateways are killed.")
def main(modes: tuple[str, ...], rate: float, stopped_s: float, kills: int) -> None:
    """Simulate it, and show what it cost."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    try:
        with fresh_postgres(_DIRECTORY) as server_url, tempfile.TemporaryDirectory() as directory:
            asyncio.run(lower_postgres(server_url))
            for mode in map(Durability, modes):
                database_url = another_database(server_url, f"gateway_{mode}")
                times = Times(stopped_s=stopped_s)
                outcome = asyncio.run(simulate(database_url, Path(directory, mode), mode, rate=rate, times=times))
                _show(console, mode, outcome)
            if kills:
                database_url = another_database(server_url, "gateway_kills")
                killed = asyncio.run(kill_gateways(database_url, Path(directory, "kills"), kills=kills, rate=rate))
                console.print(killed.told())
    except (BenchmarkError, EmbeddedPostgresError) as error:
        sys.exit(f"error: {error}")


def _show(console: Console, mode: Durability, outcome: Outcome) -> None:
    table = Table(title=f"durability {mode}: {outcome.requests:,} requests", title_justify="left")
    for number, heading in enumerate(("", "ms", "p50", "p99", "p99.9", "max")):
        table.add_column(heading, justify="right" if number > 1 else "left")
    for phase in (*outcome.phases, None):
        costs = outcome.costs(phase)
        lines = _LINES if phase is None else {"extra": _LINES["extra"]}
        _add(table, f"{phase or 'all of it'}", costs, lines)
    console.print(table)
    counts = ", ".join(f"{name} {count:,}" for name, count in outcome.metered.counts.items())
    config = ClientConfig()
    console.print(
        f"every call is on the books exactly once; {outcome.metered.denied} were denied; {counts}\n"
        f"delivered {outcome.metered.delivered_s:.1f} s after the last request\n"
        f"at most {outcome.metered.waiting_calls_max:,} calls in memory (bound {config.queue_calls:,}), "
        f"{outcome.memory_bytes / 1e6:.1f} MB more than the gateway without a meter\n"
        f"at most {outcome.disk_max_bytes / 1e6:.1f} MB on disk (bound {config.spool_bytes / 1e6:.1f})\n"
    )


def _add(table: Table, name: str, costs: Costs, lines: dict[str, str]) -> None:
    for field, what in lines.items():
        spread = getattr(costs, field)
        figures = (f"{value:.3f}" for value in (spread.p50, spread.p99, spread.p999, spread.max))
        table.add_row(name, what, *figures)
        name = ""


if __name__ == "__main__":
    main()
