"""`metering close-month`."""

import asyncio
import time

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from faceid_metering import MeteringClient
from faceid_metering import MeteringError as ClientError
from faceid_metering import messages as pb
from metering.commands.common import Target, ask, connected, failing_plainly, out, target_setting
from metering.demo import money_text

SHOWN_AFTER_S = 2.0
"""A close that ends sooner shows no progress."""
ASKED_AGAIN_AFTER_S = 1.0
"""How often it is asked how far the close has come, at the most."""
ANSWER_SHARE_MAX = 0.1
"""How much of the time may go into answering that: it slows the close down."""


@click.command()
@click.argument("month")
@click.option("--dry-run", is_flag=True, help="Only tell what would happen.")
@target_setting
@failing_plainly
def close_month(month: str, target: Target, dry_run: bool) -> None:  # noqa: FBT001 - a flag
    """Seal MONTH (such as 2026-11) and issue its bills. May be repeated. The service does it by itself on day 1.

    If it is interrupted, the bills that were issued stay, and the next close-month goes on with the rest.
    """
    if dry_run:
        question = ask(target, lambda metering: metering.close_month(month, dry_run=True), f"looking at {month} …")
        closed = asyncio.run(question)
    else:
        closed = asyncio.run(close(target, month))
    totals = ", ".join(map(money_text, closed.totals)) or "nothing to pay"
    verb = "would have" if dry_run else "has"
    out.print(f"{month} {verb} {closed.bills_issued:,} bills: {totals}")
    if closed.already_closed:
        out.print("it had been closed before")
    if closed.unrated_accounts:
        out.print(f"[yellow]no price for calls of: {', '.join(closed.unrated_accounts)}[/yellow]")
        out.print("give these accounts a price plan, and close the month again")


async def close(target: Target, month: str) -> pb.CloseMonthResponse:
    """Close a month, and show how far it has come meanwhile."""
    async with connected(target) as metering:
        closing = asyncio.ensure_future(metering.close_month(month))
        try:
            await show_progress(metering, month, closing)
            return await closing
        except ClientError as error:
            if error.is_retryable():
                out.print(f"[yellow]{month} is not closed to the end.[/yellow] The bills that were issued stay issued:")
                out.print(f"`metering close-month {month}` goes on with the rest.")
            raise
        finally:
            closing.cancel()


async def show_progress(metering: MeteringClient, month: str, closing: "asyncio.Future[pb.CloseMonthResponse]") -> None:
    """Show how far the close of a month has come, until it ends; not in a file, which has no use for it."""
    await asyncio.wait({closing}, timeout=SHOWN_AFTER_S)
    if closing.done() or not out.is_terminal:
        return
    columns = (TextColumn("closing {task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("accounts"))
    with Progress(*columns, TimeElapsedColumn(), console=out, transient=True) as progress:
        task = progress.add_task(month, total=None)
        while not closing.done():
            begin = time.monotonic()
            found = await metering.get_month(month)
            progress.update(task, completed=found.accounts_looked_at, total=found.accounts)
            answer_s = time.monotonic() - begin
            await asyncio.wait({closing}, timeout=max(ASKED_AGAIN_AFTER_S, answer_s / ANSWER_SHARE_MAX))
