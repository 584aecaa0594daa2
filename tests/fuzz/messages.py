"""Messages as no client should send them, made of the contract's descriptors: a new RPC is covered by itself."""

import random
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

FORGED = "2026-01-01T00:00:00.000Z ERROR   metering: FORGED"
"""A line that must never stand in the log as one of its own."""
DEPTH_MAX = 6
MANY = 3_000
SEEN_MAX = 2_000

NASTY_TEXTS = (
    "",
    " ",
    "\0",
    "a\0b",
    "x'; DROP TABLE calls; --",
    "'); DELETE FROM ledger_entries; --",
    '"; SELECT pg_sleep(10); --',
    "%s%n%d{0}{account_id}",
    f"a\n{FORGED}",
    f"a\r\n{FORGED}",
    f"\u2028{FORGED}",
    "\x1b[2J\x1b[31mred",
    "a,b",
    "\u202egnp.exe",
    "\ufffe\uffff",
    "𝟜𝟚",
    "null",
    "NaN",
    "Infinity",
    "-1",
    "1e999",
    "0" * 400,
    "9" * 70,
    "../../etc/passwd",
    "0000-00",
    "0001-01",
    "9999-12",
    "2026-13",
    "{" + "[" * 500,
    "00000000-0000-0000-0000-000000000000",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
)
INTEGERS = (0, 1, -1, 2, 100, 2**31 - 1, -(2**31), 2**32, 2**53, 2**62, 2**63 - 1, -(2**63))
SECONDS = (0, -1, 1, -62_135_596_800, -62_135_596_801, 253_402_300_799, 253_402_300_800, 2**63 - 1, -(2**63))
NANOS = (0, 1, -1, 10_000_000, 250_000_000, 999_999_999, 1_000_000_000, -999_999_999, 2**31 - 1, -(2**31))
_BITS = {FieldDescriptor.CPPTYPE_INT32: 32, FieldDescriptor.CPPTYPE_INT64: 64}


