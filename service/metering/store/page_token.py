"""Page tokens: the place in a list where the next page begins."""

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from typing import Any

from metering.errors import invalid_field


def encode_page_token(*place: str) -> str:
    """Return the token for a place, given by the values the list is ordered by."""
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


def decode_page_token(token: str, parsers: Sequence[Callable[[str], Any]]) -> tuple[Any, ...] | None:
    """Return the place a token stands for, each value read by its parser; None for the empty token.

    Raises:
        MeteringError: INVALID_FIELD, the token is none of ours.

    """
    if not token:
        return None
    try:
        place = json.loads(base64.urlsafe_b64decode(token.encode("ascii")))
        return tuple(parse(value) for parse, value in zip(parsers, place, strict=True))
    except (ValueError, TypeError, binascii.Error) as error:
        raise invalid_field("page_token", "not a token from an earlier response; leave it empty to begin") from error
