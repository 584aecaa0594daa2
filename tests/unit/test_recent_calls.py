"""The memory of calls written lately is a hint, and bounded."""

import pytest

from metering.store import recent_calls
from metering.store.recent_calls import RecentCalls


def ids(*numbers: int) -> set[bytes]:
    return {number.to_bytes(16) for number in numbers}


def test_what_was_written_lately_is_remembered() -> None:
    recent = RecentCalls()
    recent.add(ids(1, 2))
    recent.add(ids(3))
    assert recent.among(ids(2, 3, 4)) == ids(2, 3)
    assert not recent.among(ids(4, 5))


def test_the_oldest_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent_calls, "GENERATION_CALLS_MAX", 10)
    recent = RecentCalls()
    for number in range(100):
        recent.add(ids(number))
        assert recent.among(ids(*range(number - 9 if number > 9 else 0, number + 1)))
        assert len(recent._young) + len(recent._old) <= 20
    assert recent.among(ids(*range(91, 100))) == ids(*range(91, 100))
    assert not recent.among(ids(*range(80)))
