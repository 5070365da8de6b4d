"""What whatever is spoken on the port may ask of the server: a conversation that has a slot, and somebody to serve it.

Our own protocol is one user (`endpoint.py`), the dialects of other services are the others. A dialect is a module of
`dialects/` with one function that `app.py` lists:

    def routes(service: Service) -> list[BaseRoute]

Its routes are ordinary Starlette routes. Host and origin have been checked when a request gets there; a missing token
is told in each format's own shape, so a dialect asks `service.gate.knows(request.scope)` first: a test holds all to
that. There are two ways to speak, and `front.py` has a third, for formats whose translator keeps state of its own:

**Over HTTP**: a client within this process. What the server refuses (`busy`, `bad_field`) is raised by entering, before
the answer has begun; `refusal` says which status fits. The answer is sent within the block, so that a client that
goes away ends it.

    async def speech(scope: Scope, receive: Receive, send: Send) -> None:
        async with service.converse(name, service.encoder("pcm16", 24000), scope) as client:
            client.submit(Start("Hello."))      # any command of the protocol, at any moment
            async for item in client:           # events, and Audio: 80 ms each; without an encoder, Frame and Cut
                await send(...)                 # ends when the server hangs up; leaving the block ends it too

**Over a WebSocket**: a translator, which does no I/O, and `WebSocketClient`, which does.

    class Cartesia:
        def commands(self, message: str | bytes) -> Iterable[Command]: ...      # raises CommandError
        def messages(self, item: Outgoing) -> Iterable[str | bytes]: ...

    async def talk(scope: Scope, receive: Receive, send: Send) -> None:
        client = WebSocketClient(scope, receive, send, service.encoder("pcm16", 24000), Cartesia())
        async with service.conversation(name, client=client) as claim:
            await client.accept()
            how = await service.serve(claim, client)
        await client.close(how)

`name` belongs to the conversation: who comes with it again goes on with that conversation, also while it is served to
somebody else, who is then hung up on; None begins a new one. Put the dialect's name and a colon before a name that a
client chose: our own protocol has no colons in its ids, so nobody gets at another's conversation by guessing.
A client that leaves pauses its conversation; one that has a name is kept for `--linger` seconds.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast, get_args

from starlette.responses import Response

from dia2stream import __version__
from dia2stream.audio import SOURCE_RATE, Encoder
from dia2stream.errors import CommandError, Dia2StreamError, EngineError
from dia2stream.items import FRAME_MS
from dia2stream.options import Encoding, SampleRate
from dia2stream.protocol.fields import shown
from dia2stream.protocol.messages import Error, Ready, dump_event, error_event
from dia2stream.server.connection import GONE, ClientGone, Scope
from dia2stream.server.conversations import Claim, ClientConnection, HangUp, ServedConversation, new_id
from dia2stream.server.gate import Gate
from dia2stream.server.local_client import LocalClient
from dia2stream.server.metrics import Metrics
from dia2stream.server.slots import Slots

if TYPE_CHECKING:
    from dia2stream.engine.engine import Engine

_log = logging.getLogger(__name__)

RETRY_SECONDS = 2  # what a refused program is told to wait
BAD_QUERY = 1008  # the close code for a URL that asks for what there is not
_STATUS = {
    "unauthorized": HTTPStatus.UNAUTHORIZED,
    "busy": HTTPStatus.SERVICE_UNAVAILABLE,
    "overloaded": HTTPStatus.SERVICE_UNAVAILABLE,
    "internal": HTTPStatus.INTERNAL_SERVER_ERROR,
    "too_long": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
}


class Service:
    """Conversations for whoever is let in.

    broken, unready: why there are none for anybody, and why there are none right now; None when there are.
    """

    def __init__(
        self,
        gate: Gate,
        slots: Slots,
        metrics: Metrics,
        broken: Callable[[], str | None],
        unready: Callable[[], str | None],
    ) -> None:
        self.gate = gate
        self._slots, self._metrics, self._broken, self._unready = slots, metrics, broken, unready

    @property
    def voices(self) -> tuple[str, ...]:
        """The names of the voices, the default one first; none at all means random voices."""
        engine = self._slots.engine
        return tuple(engine.voices) if engine is not None else ()

    @property
    def model(self) -> str:
        """The name of what speaks, as far as it is loaded."""
        engine = self._slots.engine
        return engine.checkpoint.name if engine is not None else "loading"

    def about(self) -> dict[str, Any]:
        """What speaks and how, for whoever is about to connect; None where it is not loaded yet."""
        engine = self._slots.engine
        return {
            "version": __version__,
            "model": engine and engine.checkpoint.name,
            "device": engine and str(engine.checkpoint.device),
            "voices": self.voices,
            "slots": self._slots.count,
            "settings": engine.sampling if engine else {},
        }

    @property
    def unready(self) -> str | None:
        """Why there are no conversations right now; None when there are."""
        return self._unready()

    def encoder(self, encoding: str, sample_rate: int | str) -> Encoder:
        """For audio in that form. Raises CommandError `bad_field` when there is none."""
        _one_of("encoding", encoding, get_args(Encoding))
        _one_of("sample_rate", str(sample_rate), tuple(map(str, get_args(SampleRate))))
        return Encoder(cast("Encoding", encoding), int(sample_rate))

    @contextlib.asynccontextmanager
    async def conversation(
        self,
        name: str | None,
        *,
        new_name: str | None = None,
        wait: float = 0.0,
        client: ClientConnection | None = None,
        paced: bool = True,
    ) -> AsyncIterator[Claim]:
        """A conversation that has a slot, given back when the block ends.

        name: of one to go on with; if it is not there, a new one is called `new_name`, or the same. Without any name
        nobody can come back, so the conversation ends with the block. wait: for how many seconds to stand in line for
        a slot, at most `--queue-seconds`, while the client is there. paced: whether a listener plays what is sent; else
        a new one sends as fast as it is taken.
        Raises CommandError `busy` when there is no slot, EngineError when there will never be one, ClientGone.
        """
        if problem := self._broken():
            raise EngineError(problem)
        if reason := self._unready():
            raise self._metrics.refusal("unready", reason)
        claim = await self._slots.take(name, new_name or name or new_id(), wait, client, paced)
        started, short = time.monotonic(), claim.conversation.id[:6]
        _log.info("client", extra={"conversation": short, "address": getattr(client, "address", "")})
        try:
            yield claim
        finally:
            self._slots.leave(claim, returns=bool(name or new_name))
            _log.info("client gone", extra={"conversation": short, "seconds": round(time.monotonic() - started, 1)})

    async def serve(self, claim: Claim, client: ClientConnection) -> HangUp:
        """Serves a client until it goes or has to go. Returns how to close its connection."""
        try:
            return await claim.conversation.serve(claim, client, self._ready(claim.conversation, client.encoder))
        except ClientGone:
            raise
        except Exception as error:
            return hang_up(error)

    @contextlib.asynccontextmanager
    async def converse(
        self, name: str | None, encoder: Encoder | None, scope: Scope, wait: float = 0.0
    ) -> AsyncIterator[LocalClient]:
        """A client within this process, and a conversation for it, while the client of that request is there.

        Raises CommandError and EngineError on entering.
        """
        client = LocalClient(encoder, lost=scope.get("extensions", {}).get(GONE))
        async with self.conversation(name, wait=wait, client=client) as claim:
            serving = asyncio.create_task(self.serve(claim, client))
            serving.add_done_callback(client.ended)
            try:
                yield client
            finally:
                client.leave()
                await asyncio.wait({serving})

    def count(self, how: HangUp) -> None:
        """A client was told an error: for the metrics."""
        if isinstance(how.event, Error):
            self._metrics.errors.labels(how.event.code).inc()
            if how.event.code == "busy":
                self._metrics.busy.inc()

    def _ready(self, served: ServedConversation, encoder: Encoder | None) -> Ready:
        engine = cast("Engine", self._slots.engine)  # whoever has a slot has it from the engine
        return Ready(
            version=__version__,
            model=engine.checkpoint.name,
            device=str(engine.checkpoint.device),
            sample_rate=encoder.sample_rate if encoder else SOURCE_RATE,
            encoding=encoder.encoding if encoder else "pcm16",
            frame_ms=FRAME_MS,
            voices=self.voices,
            conversation=served.id,
            sampling=engine.sampling,
        )


def hang_up(error: Exception) -> HangUp:
    """How a connection ends because of an error: the event that says so, and the close code."""
    if isinstance(error, CommandError):
        reason = error.message.encode()[:120].decode("utf-8", "ignore")  # as much as a close frame holds
        return HangUp(error.close_code or BAD_QUERY, reason, error_event(error))
    if isinstance(error, Dia2StreamError):
        return HangUp(1011, "", Error("internal", str(error)))
    _log.error("serving a client failed", exc_info=error)
    return HangUp(1011, "", Error("internal", "the server failed; its log says why"))


def refusal(how: HangUp) -> Response:
    """The same before anything was begun, as the answer to a request or instead of a handshake."""
    error = how.event if isinstance(how.event, Error) else Error("internal", how.reason)
    status = _STATUS.get(error.code, HTTPStatus.BAD_REQUEST)
    headers = {}
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = str(RETRY_SECONDS)
    if status is HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(dump_event(error) + "\n", status, headers, "application/json")


def _one_of(field: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise CommandError("bad_field", f"{field} must be one of {', '.join(known)}, not {shown(value)}", field=field)
