"""What the books of a service must say: accounts are activated, and every acknowledged call is found, by its owner."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import asyncpg

from tests.benchmarks.accounts import UsagePlan, UsageResult
from tests.benchmarks.calls import API, Traffic
from tests.benchmarks.processes import BenchmarkError, ask

ASKED_ACCOUNTS_MAX = 500
"""Of so many accounts the usage is read by GetMonthlyUsage; of all others from the same tables, which is quicker."""
_ASK_SECONDS_MAX = 120
_EXAMPLES = 5
_PRICE = f'[{{"api": "{API}", "model": "PER_CALL", "tiers": [{{"up_to": null, "unit_price": "0.01"}}], \
"free_calls": 0, "uncharged_result_codes": []}}]'


@dataclass
class Books:
    """What was acknowledged so far by the service on one database."""

    acknowledged: Counter[str] = field(default_factory=Counter)
    """Calls, by account."""
    unknown: Counter[str] = field(default_factory=Counter)
    """Those whose answer leaves open whether they were recorded."""

    def check(self, database_url: str, target: str, traffic: Traffic) -> int:
        """Compare with what is counted, and with the raw calls, account by account; return how many calls there are.

        Raises:
            BenchmarkError: they differ.

        """
        calls = self.check_tables(database_url)
        asked = tuple(sorted(self.acknowledged)[:ASKED_ACCOUNTS_MAX])
        if asked and not self.unknown:
            plan = UsagePlan(target, asked, f"{traffic.day():%Y-%m}")
            answers = ask("tests.benchmarks.accounts", plan, UsageResult, _ASK_SECONDS_MAX).calls
            self._compare("told by GetMonthlyUsage", answers, only=set(asked))
        return calls

    def check_tables(self, database_url: str) -> int:
        """Do the same with what is in the tables, of all months."""
        counted, raw = asyncio.run(_counted(database_url))
        self._compare("in the tables of usage", counted)
        self._compare("raw", raw)
        return sum(counted.values())

    def _compare(self, what: str, counted: Mapping[str, int], only: set[str] | None = None) -> None:
        different = []
        for account in only or self.acknowledged.keys() | counted.keys():
            least = self.acknowledged[account]
            if not least <= counted.get(account, 0) <= least + self.unknown[account]:
                different.append(f"{account}: {least} acknowledged, {counted.get(account, 0)} {what}")
        if different:
            examples = "; ".join(sorted(different)[:_EXAMPLES])
            raise BenchmarkError(f"usage is not exact for {len(different)} accounts: {examples} …")


def activate(database_url: str, accounts: int) -> None:
    """Activate accounts as ActivateAccount would, many at once, with a price, before anybody has asked for them."""
    asyncio.run(_activate(database_url, accounts))


async def _activate(database_url: str, accounts: int) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction():
            await connection.execute(
                "INSERT INTO price_plans (price_plan_id, version, currency, prices, created_at)"
                " VALUES ('bench', 1, 'CNY', $1::jsonb, now()) ON CONFLICT DO NOTHING",
                _PRICE,
            )
            for statement in (
                (
                    "INSERT INTO accounts (account_id, currency, activated_at)"
                    " SELECT 'bench-' || to_char(n, 'FM000000'), 'CNY', now()"
                    " FROM generate_series(0, $1::integer - 1) AS n ON CONFLICT DO NOTHING"
                ),
                (
                    "INSERT INTO price_plan_assignments (account_id, from_month, price_plan_id)"
                    " SELECT 'bench-' || to_char(n, 'FM000000'), '0001-01-01', 'bench'"
                    " FROM generate_series(0, $1::integer - 1) AS n ON CONFLICT DO NOTHING"
                ),
            ):
                await connection.execute(statement, accounts)
        await connection.execute("VACUUM (ANALYZE) accounts")
    finally:
        await connection.close()


async def _counted(database_url: str) -> tuple[dict[str, int], dict[str, int]]:
    """Return the calls of each account: as usage, and as rows of `calls`."""
    connection = await asyncpg.connect(database_url)
    try:
        usage = await connection.fetch("SELECT account_id, sum(calls)::bigint FROM usage GROUP BY account_id")
        raw = await connection.fetch("SELECT account_id, count(*) FROM calls GROUP BY account_id")
    finally:
        await connection.close()
    return dict(map(tuple, usage)), dict(map(tuple, raw))
