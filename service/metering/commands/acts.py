"""How `metering acts` shows who did what."""

from collections.abc import Sequence

from rich.markup import escape

from metering.commands.common import out
from metering.model import NotedAct


def show_acts(acts: Sequence[NotedAct]) -> None:
    """Print acts, a line each, and what was asked for below it."""
    for act_id, act, _, outcome in acts:
        out.print(
            f"{act_id} {act.begun_at:%Y-%m-%d %H:%M:%S} UTC [bold]{act.method}[/bold] by {escape(act.caller)} "
            f"({act.role}) from {escape(act.peer)}: {outcome or '[yellow]the outcome is not known[/yellow]'}"
        )
        out.print(f"  {escape(act.request)}", style="dim")
    out.print(f"{len(acts):,} acts")
