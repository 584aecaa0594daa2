"""A gRPC client's side of an HTTP/2 connection: unary calls over a plain socket, at as little cost as Python allows.

Enough of RFC 9113 for a gRPC server on the same machine, which takes and gives flow control, and nothing that such a
server does not do: whatever is unexpected ends the benchmark instead of spoiling it unseen.
"""

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from struct import Struct
from urllib.parse import unquote

from tests.benchmarks.hpack import Decoder, request_blocks

_HEADER = Struct(">IBI")
"""A frame's header: its length and type (24 and 8 bits), its flags, its stream."""
_HEADER_BYTES = _HEADER.size
_SETTING = Struct(">HI")
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM = _ACK = 0x1
_END_HEADERS = 0x4
_MAX_CONCURRENT_STREAMS, _INITIAL_WINDOW_SIZE = 3, 4
_ALLOW_TRUE_BINARY_METADATA = 0xFE03
"""gRPC's own: headers that end in -bin come as they are, after a zero byte, not in base64 under a Huffman code."""

_UNAVAILABLE = 14
"""gRPC's number for how a call ends that was reset: whether it did anything is not known."""

_FRAME_BYTES_MAX = 16_384
"""Every server takes frames of this size, and we ask for no larger ones."""
_WINDOW_BYTES = 65_535
"""Every flow-control window begins at this."""
_OUR_WINDOW_BYTES = 2**31 - 1
_RECEIVE_BYTES = 256 * 1024


class LoadError(Exception):
    """A call failed, or the server did something unexpected."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """How a call ended that did not end with OK."""

    status: int
    """gRPC's number."""
    message: str
    details: bytes
    """A serialised google.rpc.Status, if the server sent one."""


class _Upload:
    """A request that the server's flow control has not let through yet."""

    __slots__ = ("credit", "rest", "stream")

    def __init__(self, stream: int, message: bytes) -> None:
        self.stream = stream
        self.rest = memoryview(message)
        self.credit = 0
        """What may be sent, less the server's initial window, which it may change at any time."""


