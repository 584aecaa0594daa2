"""A service in the test's own process, and short ways to say things to it."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2
from google.type.money_pb2 import Money
from prometheus_client import CollectorRegistry

from faceid.metering.v1 import account_service_pb2 as accounts_pb
from faceid.metering.v1 import account_service_pb2_grpc, metering_service_pb2_grpc
from faceid.metering.v1 import metering_service_pb2 as metering_pb
from faceid.metering.v1 import resources_pb2 as pb
from metering.app import App
from metering.metrics import Metrics
from metering.settings import Settings

PLAN = "standard"
"""DetectAuth at 0.0125 CNY; CompareFace in graduated tiers, 100 free; LivenessCheck by volume. E.Uncharged is free."""


class FakeClock:
    """A clock that stands where it is set."""

    def __init__(self, now: datetime) -> None:
        self.time = now

    def now(self) -> datetime:
        return self.time

    def advance(self, **by: float) -> None:
        self.time += timedelta(**by)


class Stubs:
    """Both stubs on one channel, and requests in short."""

    def __init__(self, channel: grpc.aio.Channel, clock: FakeClock | None = None) -> None:
        self.channel = channel
        self.metering = metering_service_pb2_grpc.MeteringServiceStub(channel)
        self.accounts = account_service_pb2_grpc.AccountServiceStub(channel)
        self._clock = clock

    def call(
        self,
        account_id: str,
        *,
        api: str = "DetectAuth",
        call_id: str | None = None,
        at: datetime | None = None,
        result_code: str = "",
    ) -> pb.CallRecord:
        """Return a call, made now unless told otherwise."""
        occurred_at = Timestamp()
        occurred_at.FromDatetime(at or (self._clock.now() if self._clock else datetime.now(UTC)))
        return pb.CallRecord(
            account_id=account_id,
            api=api,
            call_id=call_id or str(uuid4()),
            occurred_at=occurred_at,
            result_code=result_code,
        )

    async def record(self, call: pb.CallRecord, timeout: float | None = 10) -> metering_pb.RecordCallResponse:
        request = metering_pb.RecordCallRequest.FromString(call.SerializeToString())
        return await self.metering.RecordCall(request, timeout=timeout)

    async def record_batch(
        self, calls: Iterable[pb.CallRecord], timeout: float | None = 30
    ) -> metering_pb.BatchRecordCallsResponse:
        return await self.metering.BatchRecordCalls(metering_pb.BatchRecordCallsRequest(calls=calls), timeout=timeout)

    async def usage(self, account_id: str, month: str) -> pb.MonthlyUsage:
        request = metering_pb.GetMonthlyUsageRequest(account_id=account_id, month=month)
        return (await self.metering.GetMonthlyUsage(request)).usage

    async def close_month(self, month: str, *, dry_run: bool = False) -> metering_pb.CloseMonthResponse:
        return await self.metering.CloseMonth(metering_pb.CloseMonthRequest(month=month, dry_run=dry_run))

    async def deduct(self, account_id: str, month: str) -> metering_pb.DeductResponse:
        return await self.metering.Deduct(metering_pb.DeductRequest(account_id=account_id, month=month))

    async def run_month(self) -> pb.MonthlyRun:
        return (await self.accounts.RunMonth(accounts_pb.RunMonthRequest())).run

    async def status(self, account_id: str) -> pb.ServiceStatus:
        request = metering_pb.CheckServiceStatusRequest(account_id=account_id)
        return (await self.metering.CheckServiceStatus(request)).service_status

    async def list_calls(self, account_id: str, month: str) -> list[pb.RecordedCall]:
        request = metering_pb.ListCallsRequest(account_id=account_id, month=month)
        return [response.call async for response in self.metering.ListCalls(request)]

    async def put_plan(self, plan: pb.PricePlan) -> pb.PricePlan:
        request = accounts_pb.PutPricePlanRequest(price_plan=plan)
        return (await self.accounts.PutPricePlan(request)).price_plan

    async def activate(self, account_id: str, plan: str = PLAN, currency: str = "CNY") -> pb.Account:
        """Activate an account; the standard plan is made on the way."""
        if plan == PLAN:
            await self.put_plan(standard_plan())
        request = accounts_pb.ActivateAccountRequest(account_id=account_id, currency=currency, price_plan_id=plan)
        return (await self.accounts.ActivateAccount(request)).account

    async def account(self, account_id: str) -> pb.Account:
        request = accounts_pb.GetAccountRequest(account_id=account_id)
        return (await self.accounts.GetAccount(request)).account

    async def assign_plan(self, account_id: str, plan: str, from_month: str) -> pb.Account:
        request = accounts_pb.AssignPricePlanRequest(account_id=account_id, price_plan_id=plan, from_month=from_month)
        return (await self.accounts.AssignPricePlan(request)).account

    async def pay(
        self, account_id: str, amount: str, payment_id: str | None = None, currency: str = "CNY"
    ) -> accounts_pb.RecordPaymentResponse:
        units, _, decimals = amount.partition(".")
        money = Money(currency_code=currency, units=int(units), nanos=int(decimals.ljust(9, "0")))
        request = accounts_pb.RecordPaymentRequest(
            account_id=account_id, amount=money, payment_id=payment_id or uuid4().hex
        )
        return await self.accounts.RecordPayment(request)

    async def bill(self, account_id: str, month: str) -> pb.Bill:
        request = accounts_pb.GetBillRequest(account_id=account_id, month=month)
        return (await self.accounts.GetBill(request)).bill

    async def rejected(self, account_id: str = "") -> list[pb.RejectedCall]:
        request = accounts_pb.ListRejectedCallsRequest(account_id=account_id)
        return list((await self.accounts.ListRejectedCalls(request)).rejected_calls)


class Service(Stubs):
    """A worker in this process; `clock` is its time."""

    def __init__(self, database_url: str, clock: FakeClock, **settings: Any) -> None:
        self.clock = clock
        self.database_url = database_url
        self.metrics = Metrics(CollectorRegistry())
        options: dict[str, Any] = {"listen": "127.0.0.1:0", "shutdown_grace_s": 2.0, **settings}
        self.settings = Settings(**options)
        self.app = App(self.settings, database_url, self.metrics, clock, share_port=False)
        self.target = ""
        self._stop = asyncio.Event()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(self.app.run(self._stop, started.set_result))
        waited_for: set[asyncio.Future[Any]] = {started, self._task}
        await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
        if self._task.done():
            await self._task
        self.target = f"127.0.0.1:{started.result()}"
        channel = await self._stack.enter_async_context(grpc.aio.insecure_channel(self.target))
        Stubs.__init__(self, channel, self.clock)
        return self

    async def stop(self) -> None:
        """Stop the service as SIGTERM does, and wait for it."""
        self._stop.set()
        await self._task

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stack.aclose()
        await self.stop()

    @asynccontextmanager
    async def another_connection(self) -> AsyncIterator[Stubs]:
        """Return stubs on a connection of their own."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(self.target, options=options) as channel:
            yield Stubs(channel, self.clock)


