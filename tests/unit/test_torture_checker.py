"""The torture's checker finds every broken promise, shown on histories and books that are forged."""

from collections.abc import Callable
from copy import deepcopy
from decimal import Decimal
from typing import Any

import pytest

from tests.torture.books import BookedBill, BookedCall, Books
from tests.torture.checker import check
from tests.torture.journal import Answer, History, SentCall

ACME_OCTOBER = ("acme", "2026-10")
Forgery = Callable[[History, Books], object]


def right() -> tuple[History, Books]:
    """Return a history, and books that it fits."""
    sent = [SentCall(f"call-{number}", "acme", "DetectAuth", 1_000 + number, "") for number in range(4)]
    months = ["2026-10", "2026-10", "2026-11", "2026-11"]
    history = History(
        sent={call.call_id: call for call in sent},
        answers={
            "call-0": [Answer("call-0", False, "2026-10"), Answer("call-0", True, "2026-10")],
            "call-1": [Answer("call-1", None, None)],
            "call-2": [Answer("call-2", True, "2026-11")],
        },
        safe={"call-3", "old"},
        rejected={"old": "OCCURRED_AT_OUT_OF_RANGE"},
        bills={ACME_OCTOBER: "lines"},
        bill_counts={"2026-10": 1},
        payments_tried={("acme", "payment"): "10.00"},
        payments_booked={("acme", "payment"): 1},
        deducted={ACME_OCTOBER: ["2.50", "0.50"]},
        believed_active={"gateway": {"acme": False}},
    )
    books = Books(
        calls=[BookedCall(*call, month) for call, month in zip(sent, months, strict=True)],
        rejected={"old": "OCCURRED_AT_OUT_OF_RANGE"},
        closed={"2026-10"},
        bills={ACME_OCTOBER: BookedBill("OVERDUE", Decimal(5), Decimal(3), 2)},
        fixed_parts={ACME_OCTOBER: "lines"},
        payments={("acme", "payment"): Decimal(10)},
        balances={"acme": Decimal(7)},
        states={"acme": "SUSPENDED"},
        told={"replica": {"acme": "SUSPENDED"}},
    )
    return history, books


def forget_call(number: int) -> Forgery:
    return lambda _, books: books.calls.pop(number)


def bill_says(**change: Any) -> Forgery:
    return lambda _, books: books.bills.update({ACME_OCTOBER: books.bills[ACME_OCTOBER]._replace(**change)})


FORGERIES: dict[str, tuple[str, Forgery]] = {
    "an acknowledged call is missing": ("acknowledged, and not on the books", forget_call(2)),
    "a call acknowledged in a batch is missing": ("acknowledged, and not on the books", forget_call(1)),
    "a call of the spool is missing": ("kept for certain by the client, and nowhere", forget_call(3)),
    "a call is there twice": (
        "on the books more than once",
        lambda _, books: books.calls.append(books.calls[2]._replace(billing_month="2026-12")),
    ),
    "a call was never sent": (
        "on the books, and never sent like this",
        lambda _, books: books.calls.append(BookedCall("call-9", "acme", "DetectAuth", 1, "", "2026-11")),
    ),
    "a call was sent with another time": (
        "on the books, and never sent like this",
        lambda history, _: history.sent.update({"call-2": history.sent["call-2"]._replace(occurred_us=7)}),
    ),
    "a repeat is told as new": (
        "told as new more than once",
        lambda history, _: history.answers["call-0"].append(Answer("call-0", False, "2026-10")),
    ),
    "a call is on another bill": (
        "on another bill than the acknowledgement said",
        lambda history, _: history.answers["call-2"].append(Answer("call-2", True, "2026-12")),
    ),
    "a rejected call is on the books": (
        "rejected, and on the books",
        lambda history, _: history.rejected.update({"call-2": "INVALID_FIELD"}),
    ),
    "a rejected call is not kept": ("rejected, and not kept", lambda _, books: books.rejected.clear()),
    "a closed month has more calls than its bill": (
        "calls of a closed month differ from its bill",
        lambda _, books: books.calls.__setitem__(2, books.calls[2]._replace(billing_month="2026-10")),
    ),
    "a bill changed": ("a closed month's bill changed", lambda history, _: history.bills.update({ACME_OCTOBER: "x"})),
    "a bill is gone": ("a closed month got or lost bills", lambda _, books: books.bills.clear()),
    "a closed month is open again": ("a closed month got or lost bills", lambda _, books: books.closed.clear()),
    "a payment is missing": ("a payment is not booked once", lambda _, books: books.payments.clear()),
    "a payment is told as booked twice": (
        "a payment is not booked once",
        lambda history, _: history.payments_booked.update({("acme", "payment"): 2}),
    ),
    "a payment has another amount": (
        "a payment is not booked once",
        lambda _, books: books.payments.update({("acme", "payment"): Decimal(11)}),
    ),
    "a balance is wrong": ("money is not conserved", lambda _, books: books.balances.update(acme=Decimal(8))),
    "money was deducted twice": ("money is not conserved", bill_says(deducted=Decimal(5))),
    "more was told as deducted": (
        "deducted more than once",
        lambda history, _: history.deducted[ACME_OCTOBER].append("2.50"),
    ),
    "a suspended account has nothing overdue": ("a status is wrong", bill_says(state="ISSUED")),
    "a replica has not heard": ("a status is wrong", lambda _, books: books.told["replica"].update(acme="ACTIVE")),
    "a gateway has not heard": (
        "a status is wrong",
        lambda history, _: history.believed_active["gateway"].update(acme=True),
    ),
    "the audit found something": ("the audit found", lambda _, books: books.audit.append("a difference")),
    "a client got an INTERNAL": (
        "a client saw what should not be",
        lambda history, _: history.wrong.append("gateway: INTERNAL"),
    ),
}


def test_what_is_right_is_left_alone() -> None:
    assert check(*right()) == []


@pytest.mark.parametrize("forgery", FORGERIES)
def test_what_is_wrong_is_found(forgery: str) -> None:
    problem, forge = FORGERIES[forgery]
    history, books = deepcopy(right())
    forge(history, books)
    assert any(found.startswith(f"{problem}: ") for found in check(history, books)), check(history, books)


def test_so_many_problems_of_a_kind_are_told_that_one_reads_them() -> None:
    history, books = right()
    history.wrong = [f"gateway: {number}" for number in range(100)]
    assert check(history, books)[-1] == "a client saw what should not be: … and 90 more"
