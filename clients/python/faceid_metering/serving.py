"""What the ASGI middleware and the gRPC interceptors have in common: who calls what, who may, and what is recorded."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Protocol

log = logging.getLogger(__name__)

SUSPENDED: Final = "the account is suspended; pay what is overdue to reactivate it"
"""What the caller of a suspended account is told."""


class Metering(Protocol):
    """What is needed of a client; MeteringClient and SyncMeteringClient both are one."""

    def record(
        self,
        account_id: str,
        api: str,
        call_id: str | None = None,
        *,
        occurred_at: datetime | None = None,
        result_code: str = "",
    ) -> str:
        """Take a call for delivery, and return its call_id at once."""

    def is_active(self, account_id: str) -> bool:
        """Tell at once whether an account may call."""


@dataclass(frozen=True, kw_only=True)
class Metered:
    """A request that is metered; return None in its place for one that is not, such as a health check."""

    account_id: str
    """Who makes it, and pays."""

    api: str
    """What is called, such as `DetectAuth`."""

    call_id: str | None = None
    """Its RequestId, a UUID; None: a new UUIDv7."""


class Call:
    """A request from its beginning to what is recorded of it."""

    def __init__(self, metering: Metering, metered: Metered, occurred_at: datetime) -> None:
        """Take when it came in; that stays the call's time, however long it is served and however often delivered."""
        self._metering = metering
        self._metered = metered
        self._occurred_at = occurred_at

    def is_allowed(self) -> bool:
        """Tell whether its account may call."""
        return self._metering.is_active(self._metered.account_id)

    def record(self, result_code: str) -> None:
        """Record that it was served. What cannot be recorded is logged: no request fails because of its meter."""
        metered = self._metered
        try:
            self._metering.record(
                metered.account_id,
                metered.api,
                metered.call_id,
                occurred_at=self._occurred_at,
                result_code=result_code,
            )
        except ValueError:
            log.exception("a request was served but cannot be recorded, for it is malformed: %s", metered)


def now(time_s: Callable[[], float] = time.time) -> datetime:
    """Return the time of day, in UTC."""
    return datetime.fromtimestamp(time_s(), UTC)
