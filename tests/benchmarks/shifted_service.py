"""The service with a clock that is ahead: `python -m tests.benchmarks.shifted_service SECONDS serve …`.

So that midnight, or the turn of a month, falls into a benchmark. Nothing else is made up: time passes at its pace.
"""

import sys
from datetime import UTC, datetime, timedelta

from metering import app
from metering.__main__ import main


class ShiftedClock:
    """The machine's clock, and some time on top."""

    def __init__(self, ahead: timedelta) -> None:
        self._ahead = ahead

    def now(self) -> datetime:
        return datetime.now(UTC) + self._ahead


if __name__ == "__main__":
    ahead = timedelta(seconds=float(sys.argv.pop(1)))
    vars(app)["SystemClock"] = lambda: ShiftedClock(ahead)
    main()
