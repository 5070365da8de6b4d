"""The addresses of other services' wire formats, on our port.

Each format's routes are mounted as they are, and again behind `/c/KEY`: a client whose only setting is a base URL can
say in it who it is, and then finds its conversation again, with its voice and its memory, by whatever request or socket
it comes. A key may also come as X-Conversation or `?conversation=`. Clients without one begin anew each time.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from urllib.parse import parse_qsl
from weakref import WeakValueDictionary

from starlette.routing import BaseRoute, WebSocketRoute
from starlette.routing import Route as HttpRoute

from dia2stream.errors import CommandError, Dia2StreamError
from dia2stream.server.connection import ClientGone, Message, Receive, Scope, Send
from dia2stream.server.dialect_client import DialectAnswer, DialectClient, DialectSocket, answer, close_early
from dia2stream.server.dialects import cartesia, deepgram, elevenlabs, openai_speech
from dia2stream.server.dialects.dialect import (
    FirstKey,
    Request,
    Response,
    Route,
    Served,
    Standing,
    Translator,
    conversation_of,
)
from dia2stream.server.gate import offers_token, without_scheme
from dia2stream.server.service import Service, hang_up
from dia2stream.waits import within

FORMATS: dict[str, list[Route]] = {
    "openai": openai_speech.ROUTES,
    "cartesia": cartesia.ROUTES,
    "deepgram": deepgram.ROUTES,
    "elevenlabs": elevenlabs.ROUTES,
}
KEYED = "/c/{conversation}"
MAX_BODY = 2**20
# A server that was started anew loads its model for some seconds. Clients that come back at once are kept waiting, as
# many give up on a service for good when it has refused them a few times. They wait ten seconds for a handshake, so it
# is finished before that, and what a client then says waits until it can be spoken.
REQUEST_SECONDS, HANDSHAKE_SECONDS, SOCKET_SECONDS = 9.0, 5.0, 300.0


_WRONG_KEY = "the key is missing or wrong: it must be the server's token"


def routes(service: Service) -> list[BaseRoute]:
    """Every format's addresses, with and without a key."""
    found: list[BaseRoute] = []
    for name, offered in FORMATS.items():
        front = Front(name, service)
        for route in offered:
            place = _Place(front, route)
            for path in (route.path, KEYED + route.path):
                if route.method == "WEBSOCKET":
                    found.append(WebSocketRoute(path, place))
                else:
                    found.append(HttpRoute(path, place, methods=[route.method]))
    return found


class _Place:
    """One route, as an ASGI application."""

    def __init__(self, front: "Front", route: Route) -> None:
        self._front, self._route = front, route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._front.serve(self._route, scope, receive, send)


class Front:
    """Serves one format."""

    def __init__(self, name: str, service: Service) -> None:
        self._name, self._service = name, service
        self._created = int(time.time())
        # Requests of one conversation, one after another: the next sentence is asked for while the last one is sent.
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def serve(self, route: Route, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request or a handshake, and serves who comes in."""
        accepted = False
        try:
            request = await self._read(scope, receive)
            if not self._service.gate.knows(scope):
                if route.first_key is None or offers_token(scope):
                    raise CommandError("unauthorized", _WRONG_KEY)
                await send({"type": "websocket.accept"})
                accepted = True
                receive = await self._read_key(route.first_key, receive, send)
            if route.method == "WEBSOCKET" and not accepted and not await self._is_loaded(HANDSHAKE_SECONDS):
                await send({"type": "websocket.accept"})
                accepted = True
            if not await self._is_loaded(SOCKET_SECONDS if accepted else REQUEST_SECONDS):
                raise CommandError("overloaded", self._service.unready or "loading")
            key = conversation_of(request)
            opened = route.open(request, self._served())
        except CommandError as error:
            if accepted:
                await close_early(error, send)
            else:
                await answer(route.refuse(error), scope, receive, send)
            return
        except ClientGone:
            return
        if isinstance(opened, Response):
            await answer(opened, scope, receive, send)
            return
        kind = DialectSocket if route.method == "WEBSOCKET" else DialectAnswer
        await self._speak(route, kind(scope, receive, send, opened, accepted), opened, key)

    async def _read_key(self, first_key: FirstKey, receive: Receive, send: Send) -> Receive:
        """Waits for a socket's first message, and gives it back to who reads on. Raises CommandError."""
        with contextlib.suppress(asyncio.TimeoutError):
            first = await within(HANDSHAKE_SECONDS, _first_message(receive))
            text = first.get("text")
            key = first_key.read(first["bytes"] if text is None else text)
            if key is not None and self._service.gate.accepts(without_scheme(key)):
                return _again(first, receive)
        error = CommandError("unauthorized", _WRONG_KEY)
        with contextlib.suppress(OSError):
            await send({"type": "websocket.send", "text": first_key.refuse(error)})
        raise error

    async def _is_loaded(self, seconds: float) -> bool:
        """Waits for the model for so long. Raises CommandError when it is not there for another reason."""
        deadline = time.monotonic() + seconds
        while (reason := self._service.unready) is not None:
            if not reason.startswith("loading"):
                raise CommandError("overloaded", reason)
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.05)
        return True

    def _served(self) -> Served:
        service = self._service
        return Served(service.model, service.voices, self._created)

    async def _read(self, scope: Scope, receive: Receive) -> Request:
        query = dict(parse_qsl(scope["query_string"].decode("latin-1").replace("?", "&"), keep_blank_values=True))
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        body = b"" if scope["type"] == "websocket" else await self._read_body(receive)
        return Request(scope["path"], query, headers, dict(scope["path_params"]), body)

    async def _read_body(self, receive: Receive) -> bytes:
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone("the client has closed the connection")
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > MAX_BODY:
                raise CommandError("too_long", f"the body is over {MAX_BODY} bytes, which is the limit")
        return bytes(body)

    async def _speak(self, route: Route, client: DialectClient, translator: Translator, key: str | None) -> None:
        key = key or translator.conversation
        name = None if key is None else f"{self._name}:{key}"
        paced = name is not None or isinstance(client, DialectSocket)
        try:
            async with self._turn(name, client), self._service.conversation(name, client=client, paced=paced) as claim:
                conversation = claim.conversation
                client.standing = lambda: Standing(conversation.begun, conversation.clock_ms)
                if isinstance(client, DialectSocket):
                    await client.accept()
                how = await self._service.serve(claim, client)
            self._service.count(how)
            await client.end(how)
        except ClientGone:
            return
        except Dia2StreamError as error:
            told = error if isinstance(error, CommandError) else CommandError("internal", str(error))
            if client.accepted:
                await client.end(hang_up(error))
            else:
                await client.refuse(route.refuse(told))

    @contextlib.asynccontextmanager
    async def _turn(self, name: str | None, client: DialectClient) -> AsyncIterator[None]:
        """Waits for the request before this one of the same conversation. A socket waits for nobody: it takes over."""
        if name is None or isinstance(client, DialectSocket):
            yield
            return
        lock = self._turns.setdefault(name, asyncio.Lock())
        async with lock:
            yield


async def _first_message(receive: Receive) -> Message:
    """What a socket says first. Raises ClientGone."""
    while (message := await receive())["type"] != "websocket.receive":
        if message["type"] == "websocket.disconnect":
            raise ClientGone("the client has closed the connection")
    return message


def _again(first: Message, receive: Receive) -> Receive:
    """`receive`, with a message that was read already in front."""
    before = [first]

    async def received() -> Message:
        return before.pop() if before else await receive()

    return received
