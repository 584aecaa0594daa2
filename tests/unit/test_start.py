"""What a process imports decides how soon it serves again after it was killed."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["metering.app", "metering.__main__"])
def test_a_worker_imports_nothing_that_only_commands_need(module: str) -> None:
    # Spawning a worker imports the module that was run, which is __main__, and then what it serves with.
    look = f"import {module}, sys; print(*sys.modules)"
    imported = set(
        subprocess.run([sys.executable, "-c", look], check=True, capture_output=True, text=True).stdout.split()
    )
    assert module in imported
    assert not imported & {"metering.cli", "alembic", "sqlalchemy", "rich", "click", "faceid_metering"}
