"""The command line.

Exit codes: 0 done; 1 failed, and the message says why; 2 the command was not understood; 3 the audit found something.
"""

import asyncio
import logging
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from faceid_metering import messages as pb
from metering import embedded_postgres
from metering.billing.audit import Audit
from metering.billing.audit import audit as audit_books
from metering.billing.months import BillingCalendar, parse_month
from metering.clock import SystemClock
from metering.commands.common import DEFAULTS, ask, connected, failing_plainly, out, setting, target_setting
from metering.commands.evidence import bill, export_calls, verify
from metering.commands.monthly_run import run_month, runs
from metering.commands.price_plans import price_plans
from metering.commands.rejected import rejected
from metering.commands.retention import FORMATS, Dropper, archive, archive_file
from metering.demo import Demo, money_text, state_text, temporary_service
from metering.errors import DatabaseUnavailableError
from metering.logs import set_up_logging
from metering.settings import Settings
from metering.store.audit import AuditStore
from metering.store.database import Database
from metering.store.digests import DigestStore
from metering.store.installation import InstallationStore
from metering.store.installation import migrate as migrate_database
from metering.store.retention import RetentionStore
from metering.supervisor import serve as serve_until_signal

AUDIT_FAILED = 3
DATABASE_WAIT_S = 60.0
"""For how long `serve` waits at its start for a database that cannot be reached yet."""
DIFFERENCES_SHOWN = 20

log = logging.getLogger(__name__)


