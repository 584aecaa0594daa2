"""The tables accounts, price_plans and price_plan_assignments."""

import json
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from metering.errors import MeteringError, Reason, retry_conflicts
from metering.model import (
    Account,
    AccountId,
    ApiPrice,
    Money,
    Month,
    MonthUsage,
    Page,
    PriceModel,
    PricePlan,
    PricePlanAssignment,
    ServiceState,
    ServiceStatus,
    Tier,
)
from metering.store.database import Database
from metering.store.page_token import decode_page_token, encode_page_token, text_from_token

if TYPE_CHECKING:
    import asyncpg

    from metering.store.database import Connection

NOTIFIED_ACCOUNTS_MAX = 100
"""Accounts in one notification: 64 characters each stay below PostgreSQL's limit of 8,000 bytes."""


class AccountStore:
    """Reads and writes accounts and their prices. All methods raise DatabaseUnavailableError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @retry_conflicts
    async def activate(
        self, account_id: AccountId, currency: str, first_plan: PricePlanAssignment | None, now: datetime
    ) -> bool:
        """Create an account with its first price plan, unless it is there; tell whether it was created now."""
        sql = self._database.sql
        async with self._database.transaction() as connection:
            if not await connection.fetchval(sql["activate_account"], account_id, currency, now):
                return False
            if first_plan is not None:
                await connection.execute(
                    sql["assign_price_plan"], account_id, first_plan.from_month, first_plan.price_plan_id
                )
            await notify_status_changed(self._database, connection, [account_id])
            return True

    async def account(self, account_id: AccountId) -> Account | None:
        """Return an account, None if there is none."""
        sql = self._database.sql
        async with self._database.snapshot() as connection:
            row = await connection.fetchrow(sql["account"], account_id)
            if row is None:
                return None
            statuses = await connection.fetch(sql["service_statuses"], [account_id])
            assignments = await connection.fetch(sql["price_plan_assignments"], [account_id])
        return Account(
            account_id=row["account_id"],
            currency=row["currency"],
            balance=row["balance"],
            activated_at=row["activated_at"],
            status=service_status(statuses[0]),
            price_plans=tuple(_assignment(assignment) for assignment in assignments),
        )

    async def statuses(self, account_ids: Sequence[AccountId]) -> list[ServiceStatus]:
        """Return the service statuses of accounts; unknown ones are left out."""
        return [service_status(row) for row in await self._database.fetch("service_statuses", account_ids)]

    async def account_ids(self, chunk: int) -> AsyncIterator[list[AccountId]]:
        """Return the ids of all accounts, at most `chunk` at a time, sorted."""
        after = ""
        while rows := await self._database.fetch("accounts_after", after, chunk):
            yield [AccountId(row["account_id"]) for row in rows]
            after = rows[-1]["account_id"]

    @retry_conflicts
    async def assign_price_plan(self, account_id: AccountId, price_plan_id: str, from_month: Month) -> None:
        """Assign a plan to an account from a month on.

        Raises:
            MeteringError: MONTH_ALREADY_BILLED, calls of a month that the plan would then hold for are billed.

        """
        sql = self._database.sql
        async with self._database.transaction() as connection:
            # Billing holds it, too: the account is billed before this or after it, by the prices that then hold.
            await connection.execute(sql["lock_prices"])
            billed = await connection.fetchval(sql["billed_month"], account_id, from_month)
            if billed is not None:
                msg = f"from_month: calls of {account_id} of {billed:%Y-%m} are billed already; choose a later month"
                raise MeteringError(Reason.MONTH_ALREADY_BILLED, msg)
            await connection.execute(sql["assign_price_plan"], account_id, from_month, price_plan_id)

    async def price_plan(self, price_plan_id: str, version: int = 0) -> PricePlan | None:
        """Return a version of a price plan, 0 for the newest; None if there is none."""
        if version:
            row = await self._database.fetchrow("price_plan_version", price_plan_id, version)
        else:
            row = await self._database.fetchrow("newest_price_plans", [price_plan_id])
        return None if row is None else read_price_plan(row)

    async def list_price_plans(self, page_size: int, page_token: str) -> Page[PricePlan]:
        """Return the newest versions of price plans, sorted; raises MeteringError (INVALID_FIELD) for a bad token."""
        (after,) = decode_page_token(page_token, (text_from_token,)) or ("",)
        rows = await self._database.fetch("list_price_plans", after, page_size + 1)
        plans = tuple(read_price_plan(row) for row in rows[:page_size])
        return Page(plans, encode_page_token(plans[-1].price_plan_id) if len(rows) > page_size else "")

    @retry_conflicts
    async def put_price_plan(self, plan: PricePlan, now: datetime) -> PricePlan:
        """Store a price plan as its newest version, unless the newest one is the same; return what is stored.

        Raises:
            MeteringError: CURRENCY_MISMATCH, its earlier versions have another currency.

        """
        sql = self._database.sql
        async with self._database.transaction() as connection:
            await connection.execute(sql["lock_prices"])
            row = await connection.fetchrow(sql["newest_price_plans"], [plan.price_plan_id])
            newest = None if row is None else read_price_plan(row)
            if newest is not None:
                if newest.currency != plan.currency:
                    msg = f"price_plan.currency: {plan.price_plan_id} is in {newest.currency}; choose another id"
                    raise MeteringError(Reason.CURRENCY_MISMATCH, msg)
                if newest.prices == plan.prices:
                    return newest
            version = 1 if newest is None else newest.version + 1
            stored = PricePlan(plan.price_plan_id, version, plan.currency, plan.prices)
            await connection.execute(
                sql["insert_price_plan"], plan.price_plan_id, version, plan.currency, _prices_json(plan.prices), now
            )
            return stored


class PlansOfAccounts:
    """Which price plan some accounts have in which month.

    In its newest version; for carried calls, in the version that their month is billed with, if it prices them all.
    """

    def __init__(
        self,
        assignments: Iterable["asyncpg.Record"],
        plans: Iterable[PricePlan],
        billed: Mapping[tuple[AccountId, Month], PricePlan],
    ) -> None:
        self._plans = {plan.price_plan_id: plan for plan in plans}
        self._billed = billed
        self._assignments: dict[AccountId, list[PricePlanAssignment]] = {}
        for row in assignments:
            self._assignments.setdefault(row["account_id"], []).append(_assignment(row))

    @classmethod
    async def read(
        cls,
        database: Database,
        connection: "Connection",
        account_ids: Sequence[AccountId],
        usage: Iterable[MonthUsage],
        month: Month,
    ) -> "PlansOfAccounts":
        """Read the plans of `account_ids`, for their usage on the bill of `month`."""
        assignments = await connection.fetch(database.sql["price_plan_assignments"], account_ids)
        plans = sorted({row["price_plan_id"] for row in assignments})
        rows = await connection.fetch(database.sql["newest_price_plans"], plans)
        carried: dict[tuple[AccountId, Month], set[str]] = {}
        for each in usage:
            if each.occurred_month < month:
                carried.setdefault((each.account_id, each.occurred_month), set()).add(each.api)
        billed: dict[tuple[AccountId, Month], PricePlan] = {}
        if carried:
            pairs = zip(*sorted(carried), strict=True)
            for row in await connection.fetch(database.sql["billed_price_plans"], *pairs, month):
                plan, key = read_price_plan(row), (row["account_id"], row["occurred_month"])
                if all(plan.price_of(api) for api in carried[key]):
                    billed[key] = plan
        return cls(assignments, [read_price_plan(row) for row in rows], billed)

    def plan(self, account_id: AccountId, month: Month) -> PricePlan | None:
        """Return the plan that an account has in a month, None if it has none."""
        if (account_id, month) in self._billed:
            return self._billed[account_id, month]
        started = [each for each in self._assignments.get(account_id, ()) if each.from_month <= month]
        return self._plans[started[-1].price_plan_id] if started else None


async def notify_status_changed(database: Database, connection: "Connection", account_ids: Sequence[AccountId]) -> None:
    """Tell every replica, when the transaction commits, that the status of these accounts changed."""
    for start in range(0, len(account_ids), NOTIFIED_ACCOUNTS_MAX):
        payload = ",".join(account_ids[start : start + NOTIFIED_ACCOUNTS_MAX])
        await connection.execute(database.sql["notify_status_changed"], payload)


def service_status(row: "asyncpg.Record") -> ServiceStatus:
    """Return the status in a row of the query service_statuses."""
    overdue = ", ".join(f"{month:%Y-%m}" for month in row["overdue_months"] or ())
    return ServiceStatus(
        account_id=row["account_id"],
        state=ServiceState(row["state"]),
        reason=f"overdue: the bill of {overdue}; pay what is outstanding to reactivate the service" if overdue else "",
        outstanding=Money(row["outstanding"] or Decimal(0), row["currency"]),
        version=row["status_version"],
    )


def _assignment(row: "asyncpg.Record") -> PricePlanAssignment:
    return PricePlanAssignment(row["price_plan_id"], row["from_month"])


def read_price_plan(row: "asyncpg.Record") -> PricePlan:
    """Make a price plan of a row of `price_plans`."""
    return PricePlan(row["price_plan_id"], row["version"], row["currency"], _prices(json.loads(row["prices"])))


def _prices(document: list[dict[str, Any]]) -> tuple[ApiPrice, ...]:
    return tuple(
        ApiPrice(
            api=price["api"],
            model=PriceModel(price["model"]),
            tiers=tuple(Tier(tier["up_to"], Decimal(tier["unit_price"])) for tier in price["tiers"]),
            free_calls=price["free_calls"],
            uncharged_result_codes=frozenset(price["uncharged_result_codes"]),
        )
        for price in document
    )


def _prices_json(prices: Iterable[ApiPrice]) -> str:
    return json.dumps(
        [
            {
                "api": price.api,
                "model": price.model,
                "tiers": [{"up_to": tier.up_to, "unit_price": f"{tier.unit_price:f}"} for tier in price.tiers],
                "free_calls": price.free_calls,
                "uncharged_result_codes": sorted(price.uncharged_result_codes),
            }
            for price in prices
        ]
    )
