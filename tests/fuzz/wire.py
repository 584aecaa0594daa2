"""What a port gets from who does not speak its language, or speaks it badly: HTTP/2 frames as they should not be."""

import asyncio
import random
import struct

from tests.fuzz.messages import FORGED

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
FRAMES_MAX = 40
ANSWER_S = 0.2
"""Nobody waits for what such a connection is answered."""
_HEADER = struct.Struct(">IBI")
_METHOD_POST, _SCHEME_HTTP = b"\x83", b"\x86"


def frame(kind: int, flags: int, stream: int, payload: bytes, length: int | None = None) -> bytes:
    """Return a frame; `length` is what it says of itself."""
    size = len(payload) if length is None else length
    return _HEADER.pack((size & 0xFFFFFF) << 8 | kind & 0xFF, flags & 0xFF, stream & 0xFFFFFFFF) + payload


def literal(name: bytes, value: bytes) -> bytes:
    """Return a header as HPACK writes one that is not indexed."""
    return b"\x00" + _length(len(name)) + name + _length(len(value)) + value


def _length(size: int) -> bytes:
    if size < 127:
        return bytes((size,))
    rest, encoded = size - 127, bytearray((127,))
    while rest >= 128:
        encoded.append(rest & 127 | 128)
        rest >>= 7
    return bytes((*encoded, rest))


def conversation(path: str, message: bytes, rng: random.Random) -> bytes:
    """Return all that is sent over one connection."""
    return rng.choice((_noise, _frames, _call, _metadata, _floods, _farewell))(path.encode(), message, rng)


def _noise(_path: bytes, _message: bytes, rng: random.Random) -> bytes:
    return rng.choice((b"", PREFACE, b"GET / HTTP/1.1\r\n\r\n", PREFACE[:11])) + rng.randbytes(rng.randint(0, 2_000))


def _frames(_path: bytes, _message: bytes, rng: random.Random) -> bytes:
    """Frames of any type, with any flags, on any stream, some with a wrong length."""
    frames = [
        frame(
            rng.randrange(12),
            rng.choice((0, 1, 4, 5, 8, 0x20, rng.randrange(256))),
            rng.choice((0, 1, 3, 2, rng.getrandbits(32))),
            rng.randbytes(rng.choice((0, 4, 5, 6, 8, 40))),
            rng.choice((None, None, None, rng.getrandbits(24))),
        )
        for _ in range(rng.randint(1, FRAMES_MAX))
    ]
    return PREFACE + frame(4, 0, 0, b"") + b"".join(frames)


def _call(path: bytes, message: bytes, rng: random.Random) -> bytes:
    """A call whose message says another length of itself, or that it is compressed."""
    prefix = struct.pack(">BI", rng.choice((0, 0, 1, 255)), rng.choice((len(message), 0, 1, 2**32 - 1, 2**22 + 1)))
    pieces = [prefix + message]
    if rng.random() < 0.3:
        pieces = [bytes((byte,)) for byte in (prefix + message)[:200]]
    data = b"".join(frame(0, 0, 1, piece[:16_384]) for piece in pieces)
    end = rng.choice((frame(0, 1, 1, b""), frame(3, 0, 1, bytes(4)), b""))
    return PREFACE + frame(4, 0, 0, b"") + frame(1, 4, 1, _request(path)) + data + end


def _metadata(path: bytes, _message: bytes, rng: random.Random) -> bytes:
    """A call with headers that are huge, many, or badly written, over several frames."""
    extra = rng.choice(
        (
            literal(b"x-big", b"v" * 40_000),
            b"".join(literal(b"x-%d" % number, b"v" * 20) for number in range(1_500)),
            literal(b"X-Upper", b"\x00\xff\r\nforged: 1"),
            literal(b"grpc-timeout", rng.choice((b"-1S", b"99999999999999H", b"x", b"0n"))),
            literal(b"grpc-encoding", b"nonsense"),
            literal(b"x-bin", b"***not base64***"),
            literal(b"content-type", b"text/html"),
            b"\x7f\xff\xff\xff\xff\xff\xff",
        )
    )
    block = _request(path) + extra
    first, rest = block[:16_000], [block[start : start + 16_000] for start in range(16_000, len(block), 16_000)]
    frames = [frame(1, 0 if rest else 4, 1, first)]
    frames += [frame(9, 4 if number == len(rest) - 1 else 0, 1, part) for number, part in enumerate(rest)]
    return PREFACE + frame(4, 0, 0, b"") + b"".join(frames) + frame(0, 1, 1, bytes(5))


def _floods(path: bytes, _message: bytes, rng: random.Random) -> bytes:
    """Much of what costs the server more than the client: pings, resets, settings, continuations that do not end."""
    begin, times = PREFACE + frame(4, 0, 0, b""), rng.randint(10, 2_000)
    flood = rng.choice(
        (
            lambda _: frame(6, 0, 0, bytes(8)),
            lambda number: frame(1, 4, 2 * number + 1, _request(path)) + frame(3, 0, 2 * number + 1, bytes(4)),
            lambda _: frame(4, 0, 0, struct.pack(">HI", rng.randrange(8), rng.getrandbits(32))),
            lambda number: frame(9 if number else 1, 0, 1, b"" if number else _request(path)),
            lambda _: frame(8, 0, 0, struct.pack(">I", 2**31 - 1)),
            lambda number: frame(2, 0, 2 * number + 1, bytes(5)),
        )
    )
    return begin + b"".join(map(flood, range(times)))


def _farewell(_path: bytes, _message: bytes, rng: random.Random) -> bytes:
    """A word of goodbye, which gRPC writes down."""
    word = rng.choice((f"\n{FORGED}\n".encode(), b"\x1b[2J", rng.randbytes(50)))
    return PREFACE + frame(4, 0, 0, b"") + frame(7, 0, 0, struct.pack(">II", 0, rng.randrange(14)) + word)


def _request(path: bytes) -> bytes:
    return (
        _METHOD_POST
        + _SCHEME_HTTP
        + literal(b":path", path)
        + literal(b":authority", b"fuzz")
        + literal(b"content-type", b"application/grpc")
        + literal(b"te", b"trailers")
    )


async def say(target: str, data: bytes, *, close: bool) -> None:
    """Say something to a port, and hang up at once or after a moment."""
    host, _, port = target.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(data)
        await writer.drain()
        if not close:
            async with asyncio.timeout(ANSWER_S):
                while await reader.read(65_536):
                    pass
    except (ConnectionError, TimeoutError):
        pass
    finally:
        writer.transport.abort()
