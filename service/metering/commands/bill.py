"""`metering bill`."""

import asyncio

import click
from google.protobuf.json_format import MessageToJson

from faceid_metering import messages as pb
from metering.commands.common import Target, ask, failing_plainly, out, print_table, target_setting
from metering.demo import bill_table, money_text


@click.command()
@click.argument("account")
@click.argument("month")
@click.option("--json", "as_json", is_flag=True, help="As JSON, to be saved and verified: see verify-bill.")
@target_setting
@failing_plainly
def bill(account: str, month: str, target: Target, *, as_json: bool) -> None:
    """Tell the bill of ACCOUNT for MONTH (such as 2026-11), and how each of its lines came about."""
    found = asyncio.run(ask(target, lambda metering: metering.get_bill(account, month), "asking …"))
    if as_json:
        click.echo(MessageToJson(found, preserving_proto_field_name=True))
        return
    state = pb.BillState.Name(found.state).removeprefix("BILL_STATE_")
    out.print(f"[bold]{found.account_id}[/bold], bill of {found.month}: {state}")
    print_table(bill_table(found))
    out.print(
        f"{money_text(found.total)}, {money_text(found.deducted)} of it deducted, {money_text(found.outstanding)} "
        f"outstanding; due on {found.due_date}"
    )
