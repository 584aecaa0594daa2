"""UUIDs that hold the time and sort by it (RFC 9562, version 7)."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from threading import Lock
from uuid import RFC_4122, UUID

_VERSION = 7
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# The 128 bits: 48 of milliseconds since 1970, 4 of version, 12 random, 2 of variant, 62 random.
_RANDOM_BITS = 74
_STEP_BYTES = 4
_POOL_BYTES = 1024
"""Random bytes are drawn so many at a time: each time is a system call."""


class Uuid7Generator:
    """Makes UUIDs, each larger than all it made before; may be shared by threads, not by processes that fork."""

    def __init__(self, now_ms: Callable[[], int], random_bytes: Callable[[int], bytes]) -> None:
        """Make them from the milliseconds since 1970 and from random bytes, so many as are asked for."""
        self._now_ms = now_ms
        self._random_bytes = random_bytes
        self._lock = Lock()
        self._last = -1
        self._pool = b""
        self._pool_used = 0

    def __call__(self) -> UUID:
        """Return the next one; see `text`."""
        return UUID(self.text())

    def text(self) -> str:
        """Return the next one, as 36 characters.

        Within a millisecond, or after the clock was set back, it is the last one plus a random step, as in section 6.2
        of the RFC, method 2; the carry into the milliseconds, once in some hundred million, does no harm.
        """
        with self._lock:
            now_ms = self._now_ms()
            if now_ms > self._last >> _RANDOM_BITS:
                bits = now_ms << _RANDOM_BITS | self._draw(10) & ((1 << _RANDOM_BITS) - 1)
            else:
                bits = self._last + 1 + self._draw(_STEP_BYTES)
            self._last = bits
        return (
            f"{bits >> 90:08x}-{bits >> 74 & 0xFFFF:04x}-7{bits >> 62 & 0xFFF:03x}"
            f"-{0x8000 | bits >> 48 & 0x3FFF:04x}-{bits & 0xFFFF_FFFF_FFFF:012x}"
        )

    def _draw(self, count: int) -> int:
        start, end = self._pool_used, self._pool_used + count
        if end > len(self._pool):
            self._pool = self._random_bytes(_POOL_BYTES)
            start, end = 0, count
        self._pool_used = end
        return int.from_bytes(self._pool[start:end])


def uuid7_time(uuid: UUID) -> datetime | None:
    """Return the time that a UUIDv7 holds, to the millisecond; None for other versions and for times after 9999."""
    if uuid.variant != RFC_4122 or uuid.version != _VERSION:
        return None
    try:
        return _EPOCH + timedelta(milliseconds=uuid.int >> 80)
    except OverflowError:
        return None
