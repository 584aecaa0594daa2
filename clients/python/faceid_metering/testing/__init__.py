"""For tests of code that uses the client: a metering service in the test's own process, without a database.

with FakeMetering() as fake:
    fake.activate("acme")
    ...  # run what is tested against fake.target
    assert [call.call.api for call in fake.calls("acme")] == ["DetectAuth"]
"""

from faceid_metering.testing.clock import FakeClock
from faceid_metering.testing.fake import SHANGHAI, FakeMetering

__all__ = ["SHANGHAI", "FakeClock", "FakeMetering"]
