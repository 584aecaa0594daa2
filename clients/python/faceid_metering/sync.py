"""The client for programs with threads: the same one, on an event loop of its own."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from datetime import datetime
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import grpc

from faceid.metering.v1.resources_pb2 import CallRecord
from faceid_metering.client import MeteringClient
from faceid_metering.config import ClientConfig, Durability
from faceid_metering.stats import ClientStats

P = ParamSpec("P")
T = TypeVar("T")

_CONFIG = ClientConfig()
_END_S = 5.0


def _blocking(
    method: Callable[Concatenate[MeteringClient, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate["SyncMeteringClient", P], T]:
    @wraps(method)
    def blocking(self: "SyncMeteringClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.run(method(self.client, *args, **kwargs))

    return blocking


def _iterating(
    method: Callable[Concatenate[MeteringClient, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate["SyncMeteringClient", P], Generator[T, None, None]]:
    @wraps(method)
    def iterating(self: "SyncMeteringClient", /, *args: P.args, **kwargs: P.kwargs) -> Generator[T, None, None]:
        items = method(self.client, *args, **kwargs)

        async def next_item() -> T | None:
            return await anext(items, None)

        try:
            while (item := self.run(next_item())) is not None:
                yield item
        except GeneratorExit:  # the caller has left the loop
            self.run(items.aclose())

    return iterating


class SyncMeteringClient:
    """MeteringClient's methods, each returning when it is done; all may be called from any thread.

    What is an asynchronous iterator there is an iterator here. Close it where you leave it before its end
    (`contextlib.closing`), or the request goes on for as long as the iterator lives.
    """

    def __init__(
        self,
        target: str,
        *,
        config: ClientConfig = _CONFIG,
        channel_credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        """Start the thread; the arguments are those of MeteringClient."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="metering client", daemon=True)
        self._thread.start()

        async def make() -> MeteringClient:
            return MeteringClient(target, config=config, channel_credentials=channel_credentials)

        self.client = self.run(make())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Wait for something that is done on the client's event loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def record(
        self,
        account_id: str,
        api: str,
        call_id: str | None = None,
        *,
        occurred_at: datetime | None = None,
        result_code: str = "",
        durability: Durability | str | None = None,
    ) -> str:
        """See MeteringClient.record."""
        return self.client.record(
            account_id, api, call_id, occurred_at=occurred_at, result_code=result_code, durability=durability
        )

    def is_active(self, account_id: str) -> bool:
        """See MeteringClient.is_active."""
        return self.client.is_active(account_id)

    def call_record(
        self,
        account_id: str,
        api: str,
        call_id: str | None = None,
        *,
        occurred_at: datetime | None = None,
        result_code: str = "",
    ) -> CallRecord:
        """See MeteringClient.call_record."""
        return self.client.call_record(account_id, api, call_id, occurred_at=occurred_at, result_code=result_code)

    def stats(self) -> ClientStats:
        """See MeteringClient.stats."""
        return self.client.stats()

    def close(self) -> None:
        """See MeteringClient.aclose; the thread ends, too, once threads that wait for an answer have got it."""
        if self._loop.is_closed():
            return
        self.run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        await self.client.aclose()
        waited_for = asyncio.all_tasks() - {asyncio.current_task()}
        if waited_for:
            _, pending = await asyncio.wait(waited_for, timeout=_END_S)
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    aclose = close
    wait_until_connected = _blocking(MeteringClient.wait_until_connected)
    flush = _blocking(MeteringClient.flush)
    record_call = _blocking(MeteringClient.record_call)
    batch_record_calls = _blocking(MeteringClient.batch_record_calls)
    get_monthly_usage = _blocking(MeteringClient.get_monthly_usage)
    check_service_status = _blocking(MeteringClient.check_service_status)
    close_month = _blocking(MeteringClient.close_month)
    deduct = _blocking(MeteringClient.deduct)
    activate_account = _blocking(MeteringClient.activate_account)
    get_account = _blocking(MeteringClient.get_account)
    record_payment = _blocking(MeteringClient.record_payment)
    put_price_plan = _blocking(MeteringClient.put_price_plan)
    get_price_plan = _blocking(MeteringClient.get_price_plan)
    assign_price_plan = _blocking(MeteringClient.assign_price_plan)
    get_bill = _blocking(MeteringClient.get_bill)
    watch_service_status = _iterating(MeteringClient.watch_service_status)
    list_calls = _iterating(MeteringClient.list_calls)
    list_call_pages = _iterating(MeteringClient.list_call_pages)
    list_price_plans = _iterating(MeteringClient.list_price_plans)
    get_month = _blocking(MeteringClient.get_month)
    list_bills = _iterating(MeteringClient.list_bills)
    list_rejected_calls = _iterating(MeteringClient.list_rejected_calls)
    retry_rejected_calls = _blocking(MeteringClient.retry_rejected_calls)
    run_month = _blocking(MeteringClient.run_month)
    preview_run_month = _iterating(MeteringClient.preview_run_month)
    list_monthly_runs = _iterating(MeteringClient.list_monthly_runs)
