"""What a client takes at most, while it takes calls and delivers none."""

import asyncio
from pathlib import Path

import pytest

from faceid_metering import ClientConfig, MeteringClient, SpoolFull
from faceid_metering.config import SPOOL_BYTES_MIN

NOWHERE = "127.0.0.1:1"
QUEUE_CALLS = 5_000
CALLS = 200_000
"""Some 18 MB, more than fits."""
CHUNK = 500


@pytest.mark.parametrize("durability", ["memory", "disk"])
@pytest.mark.parametrize("spool_full", SpoolFull)
async def test_memory_and_disk_stay_within_their_bounds_and_every_call_is_accounted_for(
    tmp_path: Path, spool_full: SpoolFull, durability: str
) -> None:
    told: list[int] = []
    config = ClientConfig(
        spool_dir=tmp_path,
        spool_bytes=SPOOL_BYTES_MIN,
        queue_calls=QUEUE_CALLS,
        spool_after_s=0.05,
        spool_full=spool_full,
        on_dropped=lambda calls, _why: told.append(calls),
    )
    async with MeteringClient(NOWHERE, config=config) as metering:
        for _ in range(CALLS // CHUNK):
            for _ in range(CHUNK):
                metering.record("acme", "DetectAuth", result_code="A.ResultCode.ThatIsLong", durability=durability)
            await asyncio.sleep(0.001)
            assert metering.stats().waiting_calls <= QUEUE_CALLS
            assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= SPOOL_BYTES_MIN
        await metering.flush(2)
        stats = metering.stats()
        dropped = stats.dropped_calls.total()
        assert dropped == sum(told) > 0
        assert set(stats.dropped_calls) <= {"full", "oldest"}
        assert stats.waiting_calls + stats.spool_calls + dropped == CALLS
        if spool_full is SpoolFull.REJECT_NEW:
            assert not stats.dropped_calls["oldest"]
