"""An embedded PostgreSQL, to be killed."""

import os
import signal
from pathlib import Path


def data_directory(data_dir: Path) -> Path:
    """Return PGDATA of an embedded PostgreSQL."""
    return data_dir / "postgres"


def kill_postmaster(pgdata: Path) -> None:
    """SIGKILL the postmaster; its backends follow."""
    os.kill(int((pgdata / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
