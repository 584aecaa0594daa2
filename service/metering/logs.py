"""Log lines: to stderr, one line each, time in UTC, without secrets."""

import logging
import re
import time
from collections.abc import Sequence
from urllib.parse import unquote, unquote_plus

_PASSWORD_IN_URL = re.compile(r"(?P<begin>\w://[^\s:/@]*:)(?P<password>\S*)@")
"""Up to the last @, so that a password with a bare @ or / in it is found as well."""
_PASSWORD_PARAMETER = re.compile(r"password=([^&\s]+)")
HIDDEN = "***"
SECRET_LENGTH_MIN = 4
"""Shorter ones are only hidden within URLs: they stand in half of all words."""


def secrets_in(url: str | None) -> tuple[str, ...]:
    """Return the passwords in the URL of a database, as they stand there and as they are meant."""
    if url is None:
        return ()
    found = [match["password"] for match in _PASSWORD_IN_URL.finditer(url)]
    found += _PASSWORD_PARAMETER.findall(url)
    either = {*found, *map(unquote, found), *map(unquote_plus, found)}
    return tuple(sorted((each for each in either if len(each) >= SECRET_LENGTH_MIN), key=len, reverse=True))


def redacted(text: str, secrets: Sequence[str]) -> str:
    """Return a text without these secrets, and without passwords in URLs."""
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return _PASSWORD_IN_URL.sub(rf"\g<begin>{HIDDEN}@", text)


class _Formatter(logging.Formatter):
    """Writes a record with its traceback, without secrets."""

    def __init__(self, line: str, secrets: Sequence[str]) -> None:
        super().__init__(line, "%Y-%m-%dT%H:%M:%S")
        self.converter = time.gmtime
        self._secrets = tuple(secrets)

    def format(self, record: logging.LogRecord) -> str:
        """Return what is to be written."""
        return redacted(super().format(record), self._secrets)


def set_up_logging(process: str, secrets: Sequence[str] = (), level: int = logging.INFO) -> None:
    """Log everything of level and above to stderr.

    Args:
        process: says in each line who speaks.
        secrets: never to be written, wherever they turn up.
        level: what is worth it.

    """
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter(f"%(asctime)s.%(msecs)03dZ %(levelname)-7s {process}: %(message)s", secrets))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # It logs every migration, which `metering.cli` tells in its own words.
    logging.getLogger("alembic").setLevel(logging.WARNING)
