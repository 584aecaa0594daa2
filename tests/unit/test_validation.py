"""What makes a call, and what is wrong with what does not."""

import random
import re
import string
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from metering.billing.months import BillingCalendar
from metering.errors import MeteringError, Reason
from metering.model import EPOCH, AccountId, Call, CallKind, Month, from_micros
from metering.recording import validation
from metering.recording.validation import (
    CallColumns,
    CallFields,
    CallRejectedError,
    CallValidator,
    check_name,
    check_uuid,
)

MICROSECOND = timedelta(microseconds=1)
NOW = datetime(2026, 11, 23, 4, 0, 0, 123456, tzinfo=UTC)
CALL_ID = "0192f0c1-2345-4abc-8def-0123456789ab"
FIELDS = ("account_id", "api", "call_id", "occurred_at", "result_code")


def micros(instant: datetime) -> int:
    return (instant - EPOCH) // MICROSECOND


@pytest.fixture
def validator() -> CallValidator:
    return validator_in("Asia/Shanghai")


def validator_in(zone: str) -> CallValidator:
    return CallValidator(BillingCalendar.of_zone(zone))


def fields(
    *,
    account_id: str = "acme",
    api: str = "DetectAuth",
    call_id: str = CALL_ID,
    at: datetime | None = NOW,
    nanos: int = 0,
    result_code: str = "",
) -> CallFields:
    """Return a call as it is sent; `nanos` are those that a datetime has no room for."""
    if at is None:
        return account_id, api, call_id, None, 0, result_code
    seconds, fraction = divmod(micros(at), 1_000_000)
    return account_id, api, call_id, seconds, fraction * 1000 + nanos, result_code


def validate(validator: CallValidator, sent: CallFields, now: datetime = NOW) -> Call:
    return validator.validate(sent, micros(now))


def refusal(validator: CallValidator, sent: CallFields) -> MeteringError:
    with pytest.raises(MeteringError) as refused:
        validate(validator, sent)
    return refused.value


def test_a_well_formed_call_becomes_what_was_sent(validator: CallValidator) -> None:
    sent = fields(result_code="E.NoFace")
    assert validate(validator, sent) == Call(
        CallKind(AccountId("acme"), "DetectAuth", "E.NoFace", date(2026, 11, 23), Month(date(2026, 11, 1))),
        call_id=UUID(CALL_ID).bytes,
        occurred_us=micros(NOW),
    )


def test_a_call_falls_on_the_day_it_is_in_the_billing_time_zone() -> None:
    at = datetime(2026, 11, 30, 23, 59, 59, 999999, tzinfo=UTC)
    sent = fields(at=at)
    for zone, day in (("Asia/Shanghai", date(2026, 12, 1)), ("UTC", date(2026, 11, 30))):
        call = validate(validator_in(zone), sent, now=at)
        assert (call.occurred_on, call.month) == (day, day.replace(day=1))


allowed = string.ascii_letters + string.digits + "._:@/-"
BAD_NAMES = [
    "a b",
    " a",
    "a ",
    "a\n",
    "\n",
    "a\0b",
    "\0",
    "a,b",
    "a;b",
    'a"b',
    "a'b",
    "a\\b",
    "caf\N{LATIN SMALL LETTER E WITH ACUTE}",
    "\N{FULLWIDTH LATIN SMALL LETTER A}",
    "\N{ARABIC-INDIC DIGIT ONE}",
    "\N{KELVIN SIGN}",
    "账户",
    "\U0001f600",
    "a" * 65,
]


@given(st.text(allowed, min_size=1, max_size=64))
def test_names_are_1_to_64_of_the_characters_allowed(name: str) -> None:
    assert check_name(name, "api") == name


@given(st.text(max_size=70))
@example("a" * 64)
@example("a" * 65)
def test_nothing_else_is_a_name(text: str) -> None:
    if 1 <= len(text) <= 64 and set(text) <= set(allowed):
        assert check_name(text, "api") == text
    else:
        with pytest.raises(MeteringError) as refused:
            check_name(text, "api")
        assert [violation.field for violation in refused.value.violations] == ["api"]


@pytest.mark.parametrize("name", BAD_NAMES)
@pytest.mark.parametrize("field", ["account_id", "api", "result_code"])
def test_a_malformed_name_is_refused_by_the_name_of_its_field(validator: CallValidator, field: str, name: str) -> None:
    sent = {"account_id": fields(account_id=name), "api": fields(api=name), "result_code": fields(result_code=name)}
    for _ in range(2):  # a name is not known for having been refused once
        refused = refusal(validator, sent[field])
        assert refused.reason is Reason.INVALID_FIELD
        assert [violation.field for violation in refused.violations] == [field]
        assert not isinstance(refused, CallRejectedError)


