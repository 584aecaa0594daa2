"""The methods of AccountService."""

from collections.abc import AsyncGenerator
from decimal import Decimal

from faceid.metering.v1.account_service_pb2 import (
    ActivateAccountRequest,
    ActivateAccountResponse,
    AssignPricePlanRequest,
    AssignPricePlanResponse,
    GetAccountRequest,
    GetAccountResponse,
    GetBillRequest,
    GetBillResponse,
    GetMonthRequest,
    GetMonthResponse,
    GetPricePlanRequest,
    GetPricePlanResponse,
    ListBillsRequest,
    ListBillsResponse,
    ListMonthlyRunsRequest,
    ListMonthlyRunsResponse,
    ListPricePlansRequest,
    ListPricePlansResponse,
    ListRejectedCallsRequest,
    ListRejectedCallsResponse,
    PreviewRunMonthRequest,
    PreviewRunMonthResponse,
    PutPricePlanRequest,
    PutPricePlanResponse,
    RecordPaymentRequest,
    RecordPaymentResponse,
    RetryRejectedCallsRequest,
    RetryRejectedCallsResponse,
    RunMonthRequest,
    RunMonthResponse,
)
from faceid.metering.v1.account_service_pb2_grpc import AccountServiceStub
from faceid.metering.v1.resources_pb2 import Account, Bill, MonthlyRun, PricePlan, RejectedCall, RejectedCallState
from faceid_metering.connection import Connection
from faceid_metering.money import to_money


