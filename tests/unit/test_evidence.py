"""The digest of calls, verifying a bill against them, and their files."""

import hashlib
import subprocess
import sys
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from faceid.metering.v1.metering_service_pb2 import ListCallsResponse
from faceid.metering.v1.resources_pb2 import Bill, BillLine, CallRecord, RecordedCall
from faceid_metering import evidence, to_money
from faceid_metering.evidence import (
    CallFileError,
    ListedCall,
    calls_digest,
    export_calls,
    read_calls,
    verify_bill,
    write_calls,
)
from faceid_metering.evidence.files import COLUMNS

DOCS = Path(__file__).parents[2] / "docs" / "billing.md"
NAMES = st.text("ABCxyz019._:@/-", min_size=1, max_size=64)
CALLS = st.builds(
    ListedCall,
    occurred_on=st.dates().map(str),
    call_id=st.uuids().map(str),
    occurred_us=st.integers(-(2**55), 2**55),
    account_id=NAMES,
    api=NAMES,
    result_code=st.just("") | NAMES,
    billing_month=st.sampled_from(["2026-10", "2026-11"]),
    recorded_us=st.integers(0, 2**55),
)


def call(number: int, **fields: Any) -> ListedCall:
    usual: dict[str, Any] = {
        "occurred_on": "2026-10-15",
        "call_id": f"01933f6e-0000-7000-8000-{number:012}",
        "occurred_us": 1_792_000_000_000_000 + number,
        "account_id": "acme",
        "api": "DetectAuth",
        "result_code": "",
        "billing_month": "2026-10",
        "recorded_us": 1_792_000_000_100_000,
    }
    return ListedCall(**usual | fields)


def bill_of(calls: list[ListedCall]) -> Bill:
    amount = to_money(Decimal("1.25"), "CNY")
    line = BillLine(api="DetectAuth", occurred_month="2026-10", calls=len(calls), amount=amount)
    return Bill(account_id="acme", month="2026-10", lines=[line], total=amount, calls_digest=calls_digest(calls))


@given(st.lists(CALLS, max_size=30).flatmap(lambda calls: st.tuples(st.just(calls), st.permutations(calls))))
def test_the_digest_does_not_depend_on_the_order_of_the_calls(
    orders: tuple[list[ListedCall], list[ListedCall]],
) -> None:
    one, other = orders
    assert calls_digest(one) == calls_digest(other)


@given(st.lists(CALLS, min_size=1, max_size=10), st.data())
def test_every_change_of_a_single_field_changes_the_digest(calls: list[ListedCall], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(calls) - 1))
    field = data.draw(st.sampled_from(COLUMNS[:6]))
    value = getattr(data.draw(CALLS), field)
    changed = [*calls]
    changed[place] = calls[place]._replace(**{field: value})
    same = sorted(each[:6] for each in changed) == sorted(each[:6] for each in calls)
    assert (calls_digest(changed) == calls_digest(calls)) == same


@given(st.lists(CALLS, min_size=1, max_size=10), st.data())
def test_a_call_more_or_less_changes_the_digest(calls: list[ListedCall], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(calls) - 1))
    assert calls_digest(calls[:place] + calls[place + 1 :]) != calls_digest(calls)
    assert calls_digest([*calls, calls[place]]) != calls_digest(calls)


@given(st.lists(CALLS, max_size=50))
def test_calls_that_do_not_fit_into_memory_have_the_same_digest(calls: list[ListedCall]) -> None:
    whole = hashlib.sha256(b"".join(sorted(each.line for each in calls))).hexdigest()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evidence.verification, "_LINES_IN_MEMORY_MAX", 7)
        assert calls_digest(calls) == whole


def test_the_worked_example_of_the_docs_is_right(tmp_path: Path) -> None:
    text = DOCS.read_text()
    (example,) = (block for block in text.split("```csv\n")[1:])
    file = tmp_path / "calls.csv"
    file.write_text(example.split("```")[0])
    digest = calls_digest(read_calls(file))
    assert f"    {digest}" in text
    (program,) = (block.split("```")[0] for block in text.split("```python\n")[1:] if "hashlib" in block)
    made = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, check=True, text=True)
    assert made.stdout.strip() == digest
    (command,) = (line.strip() for line in text.splitlines() if "sha256sum" in line and line.startswith("    "))
    made = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, check=True, text=True)
    assert made.stdout.split()[0] == digest


