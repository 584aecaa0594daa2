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
    GetPricePlanRequest,
    GetPricePlanResponse,
    ListBillsRequest,
    ListBillsResponse,
    ListRejectedCallsRequest,
    ListRejectedCallsResponse,
    PutPricePlanRequest,
    PutPricePlanResponse,
    RecordPaymentRequest,
    RecordPaymentResponse,
)
from faceid.metering.v1.account_service_pb2_grpc import AccountServiceStub
from faceid.metering.v1.resources_pb2 import Account, Bill, PricePlan, RejectedCall
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
        self, price_plan_id: str, version: int = 0, *, timeout_s: float | None = None
    ) -> PricePlan:
        """Return a version of a price plan; 0: the newest."""
        response: GetPricePlanResponse = await self._connection.unary(
            self._account_stub.GetPricePlan,
            GetPricePlanRequest(price_plan_id=price_plan_id, version=version),
            timeout_s=timeout_s,
        )
        return response.price_plan

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
        self, account_id: str = "", *, page_size: int = 0
    ) -> AsyncGenerator[RejectedCall, None]:
        """Yield the calls of an account (none: of all) that could not be recorded, oldest first.

        Up to `page_size` (0: 100, at most 1,000) come with one request; each request has `ClientConfig.timeout_s`.
        """
        request = ListRejectedCallsRequest(account_id=account_id, page_size=page_size)
        while True:
            page: ListRejectedCallsResponse = await self._connection.unary(
                self._account_stub.ListRejectedCalls, request
            )
            for rejected_call in page.rejected_calls:
                yield rejected_call
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token