def standard_plan() -> pb.PricePlan:
    return pb.PricePlan(
        price_plan_id=PLAN,
        currency="CNY",
        prices=[
            pb.ApiPrice(
                api="DetectAuth",
                per_call=pb.PerCallPrice(unit_price="0.0125"),
                uncharged_result_codes=["E.Uncharged"],
            ),
            pb.ApiPrice(
                api="CompareFace",
                graduated=pb.TieredPrice(
                    tiers=[pb.Tier(up_to=1000, unit_price="0.02"), pb.Tier(unit_price="0.000000001")]
                ),
                free_calls=100,
            ),
            pb.ApiPrice(
                api="LivenessCheck",
                volume=pb.TieredPrice(tiers=[pb.Tier(up_to=10, unit_price="0.5"), pb.Tier(unit_price="0.333333333")]),
            ),
        ],
    )


def amount(money: Money) -> Decimal:
    """Return the amount of a Money, exactly."""
    return money.units + Decimal(money.nanos) / 1_000_000_000


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """Return the reason in an error, which must have exactly one ErrorInfo."""
    details = [detail for detail in status_of(error).details if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR)]
    assert len(details) == 1
    info = error_details_pb2.ErrorInfo()
    details[0].Unpack(info)
    assert info.domain == "metering.faceid"
    return info.reason


def fields_of(error: grpc.aio.AioRpcError) -> list[str]:
    """Return the fields that an error names."""
    bad_request = error_details_pb2.BadRequest()
    for detail in status_of(error).details:
        detail.Unpack(bad_request)
    return [violation.field for violation in bad_request.field_violations]


def retry_after_s(error: grpc.aio.AioRpcError) -> float | None:
    """Return after how many seconds to try again, None if an error does not say."""
    retry_info = error_details_pb2.RetryInfo()
    for detail in status_of(error).details:
        if detail.Unpack(retry_info):
            return retry_info.retry_delay.ToTimedelta().total_seconds()
    return None


def status_of(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    trailers = dict(error.trailing_metadata() or ())
    details = trailers["grpc-status-details-bin"]
    assert isinstance(details, bytes)
    return status_pb2.Status.FromString(details)
