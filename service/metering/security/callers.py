"""Who sends a request, and what that makes them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

ACCOUNTS_MAX = 10_000
"""Accounts that one reader may be limited to; as many as WatchServiceStatus takes."""
NAME: Final = re.compile(r"[\x21-\x7e]{1,256}")
"""What a name may be, so that it fits on a line of the log: printable ASCII without spaces."""


class Role(StrEnum):
    """What a caller is."""

    GATEWAY = "gateway"
    """Records calls, and asks who may call."""
    READER = "reader"
    """Reads accounts, usage, calls and bills: all, or those of certain accounts."""
    BILLER = "biller"
    """Does the money: closes months, deducts, books payments; and reads."""
    ADMIN = "admin"
    """May do everything."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request."""

    name: str
    """The identity in the certificate, or the subject of the token."""
    role: Role
    accounts: frozenset[str] | None = None
    """A reader is limited to these accounts; None: to none."""


ANYBODY = Caller("anybody", Role.ADMIN)
"""Who asks where nobody is asked who they are."""


def caller_of(name: object, role: object, accounts: object) -> Caller:
    """Return a caller as a file or a token describes it; raises ValueError that says what is wrong."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        msg = f"{name!r} is no name; 1 to 256 printable ASCII characters without spaces are one"
        raise ValueError(msg)
    if not isinstance(role, str) or role not in set(Role):
        msg = f"{role!r} is no role; write one of {', '.join(Role)}"
        raise ValueError(msg)
    if accounts is None:
        return Caller(name, Role(role))
    if role != Role.READER:
        msg = f"accounts: only the role reader can be limited to accounts, not {role}"
        raise ValueError(msg)
    if (
        not isinstance(accounts, Sequence)
        or isinstance(accounts, str)
        or not 0 < len(accounts) <= ACCOUNTS_MAX
        or not all(isinstance(account, str) for account in accounts)
    ):
        msg = f"accounts: not a list of 1 to {ACCOUNTS_MAX:,} account ids; leave it out for all accounts"
        raise ValueError(msg)
    return Caller(name, Role(role), frozenset(accounts))
