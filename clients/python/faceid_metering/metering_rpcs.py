"""The methods of MeteringService."""

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from datetime import datetime

from faceid.metering.v1.metering_service_pb2 import (
    BatchRecordCallsRequest,
    BatchRecordCallsResponse,
    CheckServiceStatusRequest,
    CheckServiceStatusResponse,
    CloseMonthRequest,
    CloseMonthResponse,
    DeductRequest,
    DeductResponse,
    GetMonthlyUsageRequest,
    GetMonthlyUsageResponse,
    ListCallsRequest,
    ListCallsResponse,
    RecordCallRequest,
    RecordCallResponse,
    WatchServiceStatusRequest,
)
from faceid.metering.v1.metering_service_pb2_grpc import MeteringServiceStub
from faceid.metering.v1.resources_pb2 import CallRecord, MonthlyUsage, RecordedCall, ServiceStatus
from faceid_metering.connection import Connection
from faceid_metering.records import CallRecords
from faceid_metering.streams import list_calls, watch_service_status


class MeteringRpcs:
    """Counting, billing, status. For what the methods have in common, see MeteringClient."""

    _connection: Connection
    _records: CallRecords
    _metering_stub: MeteringServiceStub

    def call_record(
        self,
        account_id: str,
        api: str,
        call_id: str | None = None,
        *,
        occurred_at: datetime | None = None,
        result_code: str = "",
    ) -> CallRecord:
        """Give a call its identity, for `batch_record_calls`; sent any number of times, the record counts once.

        Args:
            account_id: The account that made the call.
            api: What was called, such as `DetectAuth`.
            call_id: The call's RequestId, a UUID; None: a new UUIDv7.
            occurred_at: When the call was made, with a time zone; None: the time in a UUIDv7 call_id, else now.
            result_code: The call's outcome, empty for success.

        Raises:
            ValueError: `occurred_at` has no time zone.
        """
        return self._records.new(account_id, api, call_id, occurred_at=occurred_at, result_code=result_code)

    async def record_call(
        self,
        account_id: str,
        api: str,
        call_id: str | None = None,
        *,
        occurred_at: datetime | None = None,
        result_code: str = "",
        timeout_s: float | None = None,
    ) -> RecordCallResponse:
        """Record a call and wait until that is durable. The arguments are those of `call_record`.

        A caller that gives up and later tries again gives the same `call_id` and `occurred_at`. Without an
        `occurred_at`, that is so only for a UUIDv7: of other ids, the same on another day is another call.

        Raises:
            MeteringError: It isn't known to be recorded: `reason` and `is_retryable` say whether trying again may help.
            ValueError: `occurred_at` has no time zone.
        """
        record = self.call_record(account_id, api, call_id, occurred_at=occurred_at, result_code=result_code)
        request = RecordCallRequest(
            account_id=record.account_id,
            api=record.api,
            call_id=record.call_id,
            occurred_at=record.occurred_at,
            result_code=record.result_code,
        )
        response: RecordCallResponse = await self._connection.unary(
            self._metering_stub.RecordCall, request, timeout_s=timeout_s
        )
        return response

    async def batch_record_calls(
        self, calls: Iterable[CallRecord], *, timeout_s: float | None = None
    ) -> BatchRecordCallsResponse:
        """Record up to 10,000 calls (and 4 MiB) and wait until that is durable.

        Look at the response's `rejections`: a bad record doesn't fail its neighbours, so it raises nothing.
        """
        response: BatchRecordCallsResponse = await self._connection.unary(
            self._metering_stub.BatchRecordCalls, BatchRecordCallsRequest(calls=calls), timeout_s=timeout_s
        )
        return response

    async def get_monthly_usage(self, account_id: str, month: str, *, timeout_s: float | None = None) -> MonthlyUsage:
        """Return what an account has used in a month such as `2026-11`, and what that costs.

        It counts every call that was acknowledged before. Without a price for an api in use, `charges` is not set.
        """
        response: GetMonthlyUsageResponse = await self._connection.unary(
            self._metering_stub.GetMonthlyUsage,
            GetMonthlyUsageRequest(account_id=account_id, month=month),
            timeout_s=timeout_s,
        )
        return response.usage

    async def close_month(
        self, month: str, *, dry_run: bool = False, timeout_s: float | None = None
    ) -> CloseMonthResponse:
        """Seal a month that has ended, such as `2026-11`, and issue its bills; in a dry run, tell what would happen.

        It may take minutes, so it has a time limit of its own, `close_month_timeout_s`. Repeated after that, it goes on
        with what is left.
        """
        timeout_s = self._connection.config.close_month_timeout_s if timeout_s is None else timeout_s
        response: CloseMonthResponse = await self._connection.unary(
            self._metering_stub.CloseMonth,
            CloseMonthRequest(month=month, dry_run=dry_run),
            timeout_s=timeout_s,
            attempt_timeout_s=timeout_s,
        )
        return response

    async def deduct(self, account_id: str, month: str, *, timeout_s: float | None = None) -> DeductResponse:
        """Deduct what is outstanding of a month's bill from the account's balance: as much as there is.

        The money is taken once. After a retry, `deducted` may be 0 although this very request took it; `bill` is right.
        """
        response: DeductResponse = await self._connection.unary(
            self._metering_stub.Deduct, DeductRequest(account_id=account_id, month=month), timeout_s=timeout_s
        )
        return response

    async def check_service_status(self, account_id: str, *, timeout_s: float | None = None) -> ServiceStatus:
        """Return whether an account may call. `age` says how old the answer may be."""
        response: CheckServiceStatusResponse = await self._connection.unary(
            self._metering_stub.CheckServiceStatus,
            CheckServiceStatusRequest(account_id=account_id),
            timeout_s=timeout_s,
        )
        return response.service_status

    def watch_service_status(self, account_ids: Iterable[str] = ()) -> AsyncGenerator[ServiceStatus, None]:
        """Yield the present status of accounts (at most 10,000; none: of all), then every change, until closed.

        It connects again whenever the connection is lost, and then the present status of each comes anew. So a status
        may come more than once, and the ones in between may be left out: keep the one with the largest `version`.

        Raises:
            MeteringError: The request was refused, and sending it again cannot help.
        """
        request = WatchServiceStatusRequest(account_ids=account_ids)
        return watch_service_status(self._connection, self._metering_stub, request)

    async def list_calls(self, account_id: str, month: str) -> AsyncGenerator[RecordedCall, None]:
        """Yield the calls that stand on the bill of a month such as `2026-11`: the evidence for it.

        They are ordered by the day they occurred, then by call_id, and come once each, even if the connection is lost
        in between. Memory stays flat, however many there are. A call that is recorded meanwhile may be missing.

        Raises:
            MeteringError: No further call came for `ClientConfig.timeout_s`, or the request was refused.
        """
        async with aclosing(self.list_call_pages(account_id, month)) as pages:
            async for page in pages:
                for call in page.calls:
                    yield call

    def list_call_pages(
        self, account_id: str, month: str, *, page_token: str = "", page_size: int = 1_000
    ) -> AsyncGenerator[ListCallsResponse, None]:
        """Yield the same in pages of up to `page_size` (at most 1,000) `calls`, for a reader that notes where it is.

        Give the `next_page_token` of the last page as `page_token` to go on after it, on another day and from another
        program.
        """
        request = ListCallsRequest(account_id=account_id, month=month, page_size=page_size, page_token=page_token)
        return list_calls(self._connection, self._metering_stub, request)
