"""Who may do what: the one table of all RPCs and the roles that may send them, and the guard that goes by it."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from metering.errors import MeteringError, Reason
from metering.security.callers import Caller, Role
from metering.security.reloading import Reloaded
from metering.security.role_file import Roles
from metering.security.tokens import BadTokenError, ExpiredTokenError, TokenChecker

if TYPE_CHECKING:
    from grpc import aio

Context: TypeAlias = "aio.ServicerContext[Any, Any]"
Authenticate = Callable[[Context], Caller]
"""Returns who sends an RPC; raises MeteringError (UNAUTHENTICATED, TOKEN_EXPIRED, PERMISSION_DENIED)."""
Check = Callable[[Any, Context], None]
"""Raises MeteringError unless the sender of an RPC may have what it asks for."""

WATCHES_MAX = 2_000
"""One for each gateway process, and those that a broken network has left behind. One takes some 40 kB."""
LISTS_MAX = 32
"""They share the connections to the database with all else but recording."""
DENIALS_LOGGED_EVERY_S = 10.0
"""So that whoever knocks again and again does not fill the log."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Permission:
    """Who may send an RPC."""

    roles: frozenset[Role]
    """Empty: anybody, without saying who."""
    about_accounts: bool = True
    """A reader that is limited to accounts may send it for these: the request must name them."""
    act: bool = False
    """It changes something by somebody's decision: it is noted who did it."""
    streams_max: int = 0
    """So many streams may be under way in one worker; it takes a number for each method that answers with a stream."""


def _for(*roles: Role, about_accounts: bool = True, act: bool = False, streams_max: int = 0) -> Permission:
    return Permission(frozenset((*roles, Role.ADMIN)), about_accounts=about_accounts, act=act, streams_max=streams_max)


_METERING: Final = "/faceid.metering.v1.MeteringService"
_ACCOUNTS: Final = "/faceid.metering.v1.AccountService"
_ANYBODY: Final = Permission(frozenset())

PERMISSIONS: Final[Mapping[str, Permission]] = MappingProxyType(
    {
        f"{_METERING}/RecordCall": _for(Role.GATEWAY),
        f"{_METERING}/BatchRecordCalls": _for(Role.GATEWAY),
        f"{_METERING}/CheckServiceStatus": _for(Role.GATEWAY, Role.READER),
        f"{_METERING}/WatchServiceStatus": _for(Role.GATEWAY, Role.READER, streams_max=WATCHES_MAX),
        f"{_METERING}/GetMonthlyUsage": _for(Role.READER, Role.BILLER),
        f"{_METERING}/ListCalls": _for(Role.READER, Role.BILLER, streams_max=LISTS_MAX),
        f"{_METERING}/CloseMonth": _for(Role.BILLER, act=True),
        f"{_METERING}/Deduct": _for(Role.BILLER, act=True),
        f"{_ACCOUNTS}/ActivateAccount": _for(act=True),
        f"{_ACCOUNTS}/GetAccount": _for(Role.READER, Role.BILLER),
        f"{_ACCOUNTS}/RecordPayment": _for(Role.BILLER, act=True),
        f"{_ACCOUNTS}/PutPricePlan": _for(act=True),
        f"{_ACCOUNTS}/GetPricePlan": _for(Role.READER, Role.BILLER),
        f"{_ACCOUNTS}/ListPricePlans": _for(Role.READER, Role.BILLER),
        f"{_ACCOUNTS}/AssignPricePlan": _for(act=True),
        f"{_ACCOUNTS}/GetBill": _for(Role.READER, Role.BILLER),
        f"{_ACCOUNTS}/GetMonth": _for(Role.READER, Role.BILLER),
        f"{_ACCOUNTS}/ListBills": _for(Role.READER, Role.BILLER),
        f"{_ACCOUNTS}/ListRejectedCalls": _for(Role.READER, Role.BILLER),
        f"{_ACCOUNTS}/RetryRejectedCalls": _for(Role.BILLER, act=True),
        f"{_ACCOUNTS}/RunMonth": _for(Role.BILLER, act=True),
        f"{_ACCOUNTS}/PreviewRunMonth": _for(Role.BILLER, streams_max=LISTS_MAX),
        f"{_ACCOUNTS}/ListMonthlyRuns": _for(Role.READER, Role.BILLER),
        "/grpc.health.v1.Health/Check": _ANYBODY,
        "/grpc.health.v1.Health/List": _ANYBODY,
        "/grpc.health.v1.Health/Watch": Permission(frozenset(), streams_max=WATCHES_MAX),
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _for(
            Role.GATEWAY, Role.READER, Role.BILLER, about_accounts=False, streams_max=LISTS_MAX
        ),
    }
)
"""A method without a row is not served: the service does not start with one."""


