"""An event loop whose time passes only when all wait, and then at once."""

import asyncio
import selectors
from typing import Any

START_S = 1_000.0


class _Skipping(selectors.SelectSelector):
    """Waits for nothing: what time would have passed has passed."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = START_S

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("deadlock: everybody waits, and nobody for the time to pass")
            self.now_s += max(0.0, timeout)
        return ready


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """Runs a simulated hour in however long its computing takes, the same way each time."""

    def __init__(self) -> None:
        self._skipping = _Skipping()
        super().__init__(self._skipping)

    def time(self) -> float:
        return self._skipping.now_s
