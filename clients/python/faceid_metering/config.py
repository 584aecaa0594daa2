"""What can be set on a client."""

from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True)
class ClientConfig:
    """Settings of a client, all of them in seconds and more than 0; raises ValueError for others."""

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

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                raise ValueError(f"{field.name} must be more than 0")
