"""`metering run-month` and `metering runs`."""

import asyncio
from collections.abc import Iterable
from decimal import Decimal

import click
from google.type.money_pb2 import Money
from rich.markup import escape
from rich.table import Table

from faceid_metering import MeteringClient, to_decimal
from faceid_metering import messages as pb
from metering.commands.common import Target, ask, connected, failing_plainly, out, print_table, target_setting
from metering.demo import money_text

FAILED = 1


@click.command()
@click.option("--dry-run", is_flag=True, help="Only tell what would happen, account by account.")
@target_setting
@failing_plainly
def run_month(target: Target, dry_run: bool) -> None:  # noqa: FBT001 - a flag
    """Do the monthly run now: close each month that has ended, deduct each bill that is not paid.

    The service does it by itself on day 1 to 3. May be repeated. Exit code 1 if a month or an account failed; the
    others are done all the same.
    """
    if dry_run:
        asyncio.run(preview(target))
        return
    run = asyncio.run(ask(target, lambda metering: metering.run_month(), "closing and deducting …"))
    show_run(run)
    if run.failures:
        raise click.exceptions.Exit(FAILED)


async def preview(target: Target) -> None:
    """Print what a run would do, as it comes in."""
    bills = suspended = unrated = 0
    issued: dict[str, Decimal] = {}
    deducted: dict[str, Decimal] = {}
    async with connected(target) as metering:
        async for account in metering.preview_run_month():
            bills += len(account.bills)
            suspended += account.suspends
            unrated += bool(account.unrated_months)
            _add(issued, (bill.total for bill in account.bills))
            _add(deducted, [account.deducted])
            out.print(preview_text(account))
    out.print(
        f"{bills:,} bills would be issued: {_sums_text(issued)}; deducted: {_sums_text(deducted)}; "
        f"{suspended:,} accounts suspended; {unrated:,} without a price"
    )


def preview_text(account: pb.PreviewRunMonthResponse) -> str:
    """Return in a line what a run would do for an account."""
    would = [f"bill of {bill.month} {money_text(bill.total)}" for bill in account.bills]
    would += [f"[yellow]{month} has no price[/yellow]" for month in account.unrated_months]
    if to_decimal(account.deducted):
        would.append(f"deduct {money_text(account.deducted)}")
    if to_decimal(account.outstanding):
        would.append(f"{money_text(account.outstanding)} outstanding")
    if account.suspends:
        would.append("[red]suspend[/red]")
    return f"  {account.account_id}: {', '.join(would)}"


@click.command()
@click.option("--last", default=12, show_default=True, type=click.IntRange(1), help="So many, the newest first.")
@target_setting
@failing_plainly
def runs(target: Target, last: int) -> None:
    """List what each monthly run did, newest first."""

    async def read(metering: MeteringClient) -> list[pb.MonthlyRun]:
        found: list[pb.MonthlyRun] = []
        async for run in metering.list_monthly_runs(page_size=min(last, 100)):
            found.append(run)
            if len(found) == last:
                break
        return found

    table = Table("run", "day", "began (UTC)", "took", "closed", "issued", "deducted", "paid", "suspended", "failures")
    table.box, table.pad_edge, table.header_style = None, False, "dim"
    found = asyncio.run(ask(target, read, "asking …"))
    for run in found:
        table.add_row(
            str(run.run_id),
            run.run_on,
            f"{run.started_at.ToDatetime():%Y-%m-%d %H:%M:%S}",
            _duration_text(run),
            ", ".join(run.months),
            f"{run.bills_issued:,}: {_moneys_text(run.issued)}" if run.bills_issued else "",
            _moneys_text(run.deducted),
            f"{run.bills_paid:,}",
            f"{run.accounts_suspended:,}",
            f"[red]{run.failures:,}[/red]" if run.failures else "",
        )
    print_table(table)
    for run in found:
        show_failures(run)


def show_run(run: pb.MonthlyRun) -> None:
    """Print what a run did."""
    out.print(f"run {run.run_id} of {run.run_on}: closed {', '.join(run.months) or 'no month'}")
    out.print(f"  {run.bills_issued:,} bills issued: {_moneys_text(run.issued) or 'nothing to pay'}")
    out.print(f"  {_moneys_text(run.deducted) or 'nothing'} deducted, {run.bills_paid:,} bills paid")
    out.print(f"  {run.accounts_suspended:,} accounts suspended")
    if run.accounts_unrated:
        out.print(
            f"  [yellow]{run.accounts_unrated:,} accounts have calls without a price[/yellow]; close-month names them"
        )
    show_failures(run)


def show_failures(run: pb.MonthlyRun) -> None:
    """Print what a run could not do."""
    for failure in run.failed:
        what = (
            f"the bill of {failure.account_id} for {failure.month}"
            if failure.account_id
            else f"closing {failure.month}"
        )
        out.print(f"  [red]run {run.run_id} failed at {what}[/red]: {escape(failure.message)}")
    if run.failures > len(run.failed):
        out.print(f"  … and at {run.failures - len(run.failed):,} more")


def _add(sums: dict[str, Decimal], moneys: Iterable[Money]) -> None:
    for money in moneys:
        sums[money.currency_code] = sums.get(money.currency_code, Decimal(0)) + to_decimal(money)


def _sums_text(sums: dict[str, Decimal]) -> str:
    return (
        ", ".join(f"{amount.normalize():,f} {currency}" for currency, amount in sorted(sums.items()) if amount)
        or "nothing"
    )


def _moneys_text(moneys: Iterable[Money]) -> str:
    return ", ".join(map(money_text, moneys))


def _duration_text(run: pb.MonthlyRun) -> str:
    if not run.HasField("finished_at"):
        return "not ended"
    return f"{(run.finished_at.ToNanoseconds() - run.started_at.ToNanoseconds()) / 1e9:.1f} s"
