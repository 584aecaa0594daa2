"""What `metering archive-calls` and `drop-calls` do: calls of months closed long ago, to files and off the books."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import date, datetime
from itertools import count, groupby, starmap
from operator import attrgetter
from pathlib import Path
from typing import Protocol

from faceid_metering.evidence import ListedCall, calls_digest, read_calls, write_calls
from metering.billing.months import BillingCalendar, format_month
from metering.billing.retention import DAYS_KEPT, DayCalls, DayPlan, plan
from metering.clock import Clock
from metering.commands.common import FileError, out
from metering.errors import LockedError, TransactionConflictError
from metering.model import AccountId, Month

CallRow = tuple[str, str, int, str, str, str, str, int]
"""The columns of a ListedCall."""

FORMATS = ("parquet", "csv")
DROP_ATTEMPTS = 30
DROP_PAUSE_S = 2.0
"""Between them recording goes on: each attempt may hold it up for half a second."""


class BillDigest(Protocol):
    """What the calls on a bill come to."""

    @property
    def account_id(self) -> AccountId:
        """Whose bill."""

    @property
    def calls(self) -> int:
        """How many calls stand on it."""

    @property
    def digest(self) -> str:
        """Their digest."""


class CallBook(Protocol):
    """Where calls are kept."""

    async def stored_days(self) -> Sequence[date]:
        """Return the days whose calls are there."""

    async def counted_days(self, before: date) -> Sequence[DayCalls]:
        """Return what is counted of the days before a day that are not dropped."""

    async def closed_months(self) -> Mapping[Month, datetime]:
        """Return when each month was closed that is."""

    async def dropped_days(self, month: Month) -> Sequence[date]:
        """Return the days of calls on bills of a month that were dropped."""

    def digests(self, month: Month) -> AsyncIterator[Sequence[BillDigest]]:
        """Return the digests of a month's bills, in order of the accounts."""

    def calls(self, month: Month) -> AsyncIterator[list[CallRow]]:
        """Return the calls on a month's bills, in order of the accounts."""

    async def drop(self, day: date, calls: int, now: datetime) -> None:
        """Drop the calls of a day for ever, if there are so many."""


def archive_file(directory: Path, month: Month, ending: str) -> Path:
    """Return the file that holds the calls on a month's bills."""
    return directory / f"calls-{format_month(month)}.{ending}"


async def archive(book: CallBook, month: Month, file: Path) -> int:
    """Write the calls on all bills of a month to a file, read it again, and return how many calls are in it.

    Raises:
        FileError: nothing was written, or what was written is not what was billed; says why.

    """
    if month not in await book.closed_months():
        raise FileError(f"{format_month(month)} is not closed: it can be archived once its bills are issued")
    if dropped := await book.dropped_days(month):
        raise FileError(f"calls of {format_month(month)} were dropped, {dropped[0]} first: their archive has them")
    if file.exists():  # noqa: ASYNC240 - nothing else goes on
        raise FileError(f"{file} is there already; drop-calls --dry-run tells whether it is right")
    calls = 0
    with out.status(f"archiving {format_month(month)} …") as status, write_calls(file) as write:
        async for some in book.calls(month):
            write(starmap(ListedCall, some))
            calls += len(some)
            status.update(f"{calls:,} calls …")
    if difference := await archive_difference(book, month, file):
        raise FileError(f"{file}: {difference}; run the audit")
    return calls


async def archive_difference(book: CallBook, month: Month, file: Path) -> str:
    """Compare an archive with the digests of the month's bills; return the first difference, empty: there is none."""
    archived = _archived_digests(file, month)
    async for digests in book.digests(month):
        for bill in digests:
            found = next(archived, None)
            if found != (bill.account_id, bill.calls, bill.digest):
                what = f"{found[1]:,} calls of {found[0]} with digest {found[2]}" if found else "no more calls"
                return f"{what}, but the bill of {bill.account_id} has {bill.calls:,} calls with digest {bill.digest}"
    if found := next(archived, None):
        return f"{found[1]:,} calls of {found[0]}, which has no bill with a digest"
    return ""


