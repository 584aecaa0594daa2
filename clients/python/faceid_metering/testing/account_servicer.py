"""AccountService of a fake service."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from faceid.metering.v1 import account_service_pb2 as pb
from faceid.metering.v1 import account_service_pb2_grpc as pb_grpc
from faceid.metering.v1 import resources_pb2 as resources
from faceid_metering.money import to_decimal, to_money
from faceid_metering.testing import checks
from faceid_metering.testing.books import FROM_THE_BEGINNING, AccountBook, Books, timestamp
from faceid_metering.testing.refusal import RefusalError, invalid

if TYPE_CHECKING:
    import grpc

ItemT = TypeVar("ItemT")

_PAGE_SIZE_DEFAULT = 100
_PAGE_SIZE_MAX = 1_000


class AccountServicer(pb_grpc.AccountServiceServicer):
    """What an operator calls; the contract describes it."""

    def __init__(self, books: Books) -> None:
        """Work on these books."""
        self._books = books

    def ActivateAccount(  # noqa: N802
        self, request: pb.ActivateAccountRequest, context: "grpc.ServicerContext"
    ) -> pb.ActivateAccountResponse:
        """Activate the service for an account."""
        del context
        books = self._books
        plan_id = request.price_plan_id and checks.name(request.price_plan_id, "price_plan_id")
        account_id = checks.name(request.account_id, "account_id")
        currency = checks.currency(request.currency, "currency")
        plans = {FROM_THE_BEGINNING: plan_id} if plan_id else {}
        with books.changed:
            if plan_id:
                _check_currency(books.price_plan(plan_id), currency)
            account = books.accounts.get(account_id)
            if account is None:
                account = AccountBook(account_id, currency, books.clock.now(), plans=plans)
                books.accounts[account_id] = account
                books.changed.notify_all()
            first_plan = account.plans.get(FROM_THE_BEGINNING, "")
            if (account.currency, first_plan) != (currency, plan_id):
                message = f"{account_id} was activated before, in {account.currency} with plan {first_plan!r}"
                raise RefusalError("ACCOUNT_ALREADY_ACTIVATED", message)
            return pb.ActivateAccountResponse(account=self._account(account))

    def GetAccount(self, request: pb.GetAccountRequest, context: "grpc.ServicerContext") -> pb.GetAccountResponse:  # noqa: N802
        """Tell an account."""
        del context
        with self._books.changed:
            return pb.GetAccountResponse(account=self._account(self._books.account(request.account_id)))

    def RecordPayment(  # noqa: N802
        self, request: pb.RecordPaymentRequest, context: "grpc.ServicerContext"
    ) -> pb.RecordPaymentResponse:
        """Book a payment, and settle the oldest bills first."""
        del context
        books = self._books
        account_id, payment_id = checks.name(request.account_id, "account_id"), request.payment_id
        checks.name(payment_id, "payment_id")
        currency = request.amount.currency_code
        with books.changed:
            account = books.account(account_id)
            if currency != account.currency:
                message = f"amount.currency_code: {account_id} is in {account.currency}, not {currency!r}"
                raise RefusalError("CURRENCY_MISMATCH", message)
            try:
                amount = to_decimal(request.amount)
            except ValueError as error:
                raise invalid("amount.nanos", str(error)) from error
            if amount <= 0 or amount != round(amount, checks.MINOR_UNITS[currency]):
                raise invalid("amount", f"{amount} is not more than 0, or has more decimals than {currency}")
            duplicate = payment_id in account.payments
            if account.payments.setdefault(payment_id, amount) != amount:
                message = f"payment_id: {payment_id} was booked with {account.payments[payment_id]} {currency}"
                raise RefusalError("PAYMENT_ID_REUSED", message)
            settled: list[resources.Bill] = []
            if not duplicate:
                account.balance += amount
                unpaid = [bill for _, bill in sorted(account.bills.items()) if bill.state != resources.BILL_STATE_PAID]
                settled = books.settle(account, unpaid)
            return pb.RecordPaymentResponse(duplicate=duplicate, account=self._account(account), settled_bills=settled)

    def PutPricePlan(self, request: pb.PutPricePlanRequest, context: "grpc.ServicerContext") -> pb.PutPricePlanResponse:  # noqa: N802
        """Create or change a price plan."""
        del context
        with self._books.changed:
            return pb.PutPricePlanResponse(price_plan=self._books.put_price_plan(request.price_plan))

    def GetPricePlan(self, request: pb.GetPricePlanRequest, context: "grpc.ServicerContext") -> pb.GetPricePlanResponse:  # noqa: N802
        """Tell a price plan."""
        del context
        if request.version < 0:
            raise invalid("version", f"{request.version} is less than 0; 0 is the newest")
        plan_id = checks.name(request.price_plan_id, "price_plan_id")
        with self._books.changed:
            if request.account_id and plan_id not in self._books.account(request.account_id).plans.values():
                message = (
                    f"price_plan_id: {request.account_id} has no price plan {plan_id!r}; GetAccount tells its plans"
                )
                raise RefusalError("PRICE_PLAN_NOT_FOUND", message)
            return pb.GetPricePlanResponse(price_plan=self._books.price_plan(plan_id, request.version))

    def AssignPricePlan(  # noqa: N802
        self, request: pb.AssignPricePlanRequest, context: "grpc.ServicerContext"
    ) -> pb.AssignPricePlanResponse:
        """Assign a price plan from a month on."""
        del context
        account_id = checks.name(request.account_id, "account_id")
        plan_id = checks.name(request.price_plan_id, "price_plan_id")
        from_month = checks.month(request.from_month, "from_month")
        with self._books.changed:
            account = self._books.account(account_id)
            _check_currency(self._books.price_plan(plan_id), account.currency)
            if any(month >= from_month for month in account.bills):
                message = f"from_month: {account_id} has a bill for {from_month} or a later month"
                raise RefusalError("MONTH_ALREADY_BILLED", message)
            account.plans[from_month] = plan_id
            return pb.AssignPricePlanResponse(account=self._account(account))

    def GetBill(self, request: pb.GetBillRequest, context: "grpc.ServicerContext") -> pb.GetBillResponse:  # noqa: N802
        """Tell a bill."""
        del context
        account_id, month = checks.name(request.account_id, "account_id"), checks.month(request.month)
        with self._books.changed:
            bill = self._books.account(account_id).bills.get(month)
            if bill is None:
                message = f"{account_id} has no bill for {month}; is the month closed?"
                raise RefusalError("BILL_NOT_FOUND", message)
            return pb.GetBillResponse(bill=bill)

    def GetMonth(self, request: pb.GetMonthRequest, context: "grpc.ServicerContext") -> pb.GetMonthResponse:  # noqa: N802
        """Tell what has become of a month; a fake one is closed and billed in no time."""
        del context
        month = checks.month(request.month)
        with self._books.changed:
            accounts = self._books.accounts.values()
            closed_at = self._books.closed_months.get(month)
            billed_at = self._books.billed_months.get(month)
            billed = [
                number
                for number, (_, account) in enumerate(sorted(self._books.accounts.items()), 1)
                if month in account.bills
            ]
            return pb.GetMonthResponse(
                state=resources.MONTH_STATE_CLOSED if closed_at else resources.MONTH_STATE_OPEN,
                closed_at=timestamp(closed_at) if closed_at else None,
                billed_at=timestamp(billed_at) if billed_at else None,
                bills_issued=len(billed),
                accounts=len(accounts),
                accounts_looked_at=len(accounts) if billed_at else max(billed, default=0),
            )

    def ListBills(self, request: pb.ListBillsRequest, context: "grpc.ServicerContext") -> pb.ListBillsResponse:  # noqa: N802
        """List bills, newest first."""
        del context
        with self._books.changed:
            bills = self._books.account(request.account_id).bills
            newest_first = [bill for _, bill in sorted(bills.items(), reverse=True)]
            page, token = _page(newest_first, request.page_size, request.page_token)
            return pb.ListBillsResponse(bills=page, next_page_token=token)

    def ListRejectedCalls(  # noqa: N802
        self, request: pb.ListRejectedCallsRequest, context: "grpc.ServicerContext"
    ) -> pb.ListRejectedCallsResponse:
        """List rejected calls, oldest first."""
        del context
        account_id = request.account_id and checks.name(request.account_id, "account_id")
        with self._books.changed:
            rejected = [
                call for call in self._books.rejected.values() if not account_id or call.call.account_id == account_id
            ]
            page, token = _page(rejected, request.page_size, request.page_token)
            return pb.ListRejectedCallsResponse(rejected_calls=page, next_page_token=token)

    def _account(self, account: AccountBook) -> resources.Account:
        return resources.Account(
            account_id=account.account_id,
            currency=account.currency,
            balance=to_money(account.balance, account.currency),
            activated_at=timestamp(account.activated_at),
            service_status=self._books.status(account),
            price_plans=[
                resources.PricePlanAssignment(price_plan_id=plan_id, from_month=month)
                for month, plan_id in sorted(account.plans.items())
            ],
        )


def _check_currency(plan: resources.PricePlan, currency: str) -> None:
    if plan.currency != currency:
        message = f"price plan {plan.price_plan_id} is in {plan.currency}, the account in {currency}"
        raise RefusalError("CURRENCY_MISMATCH", message)


def _page(items: Sequence[ItemT], page_size: int, page_token: str) -> tuple[Sequence[ItemT], str]:
    """Return a page, and the token of the next one: where that begins."""
    if page_size < 0:
        raise invalid("page_size", f"{page_size} is less than 0")
    if page_token and not page_token.isdecimal():
        raise invalid("page_token", f"{page_token[:40]!r} did not come from an earlier response")
    start = int(page_token or 0)
    end = start + min(page_size or _PAGE_SIZE_DEFAULT, _PAGE_SIZE_MAX)
    return items[start:end], str(end) if end < len(items) else ""
