"""`serve`: the protocol over WebSocket, and HTTP beside it, on one port, unattended.

The port opens first, then the model is loaded: probes and clients are told how far it is. Everything here runs on one
event loop and never waits for the model; loading has a thread, and so has the engine.

    socket --commands--> ServedConversation --> engine's thread
    socket <--audio, events-- ServedConversation <-- outbox <-- engine's thread

**Slots.** The engine holds so many conversations, today one. A client gets a slot or is told `busy` at once. Slots of
conversations whose client is gone are kept for it `linger` seconds, but give way to a client who is there: a phone bot
whose framework connects anew for each call must not stand before a locked door. So does the slot of a client that has
not begun to speak in as long a time.
"""

import asyncio
import contextlib
import functools
import ipaddress
import logging
import math
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast, get_args

from websockets.asyncio.server import Server as Listener
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from dia2stream import __version__
from dia2stream.audio import Encoder
from dia2stream.errors import CommandError, Dia2StreamError, EngineError
from dia2stream.items import FRAME_MS
from dia2stream.options import Encoding, ModelOptions, SampleRate, ServeOptions, SpeechOptions
from dia2stream.protocol.fields import shown
from dia2stream.protocol.messages import Error, Ready, dump_event, error_event
from dia2stream.server.connection import Connection
from dia2stream.server.conversations import ClientConnection, HangUp, ServedConversation
from dia2stream.server.logs import set_up
from dia2stream.server.metrics import Metrics
from dia2stream.server.slots import CLOSE_SECONDS, SLOTS, Slots, settle
from dia2stream.server.watch import Watch
from dia2stream.server.web import Door, Web, query

if TYPE_CHECKING:
    from dia2stream.engine.engine import Engine

_log = logging.getLogger(__name__)
_PARAMETERS = ("conversation", "encoding", "received_ms", "sample_rate", "token")
_BAD_QUERY = 1008  # the close code for a URL that asks for what there is not


def run(model: ModelOptions, speech: SpeechOptions, options: ServeOptions) -> None:
    """Serves until SIGTERM, and ends the process. Raises Dia2Error or Dia2StreamError when it cannot go on."""
    set_up(options.log_level, options.log_format)
    asyncio.run(Server(model, speech, options).run())
    # All is closed and logged. An orderly exit would take torch apart for seconds, and wait for a download to finish.
    logging.shutdown()
    os._exit(0)


