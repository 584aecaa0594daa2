"""The commands that work on the books themselves: migrations, audit, acts, and what becomes of old calls."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import click

from metering import embedded_postgres
from metering.app import AUDIT_STATEMENT_S
from metering.billing.audit import ALL_ACCOUNTS, ALL_MONTHS, ASSURANCES, OF_A_MONTH, Auditor
from metering.billing.months import BillingCalendar, parse_month
from metering.clock import SystemClock
from metering.commands.acts import show_acts
from metering.commands.audit import show_audit
from metering.commands.common import DEFAULTS, failing_plainly, out, setting
from metering.commands.retention import FORMATS, Dropper, archive, archive_file
from metering.errors import account_not_found
from metering.model import AccountId, AccountRange, AuditSum, NotedAct
from metering.store.acts import ActStore
from metering.store.audit import AuditStore
from metering.store.database import STATEMENT_S, Database
from metering.store.digests import DigestStore
from metering.store.installation import InstallationStore
from metering.store.retention import RetentionStore
from metering.store.schema import migrate as migrate_database

AUDIT_FAILED = 3
"""The exit code."""


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
    with embedded_postgres.start(data_dir) as embedded, embedded.kept_up():
        yield embedded.url, f"embedded PostgreSQL {embedded_postgres.MAJOR_VERSION} in {display(embedded.data_dir)}"


def display(path: Path) -> str:
    """Return a path as one would write it here."""
    try:
        return f"./{path.relative_to(Path.cwd())}"
    except ValueError:
        return str(path)


@asynccontextmanager
async def books_of(
    url: str, name: str, *, timeout_s: float = STATEMENT_S, as_owner: bool = False
) -> AsyncIterator[Database]:
    """Connect to a database that is migrated; raises DatabaseUnavailableError."""
    books = await Database.connect(url, name=name, connections=2, timeout_s=timeout_s, as_owner=as_owner)
    try:
        yield books
    finally:
        await books.close()


@click.command()
@database_settings
@failing_plainly
def migrate(database_url: str | None, data_dir: Path) -> None:
    """Bring the schema of the database up to date. The user of the URL becomes its owner."""
    with database(database_url, data_dir) as (url, what):
        before, after = asyncio.run(migrate_database(url))
    did = "is up to date" if before == after else f"migrated from {before or 'an empty database'} to {after}"
    out.print(f"{what}: {did} (schema {after})")


@click.command()
@database_settings
@click.option("--account", help="Audit this account only.")
@click.option("--month", help="Audit only the bills of this month (such as 2026-11), and the calls on them.")
@failing_plainly
def audit(database_url: str | None, data_dir: Path, account: str | None, month: str | None) -> None:
    """Recompute the books from the raw calls and the ledger; exit code 3 if anything differs.

    May run while the service does: it reads some accounts at a time, each part as it was at one moment.
    """
    months = (parse_month(month),) * 2 if month else ALL_MONTHS
    with database(database_url, data_dir) as (url, _):
        found = asyncio.run(run_audit(url, AccountId(account) if account else None, months))
    if not found.clean:
        sys.exit(AUDIT_FAILED)


@click.command()
@click.option("--last", default=50, show_default=True, type=click.IntRange(1), help="So many, the newest first.")
@click.option("--account", help="Those about this account. [default: all]")
@database_settings
@failing_plainly
def acts(last: int, account: str | None, database_url: str | None, data_dir: Path) -> None:
    """List who did what: activations, prices, closes, deductions, payments, monthly runs by hand; newest first."""

    async def read(url: str) -> list[NotedAct]:
        async with books_of(url, "acts") as books:
            return await ActStore(books).last(AccountId(account) if account else None, last)

    with database(database_url, data_dir) as (url, _):
        show_acts(asyncio.run(read(url)))


async def run_audit(url: str, account: AccountId | None = None, months: tuple[date, date] = ALL_MONTHS) -> AuditSum:
    """Audit the books in a database, and print what is found.

    Raises:
        DatabaseUnavailableError: they cannot be read, or no service was ever started on them.
        MeteringError: ACCOUNT_NOT_FOUND, there is nothing of that account, not even a call.

    """
    async with books_of(url, "audit", timeout_s=AUDIT_STATEMENT_S) as books:
        store = AuditStore(books)
        calendar = BillingCalendar.of_zone(await InstallationStore(books).time_zone())
        auditor = Auditor(store, calendar, SystemClock())
        accounts = AccountRange.of(account) if account else ALL_ACCOUNTS
        kinds = [kind for kind in ASSURANCES if months == ALL_MONTHS or kind in OF_A_MONTH]
        found = await show_audit(auditor.audit(accounts, months), 1 if account else await store.accounts(), kinds)
    if account and not found.accounts and found.clean:
        raise account_not_found(account)
    return found


archive_option = click.option(
    "--archive",
    "directory",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Where archives are.",
)


@click.command()
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


@click.command()
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


@click.command()
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
