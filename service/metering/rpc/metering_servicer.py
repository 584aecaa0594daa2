"""MeteringService: what gateways and internal services call."""

from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from faceid.metering.v1 import metering_service_pb2 as pb
from faceid.metering.v1 import metering_service_pb2_grpc as pb_grpc
from metering.access.feed import StatusFeed
from metering.access.statuses import Statuses
from metering.billing.close import MonthCloser
from metering.billing.deduct import Collector
from metering.billing.months import parse_month
from metering.billing.usage import UsageBook, monthly_usage
from metering.errors import Reason, account_not_found, invalid_field
from metering.model import AccountId, Month, RecordedCall, ServiceStatus
from metering.recording.recorder import Recorder
from metering.recording.senders import Senders
from metering.recording.validation import check_name
from metering.rpc import convert
from metering.rpc.responses import StatusResponses

if TYPE_CHECKING:
    from grpc import aio

RECORDS_MAX = 10_000
CALLS_IN_PAGE_MAX = 1_000
WATCHED_ACCOUNTS_MAX = 10_000
CALL_ID_CHARACTERS_MAX = 64
"""So much of a call_id is told in a rejection: a longer one is no UUID, and an answer must have room for them all."""

WAIT_DEFAULT_S = 10.0
WAIT_MAX_S = 60.0
WAIT_SHARE_OF_DEADLINE = 0.9
"""A call waits so much of its deadline for its commit, so that the answer is there before the caller has gone."""

Context: TypeAlias = "aio.ServicerContext[Any, Any]"


class CallReader(Protocol):
    """Where calls are kept."""

    def list_calls(
        self, account_id: AccountId, month: Month, page_size: int, page_token: str
    ) -> AsyncIterator[list[RecordedCall]]:
        """Return the calls on a month's bill after a token, at most `page_size` at a time."""

    def token_after(self, recorded: RecordedCall) -> str:
        """Return the token with which `list_calls` goes on after a call."""


