"""A recorded call as bytes: encoded once, when it is recorded, and neither decoded nor copied on its way."""

import re
from datetime import datetime
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from faceid_metering.runtime import Runtime
from faceid_metering.uuid7 import Uuid7Generator

_NAME = re.compile(r"[A-Za-z0-9._:@/-]{1,64}")
_CANONICAL_UUID = re.compile(r"[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}").fullmatch
_HEADS_MAX = 100_000

# Of CallRecord: field number << 3 | 2, a length-delimited field. What is protobuf's is written by hand, since this runs
# in the path of every request and is four times as fast; a test compares it with protobuf's own, for any call.
_ACCOUNT_ID, _API, _CALL_ID, _OCCURRED_AT, _RESULT_CODE = (bytes([number << 3 | 2]) for number in range(1, 6))
_UUID_FIELD = _CALL_ID + bytes([36])

# How BatchRecordCallsRequest begins an entry of `calls`, by the length of the CallRecord: tag, then length as a varint.
_BEGIN = [b"\x0a" + (bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])) for size in range(512)]  # noqa: PLR2004


class CallEncoder:
    """Encodes calls, each as a BatchRecordCallsRequest with that one call.

    Messages of protobuf that are joined are the message with the fields of both: so a batch is the join of its calls.
    """

    def __init__(self, runtime: Runtime) -> None:
        """Take clock and chance from `runtime`."""
        self._time_s = runtime.time_s
        self._new_id = Uuid7Generator(lambda: int(runtime.time_s() * 1000), runtime.random_bytes).text
        self._heads: dict[tuple[str, str], bytes] = {}

    def encode(
        self, account_id: str, api: str, call_id: str | None, occurred_at: datetime | None, result_code: str
    ) -> tuple[str, bytes]:
        """Return call_id and bytes of a call.

        A call with a UUIDv7 and without a time of its own is sent without one: the service takes it from the id.

        Raises:
            ValueError: An argument is malformed.
        """
        head = self._heads.get((account_id, api)) or self._learn(account_id, api)
        if call_id is None:
            call_id = uuid = self._new_id()
        else:
            uuid = call_id if _CANONICAL_UUID(call_id) else _canonical(call_id)
        tail = b""
        if occurred_at is not None or uuid[14] != "7" or uuid[19] not in "89abAB":
            tail = self._time(occurred_at)
        if result_code:
            tail += _name_field(_RESULT_CODE, result_code, "result_code")
        return call_id, _BEGIN[len(head) + len(tail) + 38] + head + _UUID_FIELD + uuid.encode() + tail

    def _learn(self, account_id: str, api: str) -> bytes:
        """Encode the fields that many calls have in common, and keep that."""
        head = _name_field(_ACCOUNT_ID, account_id, "account_id") + _name_field(_API, api, "api")
        if len(self._heads) >= _HEADS_MAX:
            self._heads = {}
        self._heads[account_id, api] = head
        return head

    def _time(self, occurred_at: datetime | None) -> bytes:
        if occurred_at is None:
            micros = int(self._time_s() * 1_000_000)
            timestamp = Timestamp(seconds=micros // 1_000_000, nanos=micros % 1_000_000 * 1000)
        elif occurred_at.utcoffset() is None:
            raise ValueError(f"occurred_at has no time zone: {occurred_at.isoformat()}")
        else:
            timestamp = Timestamp()
            timestamp.FromDatetime(occurred_at)
        encoded = timestamp.SerializeToString()
        return _OCCURRED_AT + bytes([len(encoded)]) + encoded


def _name_field(tag: bytes, name: str, field: str) -> bytes:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{field} is malformed: {name[:64]!r}; give 1 to 64 characters out of A-Z a-z 0-9 . _ : @ / -")
    return tag + bytes([len(name)]) + name.encode()


def _canonical(call_id: str) -> str:
    try:
        if len(call_id) == 32:  # noqa: PLR2004 - the other form that the service takes
            return str(UUID(call_id))
    except ValueError:
        pass
    raise ValueError(f"call_id is no UUID: {call_id[:64]!r}; give the RequestId of the call")
