"""AccountService: what an operator calls."""

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from faceid.metering.v1 import account_service_pb2 as pb
from faceid.metering.v1 import account_service_pb2_grpc as pb_grpc
from faceid.metering.v1 import resources_pb2
from metering.billing.accounts import AccountKeeper
from metering.billing.deduct import Collector
from metering.billing.monthly_run import MonthlyRun
from metering.billing.months import format_month, parse_month
from metering.billing.run_preview import RunPreview
from metering.errors import MeteringError, Reason, invalid_field
from metering.model import AccountId, Bill, Month, MonthlyRunRecord, MonthProgress, Page, RejectedCall
from metering.recording.retry import Retrier
from metering.recording.validation import check_name
from metering.rpc import convert
from metering.rpc.metering_servicer import account_id_of, wait_s

if TYPE_CHECKING:
    from grpc import aio

PAGE_SIZE_DEFAULT = 100
PAGE_SIZE_MAX = 1_000
RECORDED_BY_STATE = {
    resources_pb2.REJECTED_CALL_STATE_UNSPECIFIED: None,
    resources_pb2.REJECTED_CALL_STATE_REJECTED: False,
    resources_pb2.REJECTED_CALL_STATE_RECORDED: True,
}
"""Whether the rejected calls that are asked for are recorded by now; None: it does not matter."""

Context: TypeAlias = "aio.ServicerContext[Any, Any]"


class BillReader(Protocol):
    """Where bills are kept."""

    async def bill(self, account_id: AccountId, month: Month) -> Bill | None:
        """Return a bill, None if there is none."""

    async def list_bills(self, account_id: AccountId, page_size: int, page_token: str) -> Page[Bill]:
        """Return bills of an account, newest first."""

    async def month(self, month: Month) -> MonthProgress:
        """Tell what has become of a month."""


class RejectedCallReader(Protocol):
    """Where rejected calls are kept."""

    async def list_rejected(
        self, account_id: str, page_size: int, page_token: str, *, recorded: bool | None = None
    ) -> Page[RejectedCall]:
        """Return rejected calls of an account, or of all for an empty one, oldest first."""


class RunReader(Protocol):
    """Where monthly runs are noted."""

    async def list_runs(self, page_size: int, page_token: str) -> Page[MonthlyRunRecord]:
        """Return runs, newest first."""


