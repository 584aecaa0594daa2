"""What a torture's clients record: calls of now, late calls, and calls of earlier months."""

import random
import time
from datetime import timedelta

from faceid.metering.v1 import resources_pb2 as pb
from tests.torture.clock import SharedClock
from tests.torture.journal import SentCall

APIS = ("DetectAuth", "CompareFace", "LivenessCheck")
RESULT_CODES = ("", "", "", "E.Uncharged", "E.Other")
ACCOUNTS = tuple(f"account-{number:02}" for number in range(12))
SKEW_S = 2.0
"""How much a client's own clock is ahead or behind at most."""
LATE_DAYS_MAX = 25
"""So that a call that cannot be delivered at once is not too old after the next leap in time."""


class Traffic:
    """Makes calls, by one client's clock."""

    def __init__(self, rng: random.Random, clock: SharedClock) -> None:
        self._rng = rng
        self._clock = clock
        self._skew_s = rng.uniform(-SKEW_S, SKEW_S)

    def call(self) -> SentCall:
        """Return a call that was made now, or, one in ten, some days ago."""
        rng = self._rng
        ago = timedelta(days=rng.uniform(0, LATE_DAYS_MAX)) if rng.random() < 0.1 else timedelta()
        occurred_s = self._clock.time_s() + self._skew_s - ago.total_seconds()
        return SentCall(
            # Not by the seed alone: a client that was killed begins its numbers anew.
            call_id=f"{rng.getrandbits(64):016x}{time.monotonic_ns():016x}",
            account_id=rng.choice(ACCOUNTS),
            api=rng.choice(APIS),
            occurred_us=int(occurred_s * 1e6),
            result_code=rng.choice(RESULT_CODES),
        )


def record_of(call: SentCall) -> pb.CallRecord:
    """Return the message for a call, the same one each time."""
    record = pb.CallRecord(account_id=call.account_id, api=call.api, call_id=call.call_id, result_code=call.result_code)
    record.occurred_at.FromMicroseconds(call.occurred_us)
    return record
