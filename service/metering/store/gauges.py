"""What metrics show of the books."""

from datetime import datetime
from typing import NamedTuple

from metering.model import Month
from metering.store.database import Database


class BookGauges(NamedTuple):
    """The books, in numbers."""

    suspended_accounts: int
    unfolded_deltas: int
    issued_bills: int
    overdue_bills: int
    last_closed_month: Month | None
    unbilled_month: Month | None
    """The newest that is closed, and in which an account with usage may lack its bill."""
    close_seconds: float
    """From the seal of the newest closed month until it was billed, or until now."""


class GaugeStore:
    """Reads them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def read(self, now: datetime) -> BookGauges:
        """Return the present numbers; raises DatabaseUnavailableError."""
        row = await self._database.fetchrow("book_gauges", now)
        assert row is not None  # noqa: S101 - it has no FROM
        return BookGauges(*row)
