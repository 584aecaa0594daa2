"""The digest of calls, and what a bill and its calls must have in common."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from decimal import Decimal
from heapq import merge
from itertools import islice
from tempfile import TemporaryFile
from typing import NamedTuple, Self

from faceid.metering.v1.resources_pb2 import Bill, RecordedCall
from faceid_metering.money import to_decimal

_LINES_IN_MEMORY_MAX = 250_000
"""More lines than these are sorted by way of temporary files."""
_KEY_LENGTH = len("2026-11-23 0192f0c1-2345-7abc-8def-0123456789ab")


class ListedCall(NamedTuple):
    """A call on a bill, as an export has it: a tuple, since there may be millions."""

    occurred_on: str
    """The day it occurred in the billing time zone, such as `2026-11-23`."""
    call_id: str
    """In lower case, with dashes."""
    occurred_us: int
    """When it occurred, in microseconds since 1970 (UTC)."""
    account_id: str
    api: str
    result_code: str
    """Empty for success."""
    billing_month: str
    """The month on whose bill it stands, such as `2026-11`."""
    recorded_us: int
    """When it was recorded, in microseconds since 1970 (UTC). The digest does not cover it."""

    @classmethod
    def of(cls, recorded: RecordedCall) -> Self:
        """Return a call that `list_calls` has yielded."""
        call = recorded.call
        return cls(
            recorded.occurred_on,
            call.call_id,
            call.occurred_at.ToMicroseconds(),
            call.account_id,
            call.api,
            call.result_code,
            recorded.billing_month,
            recorded.recorded_at.ToMicroseconds(),
        )

    @property
    def line(self) -> bytes:
        """The call as the digest sees it."""
        return (
            f"{self.occurred_on} {self.call_id} {self.occurred_us} {self.account_id} {self.api} {self.result_code}\n"
        ).encode()


def calls_digest(calls: Iterable[ListedCall]) -> str:
    """Return the digest of calls, which may come in any order: the SHA-256 of their sorted lines."""
    digest = hashlib.sha256()
    for line in _sorted(call.line for call in calls):
        digest.update(line)
    return digest.hexdigest()


def verify_bill(bill: Bill, calls: Iterable[ListedCall]) -> list[str]:
    """Check a bill against the calls that are said to stand on it, in any order and any number: memory stays flat.

    Args:
        bill: As `get_bill` returned it, or as it was saved.
        calls: Of an export (`read_calls`), or of `list_calls` (`ListedCall.of`).

    Returns:
        What differs, in words, with the first call of each kind; nothing: exactly these calls were billed.
    """
    numbers: Counter[tuple[str, str]] = Counter()
    strangers: list[ListedCall] = []
    repeats: list[str] = []

    def lines() -> Iterator[bytes]:
        for call in calls:
            if (call.account_id, call.billing_month) != (bill.account_id, bill.month) and not strangers:
                strangers.append(call)
            numbers[call.occurred_on[:7], call.api] += 1
            yield call.line

    digest, last = hashlib.sha256(), b""
    for line in _sorted(lines()):
        key = line[:_KEY_LENGTH]
        if key == last and not repeats:
            repeats.append(f"call {key[11:].decode()} of {key[:10].decode()} is listed twice")
        last = key
        digest.update(line)
    differences = repeats + [
        f"call {call.call_id} of {call.account_id} stands on the bill of {call.billing_month}; this one is of "
        f"{bill.account_id} for {bill.month}"
        for call in strangers
    ]
    differences += _different_numbers(bill, numbers)
    total = sum((to_decimal(line.amount) for line in bill.lines), Decimal(0))
    if total != to_decimal(bill.total):
        differences.append(f"the bill's lines come to {total}, its total says {to_decimal(bill.total)}")
    if not bill.calls_digest:
        differences.append("the bill has no digest, so nothing shows whether these are the calls that were billed")
    elif digest.hexdigest() != bill.calls_digest:
        differences.append(f"the digest of the calls is {digest.hexdigest()}, the bill's is {bill.calls_digest}")
    return differences


def _different_numbers(bill: Bill, numbers: Counter[tuple[str, str]]) -> Iterator[str]:
    billed = {(line.occurred_month, line.api): line.calls for line in bill.lines}
    for month, api in sorted(billed.keys() | numbers.keys()):
        counted, calls = numbers[month, api], billed.get((month, api), 0)
        if counted != calls:
            yield f"{api} of {month}: {counted:,} calls, {calls:,} on the bill"


def _sorted(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Sort any number of lines by their bytes."""
    waiting = iter(lines)
    with ExitStack() as stack:
        runs: list[Iterable[bytes]] = []
        while run := sorted(islice(waiting, _LINES_IN_MEMORY_MAX)):
            if len(run) < _LINES_IN_MEMORY_MAX:
                runs.append(run)
                continue
            file = stack.enter_context(TemporaryFile())
            file.writelines(run)
            file.seek(0)
            runs.append(file)
        yield from merge(*runs)
