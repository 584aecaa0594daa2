"""Makes a call of what a gateway sent, or says which field is wrong."""

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import repeat
from typing import NamedTuple, Protocol

from metering.errors import MeteringError, Reason, invalid_field
from metering.model import AccountId, Call, CallKind, Month, RejectedCall, to_micros

AHEAD_MAX = timedelta(minutes=5)
BACK_MAX = timedelta(days=62)

SHOWN_MAX = 40
"""Characters of a malformed text that are told to who sent it."""
KINDS_MAX = 200_000
"""Kinds of calls in memory; some 60 MB."""

_new = tuple.__new__
_NANOS_MAX = 999_999_999
# A year less at either end than datetime has, so that no time zone can lead out of it.
_FIRST_MICROS = to_micros(datetime(2, 1, 1, tzinfo=UTC))
_END_MICROS = to_micros(datetime(9999, 1, 1, tzinfo=UTC))
_NAME = re.compile(r"[A-Za-z0-9._:@/-]{1,64}")
_CANONICAL_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_UUID_LENGTH, _UUID_DASHES, _UUID_BYTES = 36, (8, 13, 18, 23), 16
_OTHER_UUID = re.compile(r"[0-9a-f]{32}")
_MICROS_AHEAD_MAX = AHEAD_MAX // timedelta(microseconds=1)
_MICROS_BACK_MAX = BACK_MAX // timedelta(microseconds=1)


class Calendar(Protocol):
    """Tells days in the billing time zone."""

    def day_of(self, micros: int) -> tuple[date, Month]:
        """Return the day, and its month, of an instant given in microseconds since 1970 (UTC)."""


CallFields = tuple[str, str, str, int | None, int, str]
"""A call as it was sent: account_id, api, call_id, seconds and nanos of occurred_at (None: left out), result_code."""


class CallColumns(NamedTuple):
    """Calls that were sent together, field by field, in the order of CallFields. All are equally long."""

    account_ids: Sequence[str]
    apis: Sequence[str]
    call_ids: Sequence[str]
    seconds: Sequence[int | None]
    nanos: Sequence[int]
    result_codes: Sequence[str]

    @classmethod
    def of(cls, calls: Sequence[CallFields]) -> "CallColumns":
        """Return calls, field by field."""
        return cls(*zip(*calls, strict=True)) if calls else cls((), (), (), (), (), ())


def shown(text: str) -> str:
    """Return a text that was sent as an error names it: so short that an answer has room for one in each record."""
    return f"{text[:SHOWN_MAX]!r:.{SHOWN_MAX}}"


def check_name(text: str, field: str) -> str:
    """Return an identifier; raises MeteringError (INVALID_FIELD) unless it has 1 to 64 of the characters allowed."""
    if not _NAME.fullmatch(text):
        what = f"{shown(text)} is malformed" if text else "is missing"
        raise invalid_field(field, f"{what}; send 1 to 64 characters out of A-Z a-z 0-9 . _ : @ / -")
    return text


def check_uuid(text: str, field: str) -> str:
    """Return a UUID in lower case with dashes; raises MeteringError (INVALID_FIELD) if it is none."""
    lower = text.lower()
    if _CANONICAL_UUID.fullmatch(lower):
        return lower
    if _OTHER_UUID.fullmatch(lower):
        return f"{lower[:8]}-{lower[8:12]}-{lower[12:16]}-{lower[16:20]}-{lower[20:]}"
    example = "0192f0c1-2345-7abc-8def-0123456789ab"
    raise invalid_field(field, f"{shown(text)} is not a UUID; send the RequestId of the call, such as {example}")


class CallRejectedError(MeteringError):
    """A well-formed call is not recorded: it is to be kept among the rejected calls."""

    def __init__(self, call: Call, why: MeteringError) -> None:
        super().__init__(why.reason, why.message, violations=why.violations)
        self.call = call

    def as_rejected_call(self, now: datetime) -> RejectedCall:
        """Return what is kept of it."""
        call = self.call
        return RejectedCall(
            account_id=call.account_id,
            call_id=call.call_id_text,
            occurred_at=call.occurred_at,
            api=call.api,
            result_code=call.result_code,
            reason=self.reason,
            message=self.message,
            rejected_at=now,
        )


