"""The time of a fake service."""

from datetime import UTC, datetime, timedelta


class FakeClock:
    """A clock in a test's hands: it stands where it was set, and goes with the system's clock before that."""

    def __init__(self, now: datetime | None = None) -> None:
        """Make a clock that stands at `now`, which has a time zone; None: one that goes."""
        self._stands_at: datetime | None = None
        self._ahead = timedelta()
        if now is not None:
            self.set(now)

    def now(self) -> datetime:
        """Return the time, in UTC."""
        return (datetime.now(UTC) if self._stands_at is None else self._stands_at) + self._ahead

    def time_s(self) -> float:
        """Return the time in seconds since 1970: `Runtime(time_s=clock.time_s)` gives a client the same clock."""
        return self.now().timestamp()

    def set(self, now: datetime) -> None:
        """Stop the clock at a time.

        Raises:
            ValueError: It has no time zone.
        """
        if now.utcoffset() is None:
            raise ValueError(f"the time has no time zone: {now.isoformat()}")
        self._stands_at, self._ahead = now.astimezone(UTC), timedelta()

    def advance(self, by: timedelta) -> None:
        """Set the clock ahead."""
        self._ahead += by
