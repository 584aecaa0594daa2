"""Accounts and their price plans."""

from datetime import datetime
from decimal import Decimal
from typing import Protocol

from metering.billing.currencies import check_currency
from metering.clock import Clock
from metering.errors import MeteringError, Reason, account_not_found, invalid_field
from metering.model import (
    FROM_THE_BEGINNING,
    Account,
    AccountId,
    ApiPrice,
    Month,
    Page,
    PriceModel,
    PricePlan,
    PricePlanAssignment,
)

PRICE_DECIMALS_MAX = 9
PRICE_MAX = Decimal(10) ** 6
"""So that 10^12 calls come to what fits in a google.type.Money."""
PRICES_MAX = 1_000
TIERS_MAX = 100


class AccountBook(Protocol):
    """Where accounts and price plans are kept."""

    async def activate(
        self, account_id: AccountId, currency: str, first_plan: PricePlanAssignment | None, now: datetime
    ) -> bool:
        """Create an account, unless it is there; tell whether it was created now."""

    async def account(self, account_id: AccountId) -> Account | None:
        """Return an account, None if there is none."""

    async def assign_price_plan(self, account_id: AccountId, price_plan_id: str, from_month: Month) -> None:
        """Assign a plan to an account from a month on."""

    async def price_plan(self, price_plan_id: str, version: int = 0) -> PricePlan | None:
        """Return a version of a price plan, 0 for the newest; None if there is none."""

    async def list_price_plans(self, page_size: int, page_token: str) -> Page[PricePlan]:
        """Return the newest versions of price plans, sorted by their ids."""

    async def put_price_plan(self, plan: PricePlan, now: datetime) -> PricePlan:
        """Store a price plan as its newest version, unless the newest one is the same."""


class AccountKeeper:
    """Keeps accounts and price plans. All methods may be repeated; raise MeteringError."""

    def __init__(self, book: AccountBook, clock: Clock) -> None:
        self._book = book
        self._clock = clock

    async def activate(self, account_id: AccountId, currency: str, price_plan_id: str) -> Account:
        """Activate the service for an account, once.

        Raises INVALID_FIELD, PRICE_PLAN_NOT_FOUND, CURRENCY_MISMATCH, and ACCOUNT_ALREADY_ACTIVATED if it was activated
        with another currency or price plan.
        """
        check_currency(currency, "currency")
        if price_plan_id:
            await self._plan_in(price_plan_id, currency, "currency")
        first_plan = PricePlanAssignment(price_plan_id, FROM_THE_BEGINNING) if price_plan_id else None
        activated = await self._book.activate(account_id, currency, first_plan, self._clock.now())
        account = await self.account(account_id)
        if not activated:
            before = next((each for each in account.price_plans if each.from_month == FROM_THE_BEGINNING), None)
            if (account.currency, before) != (currency, first_plan):
                plan = f"price plan {before.price_plan_id}" if before else "no price plan"
                msg = f"{account_id} was activated before, in {account.currency} with {plan}"
                raise MeteringError(Reason.ACCOUNT_ALREADY_ACTIVATED, msg)
        return account

    async def account(self, account_id: AccountId) -> Account:
        """Return an account; raises ACCOUNT_NOT_FOUND."""
        account = await self._book.account(account_id)
        if account is None:
            raise account_not_found(account_id)
        return account

    async def assign_price_plan(self, account_id: AccountId, price_plan_id: str, from_month: Month) -> Account:
        """Assign a plan to an account from a month on.

        Raises ACCOUNT_NOT_FOUND, PRICE_PLAN_NOT_FOUND, CURRENCY_MISMATCH, MONTH_ALREADY_BILLED.
        """
        account = await self.account(account_id)
        await self._plan_in(price_plan_id, account.currency, "price_plan_id")
        await self._book.assign_price_plan(account_id, price_plan_id, from_month)
        return await self.account(account_id)

    async def price_plan(self, price_plan_id: str, version: int = 0, account_id: AccountId | None = None) -> PricePlan:
        """Return a version of a price plan, 0 for the newest; of an account, only if it has that plan.

        Raises PRICE_PLAN_NOT_FOUND, ACCOUNT_NOT_FOUND.
        """
        if account_id is not None:
            assigned = {each.price_plan_id for each in (await self.account(account_id)).price_plans}
            if price_plan_id not in assigned:
                msg = f"price_plan_id: {account_id} has no price plan {price_plan_id!r}; GetAccount tells its plans"
                raise MeteringError(Reason.PRICE_PLAN_NOT_FOUND, msg)
        plan = await self._book.price_plan(price_plan_id, version)
        if plan is None:
            which = f"version {version} of price plan" if version else "price plan"
            msg = f"price_plan_id: there is no {which} {price_plan_id!r}; PutPricePlan creates it"
            raise MeteringError(Reason.PRICE_PLAN_NOT_FOUND, msg)
        return plan

    async def list_price_plans(self, page_size: int, page_token: str) -> Page[PricePlan]:
        """Return the newest versions of price plans, sorted by their ids; raises INVALID_FIELD for a bad token."""
        return await self._book.list_price_plans(page_size, page_token)

    async def put_price_plan(self, plan: PricePlan) -> PricePlan:
        """Store a price plan; raises INVALID_FIELD, CURRENCY_MISMATCH."""
        check_currency(plan.currency, "price_plan.currency")
        check_prices(plan.prices)
        return await self._book.put_price_plan(plan, self._clock.now())

    async def _plan_in(self, price_plan_id: str, currency: str, field: str) -> PricePlan:
        plan = await self.price_plan(price_plan_id)
        if plan.currency != currency:
            msg = f"{field}: price plan {price_plan_id} is in {plan.currency}, the account in {currency}"
            raise MeteringError(Reason.CURRENCY_MISMATCH, msg)
        return plan


