"""GetMonthlyUsage: what an account has used in a month, and what that costs."""

from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Protocol

from metering.billing.rating import rate
from metering.errors import account_not_found
from metering.model import (
    AccountId,
    ApiUsage,
    Bill,
    Money,
    Month,
    MonthlyUsage,
    MonthState,
    MonthUsage,
    PricePlan,
    Usage,
)

if TYPE_CHECKING:
    from datetime import date


class Plans(Protocol):
    """The price plans of an account."""

    def plan(self, account_id: AccountId, month: Month) -> PricePlan | None:
        """Return the plan that an account has in a month."""


class AccountMonth(Protocol):
    """What there is about an account in a month, all of one moment."""

    @property
    def currency(self) -> str:
        """The account's currency."""

    @property
    def closed(self) -> bool:
        """The month is closed."""

    @property
    def bill(self) -> Bill | None:
        """The month's bill, if it was issued."""

    @property
    def daily(self) -> Sequence[Usage]:
        """What stands on the month's bill, by day."""

    @property
    def usage(self) -> Sequence[MonthUsage]:
        """The same, by the month of the calls."""

    @property
    def plans(self) -> Plans:
        """The account's price plans."""


class UsageBook(Protocol):
    """Where usage is counted."""

    async def account_month(self, account_id: AccountId, month: Month) -> AccountMonth | None:
        """Return all there is about an account in a month; None if there is no such account."""


async def monthly_usage(book: UsageBook, account_id: AccountId, month: Month) -> MonthlyUsage:
    """Return what an account has used in a month. The charges are those of its bill, or else an estimate.

    Raises:
        MeteringError: ACCOUNT_NOT_FOUND.

    """
    found = await book.account_month(account_id, month)
    if found is None:
        raise account_not_found(account_id)
    unrated: tuple[str, ...] = ()
    if found.bill:
        lines = found.bill.lines
    else:
        lines, unrated = rate(found.usage, partial(found.plans.plan, account_id))
    charged: Counter[str] = Counter()
    for line in lines:
        charged[line.api] += line.charged_calls
    days: dict[str, Counter[date]] = {}
    for usage in found.daily:
        days.setdefault(usage.api, Counter())[usage.occurred_on] += usage.calls
    apis = tuple(
        ApiUsage(api, calls.total(), charged[api], tuple(sorted(calls.items()))) for api, calls in sorted(days.items())
    )
    charges = Money(sum((line.amount for line in lines), Decimal(0)), found.currency)
    return MonthlyUsage(
        account_id=account_id,
        month=month,
        state=MonthState.CLOSED if found.closed else MonthState.OPEN,
        total_calls=sum(api.calls for api in apis),
        charged_calls=sum(api.charged_calls for api in apis),
        carried_calls=sum(usage.calls for usage in found.daily if usage.occurred_on < month),
        apis=apis,
        charges=None if unrated else charges,
        unrated_apis=unrated,
    )
