"""How the state machine is run."""

import os
import random
from collections.abc import Iterator
from typing import Protocol

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.model.driver import Driver
from tests.model.machine import Machine
from tests.model.reference import Books

EXAMPLES = os.environ.get("METERING_MODEL_EXAMPLES")
"""Set by `make test-model`; without it, a test run has a slice of some twenty seconds."""
STEPS = int(os.environ.get("METERING_MODEL_STEPS") or 30)
SEED = int(os.environ.get("METERING_MODEL_SEED") or random.SystemRandom().randrange(2**32))
EXAMPLES_OF_A_SLICE = 4
EXAMPLES_PER_BUG_MAX = 40


@pytest.fixture
def driver(server_url: str, template: str) -> Iterator[Driver]:
    with Driver(server_url, template) as driver:
        yield driver


class Play(Protocol):
    """Compares the service with books by chance, and raises what it finds: with `planted`, the first thing."""

    def __call__(self, books: type[Books] = Books, *, planted: bool = False) -> None: ...


@pytest.fixture
def play(driver: Driver) -> Play:
    def play(books: type[Books] = Books, *, planted: bool = False) -> None:
        class Bound(Machine):
            def __init__(self) -> None:
                super().__init__(driver, books)

        examples = EXAMPLES_PER_BUG_MAX if planted else int(EXAMPLES or EXAMPLES_OF_A_SLICE)
        print(f"\nonce more: make test-model SEED={SEED} EXAMPLES={EXAMPLES or EXAMPLES_OF_A_SLICE} STEPS={STEPS}")  # noqa: T201
        run_state_machine_as_test(
            seed(SEED)(Bound),
            settings=settings(
                max_examples=examples,
                stateful_step_count=STEPS,
                deadline=None,
                database=None,
                phases=[Phase.generate] if planted else [Phase.generate, Phase.shrink],
                suppress_health_check=list(HealthCheck),
            ),
        )

    return play
