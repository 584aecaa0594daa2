"""`metering certs`: certificates for development."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import click

from metering.commands.common import failing_plainly, out
from metering.security.dev_certificates import write_certificates


@click.group()
def certs() -> None:
    """Certificates for development. docs/security.md says what production takes."""


@certs.command()
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--host",
    "hosts",
    multiple=True,
    default=("localhost", "127.0.0.1", "::1"),
    show_default=True,
    help="A name or address that the server is reached by. May be given several times.",
)
@failing_plainly
def dev(directory: Path, hosts: Sequence[str]) -> None:
    """Make an authority in DIRECTORY, and certificates for the server and a client of each role; they last a year.

    The authority's key is thrown away, so nobody can make another certificate.
    """
    write_certificates(directory, hosts, datetime.now(UTC))
    out.print(
        f"made {directory}: ca.pem; server, gateway, reader, biller and admin, each .pem and .key; roles.toml\n\n"
        "  metering serve \\\n"
        f"    --server-cert {directory}/server.pem --server-key {directory}/server.key \\\n"
        f"    --client-ca {directory}/ca.pem --roles-file {directory}/roles.toml\n\n"
        "  metering usage ACCOUNT MONTH \\\n"
        f"    --tls-ca {directory}/ca.pem --tls-cert {directory}/reader.pem --tls-key {directory}/reader.key"
    )
