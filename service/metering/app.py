"""The composition root: builds every part of one worker, starts it, and stops it, in order."""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta

from metering.access.feed import StatusFeed
from metering.access.statuses import Statuses
from metering.background import every, going_on, wait_for_database
from metering.billing.accounts import AccountKeeper
from metering.billing.audit import Auditor
from metering.billing.close import MonthCloser
from metering.billing.continuous_audit import ContinuousAudit
from metering.billing.deduct import Collector
from metering.billing.monthly_run import MonthlyRun
from metering.billing.months import BillingCalendar
from metering.billing.run_preview import RunPreview
from metering.clock import Clock, SystemClock
from metering.errors import DatabaseUnavailableError, UnsuitableDatabaseError
from metering.gauges import BookGauges, WorkerGauges
from metering.loop_load import GiveWay, LoopLoad
from metering.metrics import Metrics
from metering.recording.batcher import BatcherLimits
from metering.recording.recorder import Recorder
from metering.recording.retry import Retrier
from metering.recording.senders import Senders
from metering.recording.validation import BACK_MAX
from metering.rpc.account_servicer import AccountServicer
from metering.rpc.acts import ActNotes
from metering.rpc.edge import Edge
from metering.rpc.metering_servicer import MeteringServicer
from metering.rpc.permissions import Guard, by_certificate, by_token
from metering.rpc.server import RpcServer
from metering.security.protection import Protection
from metering.settings import Settings
from metering.store.accounts import AccountStore
from metering.store.acts import ActStore
from metering.store.audit import AuditStore
from metering.store.audit_passes import AuditPassStore
from metering.store.bills import BillStore
from metering.store.calls import CallStore
from metering.store.database import STATEMENT_S, Database
from metering.store.gauges import GaugeStore
from metering.store.installation import InstallationStore
from metering.store.monthly_runs import MonthlyRunStore
from metering.store.rejected_calls import RejectedCallStore
from metering.store.senders import SenderStore
from metering.store.status_feed import StatusFeedStore
from metering.store.usage import UsageStore

FOLD_INTERVAL_S = 1.0
FOLDED_DELTAS_MAX = 20_000
PARTITION_INTERVAL_S = 600.0
PARTITIONS_AHEAD = timedelta(days=7)
PARTITIONS_TOLD_INTERVAL_S = 2.0
"""Longer than any session takes to read the list of partitions."""
MONTHLY_RUN_INTERVAL_S = 60.0
AUDIT_INTERVAL_S = 1.0
"""How often it is looked whether the next step of the continuous audit is due."""
AUDIT_STATEMENT_S = 3600.0
"""An account with very many calls takes long to audit."""
PURGE_INTERVAL_S = 3600.0
GAUGES_INTERVAL_S = 1.0
BOOK_GAUGES_INTERVAL_S = 15.0
SENDERS_INTERVAL_S = 1.0
RELOAD_INTERVAL_S = 1.0
"""How often certificates, roles and token keys are looked at, whether they have changed."""
HEALTH_INTERVAL_S = 1.0
LOOP_STUCK_S = 30.0
"""A worker whose event loop has not turned for so long is not alive."""
CONNECTIONS = 12
"""Connections for everything but recording, which has one for each committer, and what the audit reads."""

log = logging.getLogger(__name__)


class BillingTimeZoneError(UnsuitableDatabaseError):
    """The database was set up for another billing time zone."""


