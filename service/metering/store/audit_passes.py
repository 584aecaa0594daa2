"""The table audit_passes: how far the continuous audit is, and what it has found."""

import json
from collections import Counter
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import TYPE_CHECKING

from metering.model import AuditPass, AuditSum
from metering.store.database import Database

if TYPE_CHECKING:
    import asyncpg


class AuditPassStore:
    """Reads and writes passes. All methods raise DatabaseUnavailableError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def only_audit(self) -> AbstractAsyncContextManager[bool]:
        """Be the one replica that audits, as long as this lasts; False: another one is."""
        return self._database.only_one("lock_audit")

    async def newest(self) -> AuditPass | None:
        """Return the newest pass, under way or not; None: there was none yet."""
        row = await self._database.fetchrow("newest_audit_pass")
        return None if row is None else _pass(row)

    async def last_finished(self) -> AuditPass | None:
        """Return the newest pass that has looked at all accounts; None: there was none yet."""
        row = await self._database.fetchrow("last_finished_audit_pass")
        return None if row is None else _pass(row)

    async def begin(self, now: datetime, forget_before: datetime) -> AuditPass:
        """Note that a pass begins; forget those that began before a time."""
        row = await self._database.fetchrow("begin_audit_pass", now, forget_before)
        assert row is not None  # noqa: S101 - it inserts one
        return AuditPass(row["pass_id"], started_at=now, resume_at=now)

    async def note(self, audit_pass: AuditPass) -> None:
        """Note how far a pass is, and what it has found."""
        await self._database.fetch(
            "note_audit_pass",
            audit_pass.pass_id,
            audit_pass.finished_at,
            audit_pass.next_account,
            audit_pass.resume_at,
            audit_pass.found.accounts,
            json.dumps(audit_pass.found.calls),
            json.dumps(audit_pass.found.differences),
        )


def _pass(row: "asyncpg.Record") -> AuditPass:
    found = AuditSum(row["accounts"], Counter(json.loads(row["calls"])), Counter(json.loads(row["differences"])))
    return AuditPass(
        row["pass_id"], row["started_at"], row["resume_at"], row["finished_at"], row["next_account"], found
    )
