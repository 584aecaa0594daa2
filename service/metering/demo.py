"""`metering demo`: the whole story of an account, against a running service or a temporary one."""

import asyncio
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import uuid4

from rich.console import Console
from rich.padding import Padding
from rich.table import Table

from faceid_metering import MeteringClient, to_decimal
from faceid_metering import messages as pb
from metering.billing.months import due_date, format_month, month_of, previous_month
from metering.model import Month

SINGLE_CALLS = 200
BATCHED_CALLS = 20_000
BATCH = 2_000
RETRIED_SHARE = 0.1
FIRST_PAYMENT = Decimal("100.00")
START_TIMEOUT_S = 60.0
OLDEST_CALL = timedelta(days=60)

PLAN = pb.PricePlan(
    price_plan_id="demo",
    currency="CNY",
    prices=[
        pb.ApiPrice(
            api="DetectAuth",
            graduated=pb.TieredPrice(
                tiers=[pb.Tier(up_to=10_000, unit_price="0.0125"), pb.Tier(unit_price="0.009999999")]
            ),
            free_calls=100,
            uncharged_result_codes=["FailedOperation.InternalError"],
        ),
        pb.ApiPrice(api="CompareFace", per_call=pb.PerCallPrice(unit_price="0.02")),
    ],
)
OUTCOMES = [("DetectAuth", "")] * 7 + [("DetectAuth", "FailedOperation.InternalError"), ("CompareFace", "")]


class DemoError(Exception):
    """The demo cannot be played; the message says why, and what to do."""


