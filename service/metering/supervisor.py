"""Runs workers: one in this process, or several as processes of their own, which are started again when they die."""

import asyncio
import gc
import logging
import multiprocessing
import os
import random
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Any, TypeVar

import uvloop
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from metering.app import LOOP_STUCK_S, App
from metering.errors import UnsuitableDatabaseError
from metering.logs import secrets_in, set_up_logging
from metering.metrics import Metrics
from metering.operations_http import OperationsHttp
from metering.settings import Settings, split_address

RESTART_PAUSE_S = (0.1, 3.0)
"""Shortest and longest pause before a dead worker is started again: it is to serve again within 10 s."""
STEADY_S = 60.0
"""A worker that has run for so long is started again with the shortest pause."""
LOOK_INTERVAL_S = 0.5
"""How often it is looked for signals and for workers to be started again."""

SERVING = "serving"
"""What a worker says once it serves; anything else is why it does not."""

GC_THRESHOLDS = (5_000, 50, 100)
"""New objects between two looks for cycles; Python's own 700 cost 12 % of a worker's time. docs/performance.md."""

T = TypeVar("T")
Started = Callable[[str, str], None]
"""Is told the addresses of gRPC and of HTTP, once calls are served."""

log = logging.getLogger(__name__)


class WorkerError(Exception):
    """A worker could not be started; it has said why."""


def serve(settings: Settings, database_url: str, started: Started) -> None:
    """Serve until SIGTERM or SIGINT.

    Args:
        settings: how.
        database_url: of a migrated database.
        started: is told the addresses once calls are served.

    Raises:
        OSError: an address cannot be listened on.
        WorkerError: a worker of several could not be started.
        Exception: what `App.run` raises, with one worker.

    """
    if settings.workers == 1:
        _serve_in_process(settings, database_url, started)
    else:
        _Supervisor(settings, database_url, started).run()


def _serve_in_process(settings: Settings, database_url: str, started: Started) -> None:
    metrics = Metrics(CollectorRegistry())
    app = App(settings, database_url, metrics, share_port=False)
    host, port = split_address(settings.metrics_listen)
    http = OperationsHttp(host, port, metrics.registry, app.not_alive, app.not_ready)
    try:
        metrics.workers.set(1)
        _run_until_signal(
            app, lambda port: started(_with_port(settings.listen, port), _with_port(settings.metrics_listen, http.port))
        )
    finally:
        http.close()


def _run_until_signal(app: App, started: Callable[[int], None], *, ignore_interrupt: bool = False) -> None:
    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        loop.add_signal_handler(signal.SIGINT, (lambda: None) if ignore_interrupt else stop.set)
        await app.run(stop, started)

    run_as_worker(run())