class Connection:
    """A connection on which unary calls of one method are made.

    `call` starts one, `receive` tells which have ended, `flush` must follow either.

    Args:
        host: where the server listens.
        port: likewise.
        path: the method, `/package.Service/Method`.

    """

    def __init__(self, host: str, port: int, path: str) -> None:
        self.socket = socket.create_connection((host, port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self._block, self._next_block = request_blocks(path, f"{host}:{port}")
        self._decoder = Decoder()
        self._stream = -1
        self._open: dict[int, bytes] = {}
        """The calls under way, with what has come of their responses."""
        self._uploads: dict[int, _Upload] = {}
        self._window = self._stream_window = _WINDOW_BYTES
        self._streams_max = 2**31
        self._received_bytes = 0
        self._unparsed = b""
        grant = _OUR_WINDOW_BYTES - _WINDOW_BYTES
        self._out = [
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            _frame(
                _SETTINGS,
                0,
                0,
                _SETTING.pack(_INITIAL_WINDOW_SIZE, _OUR_WINDOW_BYTES) + _SETTING.pack(_ALLOW_TRUE_BINARY_METADATA, 1),
            ),
            _frame(_WINDOW_UPDATE, 0, 0, grant.to_bytes(4)),
        ]

    @property
    def has_room(self) -> bool:
        """Whether the server lets another call in. A real client has its calls wait until then."""
        return len(self._open) < self._streams_max

    def call(self, message: bytes) -> int:
        """Start a call; return its number.

        Args:
            message: serialised, after gRPC's prefix of five bytes.

        """
        self._stream = stream = self._stream + 2
        self._open[stream] = b""
        size = len(message)
        head = _HEADER.pack(len(self._block) << 8 | _HEADERS, _END_HEADERS, stream) + self._block
        self._block = self._next_block
        if size <= self._window and size <= self._stream_window and size <= _FRAME_BYTES_MAX and not self._uploads:
            self._window -= size
            self._out.append(head + _HEADER.pack(size << 8 | _DATA, _END_STREAM, stream) + message)
        else:
            self._out.append(head)
            self._uploads[stream] = _Upload(stream, message)
            self._send_uploads()
        if len(self._open) > self._streams_max:
            raise LoadError(
                f"the server takes {self._streams_max} calls at a time on a connection: use more connections"
            )
        return stream

    def receive(self) -> list[tuple[int, bytes | Refusal]]:
        """Read what has come in; return the calls that have ended: their numbers and serialised responses.

        Raises:
            LoadError: the connection broke.

        """
        try:
            data = self.socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return []
        if not data:
            raise LoadError("the server closed the connection")
        data = self._unparsed + data if self._unparsed else data
        ended: list[tuple[int, bytes | Refusal]] = []
        place, end, opened = 0, len(data), self._open
        while end - place >= _HEADER_BYTES:
            length, flags, stream = _HEADER.unpack_from(data, place)
            kind, length = length & 0xFF, length >> 8
            begin = place + _HEADER_BYTES
            if begin + length > end:
                break
            place = begin + length
            payload = data[begin:place]
            if kind in {_HEADERS, _RST_STREAM}:
                response = self._ended(kind, flags, stream, payload)
                if response is not None:
                    ended.append((stream, response))
            elif kind == _DATA and not flags:
                opened[stream] += payload
                self._received_bytes += length
            else:
                self._control(kind, flags, stream, payload)
        self._unparsed = data[place:]
        if self._received_bytes > _OUR_WINDOW_BYTES // 2:
            self._out.append(_frame(_WINDOW_UPDATE, 0, 0, self._received_bytes.to_bytes(4)))
            self._received_bytes = 0
        return ended

    def flush(self) -> bool:
        """Send what waits; return whether all of it went. If not, come back when the socket can be written to."""
        if self._out:
            data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
            try:
                sent = self.socket.send(data)
            except BlockingIOError:
                sent = 0
            self._out = [data[sent:]] if sent < len(data) else []
        return not self._out

    def _ended(self, kind: int, flags: int, stream: int, block: bytes) -> bytes | Refusal | None:
        """Take in headers or a reset; return the response if the call ends with it."""
        if kind == _RST_STREAM:
            self._uploads.pop(stream, None)
            if self._open.pop(stream, None) is None:
                return None  # after an early refusal, the server wants no more of the request
            return Refusal(_UNAVAILABLE, f"HTTP/2 error {int.from_bytes(block)}", b"")
        headers = self._decoder.decode(block)
        if flags == _END_HEADERS | _END_STREAM:
            return _message(headers, self._open.pop(stream))
        if flags != _END_HEADERS or headers.get(":status") != "200":
            raise LoadError(f"the server answered with the flags {flags:#x} and the headers {headers}")
        return None

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """Take in a frame that is about the connection, not about a response."""
        if kind == _WINDOW_UPDATE:
            self._credit(stream, int.from_bytes(payload))
        elif kind in {_SETTINGS, _PING}:
            if not flags & _ACK:
                self._set(payload if kind == _SETTINGS else b"")
                self._out.append(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
        elif kind == _GOAWAY:
            raise LoadError(f"the server sent us away: {payload[8:].decode(errors='replace')}")
        else:
            raise LoadError(f"the server sent a frame of type {kind}, flags {flags:#x}, which gRPC servers do not use")

    def _credit(self, stream: int, size: int) -> None:
        if stream == 0:
            self._window += size
        elif stream in self._uploads:
            self._uploads[stream].credit += size
        self._send_uploads()

    def _set(self, settings: bytes) -> None:
        for setting, value in _SETTING.iter_unpack(settings):
            if setting == _INITIAL_WINDOW_SIZE:
                self._stream_window = value
            elif setting == _MAX_CONCURRENT_STREAMS:
                self._streams_max = value
        self._send_uploads()

    def _send_uploads(self) -> None:
        for upload in list(self._uploads.values()):
            self._out.extend(self._data_frames(upload))
            if not upload.rest:
                del self._uploads[upload.stream]

    def _data_frames(self, upload: _Upload) -> Iterator[bytes]:
        """Yield as much of a request as the windows let through."""
        while (size := min(len(upload.rest), _FRAME_BYTES_MAX, self._window, self._stream_window + upload.credit)) > 0:
            payload, upload.rest = upload.rest[:size], upload.rest[size:]
            self._window -= size
            upload.credit -= size
            yield _frame(_DATA, 0 if upload.rest else _END_STREAM, upload.stream, payload)


def _frame(kind: int, flags: int, stream: int, payload: bytes | memoryview = b"") -> bytes:
    return b"".join((_HEADER.pack(len(payload) << 8 | kind, flags, stream), payload))


def _message(headers: dict[str, str], data: bytes) -> bytes | Refusal:
    """Return the response of a call that ended with these trailers, or how else it ended."""
    status = headers.get("grpc-status")
    if status != "0":
        details = headers.get("grpc-status-details-bin", "").encode("latin-1")[1:]
        return Refusal(int(status or 2), unquote(headers.get("grpc-message", "")), details)
    if data[0] != 0 or int.from_bytes(data[1:5]) != len(data) - 5:
        raise LoadError(f"a response is not one uncompressed message: {data[:16].hex()} …")
    return data[5:]
