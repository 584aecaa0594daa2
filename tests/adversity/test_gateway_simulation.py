"""A short piece of `make gateway-simulation`: exactness and bounds, but no times, which are the benchmark's."""

from pathlib import Path

import pytest

from faceid_metering import ClientConfig, Durability
from tests.benchmarks.gateway_simulation.kills import kill_gateways
from tests.benchmarks.gateway_simulation.simulation import simulate
from tests.benchmarks.gateway_simulation.troubles import Times

RATE = 500.0


@pytest.mark.timeout(150)
@pytest.mark.parametrize("durability", Durability)
async def test_a_gateway_in_trouble_has_every_call_on_the_books_once(
    database_url: str, tmp_path: Path, durability: Durability
) -> None:
    times = Times(calm_s=0.5, stopped_s=2.0, trouble_s=1.0)
    outcome = await simulate(database_url, tmp_path, durability, rate=RATE, times=times)

    config = ClientConfig()
    assert outcome.metered.counts["dropped"] == outcome.metered.counts["rejected"] == outcome.metered.denied == 0
    assert outcome.metered.counts["spooled"]
    assert outcome.metered.waiting_calls_max <= config.queue_calls
    assert 0 < outcome.disk_max_bytes <= config.spool_bytes
    assert outcome.costs().extra.requests == outcome.requests


@pytest.mark.timeout(150)
async def test_gateways_that_are_killed_have_every_flushed_call_on_the_books_once(
    database_url: str, tmp_path: Path
) -> None:
    killed = await kill_gateways(database_url, tmp_path / "kills", kills=2, rate=RATE, life_s=1.5)

    assert killed.safe > RATE
