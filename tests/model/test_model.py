"""The service and a reference model tell the same after whatever is done to both."""

import os
import random
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.driver import Driver
from tests.model.machine import Machine

EXAMPLES = int(os.environ.get("METERING_MODEL_EXAMPLES") or 6)
STEPS = int(os.environ.get("METERING_MODEL_STEPS") or 25)
SEED = int(os.environ.get("METERING_MODEL_SEED") or random.SystemRandom().randrange(2**32))


@pytest.fixture
def driver(server_url: str, template: str) -> Iterator[Driver]:
    with Driver(server_url, template) as driver:
        yield driver


@pytest.mark.timeout(60 + 30 * EXAMPLES)
def test_the_service_tells_what_the_reference_model_tells(driver: Driver) -> None:
    print(f"\nmake test-model SEED={SEED} EXAMPLES={EXAMPLES} STEPS={STEPS}")  # noqa: T201
    run_state_machine_as_test(
        seed(SEED)(lambda: Machine(driver)),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            print_blob=False,
            suppress_health_check=list(HealthCheck),
        ),
    )
