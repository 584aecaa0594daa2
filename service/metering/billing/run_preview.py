"""What the monthly run would do now, account by account. The rules are those of the run; nothing is changed."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from operator import attrgetter
from typing import Protocol

from metering.billing.close import ACCOUNTS_PER_CHUNK, UnbilledAccounts, rate_accounts
from metering.billing.monthly_run import RunBook, months_to_close
from metering.billing.months import BillingCalendar
from metering.billing.settlement import service_state, settle
from metering.clock import Clock
from metering.model import AccountId, Bill, Money, Month, ServiceState, SettlingAccount


class SettlingBook(RunBook, Protocol):
    """What there is to settle."""

    async def accounts_to_settle(self, after: AccountId, chunk: int) -> Sequence[SettlingAccount]:
        """Return the next accounts after `after`, with their balances and unpaid bills; none: there are no more."""


class UnbilledBook(Protocol):
    """What there is to bill."""

    def unbilled_accounts(
        self, month: Month, account_ids: Sequence[AccountId], *, locked: bool
    ) -> AbstractAsyncContextManager[UnbilledAccounts]:
        """Look at accounts in one transaction."""


@dataclass(frozen=True, slots=True)
class AccountPreview:
    """What the monthly run would do for one account."""

    account_id: AccountId
    issued: tuple[Bill, ...]
    """Oldest first, as they would be after the deduction."""
    unrated_months: tuple[Month, ...]
    """Months with calls that could not be billed, because an api has no price."""
    deducted: Money
    """What would be taken from the balance, for these and for earlier bills."""
    outstanding: Money
    """What would then still be outstanding."""
    suspends: bool
    """It is active, and would be suspended."""


class RunPreview:
    """Looks ahead. Raises DatabaseUnavailableError."""

    def __init__(self, book: SettlingBook, unbilled: UnbilledBook, calendar: BillingCalendar, clock: Clock) -> None:
        self._book = book
        self._unbilled = unbilled
        self._calendar = calendar
        self._clock = clock

    async def accounts(self) -> AsyncIterator[AccountPreview]:
        """Return what would be done for each account, sorted; without those that would be left as they are."""
        now = self._clock.now()
        today = self._calendar.today(now)
        months = await months_to_close(self._book, today)
        after = AccountId("")
        while accounts := await self._book.accounts_to_settle(after, ACCOUNTS_PER_CHUNK):
            issued: dict[AccountId, list[Bill]] = {account.account_id: [] for account in accounts}
            unrated: dict[AccountId, list[Month]] = {account.account_id: [] for account in accounts}
            for month in months:
                bills, without_price = await self._would_issue(month, list(issued), now)
                for bill in bills:
                    issued[bill.account_id].append(bill)
                for account_id in without_price:
                    unrated[account_id].append(month)
            for account in accounts:
                found = _preview(account, issued[account.account_id], unrated[account.account_id], today)
                if found.issued or found.unrated_months or found.deducted.amount or found.suspends:
                    yield found
            after = accounts[-1].account_id

    async def _would_issue(
        self, month: Month, account_ids: Sequence[AccountId], now: datetime
    ) -> tuple[list[Bill], list[AccountId]]:
        """Return the bills that closing a month would issue to accounts, and those of them that have no price."""
        async with self._unbilled.unbilled_accounts(month, account_ids, locked=False) as accounts:
            return await rate_accounts(accounts, month, now)


def _preview(account: SettlingAccount, issued: list[Bill], unrated: list[Month], today: date) -> AccountPreview:
    unpaid = sorted([*account.unpaid_bills, *issued], key=attrgetter("month"))
    settlement = settle(account.balance, unpaid, today)
    unpaid_after = settlement.after(unpaid)
    return AccountPreview(
        account_id=account.account_id,
        issued=tuple(replace(bill, lines=()) for bill in settlement.after(issued)),
        unrated_months=tuple(unrated),
        deducted=Money(settlement.deducted, account.currency),
        outstanding=Money(sum((bill.outstanding for bill in unpaid_after), Decimal(0)), account.currency),
        suspends=account.state is ServiceState.ACTIVE and service_state(unpaid_after) is ServiceState.SUSPENDED,
    )
