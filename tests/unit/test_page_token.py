"""Page tokens: what was encoded comes back, and nothing else does."""

import base64
import json
from datetime import date, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metering.errors import MeteringError, Reason
from metering.store.page_token import decode_page_token, encode_page_token
from metering.store.rejected_calls import _PLACE


def token_of(place: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=5))
def test_a_place_comes_back_from_its_token(place: list[str]) -> None:
    token = encode_page_token(*place)
    assert decode_page_token(token, [str] * len(place)) == tuple(place)
    assert token.isascii()


@given(st.dates(), st.datetimes(), st.uuids())
def test_values_are_read_by_their_parsers(day: date, at: datetime, call_id: UUID) -> None:
    token = encode_page_token(day.isoformat(), at.isoformat(), str(call_id))
    parsers = (date.fromisoformat, datetime.fromisoformat, UUID)
    assert decode_page_token(token, parsers) == (day, at, call_id)


def test_the_empty_token_is_the_beginning() -> None:
    assert decode_page_token("", (str,)) is None


BAD_TOKENS = [
    "x",
    "====",
    "not a token",
    "\N{FULLWIDTH DIGIT ONE}",
    "\0",
    base64.urlsafe_b64encode(b"\xff\xfe").decode(),
    base64.urlsafe_b64encode(b"[").decode(),
    token_of(None),
    token_of(7),
    token_of("2026-11-01"),
    token_of([]),
    token_of([7]),
    token_of([None]),
    token_of(["yesterday"]),
    token_of(["2026-11-01", "2026-11-01"]),
    token_of({"2026-11-01": 1, "x": 2}),
    base64.urlsafe_b64encode(b"9" * 10_000).decode(),
]


@pytest.mark.parametrize("token", BAD_TOKENS)
def test_a_token_that_is_none_of_ours_is_bad_input(token: str) -> None:
    with pytest.raises(MeteringError, match="not a token from an earlier response") as refused:
        decode_page_token(token, (date.fromisoformat,))
    assert refused.value.reason is Reason.INVALID_FIELD
    assert [violation.field for violation in refused.value.violations] == ["page_token"]


def test_a_token_made_to_exhaust_the_stack_is_bad_input() -> None:
    nested = base64.urlsafe_b64encode(b"[" * 200_000).decode()
    with pytest.raises(MeteringError):
        decode_page_token(nested, (date.fromisoformat,))


@given(st.text())
def test_whatever_is_sent_as_a_token_is_a_place_or_bad_input(text: str) -> None:
    try:
        place = decode_page_token(text, (date.fromisoformat,))
    except MeteringError:
        return
    assert place is None or isinstance(place[0], date)


json_values = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
places = st.recursive(json_values, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner))


@given(places)
def test_a_forged_token_gives_values_of_the_right_kinds_or_is_bad_input(place: object) -> None:
    try:
        decoded = decode_page_token(token_of(place), _PLACE)
    except MeteringError:
        return
    assert decoded is not None
    assert [type(value) for value in decoded] == [datetime, str, str, datetime]


CALL_ID = "0192f0c1-2345-7abc-8def-0123456789ab"


@pytest.mark.parametrize(
    "place",
    [
        ["2026-11-01T00:00:00+00:00", "a\0b", CALL_ID, "2026-11-01T00:00:00+00:00"],
        ["0001-01-01T00:00:00+14:00", "acme", CALL_ID, "2026-11-01T00:00:00+00:00"],
        ["2026-11-01T00:00:00+00:00", "acme", CALL_ID, "9999-12-31T23:59:59-12:00"],
    ],
)
def test_a_forged_place_that_the_database_cannot_compare_with_is_bad_input(place: list[str]) -> None:
    with pytest.raises(MeteringError):
        decode_page_token(token_of(place), _PLACE)
