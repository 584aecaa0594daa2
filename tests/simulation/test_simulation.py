"""A slice of `make simulate`: the promises hold, a seed replays exactly, and defects made on purpose are found."""

import os
import subprocess
import sys

import pytest

from tests.simulation.planted import PLANTED, Plant
from tests.simulation.postgres import BrokenPromiseError
from tests.simulation.run import run
from tests.simulation.world import Plan

SLICE = (1, 2, 3)
SEEDS = range(1, 9)
"""A planted defect is found in one of these; in most cases in the first."""


@pytest.mark.parametrize("seed", SLICE)
def test_the_promises_hold_in_all_troubles(seed: int) -> None:
    outcome = run(Plan(seed, seconds=45))
    assert outcome.calls > 10_000
    assert outcome.retries
    assert outcome.crashes
    assert dict(outcome.closed)["2026-11"] > 1_000


def test_without_trouble_the_promises_hold_as_well() -> None:
    outcome = run(Plan(4, seconds=20, trouble=False))
    assert outcome.calls > 1_000
    assert not outcome.crashes


def test_a_seed_replays_exactly_whatever_the_order_of_sets_is() -> None:
    code = (
        "from tests.simulation.run import run; from tests.simulation.world import Plan; print(run(Plan(5, seconds=20)))"
    )
    outcomes = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            text=True,
            timeout=50,
        ).stdout
        for hash_seed in ("0", "1")
    }
    assert len(outcomes) == 1


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_defect_is_found(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(monkeypatch)
    assert _is_found(open_month_locks=True)


def test_a_seal_that_does_not_wait_for_batches_is_found() -> None:
    assert _is_found(open_month_locks=False)


def _is_found(*, open_month_locks: bool) -> bool:
    for seed in SEEDS:
        try:
            run(Plan(seed, seconds=60), open_month_locks=open_month_locks)
        except BrokenPromiseError:
            return True
    return False