class MeteringServicer(pb_grpc.MeteringServiceServicer):
    """Turns messages into calls of the parts that do the work, and their results into messages."""

    def __init__(
        self,
        recorder: Recorder,
        usage: UsageBook,
        calls: CallReader,
        closer: MonthCloser,
        collector: Collector,
        statuses: Statuses,
        feed: StatusFeed,
        senders: Senders,
    ) -> None:
        self._recorder = recorder
        self._usage = usage
        self._calls = calls
        self._closer = closer
        self._collector = collector
        self._statuses = statuses
        self._feed = feed
        self._responses = StatusResponses(lambda: feed.age_s)
        self._senders = senders

    async def RecordCall(self, request: pb.RecordCallRequest, context: Context) -> bytes:  # noqa: N802
        """Record one call; return a serialised RecordCallResponse."""
        receipt, status = await self._recorder.record(convert.call_fields(request), wait_s(context))
        return self._responses.recorded(receipt, status)

    async def BatchRecordCalls(  # noqa: N802
        self, request: pb.BatchRecordCallsRequest, context: Context
    ) -> pb.BatchRecordCallsResponse:
        """Record many calls."""
        calls = request.calls
        if len(calls) > RECORDS_MAX:
            message = f"{len(calls)} records; send at most {RECORDS_MAX} at a time"
            raise invalid_field("calls", message, Reason.TOO_MANY_RECORDS)
        news = convert.sender_news(request)
        recorded = await self._recorder.record_batch(convert.call_columns(calls), wait_s(context))
        if news is not None:
            self._senders.note(news)
        return pb.BatchRecordCallsResponse(
            accepted=recorded.accepted,
            duplicates=recorded.duplicates,
            rejections=[
                pb.Rejection(
                    index=place,
                    call_id=calls[place].call_id[:CALL_ID_CHARACTERS_MAX],
                    reason=error.reason,
                    message=error.message,
                )
                for place, error in recorded.rejections
            ],
            not_active=self._status_messages(recorded.not_active),
        )

    async def GetMonthlyUsage(  # noqa: N802
        self, request: pb.GetMonthlyUsageRequest, context: Context
    ) -> pb.GetMonthlyUsageResponse:
        """Tell what an account has used in a month."""
        del context
        account_id = account_id_of(request)
        usage = await monthly_usage(self._usage, account_id, parse_month(request.month))
        return pb.GetMonthlyUsageResponse(usage=convert.monthly_usage(usage))

    async def CloseMonth(self, request: pb.CloseMonthRequest, context: Context) -> pb.CloseMonthResponse:  # noqa: N802
        """Seal a month and issue its bills."""
        del context
        closed = await self._closer.close(parse_month(request.month), dry_run=request.dry_run)
        return pb.CloseMonthResponse(
            bills_issued=closed.bills_issued,
            totals=[convert.money(total.amount, total.currency) for total in closed.totals],
            unrated_accounts=closed.unrated_accounts,
            already_closed=closed.already_closed,
        )

    async def Deduct(self, request: pb.DeductRequest, context: Context) -> pb.DeductResponse:  # noqa: N802
        """Deduct a bill."""
        del context
        deduction = await self._collector.deduct(account_id_of(request), parse_month(request.month))
        bill = deduction.bill
        return pb.DeductResponse(
            bill=convert.bill(bill),
            deducted=convert.money(deduction.deducted.amount, deduction.deducted.currency),
            outstanding=convert.money(bill.outstanding, bill.currency),
            service_status=convert.service_status(deduction.status, 0),
        )

    async def CheckServiceStatus(  # noqa: N802
        self, request: pb.CheckServiceStatusRequest, context: Context
    ) -> bytes:
        """Tell from memory whether an account may call; return a serialised CheckServiceStatusResponse."""
        del context
        status = self._statuses.known(AccountId(request.account_id))
        if status is None:
            status = await self._look_up(account_id_of(request))
        return self._responses.checked(status)

    async def WatchServiceStatus(  # noqa: N802
        self, request: pb.WatchServiceStatusRequest, context: Context
    ) -> AsyncIterator[pb.WatchServiceStatusResponse]:
        """Stream statuses and their changes."""
        del context
        if len(request.account_ids) > WATCHED_ACCOUNTS_MAX:
            description = f"{len(request.account_ids)} accounts; name at most {WATCHED_ACCOUNTS_MAX}, or none for all"
            raise invalid_field("account_ids", description)
        account_ids = [
            AccountId(check_name(account_id, f"account_ids[{index}]"))
            for index, account_id in enumerate(request.account_ids)
        ]
        watch = self._feed.watch(account_ids, changes_only=request.changes_only, heartbeats=request.heartbeats)
        async for statuses in watch:
            for message in self._status_messages(statuses):
                yield pb.WatchServiceStatusResponse(service_status=message)
            if request.heartbeats and not statuses:
                yield pb.WatchServiceStatusResponse(heartbeat_age=convert.duration(self._feed.age_s))

    async def ListCalls(  # noqa: N802
        self, request: pb.ListCallsRequest, context: Context
    ) -> AsyncIterator[pb.ListCallsResponse]:
        """Stream the calls on a bill."""
        del context
        account_id, month, page_size = account_id_of(request), parse_month(request.month), request.page_size
        if page_size < 0:
            raise invalid_field("page_size", f"{page_size} is less than 0; 0 is a call in each response")
        await self._look_up(account_id)
        at_a_time = min(page_size or CALLS_IN_PAGE_MAX, CALLS_IN_PAGE_MAX)
        async for calls in self._calls.list_calls(account_id, month, at_a_time, request.page_token):
            if page_size:
                messages = list(map(convert.recorded_call, calls))
                yield pb.ListCallsResponse(calls=messages, next_page_token=self._calls.token_after(calls[-1]))
                continue
            for call in calls:
                token = self._calls.token_after(call)
                yield pb.ListCallsResponse(call=convert.recorded_call(call), next_page_token=token)

    async def _look_up(self, account_id: AccountId) -> ServiceStatus:
        found = await self._statuses.of([account_id])
        if not found:
            raise account_not_found(account_id)
        return found[0]

    def _status_messages(self, statuses: Sequence[ServiceStatus]) -> list[Any]:
        age_s = self._feed.age_s
        return [convert.service_status(status, age_s) for status in statuses]


def account_id_of(request: Any) -> AccountId:  # noqa: ANN401 - any request that has one
    """Return the account a request is about; raises MeteringError (INVALID_FIELD)."""
    return AccountId(check_name(request.account_id, "account_id"))


def wait_s(context: Context) -> float:
    """Return for how long a call may wait for its commit."""
    remaining: float | None = context.time_remaining()  # None: no deadline, whatever its type says
    return WAIT_DEFAULT_S if remaining is None else min(WAIT_MAX_S, WAIT_SHARE_OF_DEADLINE * remaining)