class App:
    """One worker."""

    def __init__(
        self, settings: Settings, database_url: str, metrics: Metrics, clock: Clock | None = None, *, share_port: bool
    ) -> None:
        self._settings = settings
        self._database_url = database_url
        self._direct_database_url = settings.direct_database_url or database_url
        self._metrics = metrics
        self._clock = clock or SystemClock()
        self._calendar = BillingCalendar.of_zone(settings.billing_timezone)
        self._share_port = share_port
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._turned_at = time.monotonic()
        self._not_ready = "starting"

    def not_alive(self) -> str:
        """Return what is wrong with this process; empty: nothing. May be called from any thread."""
        stuck_s = time.monotonic() - self._turned_at
        return f"the event loop has not turned for {stuck_s:.0f} s" if stuck_s > LOOP_STUCK_S else ""

    def not_ready(self) -> str:
        """Return why calls should go to another replica; empty: nothing. May be called from any thread."""
        return self.not_alive() or self._not_ready

    def _set_not_ready(self, wrong: str) -> None:
        self._not_ready = wrong
        self._metrics.ready.set(not wrong)

    async def run(self, stop: asyncio.Event, started: Callable[[int], None]) -> None:
        """Serve until `stop` is set, then end what is under way.

        Args:
            stop: set it to stop.
            started: is told the gRPC port once it listens.

        Raises:
            DatabaseUnavailableError: it was away for a minute at the start; later it is waited for.
            BillingTimeZoneError: the database has another billing time zone.
            UnsuitableDatabaseError: promises cannot rest on the database's sessions.
            BrokenFileError: a certificate or another file that says who may come in cannot be used.
            OSError: the address cannot be listened on.
            ExceptionGroup: a background task died, which none should.

        """
        protection = self._settings.load_protection()
        guard = guard_of(protection)
        async with AsyncExitStack() as stack:
            recording_db = await self._connect(stack, "recording", self._settings.committers + 1)
            database = await self._connect(stack, "service", CONNECTIONS)
            await wait_for_database(lambda: self._prepare_database(database), stop)
            calls = CallStore(recording_db)
            accounts, usage = AccountStore(database), UsageStore(database)
            statuses = Statuses(accounts)
            feed = StatusFeed(StatusFeedStore(database, self._direct_database_url), accounts, statuses)
            load = LoopLoad()
            recorder = Recorder(
                calls,
                RejectedCallStore(recording_db),
                statuses,
                self._calendar,
                self._clock,
                self._limits(),
                self._metrics,
                load.share,
            )
            rejected_calls = RejectedCallStore(database)
            retrier = Retrier(rejected_calls, recorder.calls, statuses, self._calendar, self._clock)
            give_way = GiveWay(lambda: not recorder.calls.idle)
            bills = BillStore(database, give_way)
            closer = MonthCloser(bills, self._calendar, self._clock, self._metrics.bills_issued.inc, give_way)
            collector = Collector(bills, self._calendar, self._clock, give_way)
            runs = MonthlyRunStore(database)
            monthly_run = MonthlyRun(runs, bills, closer, collector, self._calendar, self._clock, self._name)
            passes = AuditPassStore(database)
            audit = await self._continuous_audit(stack, passes)
            sender_store = SenderStore(database)
            senders = Senders(sender_store, self._clock, self._metrics)
            server = RpcServer(
                MeteringServicer(recorder, usage, usage, closer, collector, statuses, feed, senders),
                AccountServicer(
                    AccountKeeper(accounts, self._clock),
                    collector,
                    bills,
                    rejected_calls,
                    retrier,
                    monthly_run,
                    RunPreview(runs, bills, self._calendar, self._clock),
                    runs,
                ),
                Edge(
                    self._metrics,
                    ActNotes(ActStore(database), guard.authenticate if guard else None, self._clock),
                    guard,
                ),
                protection.certificate,
                reflects=self._settings.reflection,
                share_port=self._share_port,
                connections_max=self._settings.connections,
                connection_age_s=self._settings.connection_age_s,
            )
            worker_gauges = WorkerGauges(self._metrics, recorder, feed, statuses, load)
            book_gauges = BookGauges(self._metrics, GaugeStore(database), bills, passes, sender_store, self._clock)

            await wait_for_database(lambda: self._prepare_days(calls), stop)
            async with asyncio.TaskGroup() as tasks:
                committing = [tasks.create_task(batcher.run()) for batcher in (recorder.calls, recorder.rejects)]
                periodic: dict[str, tuple[float, Callable[[], Awaitable[object]]]] = {
                    "folder": (FOLD_INTERVAL_S, lambda: self._fold(calls)),
                    "partitions": (PARTITION_INTERVAL_S, lambda: self._prepare_days(calls)),
                    "partitions told": (PARTITIONS_TOLD_INTERVAL_S, calls.tell_of_partitions),
                    "monthly run": (MONTHLY_RUN_INTERVAL_S, going_on("monthly run", monthly_run.run_if_due)),
                    "rejected calls": (PURGE_INTERVAL_S, retrier.purge),
                    "gauges": (GAUGES_INTERVAL_S, lambda: self._turn(worker_gauges)),
                    "book gauges": (BOOK_GAUGES_INTERVAL_S, going_on("book gauges", book_gauges.tell_books)),
                    "senders": (SENDERS_INTERVAL_S, senders.write),
                    "reload": (RELOAD_INTERVAL_S, lambda: self._reload(protection)),
                    "sender gauges": (BOOK_GAUGES_INTERVAL_S, going_on("sender gauges", book_gauges.tell_senders)),
                    "audit gauges": (BOOK_GAUGES_INTERVAL_S, going_on("audit gauges", book_gauges.tell_audit)),
                }
                if self._settings.audit_interval_h:
                    periodic["audit"] = AUDIT_INTERVAL_S, going_on("audit", audit.step_if_due)
                background = [tasks.create_task(every(name, *each), name=name) for name, each in periodic.items()]
                background.append(tasks.create_task(feed.run(), name="status feed"))
                health = tasks.create_task(self._watch_health(database, recorder, server), name="health")
                try:
                    started(await server.start(self._settings.listen))
                    await stop.wait()
                finally:
                    health.cancel()  # it would say that all is well
                    self._set_not_ready("stopping")
                    feed.stop_watching()
                    await server.stop(self._settings.shutdown_grace_s)
                    recorder.calls.drain()
                    recorder.rejects.drain()
                    await asyncio.wait(committing)
                    for task in background:
                        task.cancel()

    async def _connect(
        self, stack: AsyncExitStack, name: str, connections: int, statement_s: float = STATEMENT_S
    ) -> Database:
        pooler = self._settings.direct_database_url is not None
        database = await Database.connect(
            self._database_url, name=name, connections=connections, timeout_s=statement_s, pooler=pooler
        )
        stack.push_async_callback(database.close)
        return database

    async def _continuous_audit(self, stack: AsyncExitStack, passes: AuditPassStore) -> ContinuousAudit:
        """Return the audit, with a connection of its own for what it reads."""
        books = AuditStore(await self._connect(stack, "audit", 1, AUDIT_STATEMENT_S))
        interval = timedelta(hours=self._settings.audit_interval_h)
        auditor = Auditor(books, self._calendar, self._clock)
        return ContinuousAudit(auditor, passes, self._clock, self._metrics, interval, self._settings.audit_share)

    def _limits(self) -> BatcherLimits:
        return BatcherLimits(
            queue_items_max=self._settings.queue_calls,
            queue_wait_s=self._settings.queue_wait_s,
            batch_items_max=self._settings.batch_calls,
            committers=self._settings.committers,
            spacing_s=self._settings.commit_spacing_ms / 1000,
        )

    async def _prepare_database(self, database: Database) -> None:
        await database.check_session()
        await self._install(database)

    async def _install(self, database: Database) -> None:
        now = self._clock.now()
        zone = self._calendar.zone_name
        installed = await InstallationStore(database).install(zone, self._calendar.today(now), now)
        if installed != zone:
            msg = (
                f"this database is billed in {installed}, not in {zone}: the days of its calls would change. "
                f"Set METERING_BILLING_TIMEZONE={installed}, or use another database."
            )
            raise BillingTimeZoneError(msg)

    async def _prepare_days(self, calls: CallStore) -> None:
        """Have the partitions of the days to come, and a table of the days that calls may occur on."""
        today = self._calendar.today(self._clock.now())
        self._calendar.prepare(today - BACK_MAX - timedelta(days=2), today + PARTITIONS_AHEAD)
        ahead = range(-1, PARTITIONS_AHEAD.days + 1)
        await calls.ensure_partitions([today + timedelta(days=days) for days in ahead])

    async def _fold(self, calls: CallStore) -> None:
        while await calls.fold(FOLDED_DELTAS_MAX) == FOLDED_DELTAS_MAX:
            pass

    async def _reload(self, protection: Protection) -> None:
        """Read again what has changed of the files that say who may come in."""
        for each in protection.files:
            each.look()
            self._metrics.broken_files.labels(each.what).set(each.broken)
        if protection.certificate:
            self._metrics.certificate_expires.set(protection.certificate.value.expires_at.timestamp())

    async def _turn(self, gauges: WorkerGauges) -> None:
        self._turned_at = time.monotonic()
        gauges.tell()

    async def _watch_health(self, database: Database, recorder: Recorder, server: RpcServer) -> None:
        """Be ready while the database answers and the queue moves."""
        serving = False
        while True:
            wrong = ""
            try:
                await database.ping()
            except DatabaseUnavailableError as error:
                wrong = error.message
            oldest_s = recorder.calls.oldest_wait_s
            if not wrong and oldest_s > self._settings.queue_wait_s:
                wrong = f"the oldest call has been waiting for its commit for {oldest_s:.1f} s"
            self._set_not_ready(wrong)
            if serving == bool(wrong):
                serving = not wrong
                await server.set_serving(serving=serving)
                log.log(logging.INFO if serving else logging.ERROR, "ready" if serving else f"not ready: {wrong}")
            await asyncio.sleep(HEALTH_INTERVAL_S)


def guard_of(protection: Protection) -> Guard | None:
    """Return what lets requests through by who sends them; None: nobody is asked."""
    if protection.roles:
        return Guard(by_certificate(protection.roles))
    if protection.tokens:
        return Guard(by_token(protection.tokens))
    return None
