"""Services as processes of their own, to be killed."""

import asyncio
import os
import re
import signal
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import grpc

from tests.support.service import Stubs

START_S = 60.0
STOP_S = 30.0


class ServiceProcess(Stubs):
    """A `metering serve` process on loopback, on a port of its own, unless flags say otherwise.

    `program` is what to run in place of `metering`, and `through` what to run Python with.
    """

    def __init__(
        self,
        database_url: str | None,
        *flags: str,
        program: Sequence[str] = ("metering",),
        through: Sequence[str] = (),
    ) -> None:
        self._database = ("--database-url", database_url) if database_url else ()
        self._flags = flags
        self._command = (*through, sys.executable, "-m", *program)
        self._process: asyncio.subprocess.Process | None = None
        self.output: list[str] = []

    async def __aenter__(self) -> Self:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("METERING_")}
        self._process = await asyncio.create_subprocess_exec(
            *self._command,
            *("serve", "--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"),
            *self._database,
            *self._flags,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment | {"PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(START_S):
                self.target = await self._wait_for(r"grpc://(\S+)")
                self.http = await self._wait_for(r"(http://\S+)/metrics")
        except BaseException:
            await self.kill()
            raise
        self._reader = asyncio.create_task(self._read_on())
        Stubs.__init__(self, grpc.aio.insecure_channel(self.target))
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind not in {None, asyncio.CancelledError}:
            sys.stdout.write("".join(["what the service said:\n", *self.output[-300:]]))
            sys.stdout.write(f"at {self.target}; its exit code: {self.process.returncode}\n")
        await self.channel.close()
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        await self._reader

    @property
    def process(self) -> asyncio.subprocess.Process:
        assert self._process is not None
        return self._process

    async def _wait_for(self, pattern: str) -> str:
        assert self.process.stdout is not None
        while True:
            line = (await self.process.stdout.readline()).decode()
            self.output.append(line)
            if match := re.search(pattern, line):
                return match[1]
            assert line, "the service ended:\n" + "".join(self.output)

    async def _read_on(self) -> None:
        """Read what it says, so that it is never kept waiting."""
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            self.output.append(line.decode(errors="backslashreplace"))

    async def kill(self) -> None:
        """SIGKILL it, and wait until it is gone."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    async def worker_pids(self) -> list[int]:
        """Return the process ids of its workers."""
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        commands = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in found}
        return [pid for pid, command in commands.items() if b"spawn_main" in command]

    @staticmethod
    def kill_pid(pid: int) -> None:
        """SIGKILL one of its workers."""
        os.kill(pid, signal.SIGKILL)

    async def get(self, path: str) -> tuple[int, str]:
        """Return status and body of an HTTP request."""

        def request() -> tuple[int, str]:
            try:
                with urllib.request.urlopen(self.http + path, timeout=5) as response:
                    return response.status, response.read().decode()
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, error.read().decode()

        return await asyncio.to_thread(request)

    async def until_ready(self) -> None:
        """Return once it says that it is ready, and is connected to: gRPC waits some seconds after a refusal."""
        async with asyncio.timeout(START_S):
            while (await self.get("/readyz"))[0] != 200:
                await asyncio.sleep(0.05)
            await self.channel.channel_ready()

    async def terminate(self) -> int:
        """SIGTERM it, wait until it has stopped, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(STOP_S):
            return await self.process.wait()
