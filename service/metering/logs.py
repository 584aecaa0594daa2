"""Log lines: to stderr, one line each, time in UTC. Tracebacks are indented, so that nothing else looks like a line."""

import logging
import re
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufffe\uffff]")
_LINE_ENDS = re.compile(r"\r\n|[\n\x0b-\x0d\x1c-\x1e\x85\u2028\u2029]")


class _Formatter(logging.Formatter):
    """Writes what others have sent so that it cannot pass for a line of ours, nor for an order to a terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging calls it
        """Return the line, control characters written out."""
        return _escaped(super().formatMessage(record))

    def formatException(  # noqa: N802 - logging calls it
        self, ei: "tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]"
    ) -> str:
        """Return the traceback, each of its lines indented."""
        lines = _LINE_ENDS.split(super().formatException(ei))
        return "\n".join(f"    {_escaped(line)}" for line in lines)


def _escaped(text: str) -> str:
    return _CONTROL.sub(lambda match: repr(match[0])[1:-1], text)


def set_up_logging(process: str, level: int = logging.INFO) -> None:
    """Log everything of level and above to stderr; `process` says in each line who speaks."""
    formatter = _Formatter(f"%(asctime)s.%(msecs)03dZ %(levelname)-7s {process}: %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # It logs every migration, which `metering.cli` tells in its own words.
    logging.getLogger("alembic").setLevel(logging.WARNING)
