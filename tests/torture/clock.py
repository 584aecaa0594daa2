"""The time of a torture: ahead of the machine's, and a little different in every process.

It stands in a file that all processes have mapped: how many seconds all are ahead, and how many more each one is.
"""

import mmap
import struct
import time
from datetime import UTC, datetime
from pathlib import Path

_SECONDS = struct.Struct("d")
PLACES = 16
"""Place 0 is that of all, and of who has no place of its own."""


class SharedClock:
    """The clock of one process."""

    def __init__(self, path: Path, place: int) -> None:
        with path.open("r+b") as file:
            self._seconds = mmap.mmap(file.fileno(), PLACES * _SECONDS.size)
        self._place = place

    @staticmethod
    def make(path: Path) -> None:
        """Make the file; the time in it is the machine's."""
        path.write_bytes(bytes(PLACES * _SECONDS.size))

    def now(self) -> datetime:
        """Return the present time, aware, in UTC."""
        return datetime.fromtimestamp(self.time_s(), UTC)

    def time_s(self) -> float:
        """Return the present time in seconds since 1970."""
        own = self.ahead_s(self._place) if self._place else 0.0
        return time.time() + self.ahead_s(0) + own

    def ahead_s(self, place: int) -> float:
        """Return by how many seconds a place is ahead."""
        seconds: float = _SECONDS.unpack_from(self._seconds, place * _SECONDS.size)[0]
        return seconds

    def set_ahead(self, place: int, seconds: float) -> None:
        """Set it, for all processes at once."""
        _SECONDS.pack_into(self._seconds, place * _SECONDS.size, seconds)

    def leap_to(self, time: datetime) -> None:
        """Have all processes go on from a later time."""
        self.set_ahead(0, self.ahead_s(0) + (time - self.now()).total_seconds())
