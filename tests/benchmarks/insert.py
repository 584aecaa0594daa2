"""A service that INSERTs each call: what one would write first, and measures oneself against.

It has the methods, the messages and the options of the real one and of echo. A call is committed before it is answered,
by a prepared statement on one of a pool of connections, into a table with the columns and the key of `calls`; a repeat
is left out. There is neither validation nor status nor counting of usage: it does less than the real one.
"""

import sys
from datetime import UTC
from typing import Any
from zoneinfo import ZoneInfo

import asyncpg
import uvloop
from grpc import aio

from faceid.metering.v1 import metering_service_pb2 as pb
from faceid.metering.v1 import metering_service_pb2_grpc as pb_grpc
from tests.benchmarks.copy_rows import INSERTED_TABLE, SCHEMA
from tests.benchmarks.echo import response_of, serve

CONNECTIONS = 16
_INSERT = f"""
    INSERT INTO {SCHEMA}.{INSERTED_TABLE}
        (occurred_on, account_id, call_id, occurred_at, api, result_code, billing_month)
    VALUES ($1, $2, $3, $4, $5, $6, $7)
    ON CONFLICT DO NOTHING
"""


class InsertServicer(pb_grpc.MeteringServiceServicer):
    """Commits every RecordCall by itself."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", time_zone: str) -> None:
        self._pool = pool
        self._zone = ZoneInfo(time_zone)
        self._response = response_of("bench-000000")

    async def RecordCall(  # noqa: N802
        self, request: pb.RecordCallRequest, context: aio.ServicerContext[Any, Any]
    ) -> pb.RecordCallResponse:
        time = request.occurred_at.ToDatetime(UTC)
        day = time.astimezone(self._zone).date()
        await self._pool.execute(  # prepares the statement once for each connection
            _INSERT,
            day,
            request.account_id,
            request.call_id,
            time,
            request.api,
            request.result_code,
            day.replace(day=1),
        )
        return self._response


async def run(port: int, url: str, time_zone: str) -> None:
    """Serve until terminated."""
    settings = {"synchronous_commit": "on", "jit": "off"}
    async with asyncpg.create_pool(url, min_size=CONNECTIONS, max_size=CONNECTIONS, server_settings=settings) as pool:
        await serve(InsertServicer(pool, time_zone), port)


if __name__ == "__main__":
    uvloop.run(run(int(sys.argv[1]), sys.argv[2], sys.argv[3]))
