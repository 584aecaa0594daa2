"""Sends requests to gateways at a rate, whatever becomes of them: an open loop, in a process of its own until SIGTERM.

Every request goes to all gateways at the same moment, so that they differ in nothing but themselves. Nobody waits for
an answer. A gateway that is gone is connected to again, and misses what was sent meanwhile. At the end it says how many
requests there were.
"""

import contextlib
import random
import signal
import socket
import sys
import time
from dataclasses import dataclass

from tests.benchmarks.gateway_simulation.requests import REQUEST
from tests.benchmarks.processes import question

_SEED = 20261125
_RECONNECT_S = 0.05
_NAP_S = 0.05


@dataclass(frozen=True)
class LoadPlan:
    """What to send where."""

    ports: tuple[int, ...]
    rate: float
    """Requests a second; they come at random, as those of many callers do."""


class _Gateway:
    """A connection to one gateway."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None
        self._next_attempt = 0.0

    def send(self, request: bytes, now: float) -> None:
        if self._socket is None and now >= self._next_attempt:
            self._next_attempt = now + _RECONNECT_S
            with contextlib.suppress(ConnectionError):
                self._socket = socket.create_connection(("127.0.0.1", self._port))
                self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._socket is not None:
            try:
                self._socket.sendall(request)
            except ConnectionError:
                self._socket.close()
                self._socket = None


def _send(plan: LoadPlan) -> int:
    """Send until SIGTERM; returns how many requests there were."""
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stopping.append(number))
    gateways = [_Gateway(port) for port in plan.ports]
    chance = random.Random(_SEED)
    number = 0
    due = time.monotonic()
    while not stopping:
        now = time.monotonic()
        if now < due:
            time.sleep(min(due - now, _NAP_S))
            continue
        request = REQUEST.pack(now, number)
        for gateway in gateways:
            gateway.send(request, now)
        number += 1
        due += chance.expovariate(plan.rate)
    return number


if __name__ == "__main__":
    sys.stdout.write(f"{_send(question(LoadPlan))}\n")
