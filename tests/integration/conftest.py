from pathlib import Path

import pytest

from tests.support.security import Certificates


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)
