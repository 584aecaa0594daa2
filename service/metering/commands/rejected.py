"""`metering rejected`: the calls that could not be recorded, and recording them after all."""

import asyncio

import click
from google.protobuf.timestamp_pb2 import Timestamp
from rich.markup import escape

from faceid_metering import messages as pb
from metering.commands.common import Target, ask, connected, failing_plainly, out, target_setting

STATES = {
    "all": pb.RejectedCallState.REJECTED_CALL_STATE_UNSPECIFIED,
    "rejected": pb.RejectedCallState.REJECTED_CALL_STATE_REJECTED,
    "recorded": pb.RejectedCallState.REJECTED_CALL_STATE_RECORDED,
}
account_option = click.option("--account", default="", help="Of this account. [default: of all]")


@click.group()
def rejected() -> None:
    """Calls that could not be recorded."""


@rejected.command("list")
@account_option
@click.option("--state", default="all", show_default=True, type=click.Choice(list(STATES)), help="What became of them.")
@target_setting
@failing_plainly
def list_rejected(account: str, state: str, target: Target) -> None:
    """List rejected calls, oldest first, with what has become of each."""

    async def show() -> int:
        calls = 0
        async with connected(target) as metering:
            async for call in metering.list_rejected_calls(account, state=STATES[state], page_size=1_000):
                calls += 1
                show_call(call)
        return calls

    out.print(f"{asyncio.run(show()):,} calls")


@rejected.command()
@account_option
@click.option(
    "--however-old",
    is_flag=True,
    help="Record calls of more than 62 days back, too. Look at them first: rejected list.",
)
@target_setting
@failing_plainly
def retry(account: str, however_old: bool, target: Target) -> None:  # noqa: FBT001 - a flag
    """Record rejected calls after all, for instance once their account is activated. May be repeated."""
    answer = asyncio.run(
        ask(
            target,
            lambda metering: metering.retry_rejected_calls(account, however_old=however_old),
            "recording rejected calls …",
        )
    )
    out.print(
        f"{answer.recorded:,} calls recorded, {answer.duplicates:,} were on the books already, "
        f"{answer.still_rejected:,} still rejected"
    )
    if answer.still_rejected:
        out.print("why, tells: metering rejected list --state rejected")


def show_call(rejected_call: pb.RejectedCall) -> None:
    """Print a rejected call, and what has become of it."""
    call = rejected_call.call
    if rejected_call.state == pb.RejectedCallState.REJECTED_CALL_STATE_RECORDED:
        became = f"recorded on {_time(rejected_call.retried_at)}, on the bill of {rejected_call.billing_month}"
    else:
        became = f"{rejected_call.reason}: {escape(rejected_call.message)}"
    result = f" {call.result_code}" if call.result_code else ""
    out.print(f"{call.account_id} {call.api}{result} {call.call_id} of {_time(call.occurred_at)}: {became}")


def _time(time: Timestamp) -> str:
    return f"{time.ToDatetime():%Y-%m-%d %H:%M:%S} UTC"
