"""The tables administrative_acts and administrative_outcomes: who did what."""

from datetime import datetime

from metering.model import AccountId, Act, NotedAct
from metering.store.database import Database


class ActStore:
    """Adds to them, and reads them. All methods raise DatabaseUnavailableError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, act: Act) -> int:
        """Note an act that is about to be done; return its id."""
        row = await self._database.fetchrow("begin_act", *act)
        assert row is not None  # noqa: S101 - it inserts one
        act_id: int = row["act_id"]
        return act_id

    async def end(self, act_id: int, outcome: str, now: datetime) -> None:
        """Note how an act ended."""
        await self._database.fetch("end_act", act_id, now, outcome)

    async def last(self, account_id: AccountId | None, acts: int) -> list[NotedAct]:
        """Return the last so many acts, newest first, of all accounts or of one."""
        rows = await self._database.fetch("last_acts", account_id, acts)
        fields = Act._fields
        return [
            NotedAct(row["act_id"], Act(*(row[field] for field in fields)), row["ended_at"], row["outcome"])
            for row in rows
        ]
