"""The fake service of faceid_metering.testing and the real one, in turn."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import grpc
import pytest

from faceid_metering.testing import FakeClock, FakeMetering
from tests.support.service import Service, Stubs


@pytest.fixture
def clock() -> FakeClock:
    """Return a clock that stands: noon of 23 November 2026 in Shanghai, unless the test sets it."""
    return FakeClock(datetime(2026, 11, 23, 4, tzinfo=UTC))


@pytest.fixture
async def fake_metering(clock: Any) -> AsyncIterator[Stubs]:
    with FakeMetering(clock=clock) as fake:
        async with grpc.aio.insecure_channel(fake.target) as channel:
            yield Stubs(channel, clock)


@pytest.fixture
async def real_metering(database_url: str, clock: Any) -> AsyncIterator[Stubs]:
    async with Service(database_url, clock) as service:
        yield service


@pytest.fixture(params=["fake", "real"])
def metering(request: pytest.FixtureRequest) -> Stubs:
    """Return stubs of a fake or a real service; only the one in use is started."""
    return request.getfixturevalue(f"{request.param}_metering")
