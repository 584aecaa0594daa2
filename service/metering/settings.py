"""All settings, read once: from flags, else from METERING_* variables, else these defaults."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from metering.billing.months import BillingCalendar


@dataclass(frozen=True)
class Settings:
    """What the service is told from outside."""

    listen: str = "127.0.0.1:50051"
    """Where gRPC is served, HOST:PORT. Port 0: a free one."""
    metrics_listen: str = "127.0.0.1:9464"
    """Where /metrics, /livez and /readyz are served, HOST:PORT. Port 0: a free one."""
    database_url: str | None = None
    """A PostgreSQL 15 or newer. None: the embedded one, in data_dir."""
    direct_database_url: str | None = None
    """The same database past PgBouncer, if database_url leads through one in transaction mode: for what needs a session
    of its own, which are migrations and the feed of statuses. None: database_url leads straight to PostgreSQL."""
    data_dir: Path = Path("metering-data")
    """Where the embedded PostgreSQL keeps its data."""
    workers: int = 1
    """Worker processes. They share the port, the kernel spreads connections over them."""
    billing_timezone: str = "Asia/Shanghai"
    """Whose days and months are billed. Fixed once a database is set up."""
    insecure_listen: bool = False
    """Serve other machines, too, although nothing is encrypted and nobody is asked who they are."""
    queue_wait_s: float = 2.0
    """Calls that would have to wait longer for their commit than so many seconds are refused."""
    queue_calls: int = 100_000
    """Calls that wait for their commit in one worker, at the most; they take some 40 MB."""
    batch_calls: int = 10_000
    """Calls in a commit, at the most."""
    committers: int = 2
    """Commits at the same time in one worker."""
    commit_spacing_ms: float = 10.0
    """Under load, milliseconds between the starts of two commits of one worker, at the most."""
    shutdown_grace_s: float = 10.0
    """How long requests under way are given to end when the service stops."""

    def __post_init__(self) -> None:
        """Check them.

        Raises:
            ValueError: what is wrong, and what to do.

        """
        BillingCalendar.of_zone(self.billing_timezone)
        for name in ("listen", "metrics_listen"):
            host, _ = split_address(getattr(self, name))
            if name == "listen" and not self.insecure_listen and not _is_loopback(host):
                msg = (
                    f"{name}: {host} can be reached from other machines, but nothing is encrypted and nobody is asked "
                    "who they are. Listen on 127.0.0.1, or say --insecure-listen if your network takes care of that."
                )
                raise ValueError(msg)
        for name in ("workers", "queue_calls", "batch_calls", "committers"):
            if getattr(self, name) < 1:
                msg = f"{name}: {getattr(self, name)} is less than 1"
                raise ValueError(msg)


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of HOST:PORT; IPv6 hosts stand in brackets. Raises ValueError."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65_535:  # noqa: PLR2004 - the last port there is
        msg = f"{address!r} is not an address; write it like 127.0.0.1:50051"
        raise ValueError(msg)
    return host.strip("[]"), int(port)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
