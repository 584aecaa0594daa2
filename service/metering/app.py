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
from metering.billing.accounts import AccountKeeper
from metering.billing.audit import ASSURANCES, Auditor
from metering.billing.close import MonthCloser
from metering.billing.continuous_audit import ContinuousAudit
from metering.billing.deduct import Collector
from metering.billing.monthly_run import MonthlyRun
from metering.billing.months import BillingCalendar
from metering.billing.run_preview import RunPreview
from metering.clock import Clock, SystemClock
from metering.errors import DatabaseUnavailableError, TransactionConflictError, UnsuitableDatabaseError
from metering.loop_load import GiveWay, LoopLoad
from metering.metrics import Metrics
from metering.model import Month, month_number
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
SENDER_SILENT_AFTER = timedelta(minutes=1)
"""Clients report every 10 seconds, with or without calls."""
COMPLETE_SENDERS_KEPT = timedelta(days=1)
SENDERS_KEPT = BACK_MAX
"""A call older than that would be rejected anyway."""
SENDER_RANGES_KEPT = 1_000
"""Of a sender; without losses it has one, and some while batches overtake each other."""
RELOAD_INTERVAL_S = 1.0
"""How often certificates, roles and token keys are looked at, whether they have changed."""
HEALTH_INTERVAL_S = 1.0
DATABASE_WAIT_S = 60.0
"""For how long `serve`, and then each worker, waits at its start for a database that is away."""
DATABASE_RETRY_INTERVAL_S = 0.5
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
            await _wait_for_database(lambda: self._prepare_database(database), stop)
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
            collector = Collector(bills, self._calendar, self._clock)
            runs = MonthlyRunStore(database)
            replica = f"{socket.gethostname()}:{os.getpid()}"
            monthly_run = MonthlyRun(runs, bills, closer, collector, self._calendar, self._clock, replica)
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
            gauges = GaugeStore(database)

            await _wait_for_database(lambda: self._prepare_days(calls), stop)
            async with asyncio.TaskGroup() as tasks:
                committing = [tasks.create_task(batcher.run()) for batcher in (recorder.calls, recorder.rejects)]
                periodic: dict[str, tuple[float, Callable[[], Awaitable[object]]]] = {
                    "folder": (FOLD_INTERVAL_S, lambda: self._fold(calls)),
                    "partitions": (PARTITION_INTERVAL_S, lambda: self._prepare_days(calls)),
                    "partitions told": (PARTITIONS_TOLD_INTERVAL_S, calls.tell_of_partitions),
                    "monthly run": (
                        MONTHLY_RUN_INTERVAL_S,
                        lambda: self._going_on("monthly run", monthly_run.run_if_due),
                    ),
                    "rejected calls": (PURGE_INTERVAL_S, retrier.purge),
                    "gauges": (GAUGES_INTERVAL_S, lambda: self._gauge(recorder, feed, statuses, load)),
                    "book gauges": self._figures("book gauges", lambda: self._gauge_books(gauges, bills)),
                    "senders": (SENDERS_INTERVAL_S, senders.write),
                    "reload": (RELOAD_INTERVAL_S, lambda: self._reload(protection)),
                    "sender gauges": self._figures("sender gauges", lambda: self._gauge_senders(sender_store)),
                    "audit gauges": self._figures("audit gauges", lambda: self._gauge_audit(passes)),
                }
                if self._settings.audit_interval_h:
                    periodic["audit"] = AUDIT_INTERVAL_S, lambda: self._going_on("audit", audit.step_if_due)
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

    def _figures(
        self, name: str, tell: Callable[[], Awaitable[object]]
    ) -> tuple[float, Callable[[], Awaitable[object]]]:
        """Return how often figures are told, and what tells them: should they not be tellable, nothing ends for it."""
        return BOOK_GAUGES_INTERVAL_S, lambda: self._going_on(name, tell)

    @staticmethod
    async def _going_on(name: str, do: Callable[[], Awaitable[object]]) -> None:
        """Do something that recording does not stop for, whatever goes wrong with it."""
        try:
            await do()
        except (DatabaseUnavailableError, TransactionConflictError):
            raise
        except Exception:
            log.exception("the %s failed, and is tried again within a minute; recording goes on", name)

    async def _reload(self, protection: Protection) -> None:
        """Read again what has changed of the files that say who may come in."""
        for each in protection.files:
            each.look()
            self._metrics.broken_files.labels(each.what).set(each.broken)
        if protection.certificate:
            self._metrics.certificate_expires.set(protection.certificate.value.expires_at.timestamp())

    async def _gauge(self, recorder: Recorder, feed: StatusFeed, statuses: Statuses, load: LoopLoad) -> None:
        self._turned_at = time.monotonic()
        self._metrics.loop_turned.set(time.time())
        self._metrics.loop_busy.set(load.share())
        for batcher, metrics in (
            (recorder.calls, self._metrics.calls),
            (recorder.rejects, self._metrics.rejects),
        ):
            metrics.waiting.set(batcher.waiting_items)
            metrics.oldest.set(batcher.oldest_wait_s)
        self._metrics.status_feed_age.set(feed.age_s)
        self._metrics.status_watchers.set(feed.watchers)
        self._metrics.statuses.set(len(statuses))

    async def _gauge_books(self, gauges: GaugeStore, bills: BillStore) -> None:
        books = await gauges.read(self._clock.now())
        self._metrics.suspended_accounts.set(books.suspended_accounts)
        self._metrics.unfolded_deltas.set(books.unfolded_deltas)
        self._metrics.bills.labels("ISSUED").set(books.issued_bills)
        self._metrics.bills.labels("OVERDUE").set(books.overdue_bills)
        self._metrics.last_closed_month.set(_gauged(books.last_closed_month))
        self._metrics.unbilled_month.set(_gauged(books.unbilled_month))
        self._metrics.close_seconds.set(books.close_seconds)
        looked_at = left = 0
        if books.unbilled_month:
            close = await bills.month(books.unbilled_month)
            looked_at, left = close.accounts_looked_at, close.accounts - close.accounts_looked_at
        self._metrics.close_accounts.labels("LOOKED_AT").set(looked_at)
        self._metrics.close_accounts.labels("LEFT").set(left)

    async def _gauge_audit(self, passes: AuditPassStore) -> None:
        last = await passes.last_finished()
        if last is None or last.finished_at is None:
            return
        for kind in ASSURANCES:
            self._metrics.audit_drift.labels(kind).set(last.found.differences[kind])
        self._metrics.audit_finished.set(last.finished_at.timestamp())
        self._metrics.audit_duration.set((last.finished_at - last.started_at).total_seconds())

    async def _gauge_senders(self, senders: SenderStore) -> None:
        now = self._clock.now()
        await senders.forget_gaps(SENDER_RANGES_KEPT)
        await senders.forget(now - COMPLETE_SENDERS_KEPT, now - SENDERS_KEPT)
        found = {each.state: each for each in await senders.gauges(now - SENDER_SILENT_AFTER)}
        for state in ("LIVE", "SILENT", "CLOSED"):
            each = found.get(state)
            self._metrics.senders.labels(state).set(each.senders if each else 0)
            self._metrics.sender_missing_calls.labels(state).set(each.missing_calls if each else 0)

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