class Server:
    """One server. `run` is its whole life."""

    def __init__(self, model: ModelOptions, speech: SpeechOptions, options: ServeOptions) -> None:
        self._model, self._speech, self._options = model, speech, options
        self.stage: str | None = "starting"  # of loading; None once that is done
        self._stopping = False
        self._metrics = Metrics()
        self._slots = Slots(options, self._metrics)
        self._watch = Watch()
        self._door = Door(options.token, options.allow_origin)
        self._web = Web(self._door, self._unhealthy, self._unready, self._metrics.text)
        self._metrics.observe(self._slots.gauges, self._slots.counters)

    async def run(self) -> None:
        """Listens, loads, serves, and on SIGTERM lets the conversations finish."""
        stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, settle, stop)
        listener = await self._open_port()
        try:
            loaded = self._load()
            waiting: list[asyncio.Future[Any]] = [loaded, stop]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if not stop.done():
                self._begin(await loaded)
                await self._watch_until(stop)
            loaded.cancel()
            await self._drain()
        finally:
            listener.close()
            await asyncio.wait({asyncio.ensure_future(listener.wait_closed())}, timeout=CLOSE_SECONDS)
            await self._slots.close()
            _log.info("stopped")

    # ---- From nothing to ready ----

    async def _open_port(self) -> Listener:
        options = self._options
        try:
            listener: Listener = await serve(
                self._handle,
                options.host,
                options.port,
                ssl=_tls(options.tls_cert, options.tls_key),
                process_request=self._web.answer,
                process_response=_name_conversation,
                create_connection=cast("Any", functools.partial(Connection, patience=options.ping_seconds)),
                max_size=options.max_message_bytes,
                close_timeout=CLOSE_SECONDS,
                compression=None,  # there is nothing to gain on audio, and 300 KB a connection to lose
                server_header=None,
                logger=logging.getLogger("dia2stream.websockets"),
            )
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise Dia2StreamError(f"cannot listen on {options.host} port {options.port}: {reason}") from None
        port = listener.sockets[0].getsockname()[1]
        _log.info("listening", extra={"host": options.host, "port": port, "tls": options.tls_cert is not None})
        if options.token is None and not all(_is_loopback(each) for each in listener.sockets):
            _log.warning("anyone who reaches this address can speak: set --token, or --host 127.0.0.1")
        return listener

    def _load(self) -> "asyncio.Future[Engine]":
        """The engine, when it is loaded; on a thread that ends with the process."""
        loop = asyncio.get_running_loop()
        loaded: asyncio.Future[Engine] = loop.create_future()

        def settle(engine: "Engine | None", error: Exception | None) -> None:
            if loaded.cancelled():
                return
            if engine is not None:
                loaded.set_result(engine)
            else:
                loaded.set_exception(error or EngineError("the model did not load"))

        def work() -> None:
            try:
                outcome: tuple[Engine | None, Exception | None] = (self._load_engine(), None)
            except Exception as error:
                outcome = (None, error)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(settle, *outcome)

        threading.Thread(target=work, name="load", daemon=True).start()
        return loaded

    def _load_engine(self) -> "Engine":
        self.stage = "loading the libraries"
        from dia2stream.engine.engine import Engine  # takes seconds

        return Engine.load(
            self._model, progress=self._progress, slots=SLOTS, speech=self._speech, observers=[self._metrics]
        )

    def _progress(self, stage: str, done: int, total: int) -> None:
        if self.stage is None or not self.stage.startswith(stage):
            _log.info("loading", extra={"stage": stage})
        self.stage = f"{stage} {100 * done // total}%" if total else stage

    def _begin(self, engine: "Engine") -> None:
        self._slots.engine = self._watch.engine = engine
        self.stage = None
        _log.info("ready", extra={"model": engine.checkpoint.name, "device": str(engine.checkpoint.device)})

    # ---- Health ----

    def _unhealthy(self) -> str | None:
        engine = self._slots.engine
        return engine.broken if engine else None

    def _unready(self) -> str | None:
        if self._stopping:
            return "shutting down"
        if self.stage is not None:
            return f"loading: {self.stage}"
        return self._unhealthy() or self._watch.problem

    async def _watch_until(self, stop: "asyncio.Future[None]") -> None:
        """Looks after the engine until it is time to stop. Raises EngineError when the engine is beyond help."""
        while not stop.done():
            await asyncio.wait({stop}, timeout=1.0)
            self._watch.look(time.monotonic())
            if (problem := self._unhealthy()) and not self._slots.connected:
                raise EngineError(problem)  # whatever started this process starts a new one

    async def _drain(self) -> None:
        """Refuses new clients, and lets the ones that are there hear what they have asked for."""
        self._stopping = True
        seconds = self._options.drain_seconds
        _log.info("stopping", extra={"seconds": seconds, "conversations": self._slots.connected})
        deadline = time.monotonic() + seconds
        self._slots.tell(Error("busy", f"the server stops: what is queued is spoken, for up to {seconds:g} s"))
        while self._slots.speaking and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        await self._slots.clear(HangUp(1013, "the server stops"))

    # ---- Clients ----

    async def _handle(self, connection: ServerConnection) -> None:
        """One client, from handshake to close."""
        with contextlib.suppress(ConnectionClosed):
            try:
                how = await self._converse(connection)
            except CommandError as error:
                if error.code == "busy":
                    self._metrics.busy.inc()
                how = HangUp(error.close_code or _BAD_QUERY, _reason(error), error_event(error))
            except EngineError as error:
                how = HangUp(1011, "", Error("internal", str(error)))
            except ConnectionClosed:
                return
            except Exception:
                _log.exception("serving a client failed")
                how = HangUp(1011, "", Error("internal", "the server failed; its log says why"))
            if how.event is not None:
                if isinstance(how.event, Error):
                    self._metrics.errors.labels(how.event.code).inc()
                await connection.send(dump_event(how.event))
            await connection.close(how.code, how.reason)

    async def _converse(self, connection: ServerConnection) -> HangUp:
        assert connection.request is not None
        if not self._door.knows(connection.request):
            raise CommandError("unauthorized", "the token is missing or wrong")
        asked = _asked(query(connection.request))
        client = ClientConnection(connection, self._encoder(asked), _number(asked, "received_ms"))
        if problem := self._unhealthy():
            raise EngineError(problem)
        if reason := self._unready():
            raise CommandError("busy", reason)
        served = await self._slots.take(asked.get("conversation"), cast(Connection, connection).new_id)
        started = time.monotonic()
        _log.info("client", extra={"conversation": served.id[:6], "address": _address(connection)})
        try:
            ready = self._ready(served, client.encoder)
            if asked.get("conversation") not in (None, served.id):
                gone = CommandError("no_session", "that conversation is gone; this is a new one", field="conversation")
                served.session.refuse(gone)
            return await served.serve(client, ready)
        finally:
            self._slots.leave(served)
            _log.info(
                "client gone", extra={"conversation": served.id[:6], "seconds": round(time.monotonic() - started, 1)}
            )

    def _encoder(self, asked: dict[str, str]) -> Encoder:
        encoding = asked.get("encoding", self._options.encoding)
        rate = asked.get("sample_rate", str(self._options.sample_rate))
        _one_of("encoding", encoding, get_args(Encoding))
        _one_of("sample_rate", rate, [str(known) for known in get_args(SampleRate)])
        return Encoder(cast("Encoding", encoding), int(rate))

    def _ready(self, served: ServedConversation, encoder: Encoder) -> Ready:
        engine = cast("Engine", self._slots.engine)  # whoever has a conversation has got it from the engine
        checkpoint = engine.checkpoint
        return Ready(
            version=__version__,
            model=checkpoint.name,
            device=str(checkpoint.device),
            sample_rate=encoder.sample_rate,
            encoding=encoder.encoding,
            frame_ms=FRAME_MS,
            voices=tuple(engine.voices),
            conversation=served.id,
        )


