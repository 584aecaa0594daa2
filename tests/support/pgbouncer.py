"""A PgBouncer in transaction mode in front of a PostgreSQL."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, urlsplit

import pytest

from metering import embedded_postgres
from tests.support.waiting import until

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")

CONFIGURATION = """
[databases]
* = host={host} port={port}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen_port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
pool_mode = transaction
default_pool_size = {connections}
max_client_conn = 500
server_login_retry = 0.1
"""


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


class PgBouncer:
    """A running one, all of whose clients share a few connections."""

    def __init__(self, database_url: str, user: str, directory: Path, connections: int) -> None:
        parts = urlsplit(database_url)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self._port = _free_port()
        self.url = f"postgresql://{user}@127.0.0.1:{self._port}{parts.path}?sslmode=disable"
        users = directory / "users.txt"
        users.write_text(f'"{user}" ""\n')
        self._configuration = directory / "pgbouncer.ini"
        self._configuration.write_text(
            CONFIGURATION.format(
                host=query.get("host", parts.hostname),
                port=query.get("port", parts.port or 5432),
                listen_port=self._port,
                users=users,
                connections=connections,
            )
        )
        self._process: subprocess.Popen[bytes] | None = None
        # It does not run as root, and has no other way to say who else it is.
        account = embedded_postgres._user(directory)
        self._as = ("-u", account.pw_name) if account else ()
        for path in (directory, *directory.iterdir()):
            path.chmod(0o755)

    @classmethod
    @asynccontextmanager
    async def to(cls, database_url: str, user: str, connections: int = 2) -> AsyncIterator[Self]:
        """Return one that logs in as a user; the test is skipped if the program is not on this machine."""
        if PROGRAM is None:
            pytest.skip("there is no pgbouncer on this machine: apt-get install pgbouncer")
        with tempfile.TemporaryDirectory(prefix="metering-test-") as directory:
            pgbouncer = cls(database_url, user, Path(directory), connections)
            await pgbouncer.start()
            try:
                yield pgbouncer
            finally:
                pgbouncer.kill()

    async def start(self) -> None:
        """Return once it takes connections."""
        self._launch()
        await until(self._listens)

    def _launch(self) -> None:
        assert PROGRAM is not None
        self._process = subprocess.Popen(
            [PROGRAM, "-q", *self._as, self._configuration], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, "PgBouncer ended"
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self._port)) == 0

    def kill(self) -> None:
        """SIGKILL it, and all connections with it."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