async def _wait_for_database(do: Callable[[], Awaitable[object]], stop: asyncio.Event) -> None:
    """Do something at the start, once the database is there: a worker is also started while it is away.

    Raises:
        DatabaseUnavailableError: that took too long, or `stop` was set meanwhile.

    """
    end = time.monotonic() + DATABASE_WAIT_S
    waiting = False
    while True:
        try:
            await do()
        except (DatabaseUnavailableError, TransactionConflictError) as error:
            if stop.is_set() or time.monotonic() > end:
                raise
            log.log(logging.DEBUG if waiting else logging.WARNING, "waiting for the database: %s", error)
            waiting = True
            await asyncio.sleep(DATABASE_RETRY_INTERVAL_S)
        else:
            return


def _gauged(month: Month | None) -> int:
    """Return a month as gauges tell it: 202611; 0: none."""
    return month_number(month) if month else 0


async def every(name: str, interval_s: float, do: Callable[[], Awaitable[object]]) -> None:
    """Do something again and again until cancelled; when the database is away, try again the next time."""
    failed = False
    while True:
        try:
            await do()
            failed = False
        except (DatabaseUnavailableError, TransactionConflictError) as error:
            # Said once, and not again before it has worked.
            log.log(logging.DEBUG if failed else logging.WARNING, "%s put off: %s", name, error)
            failed = True
        await asyncio.sleep(interval_s)


def guard_of(protection: Protection) -> Guard | None:
    """Return what lets requests through by who sends them; None: nobody is asked."""
    if protection.roles:
        return Guard(by_certificate(protection.roles))
    if protection.tokens:
        return Guard(by_token(protection.tokens))
    return None
