"""The responses of the hot path, serialised.

Building them anew, with status, money and age, took 10 % of what an RPC takes (docs/performance.md). Of an account's
status all but the age stays the same for a long time, so it is serialised once, and the age is appended to it.
"""

import time
from collections.abc import Callable

from faceid.metering.v1 import metering_service_pb2 as pb
from faceid.metering.v1 import resources_pb2
from metering.billing.months import format_month
from metering.model import AccountId, Receipt, ServiceStatus
from metering.rpc import convert

STATUSES_MAX = 200_000
"""Serialised statuses in memory; some 40 MB."""
AGE_STEP_S = 0.005
"""An age is used for so long, and told as so much more."""

_RECORDED_STATUS = bytes((pb.RecordCallResponse.SERVICE_STATUS_FIELD_NUMBER << 3 | 2,))
_CHECKED_STATUS = bytes((pb.CheckServiceStatusResponse.SERVICE_STATUS_FIELD_NUMBER << 3 | 2,))
"""The tags of the field service_status: its number, and that a length and so many bytes follow."""


class StatusResponses:
    """Serialises RecordCallResponse and CheckServiceStatusResponse.

    Args:
        age_s: tells how old a status in memory may be, in seconds.

    """

    def __init__(self, age_s: Callable[[], float]) -> None:
        self._age_s = age_s
        self._age_until = 0.0
        self._age = b""
        self._statuses: dict[AccountId, tuple[ServiceStatus, bytes]] = {}
        self._receipts: dict[Receipt, bytes] = {}

    def recorded(self, receipt: Receipt, status: ServiceStatus) -> bytes:
        """Return a RecordCallResponse."""
        begin = self._receipts.get(receipt)
        if begin is None:
            month = format_month(receipt.billing_month)
            message = pb.RecordCallResponse(duplicate=receipt.duplicate, billing_month=month)
            begin = self._receipts[receipt] = message.SerializeToString() + _RECORDED_STATUS
        return begin + self._status(status)

    def checked(self, status: ServiceStatus) -> bytes:
        """Return a CheckServiceStatusResponse."""
        return _CHECKED_STATUS + self._status(status)

    def _status(self, status: ServiceStatus) -> bytes:
        """Return a status with its age, after its length."""
        if time.monotonic() >= self._age_until:
            self._tell_age()
        account_id = status.account_id
        kept = self._statuses.get(account_id)
        if kept is None or kept[0] is not status:
            if len(self._statuses) >= STATUSES_MAX:
                self._statuses.clear()
            kept = self._statuses[account_id] = (status, convert.service_status(status).SerializeToString())
        message = kept[1]
        length = len(message) + len(self._age)
        # A length is a varint: seven bits a byte, the lowest ones first, each byte but the last marked.
        start = bytes((length,)) if length < 128 else bytes((length & 127 | 128, length >> 7))  # noqa: PLR2004
        return start + message + self._age

    def _tell_age(self) -> None:
        self._age_until = time.monotonic() + AGE_STEP_S
        age = convert.duration(self._age_s() + AGE_STEP_S)
        # The last field of a status, so that it may be appended to the others.
        self._age = resources_pb2.ServiceStatus(age=age).SerializeToString()
