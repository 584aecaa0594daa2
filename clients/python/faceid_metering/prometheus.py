"""What a client counts, on the user's own Prometheus registry. Needs the extra `faceid-metering[prometheus]`.

registry.register(ClientCollector(metering))
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from faceid_metering.stats import ClientStats

_COUNTERS: Final[Mapping[str, tuple[str, str, Callable[[ClientStats], Mapping[str, float]]]]] = {
    "delivered_calls": ("", "Calls that the service has acknowledged.", lambda stats: {"": stats.delivered_calls}),
    "duplicate_calls": (
        "",
        "Of these, calls that it had recorded before.",
        lambda stats: {"": stats.duplicate_calls},
    ),
    "delivered_batches": ("", "Batches that it has acknowledged.", lambda stats: {"": stats.delivered_batches}),
    "failed_batches": ("reason", "Attempts to deliver a batch that failed.", lambda stats: stats.failed_batches),
    "spooled_calls": ("", "Calls that went to the spool.", lambda stats: {"": stats.spooled_calls}),
    "adopted_calls": ("", "Calls taken over from clients that are gone.", lambda stats: {"": stats.adopted_calls}),
    "spool_errors": ("", "Failures of the spool's disk.", lambda stats: {"": stats.spool_errors}),
    "rejected_calls": ("reason", "Calls that the service rejected.", lambda stats: stats.rejected_calls),
    "dropped_calls": ("reason", "Calls that were lost at a bound.", lambda stats: stats.dropped_calls),
    "status_answers": (
        "answer",
        "Answers of is_active other than that an account is known to be active.",
        lambda stats: stats.status_answers,
    ),
}
_GAUGES: Final[Mapping[str, tuple[str, Callable[[ClientStats], float]]]] = {
    "waiting_calls": ("Calls in memory.", lambda stats: stats.waiting_calls),
    "spool_calls": ("Calls in the spool.", lambda stats: stats.spool_calls),
    "spool_bytes": ("Bytes in use of the spool's file.", lambda stats: stats.spool_bytes),
    "spool_oldest_seconds": ("How old the oldest call in the spool is.", lambda stats: stats.spool_oldest_s),
    "service_up": ("1 while the service takes calls.", lambda stats: stats.service_up),
    "status_accounts": ("Accounts whose status is known.", lambda stats: stats.status_accounts),
    "status_age_seconds": ("How old these statuses may be.", lambda stats: stats.status_age_s),
}


class Counting(Protocol):
    """What is needed of a client; MeteringClient and SyncMeteringClient both are one."""

    def stats(self) -> ClientStats:
        """Return what it counts."""


class ClientCollector(Collector):
    """Reads a client's counts when Prometheus asks, and costs nothing in between."""

    def __init__(self, metering: Counting | Mapping[str, Counting]) -> None:
        """Collect from a client, or from several of a process by name, which is then the label `client`."""
        self._labels = ["client"] if isinstance(metering, Mapping) else []
        self._clients = metering if isinstance(metering, Mapping) else {"": metering}

    def describe(self) -> Iterator[Metric]:
        """Name the metrics, so that to register asks nothing of the clients."""
        return self._metrics({})

    def collect(self) -> Iterator[Metric]:
        """Return all counts as they are."""
        return self._metrics({name: client.stats() for name, client in self._clients.items()})

    def _metrics(self, found: Mapping[str, ClientStats]) -> Iterator[Metric]:
        for metric, (label, text, counts) in _COUNTERS.items():
            labels = [*self._labels, *([label] if label else [])]
            counter = CounterMetricFamily(f"metering_client_{metric}", text, labels=labels)
            for client, stats in found.items():
                for value, count in dict(counts(stats)).items():
                    counter.add_metric([client][: len(self._labels)] + [value][: bool(label)], count)
            yield counter
        for metric, (text, size) in _GAUGES.items():
            gauge = GaugeMetricFamily(f"metering_client_{metric}", text, labels=self._labels)
            for client, stats in found.items():
                gauge.add_metric([client][: len(self._labels)], float(size(stats)))
            yield gauge
