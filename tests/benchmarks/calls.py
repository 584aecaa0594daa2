"""The calls that are recorded, made up by template: as requests for the service, and as rows for the bare COPY.

Any two calls differ as a gateway's calls do: call_id is a random UUID, so that new rows land all over the index;
the account is drawn at random, so that a batch is neither sorted nor of one account only.
"""

import random
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cached_property
from zoneinfo import ZoneInfo

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from faceid.metering.v1 import metering_service_pb2 as pb
from faceid.metering.v1 import resources_pb2

API = "DetectAuth"

_SOME_CALL_ID = "00000000-0000-0000-0000-000000000000"
_UUID4 = b"%b-%b-4%b-8%b-%b"
_UUIDS_AT_ONCE = 1_000
REPEATED_AFTER_BATCHES = 32
"""So many batches later, some calls of a batch are sent again: most of those batches have been acknowledged by then."""
_DRAWS = 65_536
_SEED = 20261124

Row = tuple[date, str, str, datetime, str, str, date]
"""occurred_on, account_id, call_id, occurred_at, api, result_code, billing_month: what the service copies, too."""


@dataclass(frozen=True)
class Traffic:
    """Who calls, and when: the same for all processes of a run."""

    accounts: int
    second: int
    """In which second, since 1970, all calls occurred: so they fall on one day."""
    time_zone: str
    """The billing time zone."""

    def account_ids(self) -> list[str]:
        """Return the accounts that call. All names are equally long."""
        return [f"bench-{number:06d}" for number in range(self.accounts)]

    def day(self) -> date:
        """Return the day on which all calls occurred."""
        return datetime.fromtimestamp(self.second, ZoneInfo(self.time_zone)).date()

    def draws(self) -> list[int]:
        """Return whose calls come one after the other, over and over: indices of accounts."""
        chance = random.Random(_SEED)
        return [chance.randrange(self.accounts) for _ in range(max(_DRAWS, 4 * self.accounts))]

    def calls_of_accounts(self, calls: int) -> Counter[str]:
        """Return how many of the first so many calls each account makes."""
        draws, account_ids = self.draws(), self.account_ids()
        rounds, rest = divmod(calls, len(draws))
        counts = Counter(draws[:rest])
        for account, count in Counter(draws).items():
            counts[account] += rounds * count
        return Counter({account_ids[account]: count for account, count in counts.items() if count})


class Requests:
    """Makes requests, each with calls of its own, ready to be sent: after gRPC's prefix of five bytes."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self._uuids = _uuids()
        self._draws = _endless(traffic.draws())
        self._second = _varint(traffic.second)
        self._earlier: deque[list[bytes]] = deque()

    def occur_in(self, second: int) -> None:
        """Let the calls to come occur in another second than the traffic's."""
        self._second = _varint(second)

    def record_call(self) -> bytes:
        """Return a RecordCallRequest."""
        return prefixed(self._record_call[next(self._draws)] % (*next(self._uuids), self._second))

    def batch_record_calls(self, calls: int, repeats: int = 0) -> bytes:
        """Return a BatchRecordCallsRequest.

        Args:
            calls: in it.
            repeats: how many of them were in an earlier batch, which the first batches cannot have.

        """
        record, draws, uuids, second = self._batched, self._draws, self._uuids, self._second
        again: list[bytes] = []
        if repeats and len(self._earlier) == REPEATED_AFTER_BATCHES:
            again = self._earlier.popleft()
        records = [record[next(draws)] % (*next(uuids), second) for _ in range(calls - len(again))]
        if repeats:
            self._earlier.append(records[:repeats])
        return prefixed(b"".join(again + records))

    def check_service_status(self) -> bytes:
        """Return a CheckServiceStatusRequest."""
        return self._check[next(self._draws)]

    @cached_property
    def _records(self) -> list[resources_pb2.CallRecord]:
        return [
            resources_pb2.CallRecord(
                account_id=account_id, api=API, call_id=_SOME_CALL_ID, occurred_at=_time(self._traffic, index)
            )
            for index, account_id in enumerate(self._traffic.account_ids())
        ]

    @cached_property
    def _record_call(self) -> list[bytes]:
        # The two messages have the same fields, so one serialises to the other.
        return [self._template(pb.RecordCallRequest.FromString(each.SerializeToString())) for each in self._records]

    @cached_property
    def _batched(self) -> list[bytes]:
        return [self._template(pb.BatchRecordCallsRequest(calls=[record])) for record in self._records]

    @cached_property
    def _check(self) -> list[bytes]:
        return [
            prefixed(pb.CheckServiceStatusRequest(account_id=account_id).SerializeToString())
            for account_id in self._traffic.account_ids()
        ]

    def _template(self, message: Message) -> bytes:
        """Return a serialised message as a format that the parts of a UUID, and a second, are put in."""
        text = message.SerializeToString().replace(b"%", b"%%").replace(_SOME_CALL_ID.encode(), _UUID4)
        before, _, after = text.rpartition(_varint(self._traffic.second))
        return before + b"%b" + after


def rows(traffic: Traffic) -> Iterator[Row]:
    """Yield the rows that the service would write for such calls."""
    day, account_ids = traffic.day(), traffic.account_ids()
    times = [_time(traffic, index).ToDatetime(UTC) for index in range(traffic.accounts)]
    for account, uuid in zip(_endless(traffic.draws()), _uuids(), strict=False):
        call_id = (_UUID4 % uuid).decode()
        yield day, account_ids[account], call_id, times[account], API, "", day.replace(day=1)


def prefixed(message: bytes) -> bytes:
    """Return a serialised message after gRPC's prefix: not compressed, its length."""
    return b"\0" + len(message).to_bytes(4) + message


def _time(traffic: Traffic, index: int) -> Timestamp:
    """Return when the calls of an account occurred: each one's at a microsecond of its own."""
    return Timestamp(seconds=traffic.second, nanos=(index + 1) % 1_000_000 * 1_000)


def _varint(second: int) -> bytes:
    """Return a time of 1978 to 2038 as protobuf has it: five bytes, none of them a percent sign."""
    return bytes((*(0x80 | second >> shift & 0x7F for shift in range(0, 28, 7)), second >> 28))


def _uuids() -> Iterator[tuple[bytes, bytes, bytes, bytes, bytes]]:
    """Yield the parts of random UUIDs, to be put in _UUID4."""
    while True:
        digits = random.randbytes(16 * _UUIDS_AT_ONCE).hex().encode()
        for at in range(0, len(digits), 32):
            yield (
                digits[at : at + 8],
                digits[at + 8 : at + 12],
                digits[at + 13 : at + 16],
                digits[at + 17 : at + 20],
                digits[at + 20 : at + 32],
            )


def _endless(draws: list[int]) -> Iterator[int]:
    while True:
        yield from draws
