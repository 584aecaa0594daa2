"""What a client counts of itself."""

from collections import Counter
from dataclasses import dataclass, field
from threading import Lock


@dataclass
class ClientStats:
    """Counts since the client was made, and sizes as they are. See docs/client.md for what each one means."""

    delivered_calls: int = 0
    duplicate_calls: int = 0
    delivered_batches: int = 0
    spooled_calls: int = 0
    adopted_calls: int = 0
    spool_errors: int = 0
    rejected_calls: Counter[str] = field(default_factory=Counter)
    dropped_calls: Counter[str] = field(default_factory=Counter)
    failed_batches: Counter[str] = field(default_factory=Counter)
    status_answers: Counter[str] = field(default_factory=Counter)

    waiting_calls: int = 0
    spool_calls: int = 0
    spool_bytes: int = 0
    spool_oldest_s: float = 0.0
    service_up: bool = True
    status_accounts: int = 0
    status_age_s: float = float("inf")

    _lock: Lock = field(default_factory=Lock, repr=False)

    def dropped(self, why: str, calls: int) -> None:
        """Count calls that are lost. May be called from any thread."""
        with self._lock:
            self.dropped_calls[why] += calls

    def answered(self, how: str) -> None:
        """Count an answer of `is_active` that isn't simply that the account is active. From any thread."""
        with self._lock:
            self.status_answers[how] += 1