def database_settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the settings that say which database."""
    for option in (
        setting(
            "--data-dir",
            default=DEFAULTS.data_dir,
            type=click.Path(path_type=Path, file_okay=False),
            help="Where the embedded PostgreSQL keeps its data.",
        ),
        setting("--database-url", help="A PostgreSQL 15 or newer. [default: the embedded one]"),
    ):
        command = option(command)
    return command


@contextmanager
def database(database_url: str | None, data_dir: Path) -> Iterator[tuple[str, str]]:
    """Return the URL of the database and what to call it; the embedded one is started, and stopped at the end."""
    if database_url:
        yield database_url, "PostgreSQL of METERING_DATABASE_URL"
        return
    with embedded_postgres.start(data_dir) as embedded:
        yield embedded.url, f"embedded PostgreSQL {embedded_postgres.MAJOR_VERSION} in {display(embedded.data_dir)}"


def display(path: Path) -> str:
    """Return a path as one would write it here."""
    try:
        return f"./{path.relative_to(Path.cwd())}"
    except ValueError:
        return str(path)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(version("faceid-metering"), prog_name="metering")
def main() -> None:
    """FaceID Metering: counts calls, bills them by the month, tells who may call."""
    # We fork only to run PostgreSQL's programs, and gRPC would remark on each.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


@main.command()
@setting("--listen", default=DEFAULTS.listen, metavar="HOST:PORT", help="Where gRPC is served. Port 0: a free one.")
@setting(
    "--metrics-listen",
    default=DEFAULTS.metrics_listen,
    metavar="HOST:PORT",
    help="Where /metrics, /livez and /readyz are served. Port 0: a free one.",
)
@database_settings
@setting("--workers", default=DEFAULTS.workers, type=click.IntRange(1, 256), help="Worker processes.")
@setting("--billing-timezone", default=DEFAULTS.billing_timezone, help="Whose days and months are billed.")
@setting("--insecure-listen", is_flag=True, default=False, help="Serve other machines without encryption.")
@setting(
    "--queue-wait-s",
    default=DEFAULTS.queue_wait_s,
    type=click.FloatRange(0.01, 60),
    help="Calls that would have to wait longer for their commit are refused.",
)
@setting(
    "--queue-calls",
    default=DEFAULTS.queue_calls,
    type=click.IntRange(1),
    help="Calls that may wait for their commit in a worker, at the most.",
)
@setting("--batch-calls", default=DEFAULTS.batch_calls, type=click.IntRange(1), help="Calls in a commit, at the most.")
@setting(
    "--committers",
    default=DEFAULTS.committers,
    type=click.IntRange(1, 16),
    help="Commits at the same time in a worker.",
)
@setting(
    "--commit-spacing-ms",
    default=DEFAULTS.commit_spacing_ms,
    type=click.FloatRange(0, 1000),
    help="Under load, milliseconds between the starts of two commits, at the most.",
)
@setting(
    "--shutdown-grace-s",
    default=DEFAULTS.shutdown_grace_s,
    type=click.FloatRange(0),
    help="Seconds that requests under way are given to end when the service stops.",
)
@failing_plainly
def serve(**values: Any) -> None:  # noqa: ANN401 - the settings
    """Serve until SIGTERM or Ctrl-C. Migrates the database first."""
    set_up_logging("metering")
    try:
        settings = Settings(**values)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    with database(settings.database_url, settings.data_dir) as (url, what):
        migrate_when_up(url)

        def started(grpc: str, http: str) -> None:
            out.print(
                f"\n[bold]FaceID Metering {version('faceid-metering')}[/bold] is serving\n"
                f"  gRPC      grpc://{grpc}\n"
                f"  metrics   http://{http}/metrics   (and /livez, /readyz)\n"
                f"  database  {what}\n"
                f"  billing   months of {settings.billing_timezone}\n\n"
                f"  Try, in a second shell: [bold].venv/bin/metering demo --target {grpc}[/bold]"
            )
            out.print("  Stop with Ctrl-C: calls under way are committed first.\n")

        serve_until_signal(settings, url, started)
    out.print("stopped; all calls that were acknowledged are committed")


def migrate_when_up(url: str) -> tuple[str | None, str]:
    """Migrate; wait for some time for a database that cannot be reached yet. Raises DatabaseUnavailableError."""
    end = time.monotonic() + DATABASE_WAIT_S
    while True:
        try:
            return asyncio.run(migrate_database(url))
        except DatabaseUnavailableError as error:
            if time.monotonic() > end:
                raise
            log.warning("waiting for the database: %s", error)
            time.sleep(2)


@main.command()
@database_settings
@failing_plainly
def migrate(database_url: str | None, data_dir: Path) -> None:
    """Bring the schema of the database up to date. The user of the URL becomes its owner."""
    with database(database_url, data_dir) as (url, what):
        before, after = asyncio.run(migrate_database(url))
    did = "is up to date" if before == after else f"migrated from {before or 'an empty database'} to {after}"
    out.print(f"{what}: {did} (schema {after})")


@main.command()
@database_settings
@failing_plainly
def audit(database_url: str | None, data_dir: Path) -> None:
    """Recompute the books from the raw calls and the ledger; exit code 3 if anything differs."""
    with database(database_url, data_dir) as (url, _):
        found = asyncio.run(run_audit(url))
    if not show_audit(found):
        sys.exit(AUDIT_FAILED)


async def run_audit(url: str) -> Audit:
    """Audit the books in a database; raises DatabaseUnavailableError."""
    books = await Database.connect(url, name="audit", connections=1, timeout_s=3600)
    try:
        with out.status("auditing …") as status:
            return await audit_books(AuditStore(books), lambda assurance: status.update(f"checking that {assurance} …"))
    finally:
        await books.close()


def show_audit(found: Audit) -> bool:
    """Print what an audit found; return whether the books are clean."""
    for assurance, differences in found.differences.items():
        out.print(f"  [red]✗[/red] {assurance}" if differences else f"  [green]✓[/green] {assurance}")
        for difference in differences[:DIFFERENCES_SHOWN]:
            out.print(f"      {difference.account_id}: found {difference.found}; expected {difference.expected}")
        if len(differences) > DIFFERENCES_SHOWN:
            out.print(f"      … and {len(differences) - DIFFERENCES_SHOWN:,} more")
    totals = found.totals
    out.print(
        f"  {totals['recorded']:,} recorded calls = {totals['billed']:,} billed + {totals['carried']:,} carried to a "
        f"later month + {totals['open']:,} in open months + {totals['unrated']:,} closed without a price"
    )
    out.print("[green]the books are right[/green]" if found.clean else "[bold red]the books are NOT right[/bold red]")
    return found.clean


archive_option = click.option(
    "--archive",
    "directory",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Where archives are.",
)


@main.command()
@click.argument("month")
@archive_option
@click.option("--format", "ending", default=FORMATS[0], show_default=True, type=click.Choice(FORMATS))
@database_settings
@failing_plainly
def archive_calls(month: str, directory: Path, ending: str, database_url: str | None, data_dir: Path) -> None:
    """Write the calls on all bills of MONTH (such as 2026-01), which is closed, to a file, and verify that."""

    async def write(url: str) -> int:
        async with books_of(url, "archive") as books:
            return await archive(RetentionStore(books), parsed, file)

    parsed = parse_month(month)
    directory.mkdir(parents=True, exist_ok=True)
    file = archive_file(directory, parsed, ending)
    with database(database_url, data_dir) as (url, _):
        calls = asyncio.run(write(url))
    out.print(f"{file} has exactly the {calls:,} calls of the bills of {month}")


@main.command()
@click.option(
    "--months",
    required=True,
    type=click.IntRange(1),
    help="For so many months after a month was closed, its calls are kept.",
)
@archive_option
@click.option("--dry-run", is_flag=True, help="Only verify the archives, and tell what would be dropped.")
@database_settings
@failing_plainly
def drop_calls(months: int, directory: Path, database_url: str | None, data_dir: Path, *, dry_run: bool) -> None:
    """Drop the raw calls of months closed long ago, day by day, once the archive is proved to hold them.

    Usage, bills and their digests stay. A day is kept, and it is told why, as long as a bill that its calls stand on is
    not old enough, or is not in the archive exactly as it was issued. Exit code 3: there are such days. The service
    never does this by itself. The user of the database's URL must own it.
    """

    async def drop(url: str) -> bool:
        async with books_of(url, "drop calls", as_owner=True) as books:
            calendar = BillingCalendar.of_zone(await InstallationStore(books).time_zone())
            return await Dropper(RetentionStore(books), directory, calendar, SystemClock()).drop(
                months, dry_run=dry_run
            )

    with database(database_url, data_dir) as (url, _):
        done = asyncio.run(drop(url))
    if not done:
        sys.exit(AUDIT_FAILED)


@main.command()
@database_settings
@failing_plainly
def digest_bills(database_url: str | None, data_dir: Path) -> None:
    """Give the bills their digests that were issued before there were digests. May be repeated."""

    async def digest(url: str) -> int:
        bills = 0
        async with books_of(url, "digests") as books:
            with out.status("digesting …") as status:
                async for more in DigestStore(books).add_missing():
                    bills += more
                    status.update(f"{bills:,} bills …")
        return bills

    with database(database_url, data_dir) as (url, _):
        out.print(f"{asyncio.run(digest(url)):,} bills had no digest")


@asynccontextmanager
async def books_of(url: str, name: str, *, as_owner: bool = False) -> AsyncIterator[Database]:
    """Connect to a database that is migrated; raises DatabaseUnavailableError."""
    books = await Database.connect(url, name=name, connections=2, as_owner=as_owner)
    try:
        yield books
    finally:
        await books.close()


@main.command()
@click.argument("account")
@click.argument("month")
@target_setting
@failing_plainly
def usage(account: str, month: str, target: str) -> None:
    """Tell what ACCOUNT has used in MONTH (such as 2026-11), by api and day."""
    found = asyncio.run(ask(target, lambda metering: metering.get_monthly_usage(account, month), "asking …"))
    state = pb.MonthState.Name(found.state).removeprefix("MONTH_STATE_").lower()
    out.print(f"[bold]{found.account_id}[/bold] in {found.month} ({state})")
    table = Table("api", "day", "calls", "charged", box=None, header_style="dim", pad_edge=False)
    for column in table.columns[2:]:
        column.justify = "right"
    for api in found.apis:
        table.add_row(api.api, "", f"{api.calls:,}", f"{api.charged_calls:,}")
        for day in api.days:
            table.add_row("", day.day, f"{day.calls:,}", "", style="dim")
    out.print(table)
    carried = f", {found.carried_calls:,} of them carried from earlier months" if found.carried_calls else ""
    charges = (
        money_text(found.charges) if found.HasField("charges") else f"no price for {', '.join(found.unrated_apis)}"
    )
    out.print(f"{found.total_calls:,} calls{carried}; {charges}{' so far' if state == 'open' else ''}")


@main.command()
@click.argument("month")
@click.option("--dry-run", is_flag=True, help="Only tell what would happen.")
@target_setting
@failing_plainly
def close_month(month: str, target: str, dry_run: bool) -> None:  # noqa: FBT001 - a flag
    """Seal MONTH (such as 2026-11) and issue its bills. May be repeated. The service does it by itself on day 1."""
    waiting = f"{'looking at' if dry_run else 'closing'} {month} …"
    closed = asyncio.run(ask(target, lambda metering: metering.close_month(month, dry_run=dry_run), waiting))
    totals = ", ".join(map(money_text, closed.totals)) or "nothing to pay"
    verb = "would have" if dry_run else "has"
    out.print(f"{month} {verb} {closed.bills_issued:,} bills: {totals}")
    if closed.already_closed:
        out.print("it had been closed before")
    if closed.unrated_accounts:
        out.print(f"[yellow]no price for calls of: {', '.join(closed.unrated_accounts)}[/yellow]")
        out.print("give these accounts a price plan, and close the month again")


@main.command()
@click.argument("account")
@click.argument("month")
@target_setting
@failing_plainly
def deduct(account: str, month: str, target: str) -> None:
    """Deduct what is outstanding of the bill of ACCOUNT for MONTH, as far as the balance goes. May be repeated."""
    answer = asyncio.run(ask(target, lambda metering: metering.deduct(account, month), "deducting …"))
    state = pb.BillState.Name(answer.bill.state).removeprefix("BILL_STATE_")
    service = state_text(answer.service_status)
    out.print(f"{money_text(answer.deducted)} deducted now, {money_text(answer.outstanding)} outstanding: bill {state}")
    out.print(f"{account} is {service}{': ' if answer.service_status.reason else ''}{answer.service_status.reason}")


@main.command()
@click.option("--target", metavar="HOST:PORT", help="A running service. [default: a temporary one]")
@click.option("--close-for-others", is_flag=True, help="Close the month even if other accounts have calls in it.")
@setting("--database-url", help="With --target: the service's database, for the audit.")
@failing_plainly
def demo(target: str | None, close_for_others: bool, database_url: str | None) -> None:  # noqa: FBT001 - flags
    """Play the whole story: activate, price, record, usage, close, deduct, suspend, pay, reactivate, audit."""

    async def audit_here(url: str) -> bool:
        return show_audit(await run_audit(url))

    async def play() -> bool:
        if target is None:
            out.print("starting a temporary service with a database of its own …")
            async with temporary_service() as (address, temporary):
                with embedded_postgres.start(temporary) as postgres:
                    return await play_at(address, lambda: audit_here(postgres.url))
        return await play_at(target, (lambda: audit_here(database_url)) if database_url else None)

    async def play_at(address: str, audit_books_there: Callable[[], Awaitable[bool]] | None) -> bool:
        async with connected(address) as metering:
            return await Demo(metering, out, audit_books_there).play(close_for_others=close_for_others)

    if not asyncio.run(play()):
        sys.exit(AUDIT_FAILED)
    out.print("\n[green]That is the whole story.[/green]")


for command in (price_plans, rejected, run_month, runs, bill, export_calls, verify):
    main.add_command(command)
