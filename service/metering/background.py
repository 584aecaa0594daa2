"""What is done again and again, or again until it works."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from metering.errors import DatabaseUnavailableError, TransactionConflictError

DATABASE_WAIT_S = 60.0
"""For how long `serve`, and then each worker, waits at its start for a database that is away."""
DATABASE_RETRY_INTERVAL_S = 0.5

log = logging.getLogger(__name__)


async def wait_for_database(do: Callable[[], Awaitable[object]], stop: asyncio.Event) -> None:
    """Do something at the start, once the database is there: a worker is also started while it is away.

    Raises:
        DatabaseUnavailableError: that took too long, or `stop` was set meanwhile.

    """
    end = time.monotonic() + DATABASE_WAIT_S
    waiting = False
    while True:
        try:
            await do()
        except (DatabaseUnavailableError, TransactionConflictError) as error:
            if stop.is_set() or time.monotonic() > end:
                raise
            log.log(logging.DEBUG if waiting else logging.WARNING, "waiting for the database: %s", error)
            waiting = True
            await asyncio.sleep(DATABASE_RETRY_INTERVAL_S)
        else:
            return


async def every(name: str, interval_s: float, do: Callable[[], Awaitable[object]]) -> None:
    """Do something again and again until cancelled; when the database is away, try again the next time."""
    failed = False
    while True:
        try:
            await do()
            failed = False
        except (DatabaseUnavailableError, TransactionConflictError) as error:
            # Said once, and not again before it has worked.
            log.log(logging.DEBUG if failed else logging.WARNING, "%s put off: %s", name, error)
            failed = True
        await asyncio.sleep(interval_s)


def going_on(name: str, do: Callable[[], Awaitable[object]]) -> Callable[[], Awaitable[object]]:
    """Return what does something that recording does not stop for, whatever goes wrong with it."""

    async def done() -> None:
        try:
            await do()
        except (DatabaseUnavailableError, TransactionConflictError):
            raise
        except Exception:
            log.exception("the %s failed, and is tried again within a minute; recording goes on", name)

    return done