def test_a_bill_and_its_calls_belong_together_in_any_order() -> None:
    calls = [call(number) for number in range(100)]
    assert verify_bill(bill_of(calls), reversed(calls)) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda calls: calls[1:], "DetectAuth of 2026-10: 4 calls, 5 on the bill"),
        (lambda calls: [*calls, call(9)], "DetectAuth of 2026-10: 6 calls, 5 on the bill"),
        (
            lambda calls: [*calls, calls[0]],
            "call 01933f6e-0000-7000-8000-000000000000 of 2026-10-15 is listed twice",
        ),
        (lambda calls: [*calls[1:], call(0, api="Other")], "Other of 2026-10: 1 calls, 0 on the bill"),
        (
            lambda calls: [*calls[1:], call(0, occurred_on="2026-09-30")],
            "DetectAuth of 2026-09: 1 calls, 0 on the bill",
        ),
        (lambda calls: [*calls[1:], call(0, result_code="E.1")], "the digest of the calls is"),
        (lambda calls: [*calls[1:], call(0, occurred_us=0)], "the digest of the calls is"),
        (lambda calls: [*calls[1:], call(7)], "the digest of the calls is"),
        (lambda calls: [*calls[1:], call(0, account_id="zenith")], "of zenith stands on the bill of 2026-10"),
        (lambda calls: [*calls[1:], call(0, billing_month="2026-11")], "of acme stands on the bill of 2026-11"),
    ],
)
def test_it_is_told_what_differs(change: Any, said: str) -> None:
    calls = [call(number) for number in range(5)]
    differences = verify_bill(bill_of(calls), change(calls))
    assert any(said in each for each in differences), differences


