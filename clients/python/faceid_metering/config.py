"""What can be set on a client."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import StrEnum
from pathlib import Path

from faceid_metering.messages import CallRecord, Rejection


class Durability(StrEnum):
    """Where `record` puts a call first."""

    MEMORY = "memory"
    """In memory; to the spool if it cannot be delivered soon. What is still in memory dies with the process."""

    DISK = "disk"
    """To the spool. Once `flush` has returned, the call survives the death of the process."""


class SpoolFull(StrEnum):
    """What happens to calls for which the spool has no room."""

    REJECT_NEW = "reject_new"
    """They wait in memory; when that is full too, new ones are dropped."""

    DROP_OLDEST = "drop_oldest"
    """The oldest in the spool are dropped in their favour."""


class WhenUnknown(StrEnum):
    """What `is_active` says of an account that it hasn't heard of yet, or that the service does not know."""

    ALLOW = "allow"
    DENY = "deny"


class WhenLost(StrEnum):
    """What `is_active` says when it hasn't heard from the service for `status_lost_after_s`."""

    LAST_KNOWN = "last_known"
    """What it heard last; of an account that it never heard of, as `status_when_unknown` says."""

    ALLOW = "allow"
    """Everybody may call: fail open."""

    DENY = "deny"
    """Nobody may call: fail closed."""


def _ignore_rejection(_call: CallRecord, _rejection: Rejection) -> None:
    pass


def _ignore_drop(_calls: int, _why: str) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class ClientConfig:
    """Settings of a client. Numbers are more than 0; raises ValueError for others."""

    attempt_timeout_s: float = 2.0
    """How long one attempt may take, or, in a stream of calls, how long the next one may be waited for."""

    timeout_s: float = 10.0
    """How long a method may take in all, with its retries; each method takes another value for one time."""

    close_month_timeout_s: float = 600.0
    """The same for `close_month`, which has that long for a single attempt too: it takes its time, and recording
    goes on meanwhile."""

    back_off_initial_s: float = 0.1
    """The longest pause before the first retry. It doubles with each one; the actual pause is random, from 0 on."""

    back_off_max_s: float = 2.0
    """What these pauses grow to at most, and those between attempts to connect."""

    keepalive_interval_s: float = 310.0
    """How long a connection under use may be silent before it is pinged, so that a watch over a connection that
    broke without a word is taken up again. A server or proxy with gRPC's usual rules sends away who pings more often
    than every 5 minutes; the metering service itself bears 10 seconds: set less where nothing stands in between.
    `math.inf`: never."""

    connections: int = 2
    """Over how many connections `record` delivers, so that several workers of the service share the load."""

    batches_in_flight: int = 4
    """How many batches of fresh calls may be under way at once; of spooled ones, half as many more."""

    batch_calls: int = 2_000
    """The most calls in a batch, up to 10,000."""

    queue_calls: int = 100_000
    """The most calls waiting in memory, about 110 bytes each. `record` drops what comes beyond, and counts it."""

    durability: Durability = Durability.MEMORY
    """What `record` does unless told otherwise."""

    spool_dir: Path | None = None
    """Where calls are kept on disk while they cannot be delivered. Several processes may share a directory, and should:
    what one leaves behind, another delivers. Clients of different services must not. None: no spool; in an outage,
    calls wait in memory only, which is said in the log when the first one is recorded. There is no default: which
    directory outlives the process, and belongs to this service alone, only its operator knows."""

    spool_after_s: float = 0.5
    """How long a call may wait in memory before it goes to the spool."""

    spool_bytes: int = 256 * 1024 * 1024
    """The most bytes that this client's spool takes on disk, at least 16 MiB. 8 MiB of them are SQLite's log; of the
    others a call takes about 80, in batches that are very small up to twice as many."""

    spool_full: SpoolFull = SpoolFull.REJECT_NEW
    """What happens then."""

    spool_fsync: bool = False
    """Whether the spool survives a loss of power, too, at the price of an fsync with each write. The death of the
    process it survives in any case."""

    close_timeout_s: float = 2.0
    """For how long `aclose` tries to deliver what waits in memory, before it spools it."""

    report_interval_s: float = 10.0
    """How often the service is told that this client lives, and how many calls it has taken."""

    status_accounts: int = 100_000
    """Of how many accounts the status is kept; the oldest ones make room."""

    status_lost_after_s: float = 30.0
    """After how long without a word from the service `status_when_lost` applies."""

    status_when_lost: WhenLost = WhenLost.LAST_KNOWN
    """See WhenLost."""

    status_when_unknown: WhenUnknown = WhenUnknown.ALLOW
    """What `is_active` says of an account that it hasn't heard of yet, while it asks; and of one that the service does
    not know: it is not suspended, and its calls are rejected and kept, to be counted once it is activated."""

    on_rejected: Callable[[CallRecord, Rejection], None] = _ignore_rejection
    """Called with each recorded call that the service rejected: it is not going to be billed, nor sent again."""

    on_dropped: Callable[[int, str], None] = _ignore_drop
    """Called with a number of calls that were lost, and why: `full`, `oldest`, `closed`. From any thread."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and not isinstance(value, bool) and not value > 0:
                raise ValueError(f"{field.name} must be more than 0")
        if self.batch_calls > BATCH_CALLS_MAX:
            raise ValueError(f"batch_calls must be at most {BATCH_CALLS_MAX}")
        if self.spool_bytes < SPOOL_BYTES_MIN:
            raise ValueError(f"spool_bytes must be at least {SPOOL_BYTES_MIN}")
        if self.durability == Durability.DISK and self.spool_dir is None:
            raise ValueError("durability is DISK: set spool_dir, too")


BATCH_CALLS_MAX = 10_000
"""What the service takes in one request."""

SPOOL_BYTES_MIN = 16 * 1024 * 1024
"""Twice what SQLite's log may take."""
