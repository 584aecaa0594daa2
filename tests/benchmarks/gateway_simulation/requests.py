"""The requests to the gateways: a number and the time it was sent. All else follows from the number."""

import struct
from uuid import UUID

REQUEST = struct.Struct("<dq")
"""When it was sent, in seconds of the system's monotonic clock, which all processes share; its number."""
ACCOUNTS = 1_000

_NUMBERS = 2**48
_SPREAD = 0x9E3779B1


def account_id(number: int) -> str:
    """Return who makes a request."""
    return f"bench-{number * 7919 % ACCOUNTS:06}"


def call_id(number: int) -> str:
    """Return its RequestId: a UUIDv4, and ids land all over the index, as random ones do."""
    return f"{number * _SPREAD & 0xFFFFFFFF:08x}-0000-4000-8000-{number:012x}"


def number_of(uuid: UUID) -> int:
    """Return the number of a request by its RequestId."""
    return uuid.int % _NUMBERS
