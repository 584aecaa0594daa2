"""Journals: what each client did and heard, line by line, written before it goes on, so that no kill loses a line."""

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self


class SentCall(NamedTuple):
    """A call, as a client made it."""

    call_id: str
    account_id: str
    api: str
    occurred_us: int
    result_code: str


class Answer(NamedTuple):
    """What a client was told of a call."""

    call_id: str
    duplicate: bool | None
    """None: it was not told for this call alone."""
    billing_month: str | None
    """Likewise."""


class Journal:
    """A file that is only appended to."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, **what: Any) -> None:
        """Append a line; it outlives the process, though not the machine."""
        os.write(self._file, json.dumps({"t": round(time.time(), 3), **what}).encode() + b"\n")

    def sent(self, calls: Sequence[SentCall]) -> None:
        """Note calls before they are given to the network for the first time."""
        self.write(sent=calls)

    def acknowledged(self, answers: Sequence[Answer]) -> None:
        """Note what the service said of calls."""
        self.write(acknowledged=answers)


@dataclass
class History:
    """What all journals say together."""

    sent: dict[str, SentCall] = field(default_factory=dict)
    answers: dict[str, list[Answer]] = field(default_factory=dict)
    """What the service said of a call, each time."""
    safe: set[str] = field(default_factory=set)
    """Calls that the shipped client has taken for delivered or kept."""
    rejected: dict[str, str] = field(default_factory=dict)
    """Calls that the service told to be rejected, and why."""
    bills: dict[tuple[str, str], str] = field(default_factory=dict)
    """The bills as they were right after a close, by account and month: lines and total."""
    bill_counts: dict[str, int] = field(default_factory=dict)
    """How many bills a month had when its close was acknowledged."""
    payments_tried: dict[tuple[str, str], str] = field(default_factory=dict)
    """Amounts, by account and payment_id."""
    payments_booked: dict[tuple[str, str], int] = field(default_factory=dict)
    """How often a payment was told to be booked, and not to be a duplicate."""
    deducted: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    """What Deducts said that they took, by account and month."""
    believed_active: dict[str, dict[str, bool]] = field(default_factory=dict)
    """Whom each shipped client took for active in the end."""
    wrong: list[str] = field(default_factory=list)
    """What should not have happened, as clients saw it."""

    @classmethod
    def of(cls, paths: Iterable[Path]) -> Self:
        """Read journals. The last line of one that was killed may be torn."""
        history = cls()
        for path in paths:
            for line in _whole_lines(path):
                history.take_in(path.stem, line)
        return history

    def take_in(self, who: str, line: Mapping[str, Any]) -> None:
        """Take in one line."""
        for call in line.get("sent", ()):
            self.sent[call[0]] = SentCall(*call)
        for answer in line.get("acknowledged", ()):
            self.answers.setdefault(answer[0], []).append(Answer(*answer))
        self.safe.update(line.get("safe", ()))
        self.rejected.update(line.get("rejected", {}))
        for account_id, month, bill in line.get("bills", ()):
            self.bills[account_id, month] = bill
        self.bill_counts.update(line.get("closed", {}))
        for account_id, payment_id, amount in line.get("paying", ()):
            self.payments_tried[account_id, payment_id] = amount
        for account_id, payment_id, duplicate in line.get("paid", ()):
            key = (account_id, payment_id)
            self.payments_booked[key] = self.payments_booked.get(key, 0) + (not duplicate)
        for account_id, month, amount in line.get("deducted", ()):
            self.deducted.setdefault((account_id, month), []).append(amount)
        if "active" in line:
            self.believed_active[who] = line["active"]
        if "wrong" in line:
            self.wrong.append(f"{who}: {line['wrong']}")


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_bytes().splitlines(keepends=True):
        if line.endswith(b"\n"):
            yield json.loads(line)
