"""Lists of calls and digests of bills, the same on the fake service and the real one."""

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import grpc
import pytest

from faceid.metering.v1 import metering_service_pb2 as pb
from faceid_metering.evidence import ListedCall, calls_digest, verify_bill
from tests.support.service import Stubs, fields_of

if TYPE_CHECKING:
    from faceid.metering.v1.resources_pb2 import RecordedCall

OCTOBER = datetime(2026, 10, 12, 4, tzinfo=UTC)


async def pages(
    metering: Stubs, page_size: int, page_token: str = "", account_id: str = "acme"
) -> list[pb.ListCallsResponse]:
    request = pb.ListCallsRequest(account_id=account_id, month="2026-10", page_size=page_size, page_token=page_token)
    return [response async for response in metering.metering.ListCalls(request)]


async def make_calls(metering: Stubs) -> None:
    for account_id in ("acme", "zenith"):
        await metering.activate(account_id)
        await metering.record_batch(
            [metering.call(account_id, at=OCTOBER + timedelta(hours=5 * number)) for number in range(30)]
        )


async def test_a_bills_digest_is_that_of_its_calls(metering: Stubs) -> None:
    await make_calls(metering)
    await metering.close_month("2026-10")
    bill = await metering.bill("acme", "2026-10")
    listed = [ListedCall.of(each) for each in await metering.list_calls("acme", "2026-10")]
    assert bill.calls_digest == calls_digest(listed)
    assert verify_bill(bill, listed) == []


async def test_a_list_comes_in_pages_and_goes_on_after_each(metering: Stubs) -> None:
    await make_calls(metering)
    whole = await metering.list_calls("acme", "2026-10")
    for page_size in (0, 1, 7, 1_000, 2_000_000_000):
        found: list[RecordedCall] = []
        for page in await pages(metering, page_size):
            assert len(page.calls) <= page_size
            found += page.calls or [page.call]
            rest = [call for each in await pages(metering, 100, page.next_page_token) for call in each.calls]
            assert found + rest == whole
        assert found == whole


@pytest.mark.parametrize(("page_size", "token", "field"), [(0, "x", "page_token"), (-1, "", "page_size")])
async def test_a_malformed_page_is_refused(metering: Stubs, page_size: int, token: str, field: str) -> None:
    await metering.activate("acme")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await pages(metering, page_size, token)
    assert (refused.value.code(), fields_of(refused.value)) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


async def test_a_token_leads_to_no_other_account(metering: Stubs) -> None:
    await make_calls(metering)
    token = (await pages(metering, 3))[0].next_page_token
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await pages(metering, 3, token, "zenith")
    assert (refused.value.code(), fields_of(refused.value)) == (grpc.StatusCode.INVALID_ARGUMENT, ["page_token"])