@pytest.mark.parametrize("field", ["account_id", "api"])
def test_a_missing_name_is_said_to_be_missing(validator: CallValidator, field: str) -> None:
    refused = refusal(validator, {"account_id": fields(account_id=""), "api": fields(api="")}[field])
    assert refused.message.startswith(f"{field}: is missing")


def test_a_refusal_does_not_repeat_a_long_text(validator: CallValidator) -> None:
    assert len(refusal(validator, fields(api="x" * 100_000)).message) < 300
    assert len(refusal(validator, fields(call_id="x" * 100_000)).message) < 300


@given(st.uuids())
def test_every_way_to_write_a_uuid_gives_the_same_call_id(uuid: UUID) -> None:
    for text in (str(uuid), str(uuid).upper(), uuid.hex, uuid.hex.upper()):
        assert check_uuid(text, "call_id") == str(uuid)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        CALL_ID[:-1],
        CALL_ID + "0",
        CALL_ID + "\n",
        " " + CALL_ID,
        "{" + CALL_ID + "}",
        "urn:uuid:" + CALL_ID,
        CALL_ID.replace("-", "_"),
        CALL_ID.replace("0", "g"),
        CALL_ID.replace("0", "\N{FULLWIDTH DIGIT ZERO}"),
        CALL_ID.replace("0", "\N{ARABIC-INDIC DIGIT ZERO}"),
        CALL_ID.replace("-", "", 1),
        "0192f0c12345-4abc-8def-0123456789ab-",
        "\0" * 36,
        "\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}" * 32,
    ],
)
def test_a_text_that_is_no_uuid_is_no_call_id(validator: CallValidator, text: str) -> None:
    refused = refusal(validator, fields(call_id=text))
    assert refused.reason is Reason.INVALID_FIELD
    assert [violation.field for violation in refused.violations] == ["call_id"]


@given(st.text("0123456789abcdefABCDEFg-", max_size=40) | st.text(max_size=40))
def test_nothing_but_36_characters_or_32_digits_is_a_uuid(text: str) -> None:
    digits = "[0-9a-fA-F]"
    well_formed = re.fullmatch(rf"{digits}{{32}}|{digits}{{8}}(-{digits}{{4}}){{3}}-{digits}{{12}}", text)
    try:
        assert check_uuid(text, "call_id") == str(UUID(text))
    except MeteringError:
        assert not well_formed
    else:
        assert well_formed


def uuid7(at: datetime, variant: str = "8") -> str:
    milliseconds = f"{micros(at) // 1000:012x}"
    return f"{milliseconds[:8]}-{milliseconds[8:]}-7abc-{variant}def-0123456789ab"


