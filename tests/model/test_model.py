"""The service and a reference model tell the same after whatever is done to both."""

import pytest

from tests.model.conftest import Play
from tests.model.driver import Driver


@pytest.mark.timeout(3600)
def test_the_service_tells_what_the_reference_model_tells(driver: Driver, play: Play) -> None:
    play()
    print(*(f"{number:6} {what}" for what, number in sorted(driver.seen.items())), sep="\n")  # noqa: T201