class Guard:
    """Lets RPCs through whose sender may have what it asks for."""

    def __init__(self, authenticate: Authenticate) -> None:
        self.authenticate = authenticate
        self._log_again_at = float("-inf")
        self._denied_unlogged = 0

    def check_of(self, method: str, permission: Permission) -> Check | None:
        """Return what checks the RPCs of a method; None: anybody may."""
        if not permission.roles:
            return None
        authenticate, roles, about_accounts = self.authenticate, permission.roles, permission.about_accounts

        def check(request: Any, context: Context) -> None:  # noqa: ANN401 - any message
            try:
                caller = authenticate(context)
                if caller.role not in roles:
                    raise _wrong_role(roles, caller)
                if caller.accounts is not None and about_accounts:
                    _limit(request, caller, caller.accounts)
            except MeteringError as error:
                self._log_denial(method, context.peer(), error)
                raise

        return check

    def _log_denial(self, method: str, peer: str, error: MeteringError) -> None:
        now = monotonic()
        if now < self._log_again_at:
            self._denied_unlogged += 1
            return
        more = (
            f" ({self._denied_unlogged:,} more were denied since the last such line)" if self._denied_unlogged else ""
        )
        self._denied_unlogged, self._log_again_at = 0, now + DENIALS_LOGGED_EVERY_S
        log.warning("denied to %s: %s: %s%s", peer, method, error.message, more)


def _wrong_role(roles: frozenset[Role], caller: Caller) -> MeteringError:
    needed = " or ".join(role for role in Role if role in roles)
    return MeteringError(Reason.PERMISSION_DENIED, f"this takes the role {needed}; {caller.name} is {caller.role}")


def _limit(request: Any, caller: Caller, accounts: frozenset[str]) -> None:  # noqa: ANN401 - any message
    """Let a reader ask for its own accounts only. "All accounts" of a watch are all of its own."""
    if hasattr(request, "account_ids"):
        if not request.account_ids:
            request.account_ids.extend(sorted(accounts))
        asked = request.account_ids
    else:
        asked = (getattr(request, "account_id", ""),)
    for account_id in asked:
        if account_id in accounts:
            continue
        if account_id:
            msg = f"{caller.name} may read the accounts that it is limited to, and {account_id[:64]!r} is none of them"
        else:
            msg = f"this is about all accounts unless it names one, and {caller.name} is limited to some"
        raise MeteringError(Reason.PERMISSION_DENIED, msg)


def by_certificate(roles: Reloaded[Roles]) -> Authenticate:
    """Return what tells senders by their certificates, which TLS has verified.

    An identity is one of the certificate's subject alternative names, or its common name if it has none of these.
    """

    def authenticate(context: Context) -> Caller:
        identities = context.peer_identities() or ()
        known = roles.value
        callers = [known[identity] for identity in identities if identity in known]
        if len(callers) != 1:
            names = (
                ", ".join(repr(identity[:256].decode(errors="replace")) for identity in identities) or "without a name"
            )
            problem = "has more than one role" if callers else "has no role"
            msg = f"the certificate ({names}) {problem} in the service's roles file"
            raise MeteringError(Reason.PERMISSION_DENIED, msg)
        return callers[0]

    return authenticate


def by_token(tokens: Reloaded[TokenChecker]) -> Authenticate:
    """Return what tells senders by their bearer tokens."""

    def authenticate(context: Context) -> Caller:
        for key, value in context.invocation_metadata() or ():
            if key == "authorization":
                scheme, _, token = str(value).partition(" ")
                if scheme.lower() != "bearer" or not token:
                    break
                try:
                    return tokens.value.caller(token)
                except ExpiredTokenError as error:
                    raise MeteringError(Reason.TOKEN_EXPIRED, str(error)) from None
                except BadTokenError as error:
                    raise MeteringError(Reason.UNAUTHENTICATED, str(error)) from None
        msg = "who asks? Send a token in the metadata: authorization: Bearer …"
        raise MeteringError(Reason.UNAUTHENTICATED, msg)

    return authenticate
