"""Measures releases of grpcio side by side: `make bench-grpcio VERSIONS="1.76.0 1.80.0"`.

Each release has a virtual environment of its own under build/. It holds grpcio and what must be of the
same release, and takes all else from .venv.
Echo servers of all of them are measured turn by turn, and with --service the service, too, each on its own database.
"""

import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import click
from rich.console import Console
from rich.table import Table

from metering.embedded_postgres import EmbeddedPostgresError
from tests.benchmarks import books
from tests.benchmarks.load import Method
from tests.benchmarks.processes import BenchmarkError
from tests.benchmarks.results import Row
from tests.benchmarks.service import Server, another_database, running_server, running_service
from tests.benchmarks.suite import Measurement, Options, prepared

_DIRECTORY = Path("build/grpcio")
_PACKAGES = ("grpcio", "grpcio-health-checking", "grpcio-reflection")
"""Of which releases go together."""
_INSTALL_SECONDS_MAX = 300


@click.command(help=__doc__)
@click.argument("versions", nargs=-1, required=True)
@click.option("--service", is_flag=True, help="Measure RecordCall of the service, too.")
@click.option("--repetitions", type=click.IntRange(1, 100), default=7, show_default=True)
@click.option("--seconds", type=click.FloatRange(0.1, 60), default=1.0, show_default=True, help="Of each measurement.")
def main(versions: tuple[str, ...], *, service: bool, repetitions: int, seconds: float) -> None:
    """Measure, and show ratios to the first release named."""
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    try:
        interpreters = {version: _interpreter(version) for version in versions}
        found = _measure(interpreters, repetitions, seconds, service=service)
    except (BenchmarkError, EmbeddedPostgresError) as error:
        sys.exit(f"error: {error}")
    table = Table(title=f"{repetitions} repetitions of {seconds:g} s; ratios within one", title_justify="left")
    for number, heading in enumerate(("", "calls/s", "server µs", f"÷ {versions[0]}", "min", "max")):
        table.add_column(heading, justify="right" if number else "left")
    for (what, version), measured in found.items():
        ratios = [
            one.calls_per_second / other.calls_per_second
            for one, other in zip(measured, found[what, versions[0]], strict=True)
        ]
        table.add_row(
            f"{what}, grpcio {version}",
            f"{median(each.calls_per_second for each in measured):,.0f}",
            f"{median(each.server_us for each in measured):.0f}",
            f"[bold]{median(ratios):.2f}",
            f"{min(ratios):.2f}",
            f"{max(ratios):.2f}",
        )
    console.print(table)


def _measure(
    interpreters: dict[str, str], repetitions: int, seconds: float, *, service: bool
) -> dict[tuple[str, str], Sequence[Measurement]]:
    options = _options(seconds)
    found: dict[tuple[str, str], list[Measurement]] = {}
    with prepared(options, _DIRECTORY) as bench, ExitStack() as stack:
        servers: dict[tuple[str, str], Server] = {
            ("echo", version): stack.enter_context(
                running_server("tests.benchmarks.echo", "0", interpreter=interpreter)
            )
            for version, interpreter in interpreters.items()
        }
        for number, (version, interpreter) in enumerate(interpreters.items() if service else ()):
            url = another_database(bench.service.database_url, f"grpcio_{number}")
            servers["record", version] = stack.enter_context(
                running_service(url, options.time_zone, 1, interpreter=interpreter)
            )
            books.activate(url, options.accounts)
        for repetition in range(repetitions):
            for name, server in servers.items():
                found.setdefault(name, []).append(bench.closed(server, Method.RECORD_CALL))
            print(f"{repetition + 1}/{repetitions}", flush=True)
    return dict(found)


def _options(seconds: float) -> Options:
    return Options(
        parts=(),
        rows=(Row.ECHO,),
        repetitions=1,
        warm_up_seconds=0.4,
        seconds=seconds,
        in_flight=64,
        connections=4,
        batch=1_000,
        batches_in_flight=16,
        gather_seconds=0.0005,
        accounts=1_000,
        workers=1,
        time_zone="Asia/Shanghai",
        latency_seconds=1.0,
        latency_repetitions=1,
        memory_calls=1,
        stored=0,
    )


def _interpreter(version: str) -> str:
    """Return the Python of an environment with this release of grpcio; made unless it is there."""
    directory = _DIRECTORY.resolve() / version
    interpreter = directory / "bin" / "python"
    if not (directory / "ready").exists():
        print(f"installing grpcio {version} …", flush=True)
        site_packages = directory / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(directory)],
            [
                *(str(interpreter), "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-deps"),
                *(f"{package}=={version}" for package in _PACKAGES),
            ],
        ):
            try:
                subprocess.run(command, check=True, timeout=_INSTALL_SECONDS_MAX)
            except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
                raise BenchmarkError(f"grpcio {version} cannot be installed: {error}") from error
        # Behind its own packages come those of the environment we run in, with what those put on the path.
        ours = sysconfig.get_path("purelib")
        (site_packages / "all_else.pth").write_text(f"import site; site.addsitedir({ours!r})\n")
        (directory / "ready").touch()
    return str(interpreter)


if __name__ == "__main__":
    main()
