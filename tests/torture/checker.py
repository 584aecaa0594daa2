"""Holds the clients' histories against the books. Looks at nothing else, so that it can be shown what it must find."""

from collections import Counter
from collections.abc import Iterable, Iterator
from decimal import Decimal

from tests.torture.books import BookedCall, Books
from tests.torture.journal import History

TOO_OLD = "OCCURRED_AT_OUT_OF_RANGE"
TOLD_MAX = 10
"""So many examples of each kind of problem are told."""


def check(history: History, books: Books) -> list[str]:
    """Return what is wrong; nothing, if the service has kept its promises."""
    booked: dict[str, BookedCall] = {call.call_id: call for call in books.calls}
    checks: dict[str, Iterator[str]] = {
        "a client saw what should not be": iter(history.wrong),
        "acknowledged, and not on the books": _missing(history, booked),
        "kept for certain by the client, and nowhere": _lost(history, books, booked),
        "on the books more than once": _twice(books),
        "on the books, and never sent like this": _made_up(history, booked),
        "told as new more than once": _new_again(history),
        "on another bill than the acknowledgement said": _on_another_bill(history, booked),
        "rejected, and on the books": _rejected_and_booked(history, booked),
        "rejected, and not kept": (call for call in history.rejected if call not in books.rejected),
        "calls of a closed month differ from its bill": _bill_calls(books),
        "a closed month's bill changed": _changed_bills(history, books),
        "a closed month got or lost bills": _bill_counts(history, books),
        "a payment is not booked once": _payments(history, books),
        "money is not conserved": _money(books),
        "deducted more than once": _deducted(history, books),
        "a status is wrong": _statuses(history, books),
        "the audit found": iter(books.audit),
    }
    return [f"{what}: {example}" for what, found in checks.items() for example in _first(found)]


def _first(found: Iterable[str]) -> Iterator[str]:
    examples = list(found)
    yield from examples[:TOLD_MAX]
    if len(examples) > TOLD_MAX:
        yield f"… and {len(examples) - TOLD_MAX} more"


def _missing(history: History, booked: dict[str, BookedCall]) -> Iterator[str]:
    return (f"{answers[-1]}" for call_id, answers in history.answers.items() if call_id not in booked)


def _lost(history: History, books: Books, booked: dict[str, BookedCall]) -> Iterator[str]:
    return (call_id for call_id in history.safe if call_id not in booked and call_id not in books.rejected)


def _twice(books: Books) -> Iterator[str]:
    times = Counter(call.call_id for call in books.calls)
    return (f"{call_id}, {number} times" for call_id, number in times.items() if number > 1)


def _made_up(history: History, booked: dict[str, BookedCall]) -> Iterator[str]:
    return (
        f"{call}; sent: {history.sent.get(call[0])}"
        for call in booked.values()
        if call[:5] != history.sent.get(call[0])
    )


def _new_again(history: History) -> Iterator[str]:
    # One that is told as a repeat the first time is no defect: the service itself repeats a commit whose reply is lost.
    for call_id, answers in history.answers.items():
        new = sum(answer.duplicate is False for answer in answers)
        if new > 1:
            yield f"{call_id}, {new} times"


def _on_another_bill(history: History, booked: dict[str, BookedCall]) -> Iterator[str]:
    for call_id, answers in history.answers.items():
        months = {answer.billing_month for answer in answers if answer.billing_month}
        if call_id in booked and months - {booked[call_id].billing_month}:
            yield f"{call_id}: told {sorted(months)}, on the books {booked[call_id].billing_month}"


def _rejected_and_booked(history: History, booked: dict[str, BookedCall]) -> Iterator[str]:
    # One that was recorded may come again when it is too old by now.
    return (f"{call}: {why}" for call, why in history.rejected.items() if call in booked and why != TOO_OLD)


def _bill_calls(books: Books) -> Iterator[str]:
    calls = Counter((call.account_id, call.billing_month) for call in books.calls if call.billing_month in books.closed)
    for key in sorted(calls.keys() | books.bills.keys()):
        on_bill = books.bills[key].calls if key in books.bills else 0
        if on_bill != calls[key]:
            yield f"{key}: {calls[key]} calls, {on_bill} on the bill"


def _changed_bills(history: History, books: Books) -> Iterator[str]:
    return (f"{key}" for key, bill in history.bills.items() if books.fixed_parts.get(key) != bill)


def _bill_counts(history: History, books: Books) -> Iterator[str]:
    bills = Counter(month for _, month in books.bills)
    for month, number in history.bill_counts.items():
        if month not in books.closed or bills[month] != number:
            yield f"{month} had {number} bills and has {bills[month]}"


def _payments(history: History, books: Books) -> Iterator[str]:
    for key, times in history.payments_booked.items():
        if key not in books.payments:
            yield f"{key} was acknowledged and is missing"
        if times > 1:
            yield f"{key} was told as booked {times} times"
    for key, amount in books.payments.items():
        if Decimal(history.payments_tried.get(key, "NaN")) != amount:
            yield f"{key}: {amount} booked, {history.payments_tried.get(key)} paid"


def _money(books: Books) -> Iterator[str]:
    for account_id, balance in books.balances.items():
        paid = sum((amount for (payer, _), amount in books.payments.items() if payer == account_id), Decimal(0))
        deducted = sum((bill.deducted for (payer, _), bill in books.bills.items() if payer == account_id), Decimal(0))
        if paid - deducted != balance or balance < 0:
            yield f"{account_id}: {paid} paid - {deducted} deducted is not the balance of {balance}"


def _deducted(history: History, books: Books) -> Iterator[str]:
    for key, amounts in history.deducted.items():
        taken = sum(map(Decimal, amounts), Decimal(0))
        if key not in books.bills or taken > books.bills[key].deducted:
            yield f"{key}: Deducts said {taken}, the bill says {books.bills.get(key)}"


def _statuses(history: History, books: Books) -> Iterator[str]:
    for account_id, state in books.states.items():
        overdue = [month for (who, month), bill in books.bills.items() if who == account_id and bill.state == "OVERDUE"]
        if (state == "SUSPENDED") != bool(overdue):
            yield f"{account_id} is {state}, its overdue bills are {overdue}"
        for replica, told in books.told.items():
            if told.get(account_id) != state:
                yield f"{replica} says that {account_id} is {told.get(account_id)}, and it is {state}"
        for client, active in history.believed_active.items():
            if active.get(account_id, state == "ACTIVE") != (state == "ACTIVE"):
                yield f"{client} takes {account_id} for {'active' if active[account_id] else 'suspended'}"
