"""The smallest dialect there is, as service.py describes them: text in, mu-law out, over HTTP and over a WebSocket."""

from collections.abc import AsyncIterator, Iterable

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import BaseRoute, Route, WebSocketRoute

from dia2stream.errors import CommandError, Dia2StreamError
from dia2stream.protocol.audio_message import Audio
from dia2stream.protocol.messages import Command, Done, Error, Inject, Start
from dia2stream.server import app
from dia2stream.server.connection import Receive, Scope, Send
from dia2stream.server.conversations import Outgoing
from dia2stream.server.gate import no_token
from dia2stream.server.local_client import LocalClient
from dia2stream.server.service import Service, hang_up, refusal
from dia2stream.server.websocket_client import WebSocketClient


class Plain:
    """Each message is spoken; the audio comes back without a count."""

    def __init__(self, begun: bool) -> None:
        self._begun = begun

    def commands(self, message: str | bytes) -> Iterable[Command]:
        if not isinstance(message, str):
            raise CommandError("bad_field", "only text is spoken")
        command: Command = Inject(message) if self._begun else Start(message, seed=1)
        self._begun = True
        return (command,)

    def messages(self, item: Outgoing) -> Iterable[str | bytes]:
        if isinstance(item, Audio):
            return (item.data,)
        return (f"{item.code}",) if isinstance(item, Error) else ("done",) if isinstance(item, Done) else ()


def routes(service: Service) -> list[BaseRoute]:
    """/say answers a POST, /talk is a WebSocket."""

    async def say(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        if not service.gate.knows(scope):
            await no_token()(scope, receive, send)
            return
        name = request.query_params.get("name")
        try:
            phone = service.encoder("mulaw", 8000)
            async with service.converse(name and f"small:{name}", phone, scope, wait=5) as client:
                text = (await request.body()).decode()
                client.submit(Start(text, seed=1, final=bool(text)))  # nothing to say yet: nothing is answered yet
                await StreamingResponse(sound(client), media_type="audio/basic")(scope, receive, send)
        except (CommandError, Dia2StreamError) as error:
            await refusal(hang_up(error))(scope, receive, send)

    async def talk(scope: Scope, receive: Receive, send: Send) -> None:
        client = WebSocketClient(scope, receive, send, service.encoder("mulaw", 8000), Plain(False))
        if not service.gate.knows(scope):
            await client.refuse(no_token())
            return
        try:
            async with service.conversation(None, client=client) as claim:
                await client.accept(subprotocol="plain")
                how = await service.serve(claim, client)
        except (CommandError, Dia2StreamError) as error:
            await client.refuse(refusal(hang_up(error)))
            return
        await client.close(how)

    return [Route("/say", _Application(say), methods=["POST"]), WebSocketRoute("/talk", _Application(talk))]


async def sound(client: LocalClient) -> AsyncIterator[bytes]:
    """The audio up to the end of the utterance."""
    async for item in client:
        if isinstance(item, Audio):
            yield item.data
        elif isinstance(item, Done | Error):
            return


class _Application:
    """Keeps Starlette from wrapping a function."""

    def __init__(self, talk: object) -> None:
        self._talk = talk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._talk(scope, receive, send)  # type: ignore[operator]


def install() -> None:
    """For a server that is started in this process."""
    app.DIALECTS = (*app.DIALECTS, routes)
