"""The processes of a benchmark: starting them, asking them, and ending them whatever happens."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

STOP_SECONDS_MAX = 30


class BenchmarkError(Exception):
    """The benchmark cannot go on; the message says why."""


@contextmanager
def running(
    command: list[str], *, stdout: int | IO[bytes], stderr: int | IO[bytes] | None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process for as long as the block takes.

    In a session of its own: Ctrl-C is for us alone, who then stop everything in the right order.
    """
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def python(module: str, *arguments: str, interpreter: str = sys.executable) -> list[str]:
    """Return the command that runs a module."""
    return [interpreter, "-m", module, *arguments]


def resident_mb(process: int) -> float:
    """Return the memory that a process holds, in MB; 0 once it has ended."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1_024 / 1e6
    return 0.0


def ask(module: str, plan: "DataclassInstance", result: type[T], seconds_max: float) -> T:
    """Run a module that does what it is asked, once, and return what it answers; see `question` and `answer`."""
    command = python(module, json.dumps(asdict(plan)))
    with running(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            stdout, stderr = process.communicate(timeout=seconds_max)
        except subprocess.TimeoutExpired:
            raise BenchmarkError(f"{module} did not end within {seconds_max:.0f} s") from None
        if process.returncode != 0:
            raise BenchmarkError(f"{module} failed: {stderr.decode(errors='replace').strip()}")
    return _load(result, json.loads(stdout))


def question(kind: type[T]) -> T:
    """Return what this process was asked to do."""
    return _load(kind, json.loads(sys.argv[1]))


def answer(result: "DataclassInstance") -> None:
    """Tell the result to who asked."""
    print(json.dumps(asdict(result)))


def _load(kind: type[T], values: dict[str, Any]) -> T:
    return kind(**{each.name: _value(each.type, values[each.name]) for each in fields(kind)})


def _value(kind: Any, value: Any) -> Any:
    return _load(kind, value) if isinstance(kind, type) and is_dataclass(kind) else kind(value)
