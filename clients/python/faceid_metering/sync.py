"""The client for programs with threads: the same one, on an event loop of its own."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from datetime import datetime
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

import grpc

from faceid_metering.client import MeteringClient
from faceid_metering.config import ClientConfig, Durability
from faceid_metering.stats import ClientStats

P = ParamSpec("P")
T = TypeVar("T")

_CONFIG = ClientConfig()


def _blocking(
    method: Callable[Concatenate[MeteringClient, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate["SyncMeteringClient", P], T]:
    @wraps(method)
    def blocking(self: "SyncMeteringClient", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.run(method(self.client, *args, **kwargs))

    return blocking


class SyncMeteringClient:
    """MeteringClient's methods, each returning when it is done; all may be called from any thread."""

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

    def stats(self) -> ClientStats:
        """See MeteringClient.stats."""
        return self.client.stats()

    def close(self) -> None:
        """See MeteringClient.aclose; the thread ends, too."""
        if self._loop.is_closed():
            return
        self.run(self.client.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    aclose = close
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
