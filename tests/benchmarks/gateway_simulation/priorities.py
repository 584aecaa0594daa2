"""Gives the gateways the right of way: where they run, neither the service nor PostgreSQL takes their processor."""

import os
from pathlib import Path

import asyncpg

_LOWEST = 19


def lower(pid: int) -> None:
    """Let a process and its children run only when others leave a processor free."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.setpriority(os.PRIO_PROCESS, int(thread.name), _LOWEST)
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        lower(int(child))


async def lower_postgres(database_url: str) -> None:
    """Do the same to the server of a database."""
    connection = await asyncpg.connect(database_url)
    try:
        backend = await connection.fetchval("SELECT pg_backend_pid()")
        status = Path(f"/proc/{backend}/status").read_text()
    finally:
        await connection.close()
    lower(int(status.partition("PPid:")[2].split()[0]))
