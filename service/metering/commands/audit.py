"""What `metering audit` prints, and the last step of the demo: differences as they are found, then the sum."""

import time
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing

from rich.markup import escape

from metering.billing.audit import ASSURANCES, AuditedAccounts
from metering.commands.common import out
from metering.model import AuditKind, AuditSum, Difference

QUIET_S = 2.0
"""An audit that takes longer tells how far it is."""
PROGRESS_INTERVAL_S = 10.0
"""Where the progress cannot be written in place: seconds between two lines of it."""


async def show_audit(
    parts: AsyncGenerator[AuditedAccounts, None], accounts: int, kinds: Iterable[AuditKind]
) -> AuditSum:
    """Print what an audit finds while it goes on, and what it came to; return that.

    Args:
        parts: the audit.
        accounts: how many there are to be audited, for the progress.
        kinds: what is checked.

    """
    found = AuditSum()
    next_line = time.monotonic() + QUIET_S
    with out.status("auditing …") as status:
        async with aclosing(parts) as each_part:
            async for part in each_part:
                for difference in part.differences:
                    out.print(_text(difference))
                part.add_to(found)
                progress = f"{found.accounts:,} of {accounts:,} accounts, {found.calls['recorded']:,} calls audited"
                status.update(f"{progress} …")
                if not out.is_terminal and time.monotonic() >= next_line:
                    out.print(f"  {progress}")
                    next_line = time.monotonic() + PROGRESS_INTERVAL_S
    for kind in kinds:
        differences = found.differences[kind]
        if differences:
            out.print(f"  [red]✗[/red] {ASSURANCES[kind]}: {differences:,} differences")
        else:
            out.print(f"  [green]✓[/green] {ASSURANCES[kind]}")
    calls = found.calls
    dropped = f" ({calls['dropped']:,} of them dropped: only their counts are left)" if calls["dropped"] else ""
    out.print(
        f"  {calls['recorded']:,} recorded calls{dropped} = {calls['billed']:,} billed + {calls['carried']:,} carried "
        f"to a later month + {calls['open']:,} in open months + {calls['unrated']:,} closed without a price"
    )
    out.print("[green]the books are right[/green]" if found.clean else "[bold red]the books are NOT right[/bold red]")
    return found


def _text(difference: Difference) -> str:
    return (
        f"  [red]{escape(difference.account_id)}[/red]: {ASSURANCES[difference.kind]}: "
        f"found {escape(difference.found)}; expected {escape(difference.expected)}"
    )
