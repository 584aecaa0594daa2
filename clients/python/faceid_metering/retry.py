"""When a request is sent again."""

from faceid_metering.config import ClientConfig
from faceid_metering.errors import MeteringError
from faceid_metering.runtime import Runtime


class BackOff:
    """How long to wait before the next attempt: exponential with full jitter, so that clients don't come in waves."""

    def __init__(self, config: ClientConfig, runtime: Runtime) -> None:
        """Begin with the shortest pause."""
        self._config = config
        self._uniform = runtime.uniform
        self._ceiling_s = config.back_off_initial_s

    def next_s(self, retry_after_s: float | None) -> float:
        """Return the next pause in seconds, never shorter than the service asked for."""
        ceiling_s = min(self._ceiling_s, self._config.back_off_max_s)
        self._ceiling_s = 2 * ceiling_s
        return (retry_after_s or 0.0) + self._uniform(0.0, ceiling_s)

    def reset(self) -> None:
        """Begin anew."""
        self._ceiling_s = self._config.back_off_initial_s


class Retries:
    """The attempts of one request, up to a deadline."""

    def __init__(self, config: ClientConfig, runtime: Runtime, timeout_s: float) -> None:
        """Let the time run from now on."""
        self._runtime = runtime
        self._timeout_s = timeout_s
        self._back_off = BackOff(config, runtime)
        self._deadline_s = runtime.monotonic_s() + timeout_s

    def remaining_s(self) -> float:
        """Return the seconds left."""
        return self._deadline_s - self._runtime.monotonic_s()

    def restart(self) -> None:
        """Let the time run from now on again, after something was achieved."""
        self._deadline_s = self._runtime.monotonic_s() + self._timeout_s
        self._back_off.reset()

    async def pause_after(self, error: MeteringError) -> None:
        """Wait until the next attempt; raises the error if sending again cannot help, or not in time."""
        if not error.is_retryable():
            raise error
        pause_s = self._back_off.next_s(error.retry_after_s)
        if pause_s >= self.remaining_s():
            raise error
        await self._runtime.sleep(pause_s)
