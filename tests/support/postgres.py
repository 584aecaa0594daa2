"""An embedded PostgreSQL, to be looked at and killed."""

import os
import signal
import socket
import time
from pathlib import Path


def postmaster_pid(data_dir: Path) -> int:
    return int((data_dir / "postgres" / "postmaster.pid").read_text().split()[0])


def kill_server(data_dir: Path, how: signal.Signals = signal.SIGKILL) -> None:
    """Returns when the server has carried it out, which is when the socket is dead. SIGQUIT: an immediate shutdown."""
    os.kill(postmaster_pid(data_dir), how)
    while not is_down(data_dir):
        time.sleep(0.01)


def is_down(data_dir: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(data_dir / "postgres" / ".s.PGSQL.5432"))
    except (ConnectionRefusedError, FileNotFoundError):
        return True
    return False
