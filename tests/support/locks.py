"""Locks that stop a service where a test wants it, and looking for who waits for them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg

from tests.support.waiting import LONG_S

if TYPE_CHECKING:
    Connection = asyncpg.Connection[asyncpg.Record]


@asynccontextmanager
async def held(url: str, statement: str) -> AsyncIterator[None]:
    """Hold the locks that a statement takes."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.execute(statement)
            yield
    finally:
        await connection.close()


async def until_waiting(db: "Connection", waiters: int = 1) -> None:
    """Return once so many sessions of services wait for a lock in this database."""
    query = """
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock' AND application_name LIKE 'metering service%'
    """
    async with asyncio.timeout(LONG_S):
        while await db.fetchval(query) < waiters:
            await asyncio.sleep(0.005)