class Demo:
    """Plays it, and tells what happens."""

    def __init__(self, metering: MeteringClient, out: Console, audit: Callable[[], Awaitable[bool]] | None) -> None:
        self._metering = metering
        self._out = out
        self._audit = audit
        self._account_id = f"demo-{uuid4().hex[:8]}"
        self._steps = 0

    async def play(self, *, close_for_others: bool) -> bool:
        """Play the story; return whether all came out as it should.

        Args:
            close_for_others: close the month even if other accounts have calls in it.

        Raises:
            DemoError: it cannot be played here.
            faceid_metering.MeteringError: the service refused something.

        """
        month = await self._month(close_for_others=close_for_others)
        name = format_month(month)
        await self._activate()
        calls = await self._record(month)
        await self._show_usage(name, len(calls))
        await self._close(name)
        overdue = await self._deduct_too_little(name)
        await self._pay(overdue)
        await self._late_call(month)
        return await self._check(name, calls)

    def _step(self, title: str) -> None:
        self._steps += 1
        self._out.print(f"\n[bold]{self._steps}. {title}[/bold]")

    def _say(self, text: str) -> None:
        self._out.print(f"   {text}")

    async def _month(self, *, close_for_others: bool) -> Month:
        """Return a month that has ended, is due, and is open: the last one, or else the one before."""
        today = datetime.now(UTC).date()
        last = previous_month(month_of(today))
        for month in (last, previous_month(last)):
            if due_date(month) >= today or not _days(month):
                continue
            would_be = await self._metering.close_month(format_month(month), dry_run=True)
            if would_be.already_closed:
                continue
            others = would_be.bills_issued + len(would_be.unrated_accounts)
            if others and not close_for_others:
                msg = (
                    f"the demo closes {format_month(month)}, in which {others} other accounts have calls. Let it play "
                    "on a service of its own, without --target, or say --close-for-others"
                )
                raise DemoError(msg)
            return month
        msg = "the last two months are closed here; let the demo play on a service of its own, without --target"
        raise DemoError(msg)

    async def _activate(self) -> None:
        self._step("A price is agreed, and the service is activated")
        plan = await self._metering.put_price_plan(PLAN)
        await self._metering.activate_account(self._account_id, "CNY", plan.price_plan_id)
        self._say(f"account [cyan]{self._account_id}[/cyan], price plan {plan.price_plan_id}, version {plan.version}:")
        self._say("DetectAuth   100 free calls, 0.0125 CNY a call up to the 10,000th, then 0.009999999")
        self._say("CompareFace  0.02 CNY a call;   internal errors cost nothing")
        paid = await self._metering.record_payment(self._account_id, FIRST_PAYMENT, "CNY", "demo-payment-1")
        self._say(f"the customer pays; the balance is {money_text(paid.account.balance)}")

    async def _record(self, month: Month) -> list[pb.CallRecord]:
        self._step(f"The gateway records calls of {format_month(month)}, and retries some, as networks make it")
        chance = random.Random(self._account_id)  # noqa: S311 - a story, no secret
        days = _days(month)
        calls = [
            self._metering.call_record(self._account_id, api, occurred_at=_noon(chance.choice(days)), result_code=code)
            for api, code in chance.choices(OUTCOMES, k=SINGLE_CALLS + BATCHED_CALLS)
        ]
        duplicates = 0
        start = time.perf_counter()
        for call in calls[:SINGLE_CALLS]:
            for _ in range(1 + (chance.random() < RETRIED_SHARE)):
                duplicates += (
                    await self._metering.record_call(
                        call.account_id,
                        call.api,
                        call.call_id,
                        occurred_at=call.occurred_at.ToDatetime(UTC),
                        result_code=call.result_code,
                    )
                ).duplicate
        singles_s = time.perf_counter() - start
        start = time.perf_counter()
        for first in range(SINGLE_CALLS, len(calls), BATCH):
            batch = calls[first : first + BATCH]
            again = chance.sample(batch, round(RETRIED_SHARE * len(batch)))
            duplicates += (await self._metering.batch_record_calls(batch + again)).duplicates
        batches_s = time.perf_counter() - start
        self._say(
            f"{SINGLE_CALLS:,} calls one after the other, each durable: {1000 * singles_s / SINGLE_CALLS:.1f} ms each"
        )
        self._say(f"{BATCHED_CALLS:,} calls in batches of {BATCH:,}: {BATCHED_CALLS / batches_s:,.0f} calls a second")
        self._say(
            f"sent {len(calls) + duplicates:,} = [green]{len(calls):,} recorded[/green] + {duplicates:,} duplicates"
        )
        return calls

    async def _show_usage(self, month: str, calls: int) -> None:
        self._step(f"Anybody may ask what {month} comes to")
        usage = await self._metering.get_monthly_usage(self._account_id, month)
        table = Table("api", "calls", "charged", box=None, header_style="dim", pad_edge=False)
        for column in table.columns[1:]:
            column.justify = "right"
        for api in usage.apis:
            table.add_row(api.api, f"{api.calls:,}", f"{api.charged_calls:,}")
        self._out.print(_indented(table))
        self._say(f"{usage.total_calls:,} calls, an estimated {money_text(usage.charges)}")
        if usage.total_calls != calls:
            msg = f"{usage.total_calls:,} calls are counted where {calls:,} were recorded"
            raise DemoError(msg)

    async def _close(self, month: str) -> None:
        self._step(f"On day 1, {month} is closed and its bills are issued (here: now, by hand)")
        closed = await self._metering.close_month(month)
        again = await self._metering.close_month(month)
        totals = ", ".join(map(money_text, closed.totals))
        self._say(f"{closed.bills_issued} bill(s), {totals}; closed once more: {again.bills_issued} bill(s), the same")
        bill = await self._metering.get_bill(self._account_id, month)
        self._out.print(_indented(bill_table(bill)))

    async def _deduct_too_little(self, month: str) -> pb.ServiceStatus:
        self._step("The bill is deducted, and the balance is too small")
        answers = await asyncio.gather(*(self._metering.deduct(self._account_id, month) for _ in range(10)))
        taken = sum((to_decimal(answer.deducted) for answer in answers), Decimal(0))
        status = answers[0].service_status
        self._say(f"10 deducts at once took {taken} CNY in all; outstanding: {money_text(status.outstanding)}")
        self._say(f"due since {answers[0].bill.due_date}: [red]{state_text(status)}[/red] ({status.reason})")
        call = await self._metering.record_call(self._account_id, "DetectAuth")
        self._say(f"the gateway's next call is recorded, and answered with {state_text(call.service_status)}")
        return status

    async def _pay(self, overdue: pb.ServiceStatus) -> None:
        self._step("The customer pays what is due")
        async with asyncio.timeout(START_TIMEOUT_S):
            watch = self._metering.watch_service_status([self._account_id])
            await anext(watch)
            rest = to_decimal(overdue.outstanding)
            start = time.perf_counter()
            paid = await self._metering.record_payment(self._account_id, rest, "CNY", "demo-payment-2")
            again = await self._metering.record_payment(self._account_id, rest, "CNY", "demo-payment-2")
            async for status in watch:
                if status.state == pb.ServiceState.SERVICE_STATE_ACTIVE:
                    break
            heard_s = time.perf_counter() - start
            await watch.aclose()
        state = state_text(paid.account.service_status)
        self._say(
            f"{rest} CNY paid: [green]{state}[/green] again; a watching gateway heard it after {1000 * heard_s:.0f} ms"
        )
        self._say(f"the same payment reported twice: duplicate = {str(again.duplicate).lower()}, booked once")

    async def _late_call(self, month: Month) -> None:
        self._step("A call comes in late, after its month was closed")
        late = await self._metering.record_call(
            self._account_id, "DetectAuth", occurred_at=_noon(_days(month)[-1]) + timedelta(minutes=1)
        )
        self._say(f"it is not lost: it goes on the bill of {late.billing_month}, as a line of its own")

    async def _check(self, month: str, calls: list[pb.CallRecord]) -> bool:
        self._step("The evidence, and the audit")
        listed = [recorded.call.call_id async for recorded in self._metering.list_calls(self._account_id, month)]
        exact = sorted(listed) == sorted(call.call_id for call in calls)
        mark = "[green]exactly those recorded[/green]" if exact else "[bold red]NOT those recorded[/bold red]"
        self._say(f"the bill of {month} stands on {len(listed):,} calls: {mark}")
        if self._audit is None:
            self._say("run [bold]metering audit[/bold] where the database is, to check the books")
            return exact
        return await self._audit() and exact


