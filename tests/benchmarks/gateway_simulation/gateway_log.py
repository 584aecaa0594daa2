"""What a gateway notes, and hands over at its end."""

from array import array
from dataclasses import dataclass, field


def _seconds() -> "array[float]":
    return array("d")


@dataclass
class GatewayLog:
    """What it noted. Times are those of the system's monotonic clock, in seconds."""

    sent_at: "array[float]" = field(default_factory=_seconds)
    began_at: "array[float]" = field(default_factory=_seconds)
    """When the gateway came to it."""
    ended_at: "array[float]" = field(default_factory=_seconds)
    processor_s: "array[float]" = field(default_factory=_seconds)
    """What its thread took of a processor in between."""
    work_ended_at: "array[float]" = field(default_factory=_seconds)
    """Callbacks on the event loop that were neither requests nor the measuring, which are the client's."""
    work_processor_s: "array[float]" = field(default_factory=_seconds)
    denied: int = 0
    waiting_calls_max: int = 0
    spool_bytes_max: int = 0
    memory_before_bytes: int = 0
    memory_max_bytes: int = 0
    delivered_s: float = float("inf")
    """How long it took at the end until all was delivered."""
    counts: dict[str, int] = field(default_factory=dict)
    """What the client counts of itself."""
