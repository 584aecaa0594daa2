"""An embedded PostgreSQL, to be looked at and killed."""

import contextlib
import os
import signal
import socket
from pathlib import Path


def postmaster_pid(data_dir: Path) -> int:
    return int((data_dir / "postgres" / "postmaster.pid").read_text().split()[0])


def kill_server(data_dir: Path) -> None:
    """Returns when the kernel has carried it out, which is when the socket is dead."""
    os.kill(postmaster_pid(data_dir), signal.SIGKILL)
    with contextlib.suppress(ConnectionRefusedError):
        while True:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(data_dir / "postgres" / ".s.PGSQL.5432"))
