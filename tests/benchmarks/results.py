"""What was measured, part by part."""

from dataclasses import dataclass, field
from enum import StrEnum

from tests.benchmarks.machine import Machine
from tests.benchmarks.suite import Measurement, OpenMeasurement, Options


class Part(StrEnum):
    """A part of the benchmark."""

    TABLE = "table"
    LATENCY = "latency"
    OVERLOAD = "overload"
    TURN = "turn"
    SIZES = "sizes"
    MEMORY = "memory"
    WORKERS = "workers"
    STORED = "stored"


class Row(StrEnum):
    """A line of the table of throughput."""

    ECHO = "echo"
    RECORD = "record"
    CHECK = "check"
    INSERT = "insert"
    RECORD_ONE = "record-one"
    RECORD_MANY = "record-many"
    BATCH = "batch"
    COPY = "copy"
    REPEATS = "repeats"
    BATCH_ONE = "batch-one"
    BATCH_MANY = "batch-many"


@dataclass(frozen=True)
class LatencyPoint:
    """Echo and RecordCall at the same rate, one after the other."""

    share: float
    """Of RecordCall's maximum."""
    echo: OpenMeasurement
    record: OpenMeasurement


@dataclass(frozen=True)
class Overload:
    """More load than can be taken."""

    what: str
    batch: int
    maximum: float
    """Calls a second in a closed loop just before."""
    load: OpenMeasurement

    @property
    def ratio(self) -> float:
        """Return the throughput of calls acknowledged, of the maximum."""
        return self.load.load.ok_per_second * self.batch / self.maximum


@dataclass(frozen=True)
class Turn:
    """RecordCall across folds, midnight, the turn of a month and its monthly run."""

    load: OpenMeasurement
    turn_second: int
    """In which second of the load the month turned."""
    partitions: int
    """How many days the calls were stored in."""
    closed_after_seconds: float
    """How long after the turn the month was found closed."""
    bills: int
    """Issued by the monthly run."""


@dataclass(frozen=True)
class Memory:
    """Of the worker, while it records."""

    calls: int
    seconds: float
    start_mb: float
    end_mb: float
    peak_mb: float
    samples_mb: tuple[float, ...]
    """One a second."""


@dataclass(frozen=True)
class StoredPoint:
    """A database with calls beside an empty one."""

    stored: int
    record: list[Measurement]
    record_empty: list[Measurement]
    batch: list[Measurement]
    batch_empty: list[Measurement]
    usage_ms: tuple[float, float]
    """GetMonthlyUsage, p50 and p99."""
    usage_empty_ms: tuple[float, float]


@dataclass
class Results:
    """All measurements."""

    options: Options
    machine: Machine
    acknowledged_calls: int = 0
    """Found to be the number of calls counted, account by account."""
    rows: dict[Row, list[Measurement]] = field(default_factory=dict)
    latency: list[LatencyPoint] = field(default_factory=list)
    overload: list[Overload] = field(default_factory=list)
    turn: Turn | None = None
    sizes: dict[int, list[Measurement]] = field(default_factory=dict)
    memory: Memory | None = None
    workers: dict[str, list[Measurement]] = field(default_factory=dict)
    stored: list[StoredPoint] = field(default_factory=list)
