"""Service statuses in memory."""

import asyncio
from collections.abc import Collection, Sequence
from typing import Protocol

from metering.model import AccountId, ServiceState, ServiceStatus

STATUSES_MAX = 500_000
"""Statuses in memory; at most about 250 MB. The oldest ones make room."""
ACCOUNTS_PER_LOOK_UP = 5_000


class StatusReader(Protocol):
    """Where statuses are kept."""

    async def statuses(self, account_ids: Sequence[AccountId]) -> list[ServiceStatus]:
        """Return the statuses of accounts; unknown ones are left out. Raises DatabaseUnavailableError."""


class Statuses:
    """The statuses that this server has seen, as they are now.

    An account is looked up when it is first asked for. From then on the feed of changes keeps it fresh.
    """

    def __init__(self, reader: StatusReader) -> None:
        self._reader = reader
        self._statuses: dict[AccountId, ServiceStatus] = {}
        self._not_active: set[AccountId] = set()
        """Of those in memory."""
        self._wanted: set[AccountId] = set()
        self._reading: set[AccountId] = set()
        self._next_look_up: asyncio.Task[dict[AccountId, ServiceStatus]] | None = None
        self._looking_up = asyncio.Lock()

    def __len__(self) -> int:
        return len(self._statuses)

    def known(self, account_id: AccountId) -> ServiceStatus | None:
        """Return the status of an account if it is in memory."""
        return self._statuses.get(account_id)

    def unknown(self, account_ids: set[AccountId]) -> set[AccountId]:
        """Return those of `account_ids` whose status is not in memory."""
        return account_ids.difference(self._statuses)

    def not_active(self, account_ids: set[AccountId]) -> list[ServiceStatus]:
        """Return the statuses in memory of those of `account_ids` that may not call."""
        return [self._statuses[account_id] for account_id in account_ids & self._not_active]

    def known_accounts(self) -> list[AccountId]:
        """Return the accounts in memory, and those that are being looked up."""
        return list(self._statuses.keys() | self._reading | self._wanted)

    async def of(self, account_ids: Sequence[AccountId]) -> list[ServiceStatus]:
        """Return the statuses of accounts, from memory where they are; raises DatabaseUnavailableError."""
        known = {each: status for each in account_ids if (status := self._statuses.get(each)) is not None}
        unknown = [account_id for account_id in account_ids if account_id not in known]
        # Looking up the others may push out what is known now, or bring a newer one.
        found = known | await self.look_up(unknown) if unknown else known
        return [self._statuses.get(each) or found[each] for each in account_ids if each in found]

    async def refresh(self, account_ids: Collection[AccountId]) -> None:
        """Read the statuses of accounts again, of those that are in memory; raises DatabaseUnavailableError."""
        # One that is just being looked up may be read as it was before the change.
        stale = [
            each for each in account_ids if each in self._statuses or each in self._reading or each in self._wanted
        ]
        for start in range(0, len(stale), ACCOUNTS_PER_LOOK_UP):
            await self.look_up(stale[start : start + ACCOUNTS_PER_LOOK_UP])

    async def look_up(self, account_ids: Sequence[AccountId]) -> dict[AccountId, ServiceStatus]:
        """Read the statuses of accounts and keep them; those that do not exist are left out.

        However many ask at once, there is one query under way and one for all who came meanwhile.

        Raises:
            DatabaseUnavailableError: they cannot be read.

        """
        self._wanted.update(account_ids)
        if self._next_look_up is None:
            self._next_look_up = asyncio.create_task(self._look_up_wanted(), name="look up statuses")
        # Who is cancelled does not take the others' answer away.
        found = await asyncio.shield(self._next_look_up)
        return {account_id: found[account_id] for account_id in account_ids if account_id in found}

    async def _look_up_wanted(self) -> dict[AccountId, ServiceStatus]:
        async with self._looking_up:
            self._reading, self._wanted, self._next_look_up = self._wanted, set(), None
            wanted = list(self._reading)
            found: dict[AccountId, ServiceStatus] = {}
            try:
                for start in range(0, len(wanted), ACCOUNTS_PER_LOOK_UP):
                    for status in await self._reader.statuses(wanted[start : start + ACCOUNTS_PER_LOOK_UP]):
                        found[status.account_id] = self._keep(status)
            finally:
                self._reading = set()
            return found

    def _keep(self, status: ServiceStatus) -> ServiceStatus:
        """Keep a status unless a newer one is known; return the newer one."""
        known = self._statuses.get(status.account_id)
        if known is not None and known.version >= status.version:
            return known
        if known is None and len(self._statuses) >= STATUSES_MAX:
            oldest = next(iter(self._statuses))
            del self._statuses[oldest]
            self._not_active.discard(oldest)
        self._statuses[status.account_id] = status
        if status.state is ServiceState.ACTIVE:
            self._not_active.discard(status.account_id)
        else:
            self._not_active.add(status.account_id)
        return status
