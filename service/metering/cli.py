"""The command line.

Exit codes: 0 done; 1 failed, and the message says why; 2 the command was not understood; 3 the audit found something.
"""

import asyncio
import logging
import sys
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from faceid_metering import messages as pb
from metering import embedded_postgres
from metering.background import DATABASE_WAIT_S
from metering.commands.bill import bill
from metering.commands.books import (
    AUDIT_FAILED,
    acts,
    archive_calls,
    audit,
    database,
    database_settings,
    digest_bills,
    drop_calls,
    migrate,
    run_audit,
)
from metering.commands.certs import certs
from metering.commands.close_month import close_month
from metering.commands.common import (
    DEFAULTS,
    Target,
    ask,
    connected,
    credential_settings,
    failing_plainly,
    out,
    print_table,
    setting,
    target_setting,
)
from metering.commands.evidence import export_calls, verify
from metering.commands.monthly_run import run_month, runs
from metering.commands.price_plans import price_plans
from metering.commands.rejected import rejected
from metering.demo import Demo, money_text, state_text, temporary_service
from metering.errors import DatabaseUnavailableError
from metering.logs import secrets_in, set_up_logging
from metering.settings import HOURS_MAX, Settings
from metering.store.schema import migrate as migrate_database
from metering.supervisor import serve as serve_until_signal

FILE = click.Path(path_type=Path, dir_okay=False)

log = logging.getLogger(__name__)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(version("faceid-metering"), prog_name="metering")
def main() -> None:
    """FaceID Metering: counts calls, bills them by the month, tells who may call."""


@main.command()
@setting("--listen", default=DEFAULTS.listen, metavar="HOST:PORT", help="Where gRPC is served. Port 0: a free one.")
@setting(
    "--metrics-listen",
    default=DEFAULTS.metrics_listen,
    metavar="HOST:PORT",
    help="Where /metrics, /livez and /readyz are served. Port 0: a free one.",
)
@database_settings
@setting(
    "--direct-database-url",
    help="The same database past PgBouncer, if --database-url leads through one in transaction mode.",
)
@setting("--workers", default=DEFAULTS.workers, type=click.IntRange(1, 256), help="Worker processes.")
@setting("--billing-timezone", default=DEFAULTS.billing_timezone, help="Whose days and months are billed.")
@setting("--server-cert", type=FILE, help="TLS: the server's certificate (PEM), those above it included.")
@setting("--server-key", type=FILE, help="TLS: its private key (PEM).")
@setting("--client-ca", type=FILE, help="Mutual TLS: clients need a certificate of one of these authorities (PEM).")
@setting("--roles-file", type=FILE, help="Mutual TLS: which identity in a certificate has which role (TOML).")
@setting("--jwks-file", type=FILE, help="Bearer tokens, instead of mutual TLS: the issuer's public keys (JWKS).")
@setting("--token-issuer", help="Bearer tokens: their issuer (iss).")
@setting("--token-audience", default=DEFAULTS.token_audience, help="Bearer tokens: whom they are for (aud).")
@setting(
    "--insecure-listen",
    is_flag=True,
    default=False,
    help="Serve other machines although nothing is encrypted, or nobody is asked who they are.",
)
@setting(
    "--insecure-metrics-listen",
    is_flag=True,
    default=False,
    help="Serve metrics and probes to other machines: unencrypted, to anybody.",
)
@setting(
    "--reflection/--no-reflection",
    default=DEFAULTS.reflection,
    help="Tell callers with any role what can be called (for grpcurl).",
)
@setting(
    "--connections",
    default=DEFAULTS.connections,
    type=click.IntRange(1, 1_000_000),
    help="Connections to a worker, at the most.",
)
@setting(
    "--connection-age-s",
    default=DEFAULTS.connection_age_s,
    type=click.FloatRange(1, 86_400),
    help="After so many seconds, more or less, a connection is to be made anew, so that load finds new replicas.",
)
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
@setting(
    "--audit-interval-h",
    default=DEFAULTS.audit_interval_h,
    type=click.FloatRange(0, HOURS_MAX, max_open=True),
    help="Hours from the beginning of one audit of all accounts to that of the next, at least. 0: none is made.",
)
@setting(
    "--audit-share",
    default=DEFAULTS.audit_share,
    type=click.FloatRange(0, 1, min_open=True),
    help="Of the time, the share that auditing takes at the most, all replicas together.",
)
@failing_plainly
def serve(**values: Any) -> None:  # noqa: ANN401 - the settings
    """Serve until SIGTERM or Ctrl-C. Migrates the database first."""
    set_up_logging("metering", secrets_in(values["database_url"], values["direct_database_url"]))
    try:
        settings = Settings(**values)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if settings.direct_database_url and not settings.database_url:
        raise click.UsageError("--direct-database-url goes past a pooler: say with --database-url where that is")
    protection = settings.load_protection()
    with database(settings.database_url, settings.data_dir) as (url, what):
        migrate_when_up(settings.direct_database_url or url)

        def started(grpc: str, http: str) -> None:
            out.print(
                f"\n[bold]FaceID Metering {version('faceid-metering')}[/bold] is serving\n"
                f"  gRPC      grpc://{grpc}\n"
                f"  metrics   http://{http}/metrics   (and /livez, /readyz)\n"
                f"  database  {what}\n"
                f"  billing   months of {settings.billing_timezone}\n"
                f"  access    {protection}\n"
            )
            if not protection.files:
                out.print(f"  Try, in a second shell: [bold].venv/bin/metering demo --target {grpc}[/bold]")
            out.print("  Stop with Ctrl-C: calls under way are committed first.\n")

        serve_until_signal(settings, url, started)
    out.print("stopped; all calls that were acknowledged are committed")


