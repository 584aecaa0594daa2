"""All settings, read once: from flags, else from METERING_* variables, else these defaults."""

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from metering.billing.months import BillingCalendar
from metering.security.protection import Protection

HOURS_MAX = 366 * 24


@dataclass(frozen=True)
class Settings:
    """What the service is told from outside."""

    listen: str = "127.0.0.1:50051"
    """Where gRPC is served, HOST:PORT. Port 0: a free one."""
    metrics_listen: str = "127.0.0.1:9464"
    """Where /metrics, /livez and /readyz are served, HOST:PORT. Port 0: a free one."""
    database_url: str | None = field(default=None, repr=False)
    """A PostgreSQL 15 or newer. None: the embedded one, in data_dir."""
    direct_database_url: str | None = field(default=None, repr=False)
    """The same database past PgBouncer, if database_url leads through one in transaction mode: for what needs a session
    of its own, which are migrations and the feed of statuses. None: database_url leads straight to PostgreSQL."""
    data_dir: Path = Path("metering-data")
    """Where the embedded PostgreSQL keeps its data."""
    workers: int = 1
    """Worker processes. They share the port, the kernel spreads connections over them."""
    billing_timezone: str = "Asia/Shanghai"
    """Whose days and months are billed. Fixed once a database is set up."""
    insecure_listen: bool = False
    """Serve other machines, too, although nothing is encrypted or nobody is asked who they are."""
    insecure_metrics_listen: bool = False
    """Serve metrics to other machines, too: unencrypted, to anybody."""
    server_cert: Path | None = None
    """PEM file: the server's certificate and those between it and its root. With server_key: TLS."""
    server_key: Path | None = None
    """PEM file: its private key."""
    client_ca: Path | None = None
    """PEM file: who comes must have a certificate of one of these authorities. With roles_file: mutual TLS."""
    roles_file: Path | None = None
    """TOML file: which identity in a client's certificate has which role."""
    jwks_file: Path | None = None
    """JWKS file: the public keys that bearer tokens are signed with. With token_issuer; instead of client_ca."""
    token_issuer: str | None = None
    """What a token must have as its issuer, iss."""
    token_audience: str = "faceid-metering"  # noqa: S105 - no secret
    """What a token must have among its audience, aud."""
    reflection: bool = True
    """Tell what can be called (grpc.reflection), to callers with any role."""
    connections: int = 10_000
    """Connections to one worker, at the most."""
    connection_age_s: float = 300.0
    """After which a connection is to be made anew, a tenth sooner or later: gateways then find replicas that are new.
    What is under way on it is ended there."""
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

    audit_interval_h: float = 24.0
    """Hours from the beginning of one audit of all accounts to that of the next, at least. 0: none is made."""
    audit_share: float = 0.05
    """Of the time, the share that auditing takes at the most, all replicas together."""

    def __post_init__(self) -> None:
        """Check them.

        Raises:
            ValueError: what is wrong, and what to do.

        """
        BillingCalendar.of_zone(self.billing_timezone)
        self._check_protection()
        self._check_addresses()
        if not 0 <= self.audit_interval_h < HOURS_MAX:
            msg = f"audit_interval_h: {self.audit_interval_h} is not a number of hours; give 24, or 0 for no audit"
            raise ValueError(msg)
        if not 0 < self.audit_share <= 1:
            msg = f"audit_share: {self.audit_share} is not a share of the time; give more than 0, at most 1"
            raise ValueError(msg)
        for name in ("workers", "connections", "queue_calls", "batch_calls", "committers"):
            if getattr(self, name) < 1:
                msg = f"{name}: {getattr(self, name)} is less than 1"
                raise ValueError(msg)

    def load_protection(self) -> Protection:
        """Read the files that say who may come in; raises BrokenFileError."""
        return Protection.load(
            server_certificate=_all_or_none(self.server_cert, self.server_key),
            client_ca=self.client_ca,
            roles_file=self.roles_file,
            jwks_file=self.jwks_file,
            token_issuer=self.token_issuer or "",
            token_audience=self.token_audience,
        )

    def _check_protection(self) -> None:
        """Raise ValueError unless what protects the service is said completely, and once."""
        needs = (
            ("server_cert", "server_key"),
            ("server_key", "server_cert"),
            ("client_ca", "server_cert"),
            ("client_ca", "roles_file"),
            ("roles_file", "client_ca"),
            ("jwks_file", "token_issuer"),
            ("token_issuer", "jwks_file"),
        )
        for name, needed in needs:
            if getattr(self, name) and not getattr(self, needed):
                msg = f"{name}: takes {needed} as well; set --{needed.replace('_', '-')}"
                raise ValueError(msg)
        if self.client_ca and self.jwks_file:
            msg = "client_ca: callers are told by their certificates or by tokens, not by both; leave out --jwks-file"
            raise ValueError(msg)

    def _check_addresses(self) -> None:
        """Raise ValueError unless they are addresses that may be served as things are."""
        host, _ = split_address(self.listen)
        asks_who = self.client_ca or self.jwks_file
        if not (self.insecure_listen or _is_loopback(host) or (self.server_cert and asks_who)):
            missing = [] if self.server_cert else ["nothing is encrypted (--server-cert, --server-key)"]
            missing += [] if asks_who else ["nobody is asked who they are (--client-ca, --roles-file, or --jwks-file)"]
            msg = (
                f"listen: {host} can be reached from other machines, but {' and '.join(missing)}. "
                "Listen on 127.0.0.1, or say --insecure-listen if your network takes care of that."
            )
            raise ValueError(msg)
        host, _ = split_address(self.metrics_listen)
        if not (self.insecure_listen or self.insecure_metrics_listen or _is_loopback(host)):
            msg = (
                f"metrics_listen: {host} can be reached from other machines, and metrics are served unencrypted to "
                "anybody. Listen on 127.0.0.1, or say --insecure-metrics-listen if your network takes care of that."
            )
            raise ValueError(msg)


def _all_or_none(first: Path | None, second: Path | None) -> tuple[Path, Path] | None:
    return (first, second) if first and second else None


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
