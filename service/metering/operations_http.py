"""The HTTP side for operators: /metrics, /livez and /readyz.

Served from a thread of its own, so that it answers even while the event loop does not: that is what /livez is for.
"""

import contextlib
import socket
import sys
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

Probe = Callable[[], str]
"""Returns what is wrong; empty: nothing."""

REQUEST_S_MAX = 10.0
"""Whoever has not said what it wants by then, or has not taken it, is hung up on: each holds a thread."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - the library's
        """Answer one connection, in a thread of its own."""
        hanging_up = threading.Timer(REQUEST_S_MAX, _hang_up, (request,))
        hanging_up.daemon = True
        hanging_up.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            hanging_up.cancel()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 - the library's
        """Say nothing of those who hung up."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, *_: object) -> None:
        """Say nothing: a probe every second is no news."""


class OperationsHttp:
    """Serves them until closed."""

    def __init__(self, host: str, port: int, registry: CollectorRegistry, live: Probe, ready: Probe) -> None:
        """Begin to serve; raises OSError if the address is in use."""
        self._metrics = make_wsgi_app(registry)
        self._probes = {"/livez": live, "/readyz": ready}
        self._server = make_server(host, port, self._answer, _Server, _QuietHandler)
        self.port: int = self._server.server_port
        threading.Thread(target=self._server.serve_forever, name="operations http", daemon=True).start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            metrics: Iterable[bytes] = self._metrics(environ, start_response)
            return metrics
        if path in self._probes:
            wrong = self._probes[path]()
            status, text = ("503 Service Unavailable", wrong) if wrong else ("200 OK", "ok")
        else:
            status, text = "404 Not Found", "there are /metrics, /livez and /readyz"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{text}\n".encode()]
