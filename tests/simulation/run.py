"""A run of the simulation, and what is to be true at its end."""

import asyncio
import logging
from collections import Counter
from dataclasses import dataclass
from typing import Any

from metering.errors import MeteringError, TransactionConflictError
from tests.simulation.postgres import BrokenPromiseError
from tests.simulation.virtual_time import VirtualTimeLoop
from tests.simulation.world import Plan, World, seeded


@dataclass(frozen=True)
class Outcome:
    """What a run came to: the same for the same plan."""

    calls: int
    deliveries: int
    retries: int
    commits: int
    crashes: int
    closed: tuple[tuple[str, int], ...]
    ended_at_s: float


def run(plan: Plan, *, open_month_locks: bool = True) -> Outcome:
    """Run a simulation; raises BrokenPromiseError, or whatever went wrong in the code."""
    loop = VirtualTimeLoop()
    asyncio.set_event_loop(None)
    world = World(plan, open_month_locks=open_month_locks)
    loop.set_exception_handler(lambda _loop, context: _note(world, context))
    level = logging.getLogger("metering").level
    logging.getLogger("metering").setLevel(logging.CRITICAL)
    try:
        with seeded(plan.seed):
            try:
                loop.run_until_complete(world.run())
            finally:
                _end(loop)
            return _check(world, loop.time())
    except BaseExceptionGroup as errors:
        # What was noted first is the cause of what went wrong later.
        noted = world.postgres.broken_promises
        raise (BrokenPromiseError(noted[0]) if noted else _first(errors)) from errors
    finally:
        logging.getLogger("metering").setLevel(level)
        loop.close()


def _note(world: World, context: dict[str, Any]) -> None:
    """Take down what nobody waits for; an answer of the database that came when its caller was gone is none of it."""
    error = context.get("exception")
    if not isinstance(error, MeteringError | TransactionConflictError | BrokenPromiseError):
        world.postgres.broken_promises.append(f"{context['message']}: {error!r}")


def _end(loop: asyncio.AbstractEventLoop) -> None:
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            return _first(error)
        return error
    return errors


def _check(world: World, ended_at_s: float) -> Outcome:
    postgres, tally = world.postgres, world.tally
    if postgres.broken_promises:
        raise BrokenPromiseError(postgres.broken_promises[0])
    keys = [(key.account_id, key.call_id) for key in postgres.rows]
    recorded = Counter(keys)
    twice = [key for key, times in recorded.items() if times > 1]
    _expect(not twice, f"P2 once: {len(twice)} calls are recorded on two days")
    _expect(recorded.keys() <= tally.sent.keys(), "calls are recorded that nobody has sent")
    missing = tally.sent.keys() - recorded.keys()
    _expect(not missing, f"P1 durable: {len(missing)} calls are delivered, and not recorded")
    _expect(tally.acknowledged == tally.sent.keys(), "calls were not acknowledged in the end")
    _expect(not [key for key, times in tally.new.items() if times > 1], "P2 once: a call was new twice")
    _expect(
        tally.accepted + tally.new.total() <= len(keys), "P2 once: more calls were acknowledged as new than there are"
    )
    for key, count in postgres.rows.items():
        said = tally.billing_months.get((key.account_id, key.call_id), count.billing_month)
        _expect(said == count.billing_month, f"P3 sealed: a call was said to stand on another bill: {key}")
    for month, calls in postgres.closed.items():
        now = postgres.usage_of(month)
        _expect(now == calls, f"P3 sealed: {month:%Y-%m} had {calls} calls when it was closed, and has {now} now")
    _expect(not postgres.deltas, "counts are not folded")
    _expect(sum(postgres.daily.values()) == len(keys), "P4 accounted: counts and calls differ")
    return Outcome(
        calls=len(keys),
        deliveries=tally.deliveries,
        retries=tally.retries,
        commits=postgres.commits,
        crashes=tally.crashes,
        closed=tuple(sorted((f"{month:%Y-%m}", calls) for month, calls in postgres.closed.items())),
        ended_at_s=ended_at_s,
    )


def _expect(holds: bool, otherwise: str) -> None:  # noqa: FBT001
    if not holds:
        raise BrokenPromiseError(otherwise)
