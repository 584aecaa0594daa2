"""What has arrived from senders."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from metering.model import SenderState
from metering.store.database import Database


class SenderGauges(NamedTuple):
    """Senders in one state, and how many of their calls have not arrived."""

    state: str
    senders: int
    missing_calls: int


class SenderStore:
    """Keeps it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def note(self, senders: Sequence[SenderState]) -> None:
        """Add to what is known of senders; raises DatabaseUnavailableError."""
        await self._database.fetch(
            "note_senders",
            [sender.sender_id for sender in senders],
            ["{" + ",".join(f"[{low},{high})" for low, high in sender.arrived) + "}" for sender in senders],
            [sender.numbers for sender in senders],
            [sender.seen_at for sender in senders],
            [sender.closed for sender in senders],
        )

    async def forget_gaps(self, ranges_max: int) -> None:
        """Keep so many ranges of each sender, the highest; raises DatabaseUnavailableError."""
        await self._database.fetch("forget_gaps", ranges_max)

    async def gauges(self, silent_since: datetime) -> list[SenderGauges]:
        """Return the senders by state, `SILENT` being those not heard of since; raises DatabaseUnavailableError."""
        rows = await self._database.fetch("sender_gauges", silent_since)
        return [SenderGauges(*row) for row in rows]

    async def forget(self, complete_before: datetime, before: datetime) -> None:
        """Forget senders not heard of since, sooner if nothing is missing; raises DatabaseUnavailableError."""
        await self._database.fetch("forget_senders", complete_before, before)
