"""Time and chance, which tests replace."""

import asyncio
import os
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Where a client gets time and chance from."""

    time_s: Callable[[], float] = time.time
    """The time of day, in seconds since 1970."""

    monotonic_s: Callable[[], float] = time.monotonic
    """A clock that is never set, in seconds."""

    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    """Waits for so many seconds."""

    uniform: Callable[[float, float], float] = random.uniform
    """Draws a number between two others."""

    random_bytes: Callable[[int], bytes] = os.urandom
    """Draws so many bytes."""
