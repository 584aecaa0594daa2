"""Clients that speak HTTP/2 as it should not be spoken: what the fuzzing found, in short."""

import struct

from tests.conftest import ServiceProcesses
from tests.fuzz.messages import FORGED
from tests.fuzz.wire import PREFACE, frame, literal, say


async def test_what_a_client_says_as_it_goes_is_not_written_into_the_log(processes: ServiceProcesses) -> None:
    service = await processes.start()
    word = struct.pack(">II", 0, 505_684_244) + f"\n{FORGED}\n".encode()
    timeout = b"\x83\x86" + literal(b":path", b"/") + literal(b"grpc-timeout", b"-1S")
    for farewell in (frame(7, 0, 0, word), frame(1, 5, 1, timeout)):
        await say(service.target, PREFACE + frame(4, 0, 0, b"") + farewell, close=False)
    await service.activate("acme")
    assert await service.terminate() == 0
    said = "".join(service.output)
    assert FORGED not in said
    assert "grpc-timeout" not in said
