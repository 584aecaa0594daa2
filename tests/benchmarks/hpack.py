"""Header compression (RFC 7541), as much of it as talking to a gRPC server takes."""

_STATIC_TABLE = tuple(
    (name, value)
    for line in """\
:authority
:method GET|POST
:path /|/index.html
:scheme http|https
:status 200|204|206|304|400|404|500
accept-charset
accept-encoding gzip, deflate
accept-language
accept-ranges
accept
access-control-allow-origin
age
allow
authorization
cache-control
content-disposition
content-encoding
content-language
content-length
content-location
content-range
content-type
cookie
date
etag
expect
expires
from
host
if-match
if-modified-since
if-none-match
if-range
if-unmodified-since
last-modified
link
location
max-forwards
proxy-authenticate
proxy-authorization
range
referer
refresh
retry-after
server
set-cookie
strict-transport-security
transfer-encoding
user-agent
vary
via
www-authenticate""".splitlines()
    for name, _, values in [line.partition(" ")]
    for value in values.split("|")
)
_TABLE_BYTES = 4096
"""The size of the dynamic table while neither side asks for another one."""
_SEEN_MAX = 1_000
_ENTRY_BYTES = 32
"""What an entry counts for besides its name and value."""

_METHOD_POST, _SCHEME_HTTP = 0x83, 0x86
_INDEX = {name: index for index, (name, _) in reversed(list(enumerate(_STATIC_TABLE, 1)))}

Headers = dict[str, str]


def request_blocks(path: str, authority: str) -> tuple[bytes, bytes]:
    """Return the header block of a connection's first request, and that of all the others.

    As gRPC clients do, the first one puts the headers in the server's table, and the others only point there.
    """
    headers = (
        (":path", path),
        (":authority", authority),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("user-agent", "faceid-metering-benchmark"),
    )
    first, others = bytearray((_METHOD_POST, _SCHEME_HTTP)), bytearray((_METHOD_POST, _SCHEME_HTTP))
    for place, (name, value) in enumerate(headers):
        first.append(0x40 | _INDEX.get(name, 0))
        for text in (value,) if name in _INDEX else (name, value):
            first += bytes((len(text),)) + text.encode()
        others.append(0x80 | len(_STATIC_TABLE) + len(headers) - place)
    return bytes(first), bytes(others)


class Decoder:
    """Decodes the header blocks of one connection, in the order they come in."""

    def __init__(self) -> None:
        self._table: list[tuple[str, str]] = []
        """Newest first."""
        self._seen: dict[bytes, Headers] = {}
        """Blocks that leave the table alone mean the same until another block changes it."""

    def decode(self, block: bytes) -> Headers:
        """Return the headers of a block. Nearly all blocks of a connection are alike, so this is mostly a look-up."""
        headers = self._seen.get(block)
        return self._decode(block) if headers is None else headers

    def _decode(self, block: bytes) -> Headers:
        headers: Headers = {}
        changed = False
        place = 0
        while place < len(block):
            first = block[place]
            if first & 0x80:
                index, place = _integer(block, place, 7)
                name, value = self._entry(index)
            elif first & 0xE0 == 0x20:  # a new size of the table, which we never asked for
                size, place = _integer(block, place, 5)
                self._evict(size)
                changed = True
                continue
            else:
                kept = bool(first & 0x40)
                index, place = _integer(block, place, 6 if kept else 4)
                if index:
                    name, _ = self._entry(index)
                else:
                    name, place = _string(block, place)
                value, place = _string(block, place)
                if kept:
                    self._table.insert(0, (name, value))
                    self._evict(_TABLE_BYTES)
                    changed = True
            headers[name] = value
        if changed:
            self._seen.clear()
        elif len(self._seen) < _SEEN_MAX:
            self._seen[block] = headers
        return headers

    def _entry(self, index: int) -> tuple[str, str]:
        if index <= len(_STATIC_TABLE):
            return _STATIC_TABLE[index - 1]
        return self._table[index - 1 - len(_STATIC_TABLE)]

    def _evict(self, bytes_max: int) -> None:
        while sum(len(name) + len(value) + _ENTRY_BYTES for name, value in self._table) > bytes_max:
            self._table.pop()


def _integer(block: bytes, place: int, bits: int) -> tuple[int, int]:
    mask = (1 << bits) - 1
    value = block[place] & mask
    place += 1
    if value < mask:
        return value, place
    shift = 0
    while True:
        byte = block[place]
        place += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7


def _string(block: bytes, place: int) -> tuple[str, int]:
    huffman = block[place] & 0x80
    length, place = _integer(block, place, 7)
    # gRPC servers use Huffman codes for binary details of errors only, and not if a client takes those as they are.
    text = "(Huffman code)" if huffman else block[place : place + length].decode("latin-1")
    return text, place + length
