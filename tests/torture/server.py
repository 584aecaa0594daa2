"""The service, with a clock that can be set: `python -m tests.torture.server CLOCK PLACE DEFECT serve …`.

DEFECT is one of `planted.py`, to see whether the torture finds it, or `none`. Worker processes import this module, too.
"""

import sys
from pathlib import Path

from metering import app
from tests.torture.clock import SharedClock
from tests.torture.planted import plant

_CLOCK, _PLACE, _DEFECT, *_ARGUMENTS = sys.argv[1:]
vars(app)["SystemClock"] = lambda: SharedClock(Path(_CLOCK), int(_PLACE))
plant(_DEFECT)

if __name__ == "__main__":
    from metering.cli import main  # here, so that workers start as soon as those of `metering`

    main(_ARGUMENTS)