def run_as_worker(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run something on an event loop and with a garbage collector as a worker has them; return what it returns."""
    # Each RPC leaves a cycle of five objects of grpc.aio behind: they are collected some thousand at a time, and what
    # was there from the start is never looked at.
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(coroutine)


def _with_port(address: str, port: int) -> str:
    return f"{address.rpartition(':')[0]}:{port}"


@dataclass
class _Worker:
    """A worker process and its history."""

    number: int
    process: SpawnProcess
    parent_end: Connection
    """The worker dies when it is closed, and says here when it serves."""
    started_at: float
    restart_pause_s: float = RESTART_PAUSE_S[0]
    restart_at: float | None = None


class _Supervisor:
    """Several workers on one port."""

    def __init__(self, settings: Settings, database_url: str, started: Started) -> None:
        self._reserved = _reserve(settings.listen)
        port = self._reserved.getsockname()[1]
        self._settings = replace(settings, listen=_with_port(settings.listen, port))
        self._database_url = database_url
        self._started = started
        self._context = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []
        self._stopping = False
        # Workers write their metrics into files of this directory, and this process adds them up.
        self._metrics_dir = tempfile.mkdtemp(prefix="metering-metrics-")
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = self._metrics_dir
        self._registry = CollectorRegistry()
        MultiProcessCollector(self._registry, path=self._metrics_dir)

    def run(self) -> None:
        """Run until SIGTERM or SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        host, port = split_address(self._settings.metrics_listen)
        http = OperationsHttp(host, port, self._registry, self._not_alive, self._not_ready)
        try:
            self._workers = [self._start(number) for number in range(self._settings.workers)]
            self._await_workers()
            if not self._stopping:
                self._started(self._settings.listen, _with_port(self._settings.metrics_listen, http.port))
            while not self._stopping:
                connection.wait([worker.process.sentinel for worker in self._workers], LOOK_INTERVAL_S)
                self._restart_dead()
        finally:
            self._stop_workers()
            http.close()
            self._reserved.close()
            shutil.rmtree(self._metrics_dir, ignore_errors=True)

    def _stop(self, _signal: int, _frame: FrameType | None) -> None:
        self._stopping = True

    def _start(self, number: int) -> _Worker:
        parent_end, worker_end = self._context.Pipe()
        process = self._context.Process(
            target=_work,
            args=(self._settings, self._database_url, worker_end),
            name=f"metering worker {number}",
        )
        process.start()
        worker_end.close()
        return _Worker(number, process, parent_end, time.monotonic())

    def _await_workers(self) -> None:
        """Wait until each worker serves; at the start one that cannot is an error, and not tried again."""
        for worker in self._workers:
            while not worker.parent_end.poll(LOOK_INTERVAL_S):
                if self._stopping:
                    return
            try:
                said = worker.parent_end.recv()
            except (EOFError, OSError):  # it ended, which shows as something to read, too
                worker.process.join()
                said = f"worker {worker.number} ended with exit code {worker.process.exitcode}"
            if said != SERVING:
                raise WorkerError(said)

    def _restart_dead(self) -> None:
        now = time.monotonic()
        for index, worker in enumerate(self._workers):
            if worker.process.is_alive():
                continue
            if worker.restart_at is None:
                mark_process_dead(worker.process.pid, path=self._metrics_dir)
                steady = now - worker.started_at > STEADY_S
                pause_s = RESTART_PAUSE_S[0] if steady else worker.restart_pause_s
                worker.restart_pause_s = min(2 * pause_s, RESTART_PAUSE_S[1])
                worker.restart_at = now + random.uniform(pause_s / 2, pause_s)  # noqa: S311 - nothing to guess here
                log.error("worker %d died with exit code %s", worker.number, worker.process.exitcode)
            elif now >= worker.restart_at:
                worker.parent_end.close()
                self._workers[index] = restarted = self._start(worker.number)
                restarted.restart_pause_s = worker.restart_pause_s
                log.warning("worker %d started again", worker.number)

    def _not_alive(self) -> str:
        """Return what is wrong with a worker that runs but does nothing; empty: nothing."""
        turned_at = self._registry.get_sample_value("metering_loop_turned_timestamp_seconds")
        stuck_s = time.time() - turned_at if turned_at else 0
        return f"the event loop of a worker has not turned for {stuck_s:.0f} s" if stuck_s > LOOP_STUCK_S else ""

    def _not_ready(self) -> str:
        """Return why calls should go to another replica; what the workers say of themselves, added up."""
        if stuck := self._not_alive():
            return stuck
        workers = self._registry.get_sample_value("metering_workers") or 0
        if workers < self._settings.workers:
            return f"{workers:.0f} of {self._settings.workers} workers run"
        return "" if self._registry.get_sample_value("metering_ready") else "a worker is not ready; the log says why"

    def _stop_workers(self) -> None:
        for worker in self._workers:
            if worker.process.is_alive():
                worker.process.terminate()
        end = time.monotonic() + self._settings.shutdown_grace_s + 20
        for worker in self._workers:
            worker.process.join(max(0.0, end - time.monotonic()))
            if worker.process.is_alive():
                log.error("worker %d did not stop in time and is killed", worker.number)
                worker.process.kill()
                worker.process.join()
            worker.parent_end.close()


def _reserve(listen: str) -> socket.socket:
    """Return a socket that holds the port for the workers, and for nobody else; it does not listen itself."""
    host, port = split_address(listen)
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as alone:
        alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            alone.bind(address)  # fails if anybody has the port, be it shared or not
        except OSError as error:
            msg = f"cannot listen on {listen}: {error.strerror}"
            raise OSError(msg) from error
        address = alone.getsockname()
    reserved = socket.socket(family, kind, protocol)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    reserved.bind(address)
    return reserved


def _work(settings: Settings, database_url: str, parent: Connection) -> None:
    """Be a worker process."""
    set_up_logging(f"worker {os.getpid()}", secrets_in(database_url, settings.direct_database_url))
    threading.Thread(target=_die_with_parent, args=(parent,), daemon=True).start()
    metrics = Metrics(CollectorRegistry())
    app = App(settings, database_url, metrics, share_port=True)

    def started(_port: int) -> None:
        metrics.workers.set(1)
        parent.send(SERVING)

    try:
        # Ctrl-C reaches all processes of a terminal; the supervisor passes on what is meant.
        _run_until_signal(app, started, ignore_interrupt=True)
    except UnsuitableDatabaseError as error:
        log.error("%s", error)  # noqa: TRY400 - an operator needs no traceback
        parent.send(str(error))
        raise SystemExit(1) from None
    except Exception:
        log.exception("worker %d failed", os.getpid())
        raise SystemExit(1) from None


def _die_with_parent(parent: Connection) -> None:
    """End at once when the supervisor has gone, however: nothing is acknowledged that is not committed."""
    try:
        parent.recv()
    except (EOFError, OSError):
        os._exit(1)
