"""A client in short: what it was told to record, and which accounts are suspended. No tests in here."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import uuid4

NOW = datetime(2026, 11, 23, 4, tzinfo=UTC)


@dataclass
class RecordedInMemory:
    """Takes the place of a MeteringClient or SyncMeteringClient."""

    suspended: set[str] = field(default_factory=set)
    asked: int = 0
    calls: list[tuple[str, str, str | None, datetime | None, str]] = field(default_factory=list)

    def record(
        self,
        account_id: str,
        api: str,
        call_id: str | None = None,
        *,
        occurred_at: datetime | None = None,
        result_code: str = "",
    ) -> str:
        self.calls.append((account_id, api, call_id, occurred_at, result_code))
        return call_id or str(uuid4())

    def is_active(self, account_id: str) -> bool:
        self.asked += 1
        return account_id not in self.suspended

    @property
    def result_codes(self) -> list[str]:
        return [result_code for *_, result_code in self.calls]
