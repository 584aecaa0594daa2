"""Log lines: to stderr, one line each, time in UTC, without secrets.

Tracebacks are indented, so that nothing else looks like a line.
"""

import logging
import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import unquote, unquote_plus

if TYPE_CHECKING:
    from types import TracebackType

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ufffe\uffff]")
_LINE_ENDS = re.compile(r"\r\n|[\n\x0b-\x0d\x1c-\x1e\x85\u2028\u2029]")
_PASSWORD_IN_URL = re.compile(r"(?P<begin>\w://[^\s:/@]*:)(?P<password>\S*)@")
"""Up to the last @, so that a password with a bare @ or / in it is found as well."""
_PASSWORD_PARAMETER = re.compile(r"password=([^&\s]+)")
HIDDEN = "***"
SECRET_LENGTH_MIN = 4
"""Shorter ones are only hidden within URLs: they stand in half of all words."""


def secrets_in(*urls: str | None) -> tuple[str, ...]:
    """Return the passwords in the URLs of databases, as they stand there and as they are meant."""
    found: list[str] = []
    for url in filter(None, urls):
        found += (match["password"] for match in _PASSWORD_IN_URL.finditer(url))
        found += _PASSWORD_PARAMETER.findall(url)
    either = {*found, *map(unquote, found), *map(unquote_plus, found)}
    return tuple(sorted((each for each in either if len(each) >= SECRET_LENGTH_MIN), key=len, reverse=True))


def redacted(text: str, secrets: Sequence[str]) -> str:
    """Return a text without these secrets, and without passwords in URLs."""
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return _PASSWORD_IN_URL.sub(rf"\g<begin>{HIDDEN}@", text)


class _Formatter(logging.Formatter):
    """Writes no secrets, and what others have sent so that it passes for no line of ours nor an order to a terminal."""

    def __init__(self, line: str, secrets: Sequence[str]) -> None:
        super().__init__(line, "%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime
        self._secrets = tuple(secrets)

    def format(self, record: logging.LogRecord) -> str:
        """Return what is to be written."""
        return redacted(super().format(record), self._secrets)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging calls it
        """Return the line, control characters written out."""
        return _escaped(super().formatMessage(record))

    def formatException(  # noqa: N802 - logging calls it
        self, ei: "tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]"
    ) -> str:
        """Return the traceback, each of its lines indented."""
        lines = _LINE_ENDS.split(super().formatException(ei))
        return "\n".join(f"    {_escaped(line)}" for line in lines)


def _escaped(text: str) -> str:
    return _CONTROL.sub(lambda match: repr(match[0])[1:-1], text)


_NO_NEWS = (
    "ExecuteBatchError",  # an answer could not be sent, its client being gone
    "Invalid encoding",  # a client sent a header that is no text
)
"""How lines begin that gRPC logs as errors, with tracebacks, and that clients can have it log at will."""


def _is_news(record: logging.LogRecord) -> bool:
    return not (record.name == "grpc._cython.cygrpc" and str(record.msg).startswith(_NO_NEWS))


def set_up_logging(process: str, secrets: Sequence[str] = (), level: int = logging.INFO) -> None:
    """Log everything of level and above to stderr.

    Args:
        process: says in each line who speaks.
        secrets: never to be written, wherever they turn up.
        level: what is worth it.

    """
    handler = logging.StreamHandler()
    handler.addFilter(_is_news)
    handler.setFormatter(_Formatter(f"%(asctime)s.%(msecs)03dZ %(levelname)-7s {process}: %(message)s", secrets))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # It logs every migration, which `metering.cli` tells in its own words.
    logging.getLogger("alembic").setLevel(logging.WARNING)