def test_a_bill_without_a_digest_or_with_another_total_is_not_proved() -> None:
    calls = [call(1)]
    bill = bill_of(calls)
    bill.calls_digest = ""
    (difference,) = verify_bill(bill, calls)
    assert "has no digest" in difference
    bill = bill_of(calls)
    bill.total.units += 1
    (difference,) = verify_bill(bill, calls)
    assert difference == "the bill's lines come to 1.25, its total says 2.25"


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@settings(deadline=None)  # the first one imports pyarrow
@given(calls=st.lists(CALLS, max_size=20))
def test_calls_come_back_from_a_file(
    tmp_path_factory: pytest.TempPathFactory, ending: str, calls: list[ListedCall]
) -> None:
    file = tmp_path_factory.mktemp("calls") / f"calls.{ending}"
    with write_calls(file) as write:
        write(calls[:7])
        write(calls[7:])
    assert list(read_calls(file)) == calls
    assert [path.name for path in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_an_export_that_fails_leaves_nothing_and_harms_nothing(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"calls.{ending}"
    with write_calls(file) as write:
        write([call(1)])
    with pytest.raises(ZeroDivisionError), write_calls(file) as write:
        write(call(1 // each) for each in (1, 0))
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    assert list(read_calls(file)) == [call(1)]


def pages_of(numbers: list[int], size: int, token: str = "") -> list[ListCallsResponse]:
    """Return pages of calls with these numbers, those after a token, which is the number of the last one before."""
    left = [number for number in numbers if not token or number > int(token)]
    pages = []
    for start in range(0, len(left), size):
        page = ListCallsResponse(next_page_token=str(left[start : start + size][-1]))
        for each in map(call, left[start : start + size]):
            record = CallRecord(account_id=each.account_id, api=each.api, call_id=each.call_id)
            record.occurred_at.FromMicroseconds(each.occurred_us)
            recorded = RecordedCall(call=record, occurred_on=each.occurred_on, billing_month=each.billing_month)
            recorded.recorded_at.FromMicroseconds(each.recorded_us)
            page.calls.append(recorded)
        pages.append(page)
    return pages


NUMBERS = list(range(60))


def interrupted_export(file: Path, size: int, pages: int) -> int:
    """Write some pages; return how many calls are in the file then."""
    with suppress(KeyboardInterrupt), export_calls(file, "acme", "2026-10") as export:
        for page in pages_of(NUMBERS, size, export.place.page_token)[:pages]:
            export.add(page)
        raise KeyboardInterrupt
    return export.place.calls


@settings(deadline=None)
@given(stops=st.lists(st.integers(0, 40), max_size=4), torn=st.binary(max_size=50), size=st.integers(1, 5))
def test_an_interrupted_export_goes_on_after_its_last_whole_page(
    tmp_path_factory: pytest.TempPathFactory, stops: list[int], torn: bytes, size: int
) -> None:
    file = tmp_path_factory.mktemp("calls") / "calls.csv"
    part = file.with_name("calls.csv.part")
    calls = 0
    for stop in stops:
        calls = min(calls + stop * size, len(NUMBERS))
        assert interrupted_export(file, size, stop) == calls
        assert not file.exists()
        part.write_bytes(part.read_bytes() + torn)  # what was being written when it was killed
    with export_calls(file, "acme", "2026-10") as export:
        for page in pages_of(NUMBERS, size, export.place.page_token):
            export.add(page)
    assert list(read_calls(file)) == [call(number) for number in NUMBERS]
    assert [path.name for path in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize(
    "change", ["another account", "another month", "a damaged note", "a part that is gone", "a part that is too short"]
)
def test_an_export_that_cannot_go_on_begins_anew(tmp_path: Path, change: str) -> None:
    file, part, note = (tmp_path / f"calls.csv{ending}" for ending in ("", ".part", ".part.place"))
    assert interrupted_export(file, size=10, pages=1) == 10
    if change == "a damaged note":
        note.write_text(note.read_text()[:-5])
    elif change == "a part that is gone":
        part.unlink()
    elif change == "a part that is too short":
        part.write_bytes(part.read_bytes()[:-1])
    account_id = "zenith" if change == "another account" else "acme"
    with export_calls(file, account_id, "2026-11" if change == "another month" else "2026-10") as export:
        assert (export.place.calls, export.place.page_token) == (0, "")
        for page in pages_of(NUMBERS[5:], 10):
            export.add(page)
    assert list(read_calls(file)) == [call(number) for number in NUMBERS[5:]]


def test_a_page_that_could_not_be_written_whole_is_not_counted(tmp_path: Path) -> None:
    file = tmp_path / "calls.csv"
    first, second = pages_of(NUMBERS[:20], 10)
    second.calls[5].occurred_on = "2026-10-1\N{FULLWIDTH DIGIT FIVE}"  # no ASCII
    with suppress(UnicodeEncodeError), export_calls(file, "acme", "2026-10") as export:
        export.add(first)
        export.add(second)
    with export_calls(file, "acme", "2026-10") as export:
        assert (export.place.calls, export.place.page_token) == (10, "9")
        export.add(pages_of(NUMBERS[:20], 10, export.place.page_token)[0])
    assert list(read_calls(file)) == [call(number) for number in NUMBERS[:20]]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("calls.txt", b"", "name it .csv or .parquet"),
        ("calls.csv", b"", "must begin with the line occurred_on,call_id,"),
        ("calls.csv", b"occurred_on\n", "must begin with the line occurred_on,call_id,"),
        ("calls.csv", b"%s\n1,2\n", "line 2: is not a call"),
        ("calls.csv", b"%s\n1,2,now,4,5,6,7,8\n", "line 2: is not a call"),
        ("calls.csv", b"%s\n1,2,3,4,5,6,7,8", "its last line was cut off"),
        ("calls.csv", "%s\n1,2,3,4,ä,6,7,8\n".encode(), "is not a call"),
        ("calls.parquet", b"PAR1", "is not a Parquet file of calls"),
    ],
)
def test_a_file_that_is_none_of_ours_is_told_plainly(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    file = tmp_path / name
    file.write_bytes(content.replace(b"%s", ",".join(COLUMNS).encode()))
    with pytest.raises(CallFileError, match=said):
        list(read_calls(file))


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(CallFileError, match=r"faceid-metering\[parquet\]"), write_calls(tmp_path / "calls.parquet"):
        pass
    assert list(tmp_path.iterdir()) == []
