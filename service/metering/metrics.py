"""What Prometheus scrapes."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000)


class BatcherMetrics:
    """What a batcher tells of itself."""

    def __init__(self, metrics: "Metrics", queue: str) -> None:
        self._items = metrics.batch_items.labels(queue)
        self._seconds = metrics.commit_seconds.labels(queue)
        self._failures = metrics.commit_failures.labels(queue)
        self.waiting = metrics.queue_items.labels(queue)
        self.oldest = metrics.queue_oldest_seconds.labels(queue)

    def committed(self, items: int, seconds: float) -> None:
        """A batch was committed."""
        self._items.observe(items)
        self._seconds.observe(seconds)

    def failed(self) -> None:
        """A commit failed because of the database."""
        self._failures.inc()


class Metrics:
    """All metrics of one process. With several workers, a gauge is what `multiprocess_mode` makes of theirs."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        rpc = ("grpc_type", "grpc_service", "grpc_method")
        self.rpc_started = Counter("grpc_server_started_total", "RPCs started on the server.", rpc, registry=registry)
        self.rpc_handled = Counter(
            "grpc_server_handled_total", "RPCs completed on the server.", (*rpc, "grpc_code"), registry=registry
        )
        self.rpc_seconds = Histogram(
            "grpc_server_handling_seconds", "Time the server took for RPCs.", rpc, buckets=_SECONDS, registry=registry
        )

        self.queue_items = Gauge(
            "metering_queue_items",
            "Calls (or rejected calls) waiting for a commit.",
            ("queue",),
            multiprocess_mode="livesum",
            registry=registry,
        )
        self.queue_oldest_seconds = Gauge(
            "metering_queue_oldest_seconds",
            "How long the oldest call has been waiting.",
            ("queue",),
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.batch_items = Histogram(
            "metering_batch_items", "Calls in a committed batch.", ("queue",), buckets=_SIZES, registry=registry
        )
        self.commit_seconds = Histogram(
            "metering_commit_seconds", "Time a commit took.", ("queue",), buckets=_SECONDS, registry=registry
        )
        self.commit_failures = Counter(
            "metering_commit_failures_total",
            "Commits that failed because of the database, to be tried again.",
            ("queue",),
            registry=registry,
        )
        self.calls_recorded = Counter("metering_recorded_calls_total", "Calls recorded, each once.", registry=registry)
        self.calls_duplicate = Counter(
            "metering_duplicate_calls_total", "Calls delivered that had been recorded before.", registry=registry
        )
        self.calls_carried = Counter(
            "metering_carried_calls_total",
            "Recorded calls that came in after their month was closed.",
            registry=registry,
        )
        self.calls_rejected = Counter(
            "metering_rejected_calls_total", "Calls rejected.", ("reason",), registry=registry
        )
        self.rejects_dropped = Counter(
            "metering_rejected_calls_dropped_total",
            "Rejected calls that were not kept, because there are too many.",
            registry=registry,
        )

        self.bills_issued = Counter("metering_issued_bills_total", "Bills issued.", registry=registry)
        self.unfolded_deltas = self._gauge("metering_unfolded_deltas", "Usage deltas not folded yet.", registry)
        self.bills = Gauge(
            "metering_unpaid_bills",
            "Bills that are not paid, by state.",
            ("state",),
            multiprocess_mode="mostrecent",
            registry=registry,
        )
        self.suspended_accounts = self._gauge("metering_suspended_accounts", "Suspended accounts.", registry)
        self.last_closed_month = self._gauge(
            "metering_last_closed_month", "The newest closed month, as the number 202611; 0: none.", registry
        )
        self.unbilled_month = self._gauge(
            "metering_unbilled_month",
            "The newest month that is closed and not wholly billed, as the number 202611; 0: none.",
            registry,
        )
        self.close_accounts = Gauge(
            "metering_close_accounts",
            "Of the unbilled month: accounts LOOKED_AT by its close, and LEFT.",
            ("state",),
            multiprocess_mode="mostrecent",
            registry=registry,
        )
        self.close_seconds = self._gauge(
            "metering_close_seconds",
            "From the seal of the newest closed month until it was billed, or until now.",
            registry,
        )
        self.status_feed_age = Gauge(
            "metering_status_feed_age_seconds",
            "How old a service status may be that is answered from memory.",
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.status_watchers = Gauge(
            "metering_status_watchers", "WatchServiceStatus streams.", multiprocess_mode="livesum", registry=registry
        )
        self.statuses = Gauge(
            "metering_statuses", "Service statuses in memory.", multiprocess_mode="livesum", registry=registry
        )
        self.senders = Gauge(
            "metering_senders",
            "Clients that number their calls: LIVE, SILENT (gone without a goodbye, or cut off), CLOSED.",
            ("state",),
            multiprocess_mode="mostrecent",
            registry=registry,
        )
        self.sender_missing_calls = Gauge(
            "metering_sender_missing_calls",
            "Calls that clients have numbered and that have not arrived: of LIVE ones under way or spooled, of others "
            "spooled or lost.",
            ("state",),
            multiprocess_mode="mostrecent",
            registry=registry,
        )
        self.audited_accounts = Counter(
            "metering_audited_accounts_total", "Accounts whose books were recomputed.", registry=registry
        )
        self.audit_differences = Counter(
            "metering_audit_differences_total",
            "Differences that the audit found, by kind, counted when they are found, in each pass anew.",
            ("kind",),
            registry=registry,
        )
        self.audit_drift = Gauge(
            "metering_audit_drift",
            "Differences that the last finished pass of the audit found, by kind.",
            ("kind",),
            multiprocess_mode="mostrecent",
            registry=registry,
        )
        self.audit_finished = self._gauge(
            "metering_audit_finished_timestamp_seconds",
            "When the last finished pass of the audit ended; 0: none has.",
            registry,
        )
        self.audit_duration = self._gauge(
            "metering_audit_duration_seconds",
            "How long the last finished pass of the audit took, with its pauses.",
            registry,
        )
        self.sender_news_dropped = Counter(
            "metering_sender_news_dropped_total",
            "Requests whose numbers were not noted, because too many wait to be written: their calls show as missing.",
            registry=registry,
        )
        self.ready = Gauge(
            "metering_ready", "1 while the service is ready for calls.", multiprocess_mode="livemin", registry=registry
        )
        self.loop_turned = Gauge(
            "metering_loop_turned_timestamp_seconds",
            "When the event loop last turned; of several workers, the one that has been stuck for longest.",
            multiprocess_mode="livemin",
            registry=registry,
        )
        self.loop_busy = Gauge(
            "metering_loop_busy_ratio",
            "For which share of the last moment the event loop had something to do; of several workers, the busiest.",
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.workers = Gauge(
            "metering_workers", "Worker processes that run.", multiprocess_mode="livesum", registry=registry
        )
        self.broken_files = Gauge(
            "metering_broken_files",
            "1 while a file has changed to something that cannot be used, and what it said before stays in force.",
            ("file",),
            multiprocess_mode="livemax",
            registry=registry,
        )
        self.certificate_expires = Gauge(
            "metering_certificate_expires_timestamp_seconds",
            "When the server's certificate, or one of those above it, expires; 0: there is none.",
            multiprocess_mode="livemin",
            registry=registry,
        )
        self.calls = BatcherMetrics(self, "calls")
        self.rejects = BatcherMetrics(self, "rejected_calls")

    @staticmethod
    def _gauge(name: str, description: str, registry: CollectorRegistry) -> Gauge:
        """Return a gauge of something that is the same for all workers."""
        return Gauge(name, description, multiprocess_mode="mostrecent", registry=registry)

    def recorded(self, new: int, duplicates: int, carried: int) -> None:
        """Calls were recorded."""
        if new:
            self.calls_recorded.inc(new)
        if duplicates:
            self.calls_duplicate.inc(duplicates)
        if carried:
            self.calls_carried.inc(carried)

    def rejected(self, reason: str, calls: int) -> None:
        """Calls were rejected."""
        self.calls_rejected.labels(reason).inc(calls)

    def audited(self, accounts: int, kinds: Iterable[str]) -> None:
        """Accounts were audited, and differences of these kinds were found."""
        self.audited_accounts.inc(accounts)
        for kind in kinds:
            self.audit_differences.labels(kind).inc()

    def dropped(self, calls: int) -> None:
        """Rejected calls were not kept, for there are too many."""
        self.rejects_dropped.inc(calls)
