"""Calls, and their counts, in PostgreSQL's binary COPY format.

asyncpg could encode them, too, value by value. Most of a row, though, is the same for all calls of a kind: it is
encoded once for them; and a call needs no datetime. Measured: docs/performance.md.
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from functools import lru_cache
from operator import itemgetter

from metering.model import Call, CallKind, Month, to_micros

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
_KIND, _CALL_ID = itemgetter(0), itemgetter(1)

_POSTGRES_EPOCH_DAY = date(2000, 1, 1).toordinal()
_POSTGRES_EPOCH_US = to_micros(datetime(2000, 1, 1, tzinfo=UTC))


def by_kind(calls: Iterable[Call]) -> list[tuple[CallKind, list[Call]]]:
    """Return calls by their kinds, in the order in which all writers write them, so that these cannot deadlock."""
    found: dict[CallKind, list[Call]] = {}
    for call in calls:
        of_kind = found.get(call[0])
        if of_kind is None:
            found[call[0]] = [call]
        else:
            of_kind.append(call)
    for of_kind in found.values():
        if len(of_kind) > 1:
            of_kind.sort(key=_CALL_ID)
    return sorted(found.items(), key=_KIND)


def copy_rows(
    calls: Iterable[tuple[CallKind, Sequence[Call]]], billing_months: Mapping[Month, Month]
) -> tuple[bytes, bytes]:
    """Return what is to be copied into `calls` and into `usage_deltas`.

    `billing_months` has the billing month of each of the calls' months.
    """
    start, columns, epoch_us = _CALL_START.pack, len(CALL_COLUMNS), _POSTGRES_EPOCH_US
    rows, counts = [_SIGNATURE], [_SIGNATURE]
    append = rows.append
    for kind, of_kind in calls:
        account_id, api, result_code, occurred_on, month = kind
        account = account_id.encode()
        dates = _dates(occurred_on, billing_months[month])
        rest = dates + _LENGTH.pack(len(account)) + account + _texts(api, result_code)
        counts.append(_COUNT_START.pack(len(COUNT_COLUMNS), 8, len(of_kind)) + rest)
        for _, call_id, occurred_us in of_kind:
            append(start(columns, 16, call_id, 8, occurred_us - epoch_us) + rest)
    rows.append(_TRAILER)
    counts.append(_TRAILER)
    return b"".join(rows), b"".join(counts)


@lru_cache(maxsize=1_000)
def _dates(occurred_on: date, billing_month: date) -> bytes:
    days = (occurred_on.toordinal() - _POSTGRES_EPOCH_DAY, billing_month.toordinal() - _POSTGRES_EPOCH_DAY)
    return _DATES.pack(4, days[0], 4, days[1])


@lru_cache(maxsize=1_000)
def _texts(*texts: str) -> bytes:
    encoded = [text.encode() for text in texts]
    return b"".join([_LENGTH.pack(len(text)) + text for text in encoded])
