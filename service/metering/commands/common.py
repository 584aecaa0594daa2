"""What commands have in common: settings, how errors end, how a running service is asked."""

import functools
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
import grpc
from rich.console import Console
from rich.table import Table

from faceid_metering import MeteringClient, tls_credentials
from faceid_metering import MeteringError as ClientError
from faceid_metering.evidence import CallFileError
from metering import embedded_postgres
from metering.demo import DemoError
from metering.errors import MeteringError, UnsuitableDatabaseError
from metering.logs import redacted, secrets_in
from metering.security.reloading import BrokenFileError
from metering.settings import Settings
from metering.supervisor import WorkerError

CONNECT_TIMEOUT_S = 5.0
WIDTH_MAX = 10_000

DEFAULTS = Settings()

T = TypeVar("T")
Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

out = Console(highlight=False, soft_wrap=True)


class FileError(Exception):
    """A file that was given to a command is not what it should be."""


def setting(*names: str, default: object = None, help: str, **options: Any) -> Decorator:  # noqa: A002, ANN401
    """Return a click option that is also read from METERING_<NAME>."""
    variable = "METERING_" + names[0].partition("/")[0].removeprefix("--").replace("-", "_").upper()
    return click.option(
        *names,
        default=default,
        envvar=variable,
        show_envvar=True,
        show_default=default is not None,
        help=help,
        **options,
    )


def failing_plainly(command: Callable[..., Any]) -> Callable[..., Any]:
    """Turn errors that an operator can do something about into a message and exit code 1, others into a traceback.

    Neither has the password of the database in it.
    """

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - whatever the command takes
        secrets = secrets_in(kwargs.get("database_url"), kwargs.get("direct_database_url"))
        try:
            return command(*args, **kwargs)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except (
            MeteringError,
            ClientError,
            DemoError,
            FileError,
            CallFileError,
            UnsuitableDatabaseError,
            BrokenFileError,
            WorkerError,
            embedded_postgres.EmbeddedPostgresError,
            OSError,
        ) as error:
            raise click.ClickException(redacted(str(error), secrets)) from error
        except Exception as error:
            known, unknown = (
                error.split((MeteringError, OSError)) if isinstance(error, ExceptionGroup) else (None, error)
            )
            if unknown or not known:
                sys.stderr.write(redacted("".join(traceback.format_exception(error)), secrets))
                raise click.exceptions.Exit(1) from error
            message = "; ".join(str(each) for each in leaves(known))
            raise click.ClickException(redacted(message, secrets)) from error

    return run


def leaves(group: BaseExceptionGroup[Exception]) -> Iterator[Exception]:
    """Return the single errors in a group."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield error


@dataclass(frozen=True)
class Target:
    """A running service, and how to show it who asks."""

    address: str
    tls_ca: Path | None = None
    """None: plain text."""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    token_file: Path | None = None

    def credentials(self) -> grpc.ChannelCredentials | None:
        """Return what to connect with; raises FileError, OSError."""
        if self.tls_ca is None:
            if self.tls_cert or self.tls_key or self.token_file:
                msg = "certificates and tokens are only sent over TLS: say whom to trust with --tls-ca"
                raise FileError(msg)
            return None
        try:
            return tls_credentials(ca=self.tls_ca, cert=self.tls_cert, key=self.tls_key, token_file=self.token_file)
        except ValueError as error:
            raise FileError(str(error)) from error


def credential_settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the settings that say how to show the service of `target` who asks, and make a Target of them."""

    @functools.wraps(command)
    def run(
        *args: Any,  # noqa: ANN401 - whatever the command takes
        target: str | None,
        tls_ca: Path | None,
        tls_cert: Path | None,
        tls_key: Path | None,
        token_file: Path | None,
        **kwargs: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        files = (tls_ca, tls_cert, tls_key, token_file)
        return command(*args, target=None if target is None else Target(target, *files), **kwargs)

    settled: Callable[..., Any] = run
    file: dict[str, Any] = {"type": click.Path(path_type=Path, dir_okay=False), "metavar": "FILE"}
    for option in (
        setting("--token-file", help="Show the service the bearer token in it, over TLS.", **file),
        setting("--tls-key", help="The key of --tls-cert.", **file),
        setting("--tls-cert", help="Show the service this certificate (PEM), for mutual TLS.", **file),
        setting("--tls-ca", help="Use TLS, and trust these authorities (PEM). [default: no encryption]", **file),
    ):
        settled = option(settled)
    return settled


def target_setting(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the settings that say which running service, and how to show it who asks."""
    return setting("--target", default=DEFAULTS.listen, metavar="HOST:PORT", help="The running service.")(
        credential_settings(command)
    )


def print_table(table: Table) -> None:
    """Print a table as wide as its content: a narrow terminal breaks the lines, but no digit is left out."""
    table.width = out.measure(table, options=out.options.update(width=WIDTH_MAX)).maximum
    out.print(table)


@asynccontextmanager
async def connected(target: Target) -> AsyncIterator[MeteringClient]:
    """Return a client of a running service; raises ClientError soon if there is none."""
    async with MeteringClient(target.address, channel_credentials=target.credentials()) as metering:
        try:
            await metering.wait_until_connected(CONNECT_TIMEOUT_S)
        except ClientError as error:
            hint = " that this certificate and authority fit to" if target.tls_ca else " without TLS (--tls-ca)"
            raise ClientError(error.code, f"{error.message}{hint}") from error
        yield metering


async def ask(target: Target, question: Callable[[MeteringClient], Awaitable[T]], waiting: str) -> T:
    """Ask a running service something, and say what is waited for meanwhile."""
    with out.status(waiting):
        async with connected(target) as metering:
            return await question(metering)
