"""The service and a reference model tell the same after whatever is done to both."""

import os
import random
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.driver import Driver
from tests.model.machine import Machine

EXAMPLES = int(os.environ.get("METERING_MODEL_EXAMPLES") or 4)
STEPS = int(os.environ.get("METERING_MODEL_STEPS") or 30)
SEED = int(os.environ.get("METERING_MODEL_SEED") or random.SystemRandom().randrange(2**32))


@pytest.fixture
def driver(server_url: str, template: str) -> Iterator[Driver]:
    with Driver(server_url, template) as driver:
        yield driver


@pytest.mark.timeout(60 + 60 * EXAMPLES)
def test_the_service_tells_what_the_reference_model_tells(driver: Driver) -> None:
    print(f"\nonce more: make test-model SEED={SEED} EXAMPLES={EXAMPLES} STEPS={STEPS}")  # noqa: T201

    class Bound(Machine):
        def __init__(self) -> None:
            super().__init__(driver)

    run_state_machine_as_test(
        seed(SEED)(Bound),
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(*(f"{number:6} {what}" for what, number in sorted(driver.seen.items())), sep="\n")  # noqa: T201