def migrate_when_up(url: str) -> tuple[str | None, str]:
    """Migrate; wait for some time for a database that cannot be reached yet.

    Raises DatabaseUnavailableError, DatabaseUnusableError.
    """
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
@click.argument("account")
@click.argument("month")
@target_setting
@failing_plainly
def usage(account: str, month: str, target: Target) -> None:
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
    print_table(table)
    carried = f", {found.carried_calls:,} of them carried from earlier months" if found.carried_calls else ""
    charges = (
        money_text(found.charges) if found.HasField("charges") else f"no price for {', '.join(found.unrated_apis)}"
    )
    out.print(f"{found.total_calls:,} calls{carried}; {charges}{' so far' if state == 'open' else ''}")


@main.command()
@click.argument("account")
@click.argument("month")
@target_setting
@failing_plainly
def deduct(account: str, month: str, target: Target) -> None:
    """Deduct what is outstanding of the bill of ACCOUNT for MONTH, as far as the balance goes. May be repeated."""
    answer = asyncio.run(ask(target, lambda metering: metering.deduct(account, month), "deducting …"))
    state = pb.BillState.Name(answer.bill.state).removeprefix("BILL_STATE_")
    service = state_text(answer.service_status)
    out.print(f"{money_text(answer.deducted)} deducted now, {money_text(answer.outstanding)} outstanding: bill {state}")
    out.print(f"{account} is {service}{': ' if answer.service_status.reason else ''}{answer.service_status.reason}")


@main.command()
@click.option("--target", metavar="HOST:PORT", help="A running service. [default: a temporary one]")
@credential_settings
@click.option("--close-for-others", is_flag=True, help="Close the month even if other accounts have calls in it.")
@setting("--database-url", help="With --target: the service's database, for the audit.")
@failing_plainly
def demo(target: Target | None, close_for_others: bool, database_url: str | None) -> None:  # noqa: FBT001 - flags
    """Play the whole story: activate, price, record, usage, close, deduct, suspend, pay, reactivate, audit."""

    async def audit_here(url: str) -> bool:
        return (await run_audit(url)).clean

    async def play() -> bool:
        if target is None:
            out.print("starting a temporary service with a database of its own …")
            async with temporary_service() as (address, temporary):
                with embedded_postgres.start(temporary) as postgres:
                    return await play_at(Target(address), lambda: audit_here(postgres.url))
        return await play_at(target, (lambda: audit_here(database_url)) if database_url else None)

    async def play_at(address: Target, audit_books_there: Callable[[], Awaitable[bool]] | None) -> bool:
        async with connected(address) as metering:
            return await Demo(metering, out, audit_books_there).play(close_for_others=close_for_others)

    if not asyncio.run(play()):
        sys.exit(AUDIT_FAILED)
    out.print("\n[green]That is the whole story.[/green]")


for command in (
    *(acts, archive_calls, audit, bill, certs, close_month, digest_bills, drop_calls, export_calls, migrate),
    *(price_plans, rejected, run_month, runs, verify),
):
    main.add_command(command)
