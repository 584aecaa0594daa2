"""A gateway in a process of its own, disk first, to be killed: `python -m tests.support.gateway TARGET DIRECTORY`.

It says `recording ID` before it records a call, and `flushed` once all calls so far are safe.
"""

import asyncio
import sys
from itertools import count
from pathlib import Path
from typing import Self
from uuid import uuid4

from faceid_metering import ClientConfig, Durability, MeteringClient

ACCOUNT = "acme"
_FLUSH_CALLS = 50


class GatewayProcess:
    """The process, and what it has said."""

    def __init__(self, target: str, spool_dir: Path) -> None:
        self._arguments = (target, str(spool_dir))
        self._recording: list[str] = []
        self._flushed = 0

    async def __aenter__(self) -> Self:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.support.gateway", *self._arguments), stdout=asyncio.subprocess.PIPE
        )
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    @property
    def recording(self) -> set[str]:
        """The calls that it has recorded; of the last one, or of those not flushed, nobody knows."""
        return set(self._recording)

    @property
    def safe(self) -> set[str]:
        """The calls that it has recorded and flushed."""
        return set(self._recording[: self._flushed])

    async def kill(self) -> None:
        """SIGKILL it, and take in the last that it said."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await self._reader

    async def _read(self) -> None:
        assert self._process.stdout is not None
        while (line := await self._process.stdout.readline()).endswith(b"\n"):
            what, _, call_id = line.decode().strip().partition(" ")
            if what == "recording":
                self._recording.append(call_id)
            else:
                self._flushed = len(self._recording)


def _say(what: str) -> None:
    sys.stdout.write(what + "\n")
    sys.stdout.flush()


async def _main(target: str, spool_dir: str) -> None:
    config = ClientConfig(spool_dir=Path(spool_dir), durability=Durability.DISK)
    async with MeteringClient(target, config=config) as metering:
        for number in count(1):
            call_id = str(uuid4())
            _say(f"recording {call_id}")
            metering.record(ACCOUNT, "DetectAuth", call_id)
            if number % _FLUSH_CALLS == 0 and await metering.flush():
                _say("flushed")


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
