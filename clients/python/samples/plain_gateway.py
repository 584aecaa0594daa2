"""A gateway without any framework: what the middleware and the interceptors do, by hand."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from faceid_metering.serving import Metering


@dataclass(frozen=True)
class Request:
    """A request that a gateway has taken and authenticated."""

    account_id: str
    api: str
    request_id: str
    image: bytes


def serve(metering: Metering, requests: Iterable[Request]) -> Iterator[str]:
    """Answer requests one after the other."""
    for request in requests:
        occurred_at = datetime.now(UTC)  # once: it is part of the call's identity
        if not metering.is_active(request.account_id):
            yield "suspended"
            continue
        result_code = recognise(request.image)
        metering.record(
            request.account_id, request.api, request.request_id, occurred_at=occurred_at, result_code=result_code
        )
        yield result_code or "similarity 0.98"


def recognise(image: bytes) -> str:
    """Stand in for face recognition: return its result code, empty for success."""
    return "" if image else "InvalidImage"
