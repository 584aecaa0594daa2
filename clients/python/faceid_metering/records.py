"""Where a call gets its identity, once."""

from datetime import UTC, datetime
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from faceid.metering.v1.resources_pb2 import CallRecord
from faceid_metering.runtime import Runtime
from faceid_metering.uuid7 import Uuid7Generator, uuid7_time


class CallRecords:
    """Makes records of calls, with id and time."""

    def __init__(self, runtime: Runtime) -> None:
        """Take clock and chance from `runtime`."""
        self._time_s = runtime.time_s
        self._new_id = Uuid7Generator(lambda: int(runtime.time_s() * 1000), runtime.random_bytes)

    def new(
        self, account_id: str, api: str, call_id: str | None, *, occurred_at: datetime | None, result_code: str
    ) -> CallRecord:
        """See MeteringClient.call_record."""
        if call_id is None:
            call_id = str(self._new_id())
        if occurred_at is None:
            # The time in the id comes first, so that a caller who sends the same id again means the same call.
            occurred_at = _time_in(call_id) or datetime.fromtimestamp(self._time_s(), UTC)
        elif occurred_at.utcoffset() is None:
            raise ValueError(f"occurred_at has no time zone: {occurred_at.isoformat()}")
        timestamp = Timestamp()
        timestamp.FromDatetime(occurred_at)
        return CallRecord(
            account_id=account_id, api=api, call_id=call_id, occurred_at=timestamp, result_code=result_code
        )


def _time_in(call_id: str) -> datetime | None:
    try:
        return uuid7_time(UUID(call_id))
    except ValueError:  # no UUID: the service is going to say what is wrong with it
        return None
