"""The errors of this service: what was wrong, for whom, and whether trying again helps.

Raised anywhere below `rpc`, which turns them into gRPC statuses in one place.
"""

import functools
import logging
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

CONFLICT_RETRIES = 8
"""How often a transaction is tried again that the database undid in favour of another one."""

log = logging.getLogger(__name__)


class Reason(StrEnum):
    """Why a request was refused; the names of `faceid.metering.v1.ErrorReason` without their prefix."""

    INVALID_FIELD = "INVALID_FIELD"
    OCCURRED_AT_OUT_OF_RANGE = "OCCURRED_AT_OUT_OF_RANGE"
    TOO_MANY_RECORDS = "TOO_MANY_RECORDS"
    ACCOUNT_NOT_FOUND = "ACCOUNT_NOT_FOUND"
    PRICE_PLAN_NOT_FOUND = "PRICE_PLAN_NOT_FOUND"
    BILL_NOT_FOUND = "BILL_NOT_FOUND"
    ACCOUNT_ALREADY_ACTIVATED = "ACCOUNT_ALREADY_ACTIVATED"
    PAYMENT_ID_REUSED = "PAYMENT_ID_REUSED"
    MONTH_NOT_ENDED = "MONTH_NOT_ENDED"
    MONTH_ALREADY_BILLED = "MONTH_ALREADY_BILLED"
    CURRENCY_MISMATCH = "CURRENCY_MISMATCH"
    MONTHLY_RUN_UNDER_WAY = "MONTHLY_RUN_UNDER_WAY"
    CALLS_DROPPED = "CALLS_DROPPED"
    QUEUE_FULL = "QUEUE_FULL"
    TOO_MANY_STREAMS = "TOO_MANY_STREAMS"
    DATABASE_UNAVAILABLE = "DATABASE_UNAVAILABLE"
    SHUTTING_DOWN = "SHUTTING_DOWN"
    INTERNAL = "INTERNAL"
    UNRECORDABLE = "UNRECORDABLE"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    TOKEN_EXPIRED = "TOKEN_EXPIRED"  # noqa: S105 - no secret
    PERMISSION_DENIED = "PERMISSION_DENIED"


@dataclass(frozen=True)
class FieldViolation:
    """A field of a request that was missing or malformed."""

    field: str
    """Its path in the request, such as `price_plan.prices[0].api`."""
    description: str
    """What was wrong, and what to do."""


class MeteringError(Exception):
    """A request was refused.

    Attributes:
        reason: why, for programs.
        message: why, for people: which field, what was wrong, what to do.
        violations: the malformed fields, for bad input.
        retry_after_s: where trying again helps, after how many seconds.

    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        violations: tuple[FieldViolation, ...] = (),
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.violations = violations
        self.retry_after_s = retry_after_s


def invalid_field(field: str, description: str, reason: Reason = Reason.INVALID_FIELD) -> MeteringError:
    """Return the error for one malformed field; `description` says what was wrong with it and what to do."""
    return MeteringError(reason, f"{field}: {description}", violations=(FieldViolation(field, description),))


def account_not_found(account_id: str) -> MeteringError:
    """Return the error for an account that was not activated."""
    return MeteringError(
        Reason.ACCOUNT_NOT_FOUND, f"account_id: {account_id!r} is not activated; ActivateAccount does it"
    )


class DatabaseUnavailableError(MeteringError):
    """The database could not be reached, or went away in the middle; what was being done may have happened or not."""

    def __init__(self, message: str, retry_after_s: float = 1.0) -> None:
        super().__init__(Reason.DATABASE_UNAVAILABLE, message, retry_after_s=retry_after_s)


class DatabaseUnusableError(MeteringError):
    """The database cannot be used as it is, or its URL is none: waiting for it is no use."""

    def __init__(self, message: str) -> None:
        super().__init__(Reason.DATABASE_UNAVAILABLE, message)


class DatabaseReadOnlyError(DatabaseUnavailableError):
    """The database takes no writes."""

    def __init__(self) -> None:
        super().__init__(
            "The database takes no writes: it is a standby, or default_transaction_read_only is on. "
            "Point METERING_DATABASE_URL at the primary, or name all servers in it, as in "
            "postgresql://USER@HOST1,HOST2/DATABASE: the one that takes writes is found by itself."
        )


class UnsuitableDatabaseError(Exception):
    """The database is one that this service must not work on; waiting does not help."""


class LockedError(DatabaseUnavailableError):
    """Another session holds a lock that was waited for as long as is allowed."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"Another session holds a lock for too long: {what}. "
            'docs/operations.md, "Locks", tells how to find out which one it is.'
        )


class TransactionConflictError(Exception):
    """The database undid a transaction in favour of another one (deadlock, serialization): do it again."""


class RowRefusedError(Exception):
    """The database refused a batch for the content of at least one row; nothing of the batch was written."""


def retry_conflicts(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Make a function that is one transaction run again when the database undid it in favour of another one."""

    @functools.wraps(function)
    async def retrying(*args: P.args, **kwargs: P.kwargs) -> T:
        for _ in range(CONFLICT_RETRIES):
            try:
                return await function(*args, **kwargs)
            except TransactionConflictError as error:
                log.info("transaction undone in favour of another one, trying again: %s", error)
        return await function(*args, **kwargs)

    return retrying
