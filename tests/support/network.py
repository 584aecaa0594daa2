"""A network on which packets are lost without a word: nobody refuses, resets or acknowledges anything.

    here (clients and database, an address each) ── a router ── there (what is started with `there`)

Two network namespaces with a pair of virtual interfaces to each neighbour. The router has a rule for each way that is
lost. It takes root and iproute2; where that is missing, the test is skipped.
"""

import os
import random
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Self

import pytest

_SUBNETS = 2**12
"""Of 16 addresses each, in the network that is set aside for tests of networks: 198.18.0.0/16."""


class LossyNetwork:
    """One that loses nothing yet."""

    def __init__(self, ip: str, subnet: int) -> None:
        self._ip = ip
        self._link, self._router, self._there = (f"metering-{part}{subnet}" for part in ("", "r", "t"))
        addresses = [f"198.18.{subnet // 16}.{subnet % 16 * 16 + host}" for host in range(16)]
        self.clients, self.database, self._router_here = addresses[1:4]
        self._router_there, self.service = addresses[9:11]
        self.there: Sequence[str] = (ip, "netns", "exec", self._there)
        """What is written before a command to run it there."""
        self._lost: list[tuple[str, str]] = []

    @classmethod
    @contextmanager
    def laid(cls) -> Iterator[Self]:
        """Lay one, for as long as this lasts."""
        ip = shutil.which("ip", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
        if ip is None or os.geteuid() != 0:
            pytest.skip("network namespaces take root, and ip of iproute2")
        network = cls(ip, random.randrange(_SUBNETS))
        with ExitStack() as stack:
            try:
                network._lay(stack)
            except subprocess.CalledProcessError as error:
                pytest.skip(f"such a network is not possible here: {' '.join(error.cmd)}: {error.stderr.strip()}")
            yield network

    def _lay(self, stack: ExitStack) -> None:
        """Make namespaces and what connects them; where a namespace goes, its interfaces go, and their other ends."""
        for namespace in (self._router, self._there):
            self._do("netns", "add", namespace)
            stack.callback(self._do, "netns", "delete", namespace)
        here, router, there = (), ("-n", self._router), ("-n", self._there)
        self._do("link", "add", self._link, "type", "veth", "peer", "name", "here", "netns", self._router)
        self._do(*router, "link", "add", "there", "type", "veth", "peer", "name", "router", "netns", self._there)
        ends: list[tuple[Sequence[str], str, Sequence[str]]] = [
            (here, self._link, (self.clients, self.database)),
            (router, "here", (self._router_here,)),
            (router, "there", (self._router_there,)),
            (there, "router", (self.service,)),
        ]
        for namespace_of, interface, addresses in ends:
            for address in addresses:
                self._do(*namespace_of, "address", "add", f"{address}/29", "dev", interface)
            self._do(*namespace_of, "link", "set", interface, "up")
        self._do("route", "add", f"{self.service}/32", "via", self._router_here, "src", self.clients)
        self._do(*there, "route", "add", "default", "via", self._router_there)
        self._do("netns", "exec", self._router, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        self.lose_between(self.clients, self.service)
        self.heal()

    def lose(self, source: str, destination: str) -> None:
        """Lose all packets from one address to another from now on."""
        self._rule("add", source, destination)
        self._lost.append((source, destination))

    def lose_between(self, one: str, other: str) -> None:
        """Lose all packets between two addresses from now on."""
        self.lose(one, other)
        self.lose(other, one)

    def heal(self) -> None:
        """Lose no more."""
        while self._lost:
            self._rule("delete", *self._lost.pop())

    def _rule(self, what: str, source: str, destination: str) -> None:
        self._do("-n", self._router, "rule", what, "from", source, "to", destination, "blackhole")

    def _do(self, *arguments: str) -> None:
        subprocess.run([self._ip, *arguments], check=True, capture_output=True, text=True)
