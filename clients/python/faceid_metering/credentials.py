"""How a client shows who it is, and makes sure who the service is."""

import os
from collections.abc import Callable
from pathlib import Path

import grpc


def tls_credentials(
    *,
    ca: str | os.PathLike[str] | None = None,
    cert: str | os.PathLike[str] | None = None,
    key: str | os.PathLike[str] | None = None,
    token_file: str | os.PathLike[str] | None = None,
) -> grpc.ChannelCredentials:
    """Return `channel_credentials` for a client, out of PEM files and a file with a bearer token.

    The token is read again whenever its file changes, so it may be replaced at any time. Certificates are read once:
    make a new client before they expire.

    Args:
        ca: Whom the service's certificate must lead to; None: the roots that gRPC comes with.
        cert: This client's certificate, for mutual TLS; with `key`.
        key: Its private key.
        token_file: Holds a bearer token. It is sent with every request, and only over TLS.

    Raises:
        OSError: A file cannot be read.
        ValueError: One of `cert` and `key` is missing, or a file is not what it should be.
    """
    if (cert is None) != (key is None):
        raise ValueError("a certificate takes its key, and a key its certificate: give cert and key")
    credentials = grpc.ssl_channel_credentials(
        root_certificates=_pem(ca, "CERTIFICATE"),
        private_key=_pem(key, "PRIVATE KEY"),
        certificate_chain=_pem(cert, "CERTIFICATE"),
    )
    if token_file is None:
        return credentials
    token = _TokenFile(Path(token_file))
    token()
    return grpc.composite_channel_credentials(credentials, grpc.metadata_call_credentials(_TokenPlugin(token)))


def _pem(path: str | os.PathLike[str] | None, what: str) -> bytes | None:
    """Return a PEM file; gRPC itself would say nothing of one that is none."""
    if path is None:
        return None
    content = Path(path).read_bytes()
    if f"{what}-----".encode() not in content:
        raise ValueError(f"{os.fspath(path)}: there is no PEM {what} in it")
    return content


class _TokenFile:
    """What stands in a file, read again when it changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int, int] | None = None
        self._token = ""

    def __call__(self) -> str:
        """Return the token; raises OSError, ValueError."""
        found = self._path.stat()
        stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
        if stamp != self._stamp:
            token = self._path.read_text(encoding="ascii").strip()
            if not token or not token.isprintable():
                raise ValueError(f"{self._path}: there should be a token in it, on one line")
            self._stamp, self._token = stamp, token
        return self._token


class _TokenPlugin(grpc.AuthMetadataPlugin):
    """Adds the token to each request."""

    def __init__(self, token: Callable[[], str]) -> None:
        self._token = token

    def __call__(self, _context: grpc.AuthMetadataContext, callback: grpc.AuthMetadataPluginCallback) -> None:
        try:
            metadata = (("authorization", f"Bearer {self._token()}"),)
        except (OSError, ValueError) as error:
            callback((), error)
        else:
            callback(metadata, None)
