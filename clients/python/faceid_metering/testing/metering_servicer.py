"""MeteringService of a fake service."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC
from decimal import Decimal
from typing import TYPE_CHECKING

from google.protobuf.duration_pb2 import Duration
from google.type.money_pb2 import Money

from faceid.metering.v1 import metering_service_pb2 as pb
from faceid.metering.v1 import metering_service_pb2_grpc as pb_grpc
from faceid.metering.v1 import resources_pb2 as resources
from faceid_metering.evidence import ListedCall, calls_digest
from faceid_metering.money import to_decimal, to_money
from faceid_metering.testing import checks
from faceid_metering.testing.books import AccountBook, Books, timestamp
from faceid_metering.testing.refusal import RefusalError, invalid

if TYPE_CHECKING:
    import grpc

_RECORDS_MAX = 10_000
_CALLS_IN_PAGE_MAX = 1_000
_HEARTBEAT_S = 1.0
_WATCHED_ACCOUNTS_MAX = 10_000


@dataclass
class _Closing:
    bills: list[resources.Bill]
    unrated_accounts: list[str]


class MeteringServicer(pb_grpc.MeteringServiceServicer):
    """What gateways and internal services call; the contract describes it."""

    def __init__(self, books: Books) -> None:
        """Work on these books."""
        self._books = books

    def RecordCall(self, request: pb.RecordCallRequest, context: "grpc.ServicerContext") -> pb.RecordCallResponse:  # noqa: N802
        """Record one call."""
        del context
        with self._books.changed:
            recorded, duplicate = self._record(request)
            account = self._books.accounts[recorded.call.account_id]
            return pb.RecordCallResponse(
                duplicate=duplicate, billing_month=recorded.billing_month, service_status=self._books.status(account)
            )

    def BatchRecordCalls(  # noqa: N802
        self, request: pb.BatchRecordCallsRequest, context: "grpc.ServicerContext"
    ) -> pb.BatchRecordCallsResponse:
        """Record many calls."""
        del context
        if len(request.calls) > _RECORDS_MAX:
            message = f"{len(request.calls)} records; send at most {_RECORDS_MAX} at a time"
            raise RefusalError("TOO_MANY_RECORDS", message, field="calls")
        response = pb.BatchRecordCallsResponse()
        account_ids: set[str] = set()
        with self._books.changed:
            for index, call in enumerate(request.calls):
                try:
                    recorded, duplicate = self._record(call)
                except RefusalError as refusal:
                    response.rejections.add(
                        index=index, call_id=call.call_id, reason=refusal.reason, message=str(refusal)
                    )
                else:
                    response.duplicates += duplicate
                    response.accepted += not duplicate
                    account_ids.add(recorded.call.account_id)
            statuses = [self._books.status(self._books.accounts[each]) for each in sorted(account_ids)]
        response.not_active.extend(each for each in statuses if each.state != resources.SERVICE_STATE_ACTIVE)
        return response

    def _record(self, sent: pb.RecordCallRequest | resources.CallRecord) -> tuple[resources.RecordedCall, bool]:
        """Record a call, or keep it among the rejected ones; return it, and whether it had been there before."""
        books, now = self._books, self._books.clock.now()
        call = checks.call(sent)
        occurred_at = call.occurred_at.ToDatetime(UTC)
        try:
            checks.occurred_in_range(occurred_at, now)
            books.account(call.account_id)
        except RefusalError as refusal:
            rejected = resources.RejectedCall(
                call=call, reason=refusal.reason, message=str(refusal), rejected_at=timestamp(now)
            )
            books.rejected.setdefault((call.account_id, call.call_id, occurred_at.isoformat()), rejected)
            raise
        key = (books.day(occurred_at), call.account_id, call.call_id)
        if key in books.calls:
            return books.calls[key], True
        month = key[0][:7]
        while month in books.closed_months:
            month = checks.next_month(month)
        books.calls[key] = resources.RecordedCall(
            call=call, billing_month=month, occurred_on=key[0], recorded_at=timestamp(now)
        )
        return books.calls[key], False

    def GetMonthlyUsage(  # noqa: N802
        self, request: pb.GetMonthlyUsageRequest, context: "grpc.ServicerContext"
    ) -> pb.GetMonthlyUsageResponse:
        """Tell what an account has used in a month."""
        del context
        with self._books.changed:
            return pb.GetMonthlyUsageResponse(usage=self._usage(request.account_id, request.month))

    def _usage(self, account_id: str, month: str) -> resources.MonthlyUsage:
        books = self._books
        name, month = checks.name(account_id, "account_id"), checks.month(month)
        account = books.account(name)
        bill = account.bills.get(month)
        lines, unrated = (list(bill.lines), []) if bill else books.rated(account, month)
        calls = books.calls_on_bill(account_id, month)
        usage = resources.MonthlyUsage(
            account_id=account_id,
            month=month,
            state=resources.MONTH_STATE_CLOSED if month in books.closed_months else resources.MONTH_STATE_OPEN,
            total_calls=len(calls),
            charged_calls=sum(line.charged_calls for line in lines),
            carried_calls=sum(call.occurred_on[:7] < month for call in calls),
            unrated_apis=unrated,
        )
        for api in sorted({call.call.api for call in calls}):
            days = [call.occurred_on for call in calls if call.call.api == api]
            usage.apis.add(
                api=api,
                calls=len(days),
                charged_calls=sum(line.charged_calls for line in lines if line.api == api),
                days=[resources.DailyUsage(day=day, calls=days.count(day)) for day in sorted(set(days))],
            )
        if not unrated:
            usage.charges.CopyFrom(_total(lines, account.currency))
        return usage

    def CloseMonth(self, request: pb.CloseMonthRequest, context: "grpc.ServicerContext") -> pb.CloseMonthResponse:  # noqa: N802
        """Seal a month and issue its bills."""
        del context
        month = checks.month(request.month)
        books = self._books
        with books.changed:
            if books.day(books.clock.now())[:7] <= month:
                raise RefusalError("MONTH_NOT_ENDED", f"month: {month} has not ended")
            already_closed = month in books.closed_months
            closing = self._close(month)
            if not request.dry_run:
                now = books.clock.now()
                books.closed_months.setdefault(month, now)
                if not closing.unrated_accounts:
                    books.billed_months.setdefault(month, now)
                for bill in closing.bills:
                    account = books.accounts[bill.account_id]
                    if month not in account.bills:
                        account.bills[month] = bill
                        books.status_changed(account)
            return pb.CloseMonthResponse(
                bills_issued=len(closing.bills),
                totals=_totals(closing.bills),
                unrated_accounts=closing.unrated_accounts,
                already_closed=already_closed,
            )

    def _close(self, month: str) -> _Closing:
        """Return the month's bills, those that are there and those to be issued."""
        books = self._books
        closing = _Closing([], [])
        for account_id, account in sorted(books.accounts.items()):
            lines, unrated = books.rated(account, month)
            if month in account.bills:
                closing.bills.append(account.bills[month])
            elif unrated:
                closing.unrated_accounts.append(account_id)
            elif lines:
                closing.bills.append(self._bill(account, month, lines))
        return closing

    def _bill(self, account: AccountBook, month: str, lines: list[resources.BillLine]) -> resources.Bill:
        total = _total(lines, account.currency)
        return resources.Bill(
            account_id=account.account_id,
            month=month,
            state=resources.BILL_STATE_ISSUED if to_decimal(total) else resources.BILL_STATE_PAID,
            total=total,
            deducted=to_money(Decimal(0), account.currency),
            outstanding=total,
            issued_at=timestamp(self._books.clock.now()),
            due_date=f"{checks.next_month(month)}-03",
            lines=lines,
            calls_digest=calls_digest(map(ListedCall.of, self._books.calls_on_bill(account.account_id, month))),
        )

    def Deduct(self, request: pb.DeductRequest, context: "grpc.ServicerContext") -> pb.DeductResponse:  # noqa: N802
        """Deduct a bill."""
        del context
        books = self._books
        name, month = checks.name(request.account_id, "account_id"), checks.month(request.month)
        with books.changed:
            account = books.account(name)
            if month not in account.bills:
                message = f"{name} has no bill for {month}; is the month closed?"
                raise RefusalError("BILL_NOT_FOUND", message)
            bill, before = account.bills[month], account.balance
            books.settle(account, [bill])
            return pb.DeductResponse(
                bill=bill,
                deducted=to_money(before - account.balance, account.currency),
                outstanding=bill.outstanding,
                service_status=books.status(account),
            )

    def CheckServiceStatus(  # noqa: N802
        self, request: pb.CheckServiceStatusRequest, context: "grpc.ServicerContext"
    ) -> pb.CheckServiceStatusResponse:
        """Tell whether an account may call."""
        del context
        with self._books.changed:
            status = self._books.status(self._books.account(request.account_id))
        return pb.CheckServiceStatusResponse(service_status=status)

    def WatchServiceStatus(  # noqa: N802
        self, request: pb.WatchServiceStatusRequest, context: "grpc.ServicerContext"
    ) -> Iterator[pb.WatchServiceStatusResponse]:
        """Stream statuses and their changes."""
        if len(request.account_ids) > _WATCHED_ACCOUNTS_MAX:
            raise invalid("account_ids", f"{len(request.account_ids)} accounts; name at most {_WATCHED_ACCOUNTS_MAX}")
        watched = {checks.name(each, f"account_ids[{index}]") for index, each in enumerate(request.account_ids)}
        books = self._books
        with books.changed:
            present = {account_id: account.version for account_id, account in books.accounts.items()}
        sent = present if request.changes_only else {}

        def wake() -> None:
            with books.changed:
                books.changed.notify_all()

        def news() -> list[resources.ServiceStatus]:
            return [
                books.status(account)
                for account_id, account in books.accounts.items()
                if (not watched or account_id in watched) and account.version > sent.get(account_id, 0)
            ]

        context.add_callback(wake)
        while context.is_active():
            with books.changed:
                statuses = news()
            for status in statuses:
                sent[status.account_id] = status.version
                yield pb.WatchServiceStatusResponse(service_status=status)
            if request.heartbeats:
                yield pb.WatchServiceStatusResponse(heartbeat_age=Duration())
            with books.changed:
                timeout_s = _HEARTBEAT_S if request.heartbeats else None
                books.changed.wait_for(lambda: news() or not context.is_active(), timeout_s)

    def ListCalls(  # noqa: N802
        self, request: pb.ListCallsRequest, context: "grpc.ServicerContext"
    ) -> Iterator[pb.ListCallsResponse]:
        """Stream the calls on a bill."""
        del context
        name, month = checks.name(request.account_id, "account_id"), checks.month(request.month)
        if request.page_size < 0:
            raise invalid("page_size", f"{request.page_size} is less than 0; 0 is a call in each response")
        after = self._after(request.page_token, name, month)
        with self._books.changed:
            self._books.account(name)
            calls = self._books.calls_on_bill(name, month)
            dropped = {call.occurred_on for call in calls} & self._books.dropped_days
        if dropped:
            message = f"month: {len(dropped)} days of its calls were dropped, {min(dropped)} first"
            raise RefusalError("CALLS_DROPPED", message)
        calls = [call for call in calls if _place(call) > after]
        size = min(request.page_size or 1, _CALLS_IN_PAGE_MAX)
        for start in range(0, len(calls), size):
            page = calls[start : start + size]
            token = json.dumps([name, month, *_place(page[-1])])
            if request.page_size:
                yield pb.ListCallsResponse(calls=page, next_page_token=token)
            else:
                yield pb.ListCallsResponse(call=page[0], next_page_token=token)

    @staticmethod
    def _after(page_token: str, account_id: str, month: str) -> tuple[str, str]:
        """Return the day and call_id that a token goes on after."""
        if not page_token:
            return "", ""
        try:
            of_account, of_month, day, call_id = json.loads(page_token)
        except ValueError:
            raise invalid("page_token", "not a token from an earlier response; leave it empty to begin") from None
        if (of_account, of_month) != (account_id, month):
            raise invalid("page_token", "from a response about another account or month; leave it empty to begin")
        return day, call_id


def _place(recorded: resources.RecordedCall) -> tuple[str, str]:
    return recorded.occurred_on, recorded.call.call_id


def _total(lines: list[resources.BillLine], currency: str) -> Money:
    return to_money(sum((to_decimal(line.amount) for line in lines), Decimal(0)), currency)


def _totals(bills: list[resources.Bill]) -> list[Money]:
    totals: dict[str, Decimal] = {}
    for bill in bills:
        currency = bill.total.currency_code
        totals[currency] = totals.get(currency, Decimal(0)) + to_decimal(bill.total)
    return [to_money(total, currency) for currency, total in sorted(totals.items())]
