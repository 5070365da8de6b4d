"""What a replica does when the request arrives for which a router has had a slot kept."""

from collections.abc import Callable
from typing import Protocol

from dia2stream.server.connection import App, Receive, Scope, Send
from dia2stream.server.gate import Gate
from dia2stream.server.holds import here


class Keeper(Protocol):
    """The server."""

    def let_go(self, request: str) -> None:
        """The slot that is kept for this request is not needed, or not any more."""


class Arrivals:
    """An ASGI application around the server's.

    The kept slot is for a client who speaks: whoever asks for a page or has no token gives it back at once, so that
    nobody without a token can keep slots from others. request: the name under which the router had the slot kept.
    """

    def __init__(self, application: App, server: Keeper, token: str | None, request: Callable[[], str]) -> None:
        self._application, self._server, self._request = application, server, request
        self._gate = Gate(token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._application(scope, receive, send)
            return
        request = self._request()
        try:
            if not self._may_speak(scope):
                self._server.let_go(request)
            with here(request):
                await self._application(scope, receive, send)
        finally:
            self._server.let_go(request)

    def _may_speak(self, scope: Scope) -> bool:
        return (scope["type"] == "websocket" or scope["method"] == "POST") and self._gate.knows(scope)