@given(st.datetimes(datetime(2026, 10, 1), datetime(2026, 11, 23), timezones=st.just(UTC)), st.sampled_from("89abAB"))
def test_a_call_without_a_time_has_that_of_its_uuid7(at: datetime, variant: str) -> None:
    call = validate(validator_in("UTC"), fields(call_id=uuid7(at, variant), at=None))
    assert call.occurred_at == at.replace(microsecond=at.microsecond // 1000 * 1000)
    assert call.occurred_on == at.date()


def test_a_uuid7_without_dashes_and_in_capitals_tells_its_time_too(validator: CallValidator) -> None:
    call_id = uuid7(NOW).replace("-", "").upper()
    assert validate(validator, fields(call_id=call_id, at=None)).occurred_at == NOW.replace(microsecond=123_000)


def test_the_time_that_was_sent_counts_for_more_than_that_of_a_uuid7(validator: CallValidator) -> None:
    at = NOW - timedelta(days=3)
    assert validate(validator, fields(call_id=uuid7(NOW), at=at)).occurred_at == at


@pytest.mark.parametrize(
    "call_id",
    [
        CALL_ID,  # version 4
        "0192f0c1-2345-1abc-8def-0123456789ab",
        "0192f0c1-2345-6abc-8def-0123456789ab",
        "0192f0c1-2345-7abc-7def-0123456789ab",  # version 7, but not the variant of RFC 9562
        "0192f0c1-2345-7abc-cdef-0123456789ab",
        "00000000-0000-0000-0000-000000000000",
    ],
)
def test_without_a_time_and_without_a_uuid7_occurred_at_is_missing(validator: CallValidator, call_id: str) -> None:
    refused = refusal(validator, fields(call_id=call_id, at=None))
    assert refused.reason is Reason.INVALID_FIELD
    assert refused.message.startswith("occurred_at: is missing")


LATEST, EARLIEST = NOW + timedelta(minutes=5), NOW - timedelta(days=62)


@pytest.mark.parametrize("at", [LATEST, EARLIEST])
def test_a_call_may_be_5_minutes_ahead_and_62_days_back(validator: CallValidator, at: datetime) -> None:
    assert validate(validator, fields(at=at)).occurred_at == at


@pytest.mark.parametrize(
    ("at", "why"),
    [
        (LATEST + MICROSECOND, "is more than 5 minutes ahead"),
        (EARLIEST - MICROSECOND, "is more than 62 days back"),
        (datetime(2, 1, 1, tzinfo=UTC), "is more than 62 days back"),
        (datetime(9998, 12, 31, tzinfo=UTC), "is more than 5 minutes ahead"),
    ],
)
def test_a_microsecond_more_and_it_is_rejected_but_can_be_kept(
    validator: CallValidator, at: datetime, why: str
) -> None:
    with pytest.raises(CallRejectedError, match=why) as rejected:
        validate(validator, fields(at=at, result_code="E"))
    assert rejected.value.reason is Reason.OCCURRED_AT_OUT_OF_RANGE
    assert [violation.field for violation in rejected.value.violations] == ["occurred_at"]
    kept = rejected.value.as_rejected_call(NOW)
    assert (kept.account_id, kept.call_id, kept.occurred_at) == ("acme", CALL_ID, at)
    assert (kept.api, kept.result_code, kept.rejected_at) == ("DetectAuth", "E", NOW)
    assert (kept.reason, kept.message) == ("OCCURRED_AT_OUT_OF_RANGE", rejected.value.message)


@given(st.timedeltas(timedelta(days=-63), timedelta(minutes=6)))
def test_whether_a_call_is_too_far_off_depends_on_nothing_but_its_distance(offset: timedelta) -> None:
    too_far = not timedelta(days=-62) <= offset <= timedelta(minutes=5)
    try:
        call = validate(validator_in("UTC"), fields(at=NOW + offset))
    except CallRejectedError as rejected:
        assert too_far
        call = rejected.call
    else:
        assert not too_far
    assert call.occurred_at == NOW + offset


@given(st.datetimes(datetime(2026, 10, 1), datetime(2026, 11, 23), timezones=st.just(UTC)), st.integers(0, 999))
def test_what_is_finer_than_a_microsecond_is_cut_off(at: datetime, nanos: int) -> None:
    assert validate(validator_in("UTC"), fields(at=at, nanos=nanos)).occurred_at == at


def test_calls_before_1970_are_cut_off_in_the_same_direction() -> None:
    sent = ("acme", "DetectAuth", CALL_ID, -1, 999_999_999, "")
    call = validator_in("UTC").validate(sent, 0)
    assert call.occurred_at == EPOCH - MICROSECOND
    assert call.occurred_on == date(1969, 12, 31)


@pytest.mark.parametrize("nanos", [-1, -(2**31), 1_000_000_000, 2**31 - 1])
def test_nanos_that_are_none_are_refused(validator: CallValidator, nanos: int) -> None:
    refused = refusal(validator, ("acme", "DetectAuth", CALL_ID, micros(NOW) // 1_000_000, nanos, ""))
    assert refused.message.startswith("occurred_at: not a valid timestamp")


@pytest.mark.parametrize("seconds", [-(2**63), -62135596801, 253402300800, 2**63 - 1])
def test_seconds_outside_the_years_1_to_9999_are_refused(validator: CallValidator, seconds: int) -> None:
    refused = refusal(validator, ("acme", "DetectAuth", CALL_ID, seconds, 0, ""))
    assert refused.message.startswith("occurred_at: not a valid timestamp")


@pytest.mark.parametrize("zone", ["Asia/Shanghai", "UTC", "America/New_York", "Pacific/Kiritimati"])
@pytest.mark.parametrize(
    ("seconds", "nanos"), [(-62135596800, 0), (-62135596800 + 43_200, 0), (253402300799, 999_999_999)]
)
def test_the_first_and_last_instants_there_are_get_an_answer_in_any_zone(zone: str, seconds: int, nanos: int) -> None:
    refused = refusal(validator_in(zone), ("acme", "DetectAuth", CALL_ID, seconds, nanos, ""))
    assert [violation.field for violation in refused.violations] == ["occurred_at"]


@pytest.mark.parametrize("zone", ["Asia/Shanghai", "America/New_York"])
@pytest.mark.parametrize(
    "call_id",
    [
        "ffffffff-ffff-7fff-bfff-ffffffffffff",  # the year 10889
        "e677d21f-dc00-7000-8000-000000000000",  # the first instant of the year 10000
        "e677d21f-dbff-7000-8000-000000000000",  # the millisecond before
        "00000000-0000-7000-8000-000000000000",  # 1970
    ],
)
def test_a_uuid7_of_any_time_gets_an_answer(zone: str, call_id: str) -> None:
    refused = refusal(validator_in(zone), fields(call_id=call_id, at=None))
    assert [violation.field for violation in refused.violations] == ["occurred_at"]


@given(
    st.text(max_size=3),
    st.text(max_size=3),
    st.text(max_size=3) | st.uuids().map(str),
    st.none() | st.integers(-(2**63), 2**63 - 1) | st.integers(-62135596800, 253402300799),
    st.integers(-(2**31), 2**31 - 1) | st.integers(0, 999_999_999),
    st.text(max_size=3),
)
def test_whatever_is_sent_is_a_call_or_refused_by_the_name_of_a_field(
    account_id: str, api: str, call_id: str, seconds: int | None, nanos: int, result_code: str
) -> None:
    try:
        call = validator_in("Asia/Shanghai").validate((account_id, api, call_id, seconds, nanos, result_code), 0)
    except MeteringError as refused:
        (violation,) = refused.violations
        assert violation.field in FIELDS
    else:
        assert (call.account_id, call.api, call.result_code) == (account_id, api, result_code)


def test_a_call_of_names_seen_before_is_still_looked_at(validator: CallValidator) -> None:
    validate(validator, fields(account_id="x", api="y", result_code="z"))
    call = validate(validator, fields(account_id="z", api="x", result_code="y"))
    assert (call.account_id, call.api, call.result_code) == ("z", "x", "y")
    assert refusal(validator, fields(call_id="x")).violations[0].field == "call_id"


def test_the_memory_of_kinds_of_calls_is_bounded(validator: CallValidator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "KINDS_MAX", 3)
    for number in range(10):
        validate(validator, fields(account_id=f"account-{number}"))
    assert len(validator._kinds) <= 3


names = st.sampled_from(["a", "b", "DetectAuth", "", "no spaces", "x" * 65])
call_ids = st.uuids().map(str)
odd_call_ids = st.one_of(
    call_ids.map(str.upper),
    call_ids.map(lambda text: text.replace("-", "")),
    call_ids.map(lambda text: text.replace("-", " ")),
    call_ids.map(lambda text: f"-{text[:8]}{text[9:]}"),
    call_ids.map(lambda text: text[:-1] + "g"),
    call_ids.map(lambda text: text[:-2] + "  "),
    call_ids.map(lambda text: text[:-1] + "٣"),
    st.just("01935a2e-7a40-7000-8000-000000000000"),
    st.text(max_size=40),
)
times = st.integers(micros(NOW - timedelta(days=70)), micros(NOW + timedelta(minutes=10)))
usual = st.tuples(st.just("acme"), st.just("DetectAuth"), call_ids, st.just(NOW), st.just(0), st.just(""))
odd = st.tuples(
    names,
    names,
    st.one_of(call_ids, odd_call_ids),
    st.one_of(st.none(), times.map(from_micros), st.just(NOW)),
    st.sampled_from([0, 1, 999, -1_000_000_000, 1_000_000_000]),
    names,
)


@given(st.lists(st.one_of(usual, usual, usual, odd), max_size=12), st.randoms())
def test_calls_sent_together_are_what_each_would_be_for_itself(
    sent: list[tuple[str, str, str, datetime | None, int, str]], chance: random.Random
) -> None:
    chance.shuffle(sent)
    batch = [
        fields(account_id=account_id, api=api, call_id=call_id, at=at, nanos=nanos, result_code=result_code)
        for account_id, api, call_id, at, nanos, result_code in sent
    ]
    calls: list[Call] = []
    errors: dict[int, str] = {}
    for place, each in enumerate(batch):
        try:
            calls.append(validate(validator_in("Asia/Shanghai"), each))
        except MeteringError as error:
            errors[place] = error.message
    validated, refused = validator_in("Asia/Shanghai").validate_all(CallColumns.of(batch), micros(NOW))
    assert validated == calls
    assert {place: error.message for place, error in refused.items()} == errors
