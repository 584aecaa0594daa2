"""What commands have in common: settings, how errors end, how a running service is asked."""

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table

from faceid_metering import MeteringClient
from faceid_metering import MeteringError as ClientError
from metering import embedded_postgres
from metering.app import BillingTimeZoneError
from metering.demo import DemoError
from metering.errors import MeteringError
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
    variable = "METERING_" + names[0].removeprefix("--").replace("-", "_").upper()
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
    """Turn errors that an operator can do something about into a message and exit code 1."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - whatever the command takes
        try:
            return command(*args, **kwargs)
        except (
            MeteringError,
            ClientError,
            DemoError,
            FileError,
            BillingTimeZoneError,
            WorkerError,
            embedded_postgres.EmbeddedPostgresError,
            OSError,
        ) as error:
            raise click.ClickException(str(error)) from error
        except ExceptionGroup as group:
            known, unknown = group.split((MeteringError, OSError))
            if unknown or not known:
                raise
            raise click.ClickException("; ".join(str(error) for error in leaves(known))) from group

    return run


def leaves(group: BaseExceptionGroup[Exception]) -> Iterator[Exception]:
    """Return the single errors in a group."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield error


def target_setting(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the setting that says which running service."""
    return setting("--target", default=DEFAULTS.listen, metavar="HOST:PORT", help="The running service.")(command)


def print_table(table: Table) -> None:
    """Print a table as wide as its content: a narrow terminal breaks the lines, but no digit is left out."""
    table.width = out.measure(table, options=out.options.update(width=WIDTH_MAX)).maximum
    out.print(table)


@asynccontextmanager
async def connected(target: str) -> AsyncIterator[MeteringClient]:
    """Return a client of a running service; raises ClientError soon if there is none."""
    async with MeteringClient(target) as metering:
        await metering.wait_until_connected(CONNECT_TIMEOUT_S)
        yield metering


async def ask(target: str, question: Callable[[MeteringClient], Awaitable[T]], waiting: str) -> T:
    """Ask a running service something, and say what is waited for meanwhile."""
    with out.status(waiting):
        async with connected(target) as metering:
            return await question(metering)
