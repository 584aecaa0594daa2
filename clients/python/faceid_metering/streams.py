"""Streams that go on after the connection was lost."""

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

import grpc

from faceid.metering.v1.metering_service_pb2 import (
    ListCallsRequest,
    ListCallsResponse,
    WatchServiceStatusRequest,
    WatchServiceStatusResponse,
)
from faceid.metering.v1.metering_service_pb2_grpc import MeteringServiceStub
from faceid.metering.v1.resources_pb2 import ServiceStatus
from faceid_metering.connection import Connection
from faceid_metering.errors import MeteringError
from faceid_metering.retry import BackOff

log = logging.getLogger(__name__)

# A watch goes on after all others, a defect of the service among them: its reader would be left with old states.
_REFUSED = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)


async def watch_service_status(
    connection: Connection, stub: MeteringServiceStub, request: WatchServiceStatusRequest
) -> AsyncGenerator[ServiceStatus, None]:
    """See MeteringClient.watch_service_status."""
    back_off = BackOff(connection.config, connection.runtime)
    monotonic_s = connection.runtime.monotonic_s
    while True:
        opened_s = monotonic_s()
        retry_after_s = None
        problem = "the service ended the stream"
        responses: AsyncGenerator[WatchServiceStatusResponse, None] = connection.stream(
            stub.WatchServiceStatus, request, message_timeout_s=None
        )
        try:
            async with aclosing(responses):
                async for response in responses:
                    if response.HasField("service_status"):  # else it is a heartbeat
                        yield response.service_status
        except MeteringError as error:
            if error.code in _REFUSED and not error.is_retryable():
                raise
            problem, retry_after_s = str(error), error.retry_after_s
        if connection.closed:
            return
        # Not with the first status: a service that fails right after it would be asked without a pause.
        if monotonic_s() - opened_s >= connection.config.back_off_max_s:
            back_off.reset()
        pause_s = back_off.next_s(retry_after_s)
        log.warning("lost the watch of service statuses, connecting again in %.3f s: %s", pause_s, problem)
        await connection.runtime.sleep(pause_s)


async def list_calls(
    connection: Connection, stub: MeteringServiceStub, request: ListCallsRequest
) -> AsyncGenerator[ListCallsResponse, None]:
    """Yield pages of calls, each with the token to go on after it. See MeteringClient.list_calls."""
    retries = connection.retries(None)
    while True:
        responses: AsyncGenerator[ListCallsResponse, None] = connection.stream(
            stub.ListCalls, request, message_timeout_s=connection.config.attempt_timeout_s
        )
        try:
            async with aclosing(responses):
                async for response in responses:
                    request.page_token = response.next_page_token
                    yield response
                    retries.restart()
        except MeteringError as error:
            await retries.pause_after(error)
        else:
            return
