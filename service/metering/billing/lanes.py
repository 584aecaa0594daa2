"""Going through all accounts, some at a time, in several lanes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

LANES = 2
"""Chunks that are worked on at the same time, each over a connection of its own: Python has its turn with one while
PostgreSQL reads or writes another one."""


async def in_lanes(chunks: AsyncIterator[T], do: Callable[[T], Awaitable[object]]) -> None:
    """Do something with each chunk, in their order, but for those in the other lanes.

    What stops one lane stops the others, and is raised.
    """
    turn = asyncio.Lock()

    async def lane() -> None:
        while True:
            async with turn:
                chunk = await anext(chunks, None)
            if chunk is None:
                return
            await do(chunk)

    try:
        async with asyncio.TaskGroup() as lanes:
            for _ in range(LANES):
                lanes.create_task(lane())
    except ExceptionGroup as group:
        raise group.exceptions[0] from group
