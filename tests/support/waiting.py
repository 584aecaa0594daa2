"""Waiting for conditions."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncpg

LONG_S = 30.0
"""Longer than anything takes that works."""


async def until(condition: Callable[[], object], within_s: float = LONG_S) -> None:
    """Wait for something to become true."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.001)


async def until_folded(db: "asyncpg.Connection[asyncpg.Record]", within_s: float = LONG_S) -> None:
    """Wait until all counts are where they stay."""
    async with asyncio.timeout(within_s):
        while await db.fetchval("SELECT EXISTS (SELECT FROM usage_deltas)"):
            await asyncio.sleep(0.02)
