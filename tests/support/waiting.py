"""Waiting for conditions."""

import asyncio
from collections.abc import Callable

LONG_S = 30.0
"""Longer than anything takes that works."""


async def until(condition: Callable[[], object], within_s: float = LONG_S) -> None:
    """Wait for something to become true."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.001)
