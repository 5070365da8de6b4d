"""A real HTTP proxy for tests: it opens connections to wherever it likes (CONNECT), and remembers who was asked for."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "ws_proxy", "wss_proxy")


class Proxy:
    """Hands on to one port of this machine, whatever host is named. answer: what it says instead."""

    def __init__(self, to: int = 0, answer: bytes = b"") -> None:
        self.asked: list[str] = []  # host:port of each CONNECT; of another request, its first line
        self.authorizations: list[str] = []
        self.port = 0
        self._to, self._answer = to, answer

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Proxy"]:
        listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = listener.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            listener.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            method, target, _ = head[0].split()
            self.asked.append(target if method == "CONNECT" else head[0])
            self.authorizations += [line.split(": ")[1] for line in head if line.startswith("Proxy-Authorization")]
            writer.write(self._answer or b"HTTP/1.1 200 OK\r\n\r\n")
            if not self._answer:
                await self._hand_on(reader, writer)

    async def _hand_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", self._to)
        with contextlib.closing(to_server):
            await asyncio.gather(_copy(reader, to_server), _copy(from_server, writer))


async def _copy(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
    while data := await source.read(1 << 16):
        to.write(data)
        await to.drain()
    if to.can_write_eof():
        to.write_eof()
