"""Which calls may have been written lately."""

from collections.abc import Set as AbstractSet

GENERATION_CALLS_MAX = 250_000
"""Two generations of so many are remembered, at the most; about 60 MB."""


class RecentCalls:
    """Remembers the call_ids that this process has written lately.

    A retry mostly follows soon, to the same server. One that is remembered is looked up before its batch is copied;
    otherwise it would undo the whole batch. This is a hint and no more: the table alone knows what is recorded.
    """

    def __init__(self) -> None:
        self._young: set[bytes] = set()
        self._old: set[bytes] = set()

    def add(self, call_ids: AbstractSet[bytes]) -> None:
        """Remember calls; the oldest ones are forgotten for it."""
        if len(self._young) + len(call_ids) > GENERATION_CALLS_MAX:
            self._young, self._old = set(), self._young
        self._young |= call_ids

    def among(self, call_ids: AbstractSet[bytes]) -> AbstractSet[bytes]:
        """Return those of `call_ids` that are remembered."""
        if self._young.isdisjoint(call_ids) and self._old.isdisjoint(call_ids):
            return frozenset()
        return (self._young & call_ids) | (self._old & call_ids)