def check_prices(prices: tuple[ApiPrice, ...]) -> None:
    """Raise MeteringError (INVALID_FIELD) unless these prices can rate any number of calls."""
    if not prices:
        raise invalid_field("price_plan.prices", "empty; give the price of at least one api")
    if len(prices) > PRICES_MAX:
        raise invalid_field("price_plan.prices", f"{len(prices)} prices; at most {PRICES_MAX} are possible")
    apis: set[str] = set()
    for index, price in enumerate(prices):
        field = f"price_plan.prices[{index}]"
        if price.api in apis:
            raise invalid_field(f"{field}.api", f"{price.api} has a price already; give each api one")
        apis.add(price.api)
        if price.free_calls < 0:
            raise invalid_field(f"{field}.free_calls", f"{price.free_calls} is less than 0")
        _check_tiers(price, f"{field}.{price.model.lower()}")


def _check_tiers(price: ApiPrice, field: str) -> None:
    if not 0 < len(price.tiers) <= TIERS_MAX:
        raise invalid_field(f"{field}.tiers", f"{len(price.tiers)} tiers; give 1 to {TIERS_MAX}")
    before = 0
    for index, tier in enumerate(price.tiers):
        name = field if price.model is PriceModel.PER_CALL else f"{field}.tiers[{index}]"
        last = index == len(price.tiers) - 1
        if last != (tier.up_to is None):
            wanted = "0, for it is the last tier" if last else "the tier's last call; only the last tier has none"
            raise invalid_field(f"{name}.up_to", f"must be {wanted}")
        if tier.up_to is not None and tier.up_to <= before:
            raise invalid_field(f"{name}.up_to", f"{tier.up_to} is not more than {before}, where the tier begins")
        before = tier.up_to or before
        _check_price(tier.unit_price, f"{name}.unit_price")


def _check_price(price: Decimal, field: str) -> None:
    if not price.is_finite() or not 0 <= price <= PRICE_MAX:
        raise invalid_field(field, f"{price} is not a price; write a decimal from 0 to {PRICE_MAX} such as 0.0125")
    exponent = price.as_tuple().exponent
    if isinstance(exponent, int) and -exponent > PRICE_DECIMALS_MAX:
        raise invalid_field(field, f"{price} has more than {PRICE_DECIMALS_MAX} decimals")