def _archived_digests(file: Path, month: Month) -> Iterator[tuple[str, int, str]]:
    """Return account, number of calls and their digest, for each account in an archive."""
    of_month = (_on_bill_of(call, format_month(month), file) for call in read_calls(file))
    for account_id, of_account in groupby(of_month, attrgetter("account_id")):
        number = count()
        digest = calls_digest(call for call, _ in zip(of_account, number, strict=False))
        yield account_id, next(number), digest


def _on_bill_of(call: ListedCall, month: str, file: Path) -> ListedCall:
    if call.billing_month != month:
        raise FileError(f"{file}: call {call.call_id} stands on the bill of {call.billing_month}")
    return call


class Dropper:
    """Drops days of calls that are archived.

    Args:
        book: where calls are kept, as their owner.
        directory: where their archives are.
        calendar: of the billing time zone.
        clock: the present time.

    """

    def __init__(self, book: CallBook, directory: Path, calendar: BillingCalendar, clock: Clock) -> None:
        self._book = book
        self._directory = directory
        self._calendar = calendar
        self._clock = clock

    async def drop(self, months_kept: int, *, dry_run: bool) -> bool:
        """Drop the days of months that were closed more than so many months ago, and tell about each.

        Returns:
            Whether nothing stood in the way.

        """
        plans = await self._plans(months_kept)
        wrong = await self._archive_differences(plans)
        kept = calls = days = 0
        for each in plans:
            why = [*each.obstacles, *(wrong[month] for month in each.months if wrong.get(month))]
            if why:
                kept += 1
                out.print(f"  [yellow]{each.day} is kept[/yellow]: {'; '.join(why)}")
                continue
            if not dry_run:
                await self._drop(each)
            days, calls = days + 1, calls + each.calls
            out.print(f"  {each.day}: {each.calls:,} calls {'would be ' if dry_run else ''}dropped")
        would = "would be " if dry_run else ""
        out.print(f"{days:,} days with {calls:,} calls {would}dropped, {kept:,} kept that are old enough")
        return not kept

    async def _plans(self, months_kept: int) -> list[DayPlan]:
        now = self._clock.now()
        with out.status("looking at what is counted …"):
            counted = await self._book.counted_days(self._calendar.today(now) - DAYS_KEPT)
        closed = await self._book.closed_months()
        return plan(await self._book.stored_days(), counted, closed, self._calendar, now, months_kept)

    async def _archive_differences(self, plans: Sequence[DayPlan]) -> dict[Month, str]:
        """Return what is wrong with the archive of each month that is needed; empty: nothing."""
        found = {}
        for month in sorted({month for each in plans if not each.obstacles for month in each.months}):
            files = [archive_file(self._directory, month, ending) for ending in FORMATS]
            file = next((file for file in files if file.exists()), None)
            if file is None:
                found[month] = f"{files[0]} is missing: archive-calls {format_month(month)}"
                continue
            with out.status(f"verifying {file} …"):
                difference = await archive_difference(self._book, month, file)
            found[month] = f"{file}: {difference}" if difference else ""
            if not difference:
                out.print(f"  [green]✓[/green] {file} has exactly the calls of the bills of {format_month(month)}")
        return found

    async def _drop(self, day: DayPlan) -> None:
        for attempt in range(1, DROP_ATTEMPTS + 1):
            try:
                await self._book.drop(day.day, day.calls, self._clock.now())
            except (LockedError, TransactionConflictError) as error:
                if attempt == DROP_ATTEMPTS:
                    msg = f"{day.day} is in use all the time ({error}): is the audit or a backup running? Do it again."
                    raise FileError(msg) from error
                await asyncio.sleep(DROP_PAUSE_S)
            else:
                return
