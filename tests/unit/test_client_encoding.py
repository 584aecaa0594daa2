from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from faceid.metering.v1.metering_service_pb2 import BatchRecordCallsRequest
from faceid.metering.v1.resources_pb2 import CallRecord
from faceid_metering import Runtime
from faceid_metering.encoding import CallEncoder

NAMES = st.from_regex(r"[A-Za-z0-9._:@/-]{1,64}", fullmatch=True)
TIMES = st.datetimes(datetime(1970, 1, 1), datetime(9998, 1, 1), timezones=st.just(UTC))


@given(NAMES, NAMES, st.uuids(), TIMES, st.just("") | NAMES)
def test_a_call_is_encoded_as_protobuf_does(
    account_id: str, api: str, call_id: object, at: datetime, code: str
) -> None:
    returned, encoded = CallEncoder(Runtime()).encode(account_id, api, str(call_id), at, code)
    record = CallRecord(account_id=account_id, api=api, call_id=str(call_id), result_code=code)
    record.occurred_at.FromDatetime(at)
    assert returned == str(call_id)
    assert BatchRecordCallsRequest.FromString(encoded) == BatchRecordCallsRequest(calls=[record])


def test_joined_calls_are_one_batch() -> None:
    encode = CallEncoder(Runtime()).encode
    calls = [encode("acme", "DetectAuth", None, None, "") for _ in range(3)]
    batch = BatchRecordCallsRequest.FromString(b"".join(encoded for _, encoded in calls))
    assert [call.call_id for call in batch.calls] == [call_id for call_id, _ in calls]
    assert not any(call.HasField("occurred_at") for call in batch.calls)


@pytest.mark.parametrize(("account_id", "api", "call_id"), [("", "a", None), ("a", "ü", None), ("a", "a", "no uuid")])
def test_a_malformed_argument_is_a_value_error(account_id: str, api: str, call_id: str | None) -> None:
    with pytest.raises(ValueError, match=r"malformed|no UUID"):
        CallEncoder(Runtime()).encode(account_id, api, call_id, None, "")
