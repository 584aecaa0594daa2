"""Notes who did what: everything that somebody's decision changes, before it is done, and then how it ended."""

import hashlib
import json
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from google.protobuf.json_format import MessageToJson

from metering.clock import Clock
from metering.errors import DatabaseUnavailableError, MeteringError, Reason, TransactionConflictError
from metering.model import AccountId, Act
from metering.recording.validation import check_name
from metering.rpc.permissions import Authenticate
from metering.security.callers import ANYBODY

if TYPE_CHECKING:
    from grpc import aio

Context: TypeAlias = "aio.ServicerContext[Any, Any]"
Behavior = Callable[[Any, Context], Awaitable[Any]]

REQUEST_BYTES_MAX = 64 * 1024
"""Of a larger request, its size and its hash are noted."""
DONE = "OK"

log = logging.getLogger(__name__)


class ActLog(Protocol):
    """Where acts are noted. Nothing in it is ever changed."""

    async def begin(self, act: Act) -> int:
        """Note an act that is about to be done; return its id. Raises DatabaseUnavailableError."""

    async def end(self, act_id: int, outcome: str, now: datetime) -> None:
        """Note how an act ended; raises DatabaseUnavailableError."""


class ActNotes:
    """Notes the acts of callers."""

    def __init__(self, acts: ActLog, authenticate: Authenticate | None, clock: Clock) -> None:
        """Take `authenticate` for who asks; None: nobody is asked."""
        self._acts = acts
        self._authenticate = authenticate
        self._clock = clock

    def noted(self, method: str, behavior: Behavior) -> Behavior:
        """Return a method that is noted with each request; what cannot be noted is not done.

        An act without an outcome was given up by its caller, or the service died: it may have been done or not.
        """

        async def act(request: Any, context: Context) -> Any:  # noqa: ANN401 - any message
            if getattr(request, "dry_run", False):
                return await behavior(request, context)
            act_id = await self._acts.begin(self._act(method, request, context))
            try:
                response = await behavior(request, context)
            except Exception as error:
                await self._end(act_id, error.reason if isinstance(error, MeteringError) else Reason.INTERNAL)
                raise
            await self._end(act_id, DONE)
            return response

        return act

    def _act(self, method: str, request: Any, context: Context) -> Act:  # noqa: ANN401 - any message
        caller = self._authenticate(context) if self._authenticate else ANYBODY
        return Act(
            begun_at=self._clock.now(),
            caller=caller.name,
            role=caller.role,
            peer=context.peer(),
            method=method.rpartition("/")[2],
            account_id=_account_id(request),
            request=_json(request),
        )

    async def _end(self, act_id: int, outcome: str) -> None:
        """Note an outcome. The act has been done, or refused: that nobody can note it any more changes nothing."""
        try:
            await self._acts.end(act_id, outcome, self._clock.now())
        except (DatabaseUnavailableError, TransactionConflictError) as error:
            log.error("the outcome of act %d, %s, could not be noted: %s", act_id, outcome, error)  # noqa: TRY400


def _account_id(request: Any) -> AccountId | None:  # noqa: ANN401 - any message
    """Return the account that a request is about; None if it is about none, or names none."""
    try:
        return AccountId(check_name(getattr(request, "account_id", ""), "account_id"))
    except MeteringError:
        return None


def _json(request: Any) -> str:  # noqa: ANN401 - any message
    size = request.ByteSize()
    if size > REQUEST_BYTES_MAX:
        return json.dumps({"bytes": size, "sha256": hashlib.sha256(request.SerializeToString()).hexdigest()})
    return MessageToJson(request, preserving_proto_field_name=True, indent=None)
