"""Who took how much of the processors: what a call costs in each process, and whether others were in the way."""

import os
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_PROC = Path("/proc")
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class ProcessorTime:
    """What was taken of the processors, in seconds. Zeros on systems without /proc."""

    server: float = 0.0
    """By the servers in question and what they started, but PostgreSQL."""
    postgres: float = 0.0
    ours: float = 0.0
    """By this process and all that it started, the two above included."""
    machine: float = 0.0
    """By everything on this machine, and by others on its host while we were waiting for a processor."""

    def __sub__(self, earlier: "ProcessorTime") -> "ProcessorTime":
        """Return what was taken since."""
        return ProcessorTime(
            server=self.server - earlier.server,
            postgres=self.postgres - earlier.postgres,
            ours=self.ours - earlier.ours,
            machine=self.machine - earlier.machine,
        )


class Watch:
    """Watches what the processors do during a block."""

    def __init__(self, servers: Collection[int]) -> None:
        self._servers = servers
        self.taken = ProcessorTime()
        self.others = 0.0
        """The share of the machine that had nothing to do with us."""

    def __enter__(self) -> Self:
        self._begin = time.monotonic()
        self._before = processor_time(self._servers)
        return self

    def __exit__(self, *_: object) -> None:
        self.taken = processor_time(self._servers) - self._before
        seconds = (time.monotonic() - self._begin) * (os.cpu_count() or 1)
        self.others = max(0.0, self.taken.machine - self.taken.ours) / seconds


@dataclass(frozen=True)
class _Process:
    name: str
    parent: int
    seconds: float
    """With those of its children that have ended."""


def processor_time(servers: Collection[int]) -> ProcessorTime:
    """Return what was taken so far. `servers` are process ids."""
    if not (_PROC / "stat").exists():
        return ProcessorTime()
    processes = _processes()
    server = postgres = ours = 0.0
    for pid, process in processes.items():
        ancestors = _ancestors(pid, processes)
        if os.getpid() in ancestors:
            ours += process.seconds
            if process.name.startswith("postgres"):
                postgres += process.seconds
            elif not ancestors.isdisjoint(servers):
                server += process.seconds
    _, user, nice, system, _, _, irq, softirq, steal, *_ = (_PROC / "stat").read_text().split(maxsplit=10)
    machine = sum(map(int, (user, nice, system, irq, softirq, steal))) / _TICKS_A_SECOND
    return ProcessorTime(server, postgres, ours, machine)


def _processes() -> dict[int, _Process]:
    found = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue  # it has just ended
            name = stat[stat.index("(") + 1 : stat.rindex(")")]
            _, parent, *rest = stat[stat.rindex(")") + 1 :].split()
            found[int(entry.name)] = _Process(name, int(parent), sum(map(int, rest[9:13])) / _TICKS_A_SECOND)
    return found


def _ancestors(pid: int, processes: dict[int, _Process]) -> set[int]:
    """Return a process and those it descends from."""
    found = set()
    while pid in processes:
        found.add(pid)
        pid = processes[pid].parent
    return found
