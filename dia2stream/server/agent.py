"""Tells HAProxy how many slots are free, by its agent protocol, on a port of its own.

Whoever connects is told one line and hung up on:

    5% ready up      five conversations could begin; with `server ... weight 100`, the weight becomes 5
    1% ready up      every slot is taken: a new client comes here only if it is the same everywhere
    0% ready up      not loaded yet, or stopping: no new clients

A weight that equals the free slots makes `balance leastconn` choose by the share of slots that are taken, however
many slots each server has: connections over free slots grow with taken over all.
"""

import asyncio
import contextlib
from collections.abc import Callable

from dia2stream.errors import Dia2StreamError

MOST_WEIGHT = 256  # what HAProxy takes


class Agent:
    """The port. report: how many clients the server invites, and None while it serves nobody."""

    def __init__(self, report: Callable[[], int | None]) -> None:
        self._report = report
        self._listener: asyncio.Server | None = None

    async def open(self, host: str, port: int) -> int:
        """Begins to listen. Returns the port. Raises Dia2StreamError when it cannot."""
        try:
            self._listener = await asyncio.start_server(self._answer, host, port)
        except OSError as error:
            raise Dia2StreamError(f"cannot listen on {host} port {port} (--agent-port): {error.strerror}") from None
        return int(self._listener.sockets[0].getsockname()[1])

    def close(self) -> None:
        """Listens no more."""
        if self._listener is not None:
            self._listener.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        free = self._report()
        weight = 0 if free is None else min(max(free, 1), MOST_WEIGHT)
        with contextlib.suppress(OSError):
            writer.write(f"{weight}% ready up\n".encode())
            await writer.drain()
            writer.close()
