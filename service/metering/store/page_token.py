"""Page tokens: the place in a list where the next page begins."""

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from metering.errors import invalid_field


def time_from_token(text: str) -> datetime:
    """Return the time in a place; raises ValueError or OverflowError for what is none."""
    return datetime.fromisoformat(text).astimezone(UTC)


def text_from_token(text: str) -> str:
    """Return the text in a place; raises ValueError for what PostgreSQL cannot hold."""
    if "\0" in text:
        raise ValueError(text)
    return text


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
    except (ValueError, TypeError, OverflowError, RecursionError, binascii.Error) as error:
        raise invalid_field("page_token", "not a token from an earlier response; leave it empty to begin") from error