def _days(month: Month) -> list[date]:
    """Return days of a month that are in that month in any time zone, and not too long ago to be recorded."""
    oldest = (datetime.now(UTC) - OLDEST_CALL).date()
    return [day for number in range(5, 26) if (day := month.replace(day=number)) >= oldest]


def _noon(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, 12, tzinfo=UTC)


def money_text(money: pb.Money) -> str:
    """Return an amount for people."""
    return f"{to_decimal(money):,} {money.currency_code}"


def state_text(status: pb.ServiceStatus) -> str:
    """Return `ACTIVE` or `SUSPENDED`."""
    return pb.ServiceState.Name(status.state).removeprefix("SERVICE_STATE_")


def bill_table(bill: pb.Bill) -> Table:
    """Return how a bill's lines came about: what each tier comes to exactly, their sum, and that sum rounded."""
    table = Table("api", "month", "quantity", "tier", "unit price", "exact", "amount", box=None)
    table.header_style, table.pad_edge = "dim", False
    for column in table.columns[2:]:
        column.justify, column.overflow = "right", "fold"  # no digit is left out
    for line in bill.lines:
        name, amount = (line.api, line.occurred_month), f"{to_decimal(line.amount):,}"
        for part in line.parts:
            sums = (part.exact_amount, amount if len(line.parts) == 1 else "")
            table.add_row(*name, f"{part.quantity:,}", _tier_text(part), part.unit_price, *sums)
            name = ("", "")
        if len(line.parts) != 1:
            table.add_row(*name, f"{line.charged_calls:,}", "", "", line.exact_amount, amount)
        if line.calls > line.charged_calls:
            table.add_row("", "", f"{line.calls - line.charged_calls:,}", "", "not charged", style="dim")
    return table


def _tier_text(part: pb.BillLinePart) -> str:
    if not part.tier_from:
        return ""
    return f"{part.tier_from:,} to {part.tier_up_to:,}" if part.tier_up_to else f"from {part.tier_from:,}"


def _indented(table: Table) -> Padding:
    return Padding(table, (0, 0, 0, 3))


@asynccontextmanager
async def temporary_service() -> AsyncIterator[tuple[str, Path]]:
    """Run a service with an embedded PostgreSQL, both gone in the end; return its address and data directory.

    Raises:
        DemoError: it does not start.

    """
    with tempfile.TemporaryDirectory(prefix="metering-demo-") as directory:
        data_dir = Path(directory, "data")
        flags = ("--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0", "--data-dir", str(data_dir))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "metering", "serve", *flags),
            env={name: value for name, value in os.environ.items() if not name.startswith("METERING_")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            yield await _address(process), data_dir
        finally:
            if process.returncode is None:
                process.terminate()
            await process.communicate()


async def _address(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    said: list[str] = []
    async with asyncio.timeout(START_TIMEOUT_S):
        while line := (await process.stdout.readline()).decode():
            said.append(line)
            if match := re.search(r"grpc://(\S+)", line):
                return match[1]
    msg = f"the temporary service did not start:\n{''.join(said)}"
    raise DemoError(msg)
