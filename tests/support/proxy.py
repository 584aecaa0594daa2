"""A TCP proxy that cuts the wire, in the middle of things if wanted, and does worse to it."""

import asyncio
import contextlib
import socket
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit


class TcpProxy:
    """Forwards connections, until told otherwise.

    Args:
        connect_to: HOST:PORT, or the path of a Unix socket.
        url_with_port: what `url` is, with `{port}` for the proxy's port.
        port: to listen on; 0: any.

    """

    def __init__(self, connect_to: str, url_with_port: str = "127.0.0.1:{port}", *, port: int = 0) -> None:
        self.connect_to = connect_to
        self._url_with_port = url_with_port
        self._server: asyncio.Server | None = None
        self._port = port
        self._reserved = socket.socket()
        """Holds the port, for which others may look, while connections are refused."""
        self._pipes: set[asyncio.Task[None]] = set()
        self._deaf: set[asyncio.StreamWriter] = set()
        self._clients: set[asyncio.StreamWriter] = set()
        self._reply_bytes_left: int | None = None
        self.delay_s = 0.0
        """How much later everything arrives."""
        self._flowing = asyncio.Event()
        self._flowing.set()

    @classmethod
    def to_postgres(cls, database_url: str) -> "TcpProxy":
        """Return a proxy to the server of a URL, which may name a Unix socket."""
        parts = urlsplit(database_url)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        host = query.get("host", parts.hostname or "127.0.0.1")
        port = int(query.get("port", parts.port or 5432))
        target = f"{host}/.s.PGSQL.{port}" if host.startswith("/") else f"{host}:{port}"
        user = parts.netloc.rpartition("@")[0] or "postgres"
        return cls(target, f"postgresql://{user}@127.0.0.1:{{port}}{parts.path}?sslmode=disable")

    @property
    def url(self) -> str:
        """The URL of the database through the proxy."""
        return self._url_with_port.format(port=self._port)

    async def __aenter__(self) -> Self:
        await self.accept()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()
        await self.refuse()
        self._reserved.close()

    async def accept(self) -> None:
        """Take connections, on the same port as before."""
        if not self._server:
            # Connections of who had the port before may still be ending.
            for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
                self._reserved.setsockopt(socket.SOL_SOCKET, option, 1)
            self._reserved.bind(("127.0.0.1", self._port))
            self._port = self._reserved.getsockname()[1]
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, reuse_port=True)

    async def refuse(self) -> None:
        """Cut all connections and refuse new ones."""
        if self._server is not None:
            self._server.close()
        self.cut()

    def cut(self) -> None:
        """Cut all connections."""
        for pipe in self._pipes:
            pipe.cancel()

    def half_close(self) -> None:
        """Say to all clients that nothing more will come, and go on taking what they send."""
        for client in self._clients - self._deaf:
            self._deaf.add(client)
            client.write_eof()

    def say(self, data: bytes) -> None:
        """Say something to all clients in the server's place."""
        for client in self._clients:
            client.write(data)

    def cut_replies_after(self, count: int | None) -> None:
        """Cut a connection after so many more bytes of replies, over all connections; None: never."""
        self._reply_bytes_left = count

    def hold(self) -> None:
        """Forward nothing more, without a word."""
        self._flowing.clear()

    def release(self) -> None:
        """Forward what was held, and all that follows."""
        self._flowing.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self.connect_to.startswith("/"):
                server_reader, server_writer = await asyncio.open_unix_connection(self.connect_to)
            else:
                host, _, port = self.connect_to.rpartition(":")
                server_reader, server_writer = await asyncio.open_connection(host, int(port))
        except OSError:  # it is down, which its clients are to see as if they had asked it themselves
            writer.transport.abort()
            return
        self._clients.add(writer)
        pipes = [
            asyncio.create_task(self._forward(reader, server_writer, replies=False)),
            asyncio.create_task(self._forward(server_reader, writer, replies=True)),
        ]
        self._pipes.update(pipes)
        await asyncio.wait(pipes, return_when=asyncio.FIRST_COMPLETED)
        for pipe in pipes:
            pipe.cancel()
        await asyncio.gather(*pipes, return_exceptions=True)
        self._pipes.difference_update(pipes)
        self._clients.discard(writer)
        self._deaf.discard(writer)
        for end in (writer, server_writer):
            end.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, replies: bool) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                await self._flowing.wait()
                if writer in self._deaf:
                    continue
                if replies and self._reply_bytes_left is not None:
                    if len(data) > self._reply_bytes_left:
                        return
                    self._reply_bytes_left -= len(data)
                writer.write(data)
                await writer.drain()
