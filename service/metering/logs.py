"""Log lines: to stderr, one line each, time in UTC."""

import logging
import time


def set_up_logging(process: str, level: int = logging.INFO) -> None:
    """Log everything of level and above to stderr; `process` says in each line who speaks."""
    formatter = logging.Formatter(
        f"%(asctime)s.%(msecs)03dZ %(levelname)-7s {process}: %(message)s", "%Y-%m-%dT%H:%M:%S"
    )
    formatter.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # It logs every migration, which `metering.cli` tells in its own words.
    logging.getLogger("alembic").setLevel(logging.WARNING)
