"""The command line, run as a user does."""

import asyncio
import os
import sys


async def metering(*arguments: str, **environment: str) -> tuple[int | None, str]:
    """Run the command line; return its exit code and what it said."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("METERING_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "metering", *arguments),
        env=clean | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()