class AccountServicer(pb_grpc.AccountServiceServicer):
    """Turns messages into calls of the parts that do the work, and their results into messages."""

    def __init__(
        self,
        accounts: AccountKeeper,
        collector: Collector,
        bills: BillReader,
        rejected_calls: RejectedCallReader,
        retrier: Retrier,
        monthly_run: MonthlyRun,
        run_preview: RunPreview,
        runs: RunReader,
    ) -> None:
        self._accounts = accounts
        self._collector = collector
        self._bills = bills
        self._rejected_calls = rejected_calls
        self._retrier = retrier
        self._monthly_run = monthly_run
        self._run_preview = run_preview
        self._runs = runs

    async def ActivateAccount(  # noqa: N802
        self, request: pb.ActivateAccountRequest, context: Context
    ) -> pb.ActivateAccountResponse:
        """Activate the service for an account."""
        del context
        price_plan_id = request.price_plan_id and check_name(request.price_plan_id, "price_plan_id")
        account = await self._accounts.activate(account_id_of(request), request.currency, price_plan_id)
        return pb.ActivateAccountResponse(account=convert.account(account))

    async def GetAccount(self, request: pb.GetAccountRequest, context: Context) -> pb.GetAccountResponse:  # noqa: N802
        """Tell an account."""
        del context
        return pb.GetAccountResponse(account=convert.account(await self._accounts.account(account_id_of(request))))

    async def RecordPayment(  # noqa: N802
        self, request: pb.RecordPaymentRequest, context: Context
    ) -> pb.RecordPaymentResponse:
        """Book a payment."""
        del context
        account_id = account_id_of(request)
        payment_id = check_name(request.payment_id, "payment_id")
        amount = convert.from_money(request.amount, "amount")
        duplicate, settled = await self._collector.record_payment(account_id, amount, payment_id)
        return pb.RecordPaymentResponse(
            duplicate=duplicate,
            account=convert.account(await self._accounts.account(account_id)),
            settled_bills=map(convert.bill, settled),
        )

    async def PutPricePlan(self, request: pb.PutPricePlanRequest, context: Context) -> pb.PutPricePlanResponse:  # noqa: N802
        """Create or change a price plan."""
        del context
        plan = await self._accounts.put_price_plan(convert.from_price_plan(request.price_plan))
        return pb.PutPricePlanResponse(price_plan=convert.price_plan(plan))

    async def GetPricePlan(self, request: pb.GetPricePlanRequest, context: Context) -> pb.GetPricePlanResponse:  # noqa: N802
        """Tell a price plan."""
        del context
        if request.version < 0:
            raise invalid_field("version", f"{request.version} is less than 0; 0 is the newest")
        account_id = account_id_of(request) if request.account_id else None
        plan_id = check_name(request.price_plan_id, "price_plan_id")
        plan = await self._accounts.price_plan(plan_id, request.version, account_id)
        return pb.GetPricePlanResponse(price_plan=convert.price_plan(plan))

    async def ListPricePlans(  # noqa: N802
        self, request: pb.ListPricePlansRequest, context: Context
    ) -> pb.ListPricePlansResponse:
        """List price plans."""
        del context
        page = await self._accounts.list_price_plans(page_size_of(request), request.page_token)
        return pb.ListPricePlansResponse(
            price_plans=map(convert.price_plan, page.items), next_page_token=page.next_page_token
        )

    async def AssignPricePlan(  # noqa: N802
        self, request: pb.AssignPricePlanRequest, context: Context
    ) -> pb.AssignPricePlanResponse:
        """Assign a price plan from a month on."""
        del context
        account = await self._accounts.assign_price_plan(
            account_id_of(request),
            check_name(request.price_plan_id, "price_plan_id"),
            parse_month(request.from_month, "from_month"),
        )
        return pb.AssignPricePlanResponse(account=convert.account(account))

    async def GetBill(self, request: pb.GetBillRequest, context: Context) -> pb.GetBillResponse:  # noqa: N802
        """Tell a bill."""
        del context
        account_id, month = account_id_of(request), parse_month(request.month)
        bill = await self._bills.bill(account_id, month)
        if bill is None:
            await self._accounts.account(account_id)
            message = f"{account_id} has no bill for {format_month(month)}; is the month closed?"
            raise MeteringError(Reason.BILL_NOT_FOUND, message)
        return pb.GetBillResponse(bill=convert.bill(bill))

    async def ListBills(self, request: pb.ListBillsRequest, context: Context) -> pb.ListBillsResponse:  # noqa: N802
        """List bills."""
        del context
        account_id = account_id_of(request)
        page = await self._bills.list_bills(account_id, page_size_of(request), request.page_token)
        if not page.items:
            await self._accounts.account(account_id)
        return pb.ListBillsResponse(bills=map(convert.bill, page.items), next_page_token=page.next_page_token)

    async def ListRejectedCalls(  # noqa: N802
        self, request: pb.ListRejectedCallsRequest, context: Context
    ) -> pb.ListRejectedCallsResponse:
        """List rejected calls."""
        del context
        account_id = request.account_id and account_id_of(request)
        if request.state not in RECORDED_BY_STATE:
            raise invalid_field("state", f"{request.state} is none; send REJECTED or RECORDED, or leave it out")
        page = await self._rejected_calls.list_rejected(
            account_id, page_size_of(request), request.page_token, recorded=RECORDED_BY_STATE[request.state]
        )
        return pb.ListRejectedCallsResponse(
            rejected_calls=map(convert.rejected_call, page.items), next_page_token=page.next_page_token
        )

    async def RetryRejectedCalls(  # noqa: N802
        self, request: pb.RetryRejectedCallsRequest, context: Context
    ) -> pb.RetryRejectedCallsResponse:
        """Record rejected calls after all."""
        account_id = request.account_id and account_id_of(request)
        retried = await self._retrier.retry(account_id, wait_s(context), however_old=request.however_old)
        return pb.RetryRejectedCallsResponse(
            recorded=retried.recorded, duplicates=retried.duplicates, still_rejected=retried.still_rejected
        )

    async def RunMonth(self, request: pb.RunMonthRequest, context: Context) -> pb.RunMonthResponse:  # noqa: N802
        """Do the monthly run now."""
        del request, context
        return pb.RunMonthResponse(run=convert.monthly_run(await self._monthly_run.run_now()))

    async def PreviewRunMonth(  # noqa: N802
        self, request: pb.PreviewRunMonthRequest, context: Context
    ) -> AsyncIterator[pb.PreviewRunMonthResponse]:
        """Stream what the monthly run would do."""
        del request, context
        async for preview in self._run_preview.accounts():
            yield convert.account_preview(preview)

    async def GetMonth(self, request: pb.GetMonthRequest, context: Context) -> pb.GetMonthResponse:  # noqa: N802
        """Tell what has become of a month."""
        del context
        return convert.month_progress(await self._bills.month(parse_month(request.month)))

    async def ListMonthlyRuns(  # noqa: N802
        self, request: pb.ListMonthlyRunsRequest, context: Context
    ) -> pb.ListMonthlyRunsResponse:
        """List monthly runs."""
        del context
        page = await self._runs.list_runs(page_size_of(request), request.page_token)
        return pb.ListMonthlyRunsResponse(
            runs=map(convert.monthly_run, page.items), next_page_token=page.next_page_token
        )


def page_size_of(request: Any) -> int:  # noqa: ANN401 - any request that has one
    """Return how many items a page has; raises MeteringError (INVALID_FIELD)."""
    if request.page_size < 0:
        raise invalid_field("page_size", f"{request.page_size} is less than 0")
    return min(request.page_size or PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)