def _name_conversation(connection: ServerConnection, request: Request, response: Response) -> None:
    """Tells proxies in the handshake what the client is told by `ready`: see scripts/haproxy.cfg."""
    if response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
        response.headers["Dia2stream-Conversation"] = cast(Connection, connection).new_id


def _asked(parameters: dict[str, str]) -> dict[str, str]:
    """What the URL asks for. A misspelt sample rate would be heard as noise, so it is an error."""
    for name in parameters:
        if name not in _PARAMETERS:
            known = ", ".join(_PARAMETERS)
            raise CommandError("bad_field", f"the URL asks for {shown(name)}; known are {known}", field=name[:40])
    return parameters


def _one_of(field: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        raise CommandError("bad_field", f"{field} must be one of {', '.join(known)}, not {shown(value)}", field=field)


def _number(asked: dict[str, str], name: str) -> float | None:
    if name not in asked:
        return None
    with contextlib.suppress(ValueError):
        if math.isfinite(number := float(asked[name])) and number >= 0:
            return number
    raise CommandError("bad_field", f"{name} must be a number of 0 or more, not {shown(asked[name])}", field=name)


def _reason(error: CommandError) -> str:
    """As much of the message as a close frame holds."""
    return error.message.encode()[:120].decode("utf-8", "ignore")


def _tls(certificate: str | None, key: str | None) -> ssl.SSLContext | None:
    if certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        raise Dia2StreamError(f"{certificate}: no PEM certificate with its key: {error.reason or error}") from None
    return context


def _is_loopback(listening: socket.socket) -> bool:
    return ipaddress.ip_address(listening.getsockname()[0]).is_loopback


def _address(connection: ServerConnection) -> str:
    address = connection.remote_address
    return str(address[0]) if address else ""
