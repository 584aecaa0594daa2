"""A client in a process of its own, which ends when its standard input does."""

import asyncio
import sys
from typing import Protocol


class Client(Protocol):
    """Records until it is stopped."""

    async def run(self) -> None:
        """Record."""

    def stop(self) -> None:
        """Begin no new calls."""


async def run_until_stdin_ends(client: Client) -> None:
    """Run a client, and let it end what it has begun."""
    running = asyncio.create_task(client.run())
    await asyncio.to_thread(sys.stdin.read)
    client.stop()
    await running
