"""`metering export-calls`, `verify-bill`: the calls that a bill stands on, and whether they agree."""

import asyncio
import sys
from pathlib import Path

import click
from google.protobuf.json_format import Parse, ParseError

from faceid_metering import messages as pb
from faceid_metering.evidence import export_calls as exporting
from faceid_metering.evidence import read_calls, verify_bill
from metering.commands.common import FileError, Target, connected, failing_plainly, out, target_setting

DIFFERS = 3

file_path = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("account")
@click.argument("month")
@click.argument("file", type=file_path)
@target_setting
@failing_plainly
def export_calls(account: str, month: str, file: Path, target: Target) -> None:
    """Write the calls on the bill of ACCOUNT for MONTH (such as 2026-11) to FILE, as CSV or Parquet by its ending.

    FILE has its name only once it is complete; until then it is FILE.part. When the service is away in between, the
    export waits for it and goes on where it was. When the export itself was interrupted, run it again: a CSV goes on
    where it was, Parquet begins anew.
    """

    async def export() -> int:
        with out.status("asking …") as status, exporting(file, account, month) as under_way:
            place = under_way.place
            if place.calls:
                out.print(f"going on after {place.calls:,} calls, which an interrupted export has left in {file}.part")
            async with connected(target) as metering:
                async for page in metering.list_call_pages(account, month, page_token=place.page_token):
                    under_way.add(page)
                    status.update(f"{place.calls:,} calls …")
        return place.calls

    out.print(f"{asyncio.run(export()):,} calls of {account} on the bill of {month} are in {file}")


@click.command("verify-bill")
@click.argument("bill_file", metavar="BILL", type=file_path)
@click.argument("calls_file", metavar="CALLS", type=file_path)
@click.option("--archive", is_flag=True, help="CALLS is of archive-calls: leave out the calls of other accounts.")
@failing_plainly
def verify(bill_file: Path, calls_file: Path, *, archive: bool) -> None:
    """Check offline that exactly the calls in CALLS (see export-calls) stand on the bill in BILL (see bill --json).

    Exit code 3: they differ, and it is told in what.
    """
    billed = read_bill(bill_file)
    calls = read_calls(calls_file)
    if archive:
        calls = (call for call in calls if call.account_id == billed.account_id)
    with out.status(f"reading {calls_file} …"):
        differences = verify_bill(billed, calls)
    for difference in differences:
        out.print(f"  [red]✗[/red] {difference}", markup=True)
    if differences:
        out.print(f"{bill_file} and {calls_file} do [bold red]NOT[/bold red] belong together")
        sys.exit(DIFFERS)
    number = sum(line.calls for line in billed.lines)
    out.print(f"[green]the bill of {billed.account_id} for {billed.month} stands on these {number:,} calls[/green]")


def read_bill(path: Path) -> pb.Bill:
    """Return the bill in a JSON file; raises FileError for one that is none."""
    try:
        return Parse(path.read_text(encoding="utf-8"), pb.Bill())
    except (ParseError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: is not a bill as `metering bill --json` prints it: {error}") from error
