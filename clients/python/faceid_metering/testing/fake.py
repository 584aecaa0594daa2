"""A metering service for users' tests."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import timedelta, timezone, tzinfo
from types import TracebackType
from typing import Final, Self

import grpc

from faceid.metering.v1.account_service_pb2_grpc import add_AccountServiceServicer_to_server
from faceid.metering.v1.metering_service_pb2_grpc import add_MeteringServiceServicer_to_server
from faceid.metering.v1.resources_pb2 import PricePlan, RecordedCall, RejectedCall
from faceid_metering.testing import checks
from faceid_metering.testing.account_servicer import AccountServicer
from faceid_metering.testing.books import FROM_THE_BEGINNING, AccountBook, Books
from faceid_metering.testing.clock import FakeClock
from faceid_metering.testing.faults import Fault, Faults, queue_full, unavailable
from faceid_metering.testing.metering_servicer import MeteringServicer

SHANGHAI: Final = timezone(timedelta(hours=8), "Asia/Shanghai")
"""The billing time zone; fixed, since not every machine that runs tests has zone files."""

_THREADS = 64


class FakeMetering:
    """A metering service in the test's own process, over real gRPC on loopback, with everything in memory.

    It answers as the real service does, errors included: the same contract tests run against both. What is not like
    the real one: nothing is kept, no month is closed and no bill deducted unless the test asks for it, and only some
    currencies are known. Each watch takes one of its 64 threads.

    Its methods may be called from any thread and from coroutines; they do not wait for anything but each other.
    """

    def __init__(self, *, clock: FakeClock | None = None, billing_timezone: tzinfo = SHANGHAI) -> None:
        """Make a service; `with` starts it.

        Args:
            clock: Its time, for the test to set; None: one that goes with the system's until it is set.
            billing_timezone: Whose days and months are billed.
        """
        self.clock = FakeClock() if clock is None else clock
        self._books = Books(self.clock, billing_timezone)
        self._faults = Faults()
        self._server: grpc.Server | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._port = 0

    @property
    def target(self) -> str:
        """Where it serves, for `MeteringClient(target)`; the same after it was stopped and started again."""
        return f"127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Serve, with what was recorded before."""
        if self._server is not None:
            return
        self._faults.stopping.clear()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="fake-metering")
        server = grpc.server(self._threads, interceptors=[self._faults], options=[("grpc.so_reuseport", 0)])
        add_MeteringServiceServicer_to_server(MeteringServicer(self._books), server)
        add_AccountServiceServicer_to_server(AccountServicer(self._books), server)
        self._port = server.add_insecure_port(f"127.0.0.1:{self._port}")
        server.start()
        self._server = server

    def stop(self) -> None:
        """End all RPCs and connections, and take no new ones: an outage, until it is started again."""
        if self._server is None or self._threads is None:
            return
        self._faults.stopping.set()
        self._server.stop(None).wait()
        self._threads.shutdown()
        self._server = None

    def activate(self, account_id: str, price_plan: PricePlan | None = None) -> None:
        """Activate an account, in CNY or in the currency of its price plan.

        Args:
            account_id: The account.
            price_plan: What its calls cost; None: they have no price, so they are counted but not billed.

        Raises:
            ValueError: It was activated before.
            RefusalError: The account's id or the price plan is malformed.
        """
        books = self._books
        currency = "CNY" if price_plan is None else price_plan.currency
        account = AccountBook(checks.name(account_id, "account_id"), currency, self.clock.now())
        with books.changed:
            if account_id in books.accounts:
                raise ValueError(f"{account_id} was activated before")
            if price_plan is not None:
                account.plans[FROM_THE_BEGINNING] = books.put_price_plan(price_plan).price_plan_id
            books.accounts[account_id] = account
            books.changed.notify_all()

    def suspend(self, account_id: str) -> None:
        """Suspend an account, which is otherwise done by a bill that is overdue."""
        self._set_suspended(account_id, suspended=True)

    def reactivate(self, account_id: str) -> None:
        """Undo `suspend`. An overdue bill suspends on, until it is paid."""
        self._set_suspended(account_id, suspended=False)

    def _set_suspended(self, account_id: str, *, suspended: bool) -> None:
        with self._books.changed:
            account = self._books.account(account_id)
            account.suspended_by_hand = suspended
            self._books.status_changed(account)

    def drop_calls(self, day: str) -> None:
        """Drop the calls of a day such as `2026-01-15`, as retention does: counts and bills stay, lists are refused."""
        with self._books.changed:
            self._books.dropped_days.add(day)

    def calls(self, account_id: str = "") -> Sequence[RecordedCall]:
        """Return the calls on the books, of an account or of all, in the order in which they were recorded."""
        with self._books.changed:
            return [call for call in self._books.calls.values() if not account_id or call.call.account_id == account_id]

    def rejected_calls(self) -> Sequence[RejectedCall]:
        """Return the calls that were rejected and kept, oldest first."""
        with self._books.changed:
            return list(self._books.rejected.values())

    def unavailable(self) -> AbstractContextManager[None]:
        """Meanwhile, answer everything with UNAVAILABLE, as a service whose database is away."""
        return self._faults.present(unavailable())

    def queue_full(self) -> AbstractContextManager[None]:
        """Meanwhile, take no calls: RESOURCE_EXHAUSTED with a hint when to try again."""
        return self._faults.present(queue_full())

    def slow(self, delay_s: float) -> AbstractContextManager[None]:
        """Meanwhile, take so many seconds more for everything."""
        return self._faults.present(Fault(delay_s=delay_s))

    def lost_answers(self) -> AbstractContextManager[None]:
        """Meanwhile, do what is asked for, and answer UNAVAILABLE, as a service that dies after its commit."""
        return self._faults.present(Fault(answer_lost=True))