class MessageMaker:
    """Fills messages, mostly so well that they get past the first check, and never all the way."""

    def __init__(self, rng: random.Random, names: dict[str, Sequence[str]]) -> None:
        """Make messages; `names` are texts that mean something, by the name of a field."""
        self._rng = rng
        self._names = names
        self._seen: deque[str] = deque(maxlen=SEEN_MAX)

    def learn(self, message: Message) -> None:
        """Keep the texts of an answer, such as tokens, to send them again."""
        for field, value in message.ListFields():
            if field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated:
                self._seen.append(value)

    def make(self, descriptor: Descriptor, nastiness: float, depth: int = 0) -> Message:
        """Return a message; of its fields, a part of `nastiness` is odd."""
        message = message_factory.GetMessageClass(descriptor)()
        special: Callable[[Message, float], None] | None = {
            "google.protobuf.Timestamp": self._fill_time,
            "google.type.Money": self._fill_money,
        }.get(descriptor.full_name)
        if special:
            special(message, nastiness)
            return message
        for field in descriptor.fields:
            missing = 0.5 if field.containing_oneof else 0.02 + nastiness / 4
            if self._rng.random() >= missing:
                self._set(message, field, nastiness, depth)
        return message

    def _set(self, message: Message, field: FieldDescriptor, nastiness: float, depth: int) -> None:
        if depth > DEPTH_MAX:
            return
        if not field.is_repeated:
            if field.message_type:
                getattr(message, field.name).CopyFrom(self.make(field.message_type, nastiness, depth + 1))
            else:
                setattr(message, field.name, self._scalar(field, nastiness))
            return
        few = self._rng.randint(0, 4)
        number = MANY if self._rng.random() < nastiness / 100 else few
        values = getattr(message, field.name)
        for _ in range(number):
            if field.message_type:
                values.add().CopyFrom(self.make(field.message_type, nastiness, depth + 1))
            else:
                values.append(self._scalar(field, nastiness))

    def _scalar(self, field: FieldDescriptor, nastiness: float) -> object:
        nasty = self._rng.random() < nastiness
        kind = field.cpp_type
        if kind == FieldDescriptor.CPPTYPE_STRING:
            if field.type == FieldDescriptor.TYPE_BYTES:
                return self._rng.randbytes(self._rng.randint(0, 100))
            return self._text(field.name, nasty=nasty)
        if kind == FieldDescriptor.CPPTYPE_BOOL:
            return self._rng.random() < 0.5
        if field.enum_type:
            known = [value.number for value in field.enum_type.values]
            return self._rng.choice([*known, -1, 99, 2**31 - 1] if nasty else known)
        number = self._rng.choice(INTEGERS) if nasty else self._rng.randint(0, 20)
        bits = _BITS.get(kind, 0)
        return max(-(2 ** (bits - 1)), min(2 ** (bits - 1) - 1, number)) if bits else abs(number) % 2**32

    def _text(self, name: str, *, nasty: bool) -> str:
        rng = self._rng
        if not nasty:
            if name == "call_id":
                return str(UUID(int=rng.getrandbits(128)))
            return rng.choice(self._names.get(name, ("text",)))
        way = rng.random()
        if way < 0.6:
            return rng.choice(NASTY_TEXTS)
        if way < 0.8 and self._seen:
            return self._spoiled(rng.choice(self._seen))
        if way < 0.98:
            return "".join(
                chr(rng.choice((rng.randrange(128), rng.randrange(0xD800)))) for _ in range(rng.randint(1, 80))
            )
        return rng.choice("aé\n") * 100_000

    def _spoiled(self, text: str) -> str:
        if not text or self._rng.random() < 0.3:
            return text
        place = self._rng.randrange(len(text))
        return text[:place] + self._rng.choice(("", "=", "A", "\0", "/", "ä")) + text[place + 1 :]

    def _fill_time(self, message: Message, nastiness: float) -> None:
        now = datetime.now(UTC)
        message.seconds = int((now - timedelta(days=self._rng.uniform(0, 61))).timestamp())  # type: ignore[attr-defined]
        if self._rng.random() < nastiness:
            message.seconds = self._rng.choice(SECONDS)  # type: ignore[attr-defined]
        if self._rng.random() < nastiness:
            message.nanos = self._rng.choice(NANOS)  # type: ignore[attr-defined]

    def _fill_money(self, message: Message, nastiness: float) -> None:
        message.currency_code = self._text("currency", nasty=self._rng.random() < nastiness)  # type: ignore[attr-defined]
        message.units = self._rng.randint(0, 20)  # type: ignore[attr-defined]
        if self._rng.random() < nastiness:
            message.units = self._rng.choice(INTEGERS)  # type: ignore[attr-defined]
        if self._rng.random() < 0.5:
            message.nanos = self._rng.choice(NANOS)  # type: ignore[attr-defined]


def spoiled_bytes(data: bytes, rng: random.Random) -> bytes:
    """Return bytes that were a message: cut, flipped, doubled, with text that is no UTF-8, or nested without end."""
    ways: tuple[Callable[[], bytes], ...] = (
        lambda: data[: rng.randrange(len(data) + 1)],
        lambda: _flipped(data, rng),
        lambda: data + data,
        lambda: data + rng.randbytes(rng.randint(1, 50)),
        lambda: rng.randbytes(rng.randint(0, 300)),
        # Field 1 as text, which is no UTF-8.
        lambda: data + b"\x0a\x04\xff\xfe\xc0\x80",
        # Fields that say that they are longer than anything is, or a number that does not end.
        lambda: data + b"\x0a\xff\xff\xff\xff\x0f",
        lambda: data + b"\x08" + b"\xff" * 20,
        # Groups, and messages, within each other.
        lambda: b"\x0b" * rng.randint(1, 20_000),
        lambda: _nested(data, rng.randint(2, 300)),
        # A field that nobody knows, giant.
        lambda: data + b"\xfa\x7f\x80\x80\x40" + bytes(1 << 20),
    )
    return rng.choice(ways)()


def _flipped(data: bytes, rng: random.Random) -> bytes:
    flipped = bytearray(data)
    for _ in range(rng.randint(1, 8) if data else 0):
        flipped[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(flipped)


def _nested(data: bytes, depth: int) -> bytes:
    data = data[:100]
    for _ in range(depth):
        length = len(data)
        size = bytes((length,)) if length < 128 else bytes((length & 127 | 128, length >> 7 & 127 | 128, length >> 14))
        data = b"\x0a" + size + data
    return data
