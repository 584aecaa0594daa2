"""Calls in PostgreSQL's binary COPY format.

asyncpg could encode them, too, value by value. Most of a row, though, is the same for all calls of an account to an api
on a day, so that it is encoded once for them; and a call needs no datetime. Measured: docs/performance.md.
"""

import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta

from metering.model import EPOCH, Call, Month

COLUMNS = ("call_id", "occurred_at", "occurred_on", "billing_month", "account_id", "api", "result_code")
"""The columns of a row: first what differs from call to call."""

CountKey = tuple[str, date, str, str]
"""(account_id, occurred_on, api, result_code)"""

_SIGNATURE = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
_TRAILER = struct.pack(">h", -1)
_ROW_START = struct.Struct(">hi16siq")
_DATES = struct.Struct(">iiii")
_LENGTH = struct.Struct(">i")

_POSTGRES_EPOCH_DAY = date(2000, 1, 1).toordinal()
_POSTGRES_EPOCH_US = (datetime(2000, 1, 1, tzinfo=UTC) - EPOCH) // timedelta(microseconds=1)


class CopyRows:
    """Rows of `calls` to be copied, and the counts of them."""

    def __init__(self, calls: Sequence[Call], billing_months: Mapping[Month, Month]) -> None:
        """Encode calls; `billing_months` has the billing month of each of their months."""
        start, columns, epoch_us, from_hex = _ROW_START.pack, len(COLUMNS), _POSTGRES_EPOCH_US, bytes.fromhex
        ends: dict[CountKey, bytes] = {}
        counts: dict[CountKey, int] = {}
        parts = [_SIGNATURE]
        append = parts.append
        for occurred_on, account_id, call_id, occurred_us, api, result_code, month in calls:
            key = (account_id, occurred_on, api, result_code)
            end = ends.get(key)
            if end is None:
                end = ends[key] = _row_end(occurred_on, billing_months[month], account_id, api, result_code)
                counts[key] = 0
            counts[key] += 1
            append(start(columns, 16, from_hex(call_id.replace("-", "")), 8, occurred_us - epoch_us))
            append(end)
        append(_TRAILER)
        self.data = b"".join(parts)
        self.counts = counts
        """How many calls there are of each kind."""


def _row_end(occurred_on: date, billing_month: date, account_id: str, api: str, result_code: str) -> bytes:
    """Return the columns of a row that are the same for many."""
    texts = [text.encode() for text in (account_id, api, result_code)]
    dates = _DATES.pack(
        4,
        occurred_on.toordinal() - _POSTGRES_EPOCH_DAY,
        4,
        billing_month.toordinal() - _POSTGRES_EPOCH_DAY,
    )
    return dates + b"".join(_LENGTH.pack(len(text)) + text for text in texts)