class CallValidator:
    """Makes calls of what gateways send. The names of a kind of call seen before are not looked at again."""

    def __init__(self, calendar: Calendar) -> None:
        self._calendar = calendar
        self._kinds: dict[tuple[str, str, str, date], CallKind] = {}

    def validate(self, fields: CallFields, now_micros: int) -> Call:
        """Return the call that was sent.

        Args:
            fields: what was sent.
            now_micros: the present time, in microseconds since 1970.

        Raises:
            MeteringError: INVALID_FIELD, a field is malformed.
            CallRejectedError: OCCURRED_AT_OUT_OF_RANGE, it occurred too far ahead or back.

        """
        account_id, api, call_id, seconds, nanos, result_code = fields
        if not _CANONICAL_UUID.fullmatch(call_id):
            call_id = check_uuid(call_id, "call_id")
        if seconds is None:
            micros = _micros_of_uuid7(call_id)
        else:
            if not 0 <= nanos <= _NANOS_MAX:
                raise invalid_field("occurred_at", "not a valid timestamp: nanos are 0 to 999,999,999")
            micros = seconds * 1_000_000 + nanos // 1000
        if not _FIRST_MICROS <= micros < _END_MICROS:
            raise invalid_field("occurred_at", "not a valid timestamp: years are 2 to 9998")
        day, month = self._calendar.day_of(micros)
        kind = self._kinds.get((account_id, api, result_code, day)) or self._kind(
            account_id, api, result_code, day, month
        )
        # Past the named tuple's own constructor, which takes twice as long.
        call = _new(Call, (kind, bytes.fromhex(call_id.replace("-", "")), micros))
        if not now_micros - _MICROS_BACK_MAX <= micros <= now_micros + _MICROS_AHEAD_MAX:
            how = (
                "is more than 5 minutes ahead; set the sender's clock"
                if micros > now_micros
                else "is more than 62 days back"
            )
            description = f"{call.occurred_at.isoformat()} {how}"
            raise CallRejectedError(call, invalid_field("occurred_at", description, Reason.OCCURRED_AT_OUT_OF_RANGE))
        return call

    def validate_all(self, sent: CallColumns, now_micros: int) -> tuple[list[Call], dict[int, MeteringError]]:
        """Return the calls that were sent together, and the errors of the others, by their place in `sent`.

        Calls that have nothing unusual about them are looked at all together, column by column, which takes half the
        time. If one is unusual, each is looked at for itself: `validate` alone says what is right.
        """
        if calls := self._usual_calls(sent, now_micros):
            return calls, {}
        calls, errors = [], {}
        for place, fields in enumerate(zip(*sent, strict=True)):
            try:
                calls.append(self.validate(fields, now_micros))
            except MeteringError as error:
                errors[place] = error
        return calls, errors

    def _usual_calls(self, sent: CallColumns, now_micros: int) -> list[Call]:
        """Return the calls that were sent if `validate` would return them all, and on one day; else none."""
        seconds, nanos = sent.seconds, sent.nanos
        if not seconds or None in seconds or min(nanos) < 0 or max(nanos) > _NANOS_MAX:
            return []
        micros = [
            second * 1_000_000 + nano // 1000 for second, nano in zip(seconds, nanos, strict=True) if second is not None
        ]
        first, last = min(micros), max(micros)
        if first < now_micros - _MICROS_BACK_MAX or last > now_micros + _MICROS_AHEAD_MAX:
            return []
        day, month = self._calendar.day_of(first)
        call_ids = _canonical_uuids(sent.call_ids)
        if call_ids is None or self._calendar.day_of(last)[0] != day:
            return []
        keys = list(zip(sent.account_ids, sent.apis, sent.result_codes, repeat(day)))
        kinds = list(map(self._kinds.get, keys))
        if None in kinds:
            try:
                kinds = [self._kinds.get(key) or self._kind(*key, month) for key in keys]
            except MeteringError:
                return []
        return list(map(_new, repeat(Call), zip(kinds, call_ids, micros, strict=True)))

    def _kind(self, account_id: str, api: str, result_code: str, day: date, month: Month) -> CallKind:
        """Return a kind of call not seen before; raises MeteringError (INVALID_FIELD)."""
        check_name(account_id, "account_id")
        check_name(api, "api")
        if result_code:
            check_name(result_code, "result_code")
        if len(self._kinds) >= KINDS_MAX:
            self._kinds.clear()
        kind = self._kinds[account_id, api, result_code, day] = CallKind(
            AccountId(account_id), api, result_code, day, month
        )
        return kind


def _canonical_uuids(texts: Sequence[str]) -> list[bytes] | None:
    """Return UUIDs as bytes if all texts are in lower case with dashes, as _CANONICAL_UUID has it; else None."""
    joined = "".join(texts)
    if set(map(len, texts)) != {_UUID_LENGTH} or joined != joined.lower():
        return None
    if any(joined[place::_UUID_LENGTH].strip("-") for place in _UUID_DASHES):
        return None
    try:
        found = bytes.fromhex(joined.replace("-", ""))
    except ValueError:
        return None
    # It skips spaces: only the number of bytes tells that there was nothing but digits.
    if len(found) != _UUID_BYTES * len(texts):
        return None
    return [found[start : start + _UUID_BYTES] for start in range(0, len(found), _UUID_BYTES)]


def _micros_of_uuid7(call_id: str) -> int:
    """Return the instant that a UUIDv7 was made, in microseconds since 1970."""
    if call_id[14] != "7" or call_id[19] not in "89ab":
        raise invalid_field(
            "occurred_at", "is missing; set it once, when the call is made, or send a UUIDv7 as call_id"
        )
    return int(call_id[:8] + call_id[9:13], 16) * 1000
