from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money

from faceid.metering.v1 import account_service_pb2 as accounts
from faceid.metering.v1 import metering_service_pb2 as calls
from faceid.metering.v1.resources_pb2 import (
    Account,
    ApiPrice,
    Bill,
    CallRecord,
    MonthlyUsage,
    PerCallPrice,
    PricePlan,
    RejectedCall,
    ServiceStatus,
)
from faceid_metering import MeteringClient
from tests.support.scripted_server import NOW, FakeTime, ScriptedServer

ACCOUNT = Account(account_id="acme")
PLAN = PricePlan(price_plan_id="gold", prices=[ApiPrice(api="DetectAuth", per_call=PerCallPrice(unit_price="0.0125"))])
BILL = Bill(account_id="acme", month="2026-11")


@pytest.fixture
async def metering(server: ScriptedServer) -> AsyncIterator[MeteringClient]:
    async with server.client(FakeTime().runtime) as metering:
        yield metering


def timestamp(time: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(time)
    return message


async def test_a_call_is_sent_as_given(server: ScriptedServer, metering: MeteringClient) -> None:
    server.script["RecordCall"] = [calls.RecordCallResponse()]
    noon_in_shanghai = datetime(2026, 11, 23, 12, tzinfo=timezone(timedelta(hours=8)))

    await metering.record_call("acme", "DetectAuth", "call-1", occurred_at=noon_in_shanghai, result_code="NoFace")

    assert server.requests["RecordCall"] == [
        calls.RecordCallRequest(
            account_id="acme",
            api="DetectAuth",
            call_id="call-1",
            occurred_at=timestamp(datetime(2026, 11, 23, 4, tzinfo=UTC)),
            result_code="NoFace",
        )
    ]


async def test_a_call_without_id_and_time_gets_both_once(metering: MeteringClient) -> None:
    first, second = (metering.call_record("acme", "DetectAuth") for _ in range(2))

    assert first.call_id < second.call_id
    assert first.occurred_at == timestamp(NOW)


async def test_a_call_with_a_uuid7_occurred_when_that_says(metering: MeteringClient) -> None:
    record = metering.call_record("acme", "DetectAuth", "019335C8-5E00-7abc-8def-0123456789ab")

    assert record.call_id == "019335C8-5E00-7abc-8def-0123456789ab"
    assert record.occurred_at.ToMilliseconds() == 0x0193_35C8_5E00


@pytest.mark.parametrize("call_id", ["6a1f4b52-8f0e-4c39-9d57-0a4f5a2f1c11", "no UUID", ""])
async def test_a_call_with_another_id_occurred_now(metering: MeteringClient, call_id: str) -> None:
    record = metering.call_record("acme", "DetectAuth", call_id)

    assert record == CallRecord(account_id="acme", api="DetectAuth", call_id=call_id, occurred_at=timestamp(NOW))


async def test_a_time_without_a_zone_is_refused(metering: MeteringClient) -> None:
    with pytest.raises(ValueError, match="no time zone"):
        metering.call_record("acme", "DetectAuth", occurred_at=datetime(2026, 11, 23))


async def test_the_methods_of_metering_return_what_is_of_use(server: ScriptedServer, metering: MeteringClient) -> None:
    usage, status = MonthlyUsage(total_calls=7), ServiceStatus(account_id="acme", version=3)
    closed, deducted = calls.CloseMonthResponse(bills_issued=5), calls.DeductResponse(bill=BILL)
    server.script["GetMonthlyUsage"] = [calls.GetMonthlyUsageResponse(usage=usage)]
    server.script["CloseMonth"] = [closed]
    server.script["Deduct"] = [deducted]
    server.script["CheckServiceStatus"] = [calls.CheckServiceStatusResponse(service_status=status)]

    assert await metering.get_monthly_usage("acme", "2026-11") == usage
    assert await metering.close_month("2026-11", dry_run=True) == closed
    assert await metering.deduct("acme", "2026-11") == deducted
    assert await metering.check_service_status("acme") == status

    assert server.requests == {
        "GetMonthlyUsage": [calls.GetMonthlyUsageRequest(account_id="acme", month="2026-11")],
        "CloseMonth": [calls.CloseMonthRequest(month="2026-11", dry_run=True)],
        "Deduct": [calls.DeductRequest(account_id="acme", month="2026-11")],
        "CheckServiceStatus": [calls.CheckServiceStatusRequest(account_id="acme")],
    }


async def test_the_methods_of_accounts_return_what_is_of_use(server: ScriptedServer, metering: MeteringClient) -> None:
    paid = accounts.RecordPaymentResponse(account=ACCOUNT)
    server.script["ActivateAccount"] = [accounts.ActivateAccountResponse(account=ACCOUNT)]
    server.script["GetAccount"] = [accounts.GetAccountResponse(account=ACCOUNT)]
    server.script["RecordPayment"] = [paid]
    server.script["PutPricePlan"] = [accounts.PutPricePlanResponse(price_plan=PLAN)]
    server.script["GetPricePlan"] = [accounts.GetPricePlanResponse(price_plan=PLAN)]
    server.script["AssignPricePlan"] = [accounts.AssignPricePlanResponse(account=ACCOUNT)]
    server.script["GetBill"] = [accounts.GetBillResponse(bill=BILL)]
    server.script["GetMonth"] = [accounts.GetMonthResponse(bills_issued=7)]

    assert await metering.activate_account("acme", "CNY", "gold") == ACCOUNT
    assert await metering.get_account("acme") == ACCOUNT
    assert await metering.record_payment("acme", Decimal("12.50"), "CNY", "wire-1") == paid
    assert await metering.put_price_plan(PLAN) == PLAN
    assert await metering.get_price_plan("gold", 2) == PLAN
    assert await metering.assign_price_plan("acme", "gold", "2026-12") == ACCOUNT
    assert await metering.get_bill("acme", "2026-11") == BILL
    assert await metering.get_month("2026-11") == accounts.GetMonthResponse(bills_issued=7)

    amount = Money(currency_code="CNY", units=12, nanos=500_000_000)
    assert server.requests == {
        "ActivateAccount": [
            accounts.ActivateAccountRequest(account_id="acme", currency="CNY", price_plan_id="gold"),
        ],
        "GetAccount": [accounts.GetAccountRequest(account_id="acme")],
        "RecordPayment": [accounts.RecordPaymentRequest(account_id="acme", amount=amount, payment_id="wire-1")],
        "PutPricePlan": [accounts.PutPricePlanRequest(price_plan=PLAN)],
        "GetPricePlan": [accounts.GetPricePlanRequest(price_plan_id="gold", version=2)],
        "AssignPricePlan": [
            accounts.AssignPricePlanRequest(account_id="acme", price_plan_id="gold", from_month="2026-12")
        ],
        "GetBill": [accounts.GetBillRequest(account_id="acme", month="2026-11")],
        "GetMonth": [accounts.GetMonthRequest(month="2026-11")],
    }


async def test_bills_are_listed_over_all_pages(server: ScriptedServer, metering: MeteringClient) -> None:
    newest, older, oldest = (Bill(month=month) for month in ("2026-11", "2026-10", "2026-09"))
    server.script["ListBills"] = [
        accounts.ListBillsResponse(bills=[newest, older], next_page_token="2026-10"),
        accounts.ListBillsResponse(bills=[oldest]),
    ]

    assert [bill async for bill in metering.list_bills("acme", page_size=2)] == [newest, older, oldest]

    assert server.requests["ListBills"] == [
        accounts.ListBillsRequest(account_id="acme", page_size=2),
        accounts.ListBillsRequest(account_id="acme", page_size=2, page_token="2026-10"),
    ]


async def test_rejected_calls_are_listed_over_all_pages(server: ScriptedServer, metering: MeteringClient) -> None:
    first, second = (RejectedCall(message=message) for message in ("first", "second"))
    server.script["ListRejectedCalls"] = [
        accounts.ListRejectedCallsResponse(rejected_calls=[first], next_page_token="1"),
        accounts.ListRejectedCallsResponse(next_page_token="2"),
        accounts.ListRejectedCallsResponse(rejected_calls=[second]),
    ]

    assert [rejected async for rejected in metering.list_rejected_calls()] == [first, second]

    assert [request.page_token for request in server.requests["ListRejectedCalls"]] == ["", "1", "2"]