class AccountRpcs:
    """Accounts, price plans, payments, bills. For what the methods have in common, see MeteringClient."""

    _connection: Connection
    _account_stub: AccountServiceStub

    async def activate_account(
        self, account_id: str, currency: str, price_plan_id: str = "", *, timeout_s: float | None = None
    ) -> Account:
        """Activate the service for an account, and return it.

        Args:
            account_id: The account.
            currency: ISO 4217, such as `CNY`.
            price_plan_id: The plan agreed with the customer; empty: to be assigned later.
            timeout_s: See MeteringClient.
        """
        response: ActivateAccountResponse = await self._connection.unary(
            self._account_stub.ActivateAccount,
            ActivateAccountRequest(account_id=account_id, currency=currency, price_plan_id=price_plan_id),
            timeout_s=timeout_s,
        )
        return response.account

    async def get_account(self, account_id: str, *, timeout_s: float | None = None) -> Account:
        """Return an account: its balance, status and price plans."""
        response: GetAccountResponse = await self._connection.unary(
            self._account_stub.GetAccount, GetAccountRequest(account_id=account_id), timeout_s=timeout_s
        )
        return response.account

    async def record_payment(
        self, account_id: str, amount: Decimal, currency: str, payment_id: str, *, timeout_s: float | None = None
    ) -> RecordPaymentResponse:
        """Book a payment, once per `payment_id`. It settles the oldest bills first.

        After a retry, `duplicate` may be true although this very request booked it.

        Raises:
            MeteringError: See MeteringClient.
            ValueError: The amount is finer than 10^-9 or no number.
        """
        response: RecordPaymentResponse = await self._connection.unary(
            self._account_stub.RecordPayment,
            RecordPaymentRequest(account_id=account_id, amount=to_money(amount, currency), payment_id=payment_id),
            timeout_s=timeout_s,
        )
        return response

    async def put_price_plan(self, price_plan: PricePlan, *, timeout_s: float | None = None) -> PricePlan:
        """Create a price plan or a new version of it, and return it with its version; the one given is ignored."""
        response: PutPricePlanResponse = await self._connection.unary(
            self._account_stub.PutPricePlan, PutPricePlanRequest(price_plan=price_plan), timeout_s=timeout_s
        )
        return response.price_plan

    async def get_price_plan(
        self, price_plan_id: str, version: int = 0, *, account_id: str = "", timeout_s: float | None = None
    ) -> PricePlan:
        """Return a version of a price plan; 0: the newest. With `account_id`, only if that account has the plan."""
        response: GetPricePlanResponse = await self._connection.unary(
            self._account_stub.GetPricePlan,
            GetPricePlanRequest(price_plan_id=price_plan_id, version=version, account_id=account_id),
            timeout_s=timeout_s,
        )
        return response.price_plan

    async def list_price_plans(self, *, page_size: int = 0) -> AsyncGenerator[PricePlan, None]:
        """Yield the newest version of every price plan, sorted by their ids.

        Up to `page_size` (0: 100, at most 1,000) come with one request; each request has `ClientConfig.timeout_s`.
        """
        request = ListPricePlansRequest(page_size=page_size)
        while True:
            page: ListPricePlansResponse = await self._connection.unary(self._account_stub.ListPricePlans, request)
            for price_plan in page.price_plans:
                yield price_plan
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def assign_price_plan(
        self, account_id: str, price_plan_id: str, from_month: str, *, timeout_s: float | None = None
    ) -> Account:
        """Assign a price plan to an account from a month such as `2026-12` on, and return the account."""
        response: AssignPricePlanResponse = await self._connection.unary(
            self._account_stub.AssignPricePlan,
            AssignPricePlanRequest(account_id=account_id, price_plan_id=price_plan_id, from_month=from_month),
            timeout_s=timeout_s,
        )
        return response.account

    async def get_bill(self, account_id: str, month: str, *, timeout_s: float | None = None) -> Bill:
        """Return an account's bill for a month such as `2026-11`, with its lines."""
        response: GetBillResponse = await self._connection.unary(
            self._account_stub.GetBill, GetBillRequest(account_id=account_id, month=month), timeout_s=timeout_s
        )
        return response.bill

    async def get_month(self, month: str, *, timeout_s: float | None = None) -> GetMonthResponse:
        """Return what has become of a month such as `2026-11`, and how far CloseMonth has come with it."""
        response: GetMonthResponse = await self._connection.unary(
            self._account_stub.GetMonth, GetMonthRequest(month=month), timeout_s=timeout_s
        )
        return response

    async def list_bills(self, account_id: str, *, page_size: int = 0) -> AsyncGenerator[Bill, None]:
        """Yield an account's bills with their lines, newest first.

        Up to `page_size` (0: 100, at most 1,000) come with one request; each request has `ClientConfig.timeout_s`.
        """
        request = ListBillsRequest(account_id=account_id, page_size=page_size)
        while True:
            page: ListBillsResponse = await self._connection.unary(self._account_stub.ListBills, request)
            for bill in page.bills:
                yield bill
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def list_rejected_calls(
        self,
        account_id: str = "",
        *,
        state: RejectedCallState = RejectedCallState.REJECTED_CALL_STATE_UNSPECIFIED,
        page_size: int = 0,
    ) -> AsyncGenerator[RejectedCall, None]:
        """Yield the calls of an account (none: of all) that could not be recorded, oldest first.

        With a `state`, only those of which that has become. Up to `page_size` (0: 100, at most 1,000) come with one
        request; each request has `ClientConfig.timeout_s`.
        """
        request = ListRejectedCallsRequest(account_id=account_id, state=state, page_size=page_size)
        while True:
            page: ListRejectedCallsResponse = await self._connection.unary(
                self._account_stub.ListRejectedCalls, request
            )
            for rejected_call in page.rejected_calls:
                yield rejected_call
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def retry_rejected_calls(
        self, account_id: str = "", *, however_old: bool = False, timeout_s: float | None = None
    ) -> RetryRejectedCallsResponse:
        """Record the rejected calls of an account (none: of all) after all, and return how many that worked for.

        With `however_old`, those that occurred more than 62 days back, too. It may take as long as `close_month`. After
        a retry of this request, `recorded` counts only what the last attempt did; what is on the books is right.
        """
        timeout_s = self._connection.config.close_month_timeout_s if timeout_s is None else timeout_s
        response: RetryRejectedCallsResponse = await self._connection.unary(
            self._account_stub.RetryRejectedCalls,
            RetryRejectedCallsRequest(account_id=account_id, however_old=however_old),
            timeout_s=timeout_s,
            attempt_timeout_s=timeout_s,
        )
        return response

    async def run_month(self, *, timeout_s: float | None = None) -> MonthlyRun:
        """Do the monthly run now, and return what it did: close the months that have ended, deduct all unpaid bills.

        The service does it by itself on day 1 to 3. It may take as long as `close_month`, and has that time limit;
        repeated after it, it goes on with what is left.
        """
        timeout_s = self._connection.config.close_month_timeout_s if timeout_s is None else timeout_s
        response: RunMonthResponse = await self._connection.unary(
            self._account_stub.RunMonth, RunMonthRequest(), timeout_s=timeout_s, attempt_timeout_s=timeout_s
        )
        return response.run

    def preview_run_month(self) -> AsyncGenerator[PreviewRunMonthResponse, None]:
        """Yield what `run_month` would do now for each account; those that it would leave as they are, are left out.

        Raises:
            MeteringError: The connection was lost, or no further account came for `close_month_timeout_s`.
        """
        return self._connection.stream(
            self._account_stub.PreviewRunMonth,
            PreviewRunMonthRequest(),
            message_timeout_s=self._connection.config.close_month_timeout_s,
        )

    async def list_monthly_runs(self, *, page_size: int = 0) -> AsyncGenerator[MonthlyRun, None]:
        """Yield what each monthly run did, newest first.

        Up to `page_size` (0: 100, at most 1,000) come with one request; each request has `ClientConfig.timeout_s`.
        """
        request = ListMonthlyRunsRequest(page_size=page_size)
        while True:
            page: ListMonthlyRunsResponse = await self._connection.unary(self._account_stub.ListMonthlyRuns, request)
            for run in page.runs:
                yield run
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token
