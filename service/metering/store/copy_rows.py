"""Calls, and their counts, in PostgreSQL's binary COPY format.

asyncpg could encode them, too, value by value. Most of a row, though, is the same for all calls of an account to an api
on a day, so that it is encoded once for them; and a call needs no datetime. Measured: docs/performance.md.
"""

import struct
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from functools import lru_cache

from metering.model import Call, Month, to_micros

_KIND_COLUMNS = ("occurred_on", "billing_month", "account_id", "api", "result_code")
CALL_COLUMNS = ("call_id", "occurred_at", *_KIND_COLUMNS)
COUNT_COLUMNS = ("calls", *_KIND_COLUMNS)
"""The columns of a row of `calls` and of `usage_deltas`: first what differs from row to row, then what is the same."""

_SIGNATURE = b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0)
_TRAILER = struct.pack(">h", -1)
_CALL_START = struct.Struct(">hi16siq")
_COUNT_START = struct.Struct(">hiq")
_DATES = struct.Struct(">iiii")
_LENGTH = struct.Struct(">i")

_POSTGRES_EPOCH_DAY = date(2000, 1, 1).toordinal()
_POSTGRES_EPOCH_US = to_micros(datetime(2000, 1, 1, tzinfo=UTC))


def copy_rows(calls: Sequence[Call], billing_months: Mapping[Month, Month]) -> tuple[bytes, bytes]:
    """Return what is to be copied into `calls` and into `usage_deltas`.

    `billing_months` has the billing month of each of the calls' months.
    """
    start, columns, epoch_us, from_hex = _CALL_START.pack, len(CALL_COLUMNS), _POSTGRES_EPOCH_US, bytes.fromhex
    kinds: dict[tuple[str, date, str, str], bytes] = {}
    counts: dict[bytes, int] = {}
    parts = [_SIGNATURE]
    append = parts.append
    for occurred_on, account_id, call_id, occurred_us, api, result_code, month in calls:
        key = (account_id, occurred_on, api, result_code)
        kind = kinds.get(key)
        if kind is None:
            kind = kinds[key] = _dates(occurred_on, billing_months[month]) + _texts(account_id, api, result_code)
            counts[kind] = 0
        counts[kind] += 1
        append(start(columns, 16, from_hex(call_id.replace("-", "")), 8, occurred_us - epoch_us))
        append(kind)
    append(_TRAILER)
    rows = [_COUNT_START.pack(len(COUNT_COLUMNS), 8, count) + kind for kind, count in counts.items()]
    return b"".join(parts), b"".join([_SIGNATURE, *rows, _TRAILER])


@lru_cache(maxsize=1_000)
def _dates(occurred_on: date, billing_month: date) -> bytes:
    days = (occurred_on.toordinal() - _POSTGRES_EPOCH_DAY, billing_month.toordinal() - _POSTGRES_EPOCH_DAY)
    return _DATES.pack(4, days[0], 4, days[1])


@lru_cache(maxsize=50_000)
def _texts(*texts: str) -> bytes:
    encoded = [text.encode() for text in texts]
    return b"".join([_LENGTH.pack(len(text)) + text for text in encoded])
