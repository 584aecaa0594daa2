"""Copies of an embedded PostgreSQL: base backups, and standbys that follow it."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

import asyncpg

from metering import embedded_postgres
from metering.embedded_postgres import EmbeddedPostgres
from tests.conftest import execute
from tests.support.waiting import LONG_S


def run(pgdata: Path, program: str, *arguments: str) -> None:
    """Run one of PostgreSQL's programs as the user who owns a data directory."""
    user = embedded_postgres._user(pgdata)
    done = subprocess.run(
        [embedded_postgres._programs() / program, *arguments],
        user=user and user.pw_uid,
        group=user and user.pw_gid,
        extra_groups=user and [],
        env=embedded_postgres._environment(),
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def give(directory: Path, to_owner_of: Path) -> Path:
    """Make a directory for PostgreSQL."""
    directory.mkdir(parents=True)
    directory.chmod(0o700)
    owner = to_owner_of.stat()
    os.chown(directory, owner.st_uid, owner.st_gid)
    return directory


def base_backup(source: EmbeddedPostgres, data_dir: Path, *options: str) -> Path:
    """Make a base backup that `embedded_postgres.start(data_dir)` runs on; return its PGDATA."""
    original = source.data_dir / "postgres"
    pgdata = give(data_dir / "postgres", original)
    run(original, "pg_basebackup", *("-h", str(original), "-U", "postgres", "-D", str(pgdata), "-c", "fast"), *options)
    # The socket is in the data directory, and its lock names a server that is not this one.
    (pgdata / ".s.PGSQL.5432.lock").unlink()
    return pgdata


class Standby:
    """A server that follows another one; the transactions of that one wait for it, so none is lost with it."""

    def __init__(self, source: EmbeddedPostgres, data_dir: Path) -> None:
        self._source = source
        self.pgdata = base_backup(source, data_dir, "-R")
        self.url = source.url.replace(str(source.data_dir), str(data_dir))
        self.socket = f"{self.pgdata}/.s.PGSQL.5432"

    @classmethod
    @asynccontextmanager
    async def of(cls, source: EmbeddedPostgres, data_dir: Path) -> AsyncIterator[Self]:
        """Return one that is in step."""
        standby = await asyncio.to_thread(cls, source, data_dir)
        log_file, option = standby.pgdata / "standby.log", f"-c unix_socket_directories={standby.pgdata}"
        start = ("start", "-w", "-D", str(standby.pgdata), "-l", str(log_file), "-o", option)
        await asyncio.to_thread(run, standby.pgdata, "pg_ctl", *start)
        try:
            await execute(source.url, "ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
            await standby._until_synchronous()
            yield standby
        finally:
            await asyncio.to_thread(run, standby.pgdata, "pg_ctl", *("stop", "-m", "fast", "-D", str(standby.pgdata)))

    async def _until_synchronous(self) -> None:
        connection = await asyncpg.connect(self._source.url)
        async with asyncio.timeout(LONG_S):
            while await connection.fetchval("SELECT sync_state FROM pg_stat_replication") != "sync":
                await asyncio.sleep(0.01)
        await connection.close()

    async def promote(self) -> None:
        """Make it the primary, for which nothing has to follow it."""
        await execute(
            self.url,
            "SELECT pg_promote()",
            "ALTER SYSTEM SET synchronous_standby_names = ''",
            "SELECT pg_reload_conf()",
        )
