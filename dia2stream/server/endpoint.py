"""Our own protocol over a WebSocket, at `/`: what its URL may ask for, and how a client is refused.

A program is refused before the handshake is finished, where its HTTP library shows it: 401, 503 with Retry-After, 400
for a URL that asks for what there is not. A browser shows a page neither the status nor the body, so what sends an
Origin header, or asks for `?busy=event`, is let in, told the error event, and closed with 4401, 1013 or 1008.
"""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass

from dia2stream.errors import CommandError, Dia2StreamError
from dia2stream.options import ServeOptions
from dia2stream.protocol.audio_message import Audio, pack_audio
from dia2stream.protocol.fields import shown
from dia2stream.protocol.messages import Command, Event, dump_event, parse_command
from dia2stream.protocol.schema import QUERY
from dia2stream.server.connection import ClientGone, Receive, Scope, Send
from dia2stream.server.conversations import Outgoing, new_id
from dia2stream.server.gate import headers, query
from dia2stream.server.service import Service, hang_up, refusal
from dia2stream.server.websocket_client import WebSocketClient


class OwnProtocol:
    """Commands are JSON in text messages, events too; audio is a count of samples and the samples."""

    def commands(self, message: str | bytes) -> Iterable[Command]:
        return (parse_command(message),)

    def messages(self, item: Outgoing) -> Iterable[str | bytes]:
        if isinstance(item, Audio):
            return (pack_audio(item.samples, item.data),)
        return (dump_event(item),) if isinstance(item, Event) else ()


@dataclass(frozen=True)
class Wishes:
    """What a URL asks for."""

    encoding: str
    sample_rate: str
    conversation: str | None = None
    received_ms: float | None = None
    wait: float = 0.0


class Endpoint:
    """The ASGI application at `/` for WebSockets."""

    def __init__(self, service: Service, options: ServeOptions) -> None:
        self._service, self._options = service, options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        encoder = self._service.encoder(self._options.encoding, self._options.sample_rate)
        client = WebSocketClient(scope, receive, send, encoder, OwnProtocol())
        try:
            if not self._service.gate.knows(scope):
                raise CommandError("unauthorized", "the token is missing or wrong")
            wishes = self._wishes(scope)
            client.encoder = self._service.encoder(wishes.encoding, wishes.sample_rate)
            client.received_ms = wishes.received_ms
            await self._talk(client, wishes)
        except ClientGone:
            return
        except (CommandError, Dia2StreamError) as error:
            await self._turn_away(client, scope, error)

    async def _talk(self, client: WebSocketClient, wishes: Wishes) -> None:
        wanted = wishes.conversation
        async with self._service.conversation(wanted, new_name=new_id(), wait=wishes.wait, client=client) as claim:
            conversation = claim.conversation
            # Proxies are told in the handshake what the client is told by `ready`: see scripts/haproxy.cfg.
            await client.accept(("Dia2stream-Conversation", conversation.id))
            if wanted not in (None, conversation.id):
                problem = "that conversation is gone; this is a new one"
                conversation.session.refuse(CommandError("no_session", problem, field="conversation"))
            how = await self._service.serve(claim, client)
        self._service.count(how)
        await client.close(how)

    async def _turn_away(self, client: WebSocketClient, scope: Scope, error: Exception) -> None:
        how = hang_up(error)
        self._service.count(how)
        if not client.accepted and not _is_told_by_event(scope):
            await client.refuse(refusal(how))
            return
        with contextlib.suppress(ClientGone):
            await client.accept()
        await client.close(how)

    def _wishes(self, scope: Scope) -> Wishes:
        """Of a parameter that is given twice, the last counts."""
        asked = {name: values[-1] for name, values in query(scope).items()}
        for name in asked:
            if name not in QUERY:  # a misspelt sample rate would be heard as noise
                known = ", ".join(sorted(QUERY))
                raise CommandError("bad_field", f"the URL asks for {shown(name)}; known are {known}", field=name[:40])
        return Wishes(
            asked.get("encoding", self._options.encoding),
            asked.get("sample_rate", str(self._options.sample_rate)),
            asked.get("conversation"),
            _number(asked, "received_ms"),
            _number(asked, "wait") or 0.0,
        )


def _is_told_by_event(scope: Scope) -> bool:
    return bool(headers(scope, "origin")) or query(scope).get("busy", [""])[-1] == "event"


def _number(asked: dict[str, str], name: str) -> float | None:
    if name not in asked:
        return None
    most = QUERY[name]["maximum"]
    with contextlib.suppress(ValueError):
        if 0 <= (number := float(asked[name])) <= most:
            return number
    raise CommandError("bad_field", f"{name} must be a number from 0 to {most}, not {shown(asked[name])}", field=name)
