"""UUIDs that hold the time and sort by it (RFC 9562, version 7)."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from threading import Lock
from uuid import RFC_4122, UUID

_VERSION = 7
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# The 128 bits: 48 of milliseconds since 1970, 4 of version, 12 random, 2 of variant, 62 random.
_RANDOM_BITS = 74
_RANDOM_LOW_BITS = 62
_STEP_BYTES = 4


class Uuid7Generator:
    """Makes UUIDs, each larger than all it made before; may be shared by threads."""

    def __init__(self, now_ms: Callable[[], int], random_bytes: Callable[[int], bytes]) -> None:
        """Make them from the milliseconds since 1970 and from random bytes, so many as are asked for."""
        self._now_ms = now_ms
        self._random_bytes = random_bytes
        self._lock = Lock()
        self._last = -1

    def __call__(self) -> UUID:
        """Return the next one.

        Within a millisecond, or after the clock was set back, it is the last one plus a random step, as in section 6.2
        of the RFC, method 2; the carry into the milliseconds, once in some hundred million, does no harm.
        """
        with self._lock:
            random = int.from_bytes(self._random_bytes(10)) & ((1 << _RANDOM_BITS) - 1)
            fresh = self._now_ms() << _RANDOM_BITS | random
            if fresh >> _RANDOM_BITS <= self._last >> _RANDOM_BITS:
                fresh = self._last + 1 + int.from_bytes(self._random_bytes(_STEP_BYTES))
            self._last = fresh
        return _with_version(fresh)


def uuid7_time(uuid: UUID) -> datetime | None:
    """Return the time that a UUIDv7 holds, to the millisecond; None for other versions and for times after 9999."""
    if uuid.variant != RFC_4122 or uuid.version != _VERSION:
        return None
    try:
        return _EPOCH + timedelta(milliseconds=uuid.int >> 80)
    except OverflowError:
        return None


def _with_version(bits: int) -> UUID:
    """Put version and variant between 48 bits of time and 74 random ones."""
    high, low = bits >> _RANDOM_LOW_BITS, bits & ((1 << _RANDOM_LOW_BITS) - 1)
    time_ms, middle = high >> 12, high & 0xFFF
    return UUID(int=time_ms << 80 | _VERSION << 76 | middle << 64 | 0b10 << 62 | low)
