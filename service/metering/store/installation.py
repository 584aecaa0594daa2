"""What the database was set up for."""

from datetime import date, datetime

from metering.errors import DatabaseUnavailableError
from metering.store.database import Database


class InstallationStore:
    """What the database was set up for, once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def time_zone(self) -> str:
        """Return the billing time zone; raises DatabaseUnavailableError, also if no service has ever been started."""
        row = await self._database.fetchrow("installed_time_zone")
        if row is None:
            raise DatabaseUnavailableError("No service was ever started on this database, so it has no calls.")
        zone: str = row["billing_time_zone"]
        return zone

    async def install(self, billing_time_zone: str, today: date, now: datetime) -> str:
        """Note the billing time zone of a new database; return the one that it has.

        On a new database the work of the monthly run up to `today` counts as done: there was nothing to bill.
        """
        async with self._database.transaction() as connection:
            if await connection.fetchval(self._database.sql["install"], billing_time_zone, now):
                await connection.execute(self._database.sql["note_installation"], today, now)
            zone: str = await connection.fetchval(self._database.sql["installed_time_zone"])
            return zone
