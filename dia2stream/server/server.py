"""`serve`: the protocol over WebSocket, and HTTP beside it, on one port, unattended.

The port opens first, then the model is loaded: probes and clients are told how far it is. Everything here runs on one
event loop and never waits for the model; loading has a thread, and so has the engine.

    socket --commands--> Call --> engine's thread --> outbox --> Call --audio, events--> socket

**Seats.** The engine holds so many conversations, today one. A client gets a seat or is told `busy` at once. Seats of
conversations whose client is gone are kept for it `linger` seconds, but give way to a client who is there: a phone bot
whose framework connects anew for each call must not stand before a locked door. So does the seat of a client that has
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
import sys
import threading
import time
import traceback
from collections.abc import Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast, get_args

from websockets.asyncio.server import Server as Listener
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from dia2stream import __version__
from dia2stream.audio import Encoder
from dia2stream.conversation.outbox import FRAME_MS
from dia2stream.errors import CommandError, Dia2StreamError, EngineError
from dia2stream.options import Encoding, ModelOptions, SampleRate, ServeOptions, SpeechOptions
from dia2stream.protocol.messages import Error, Event, Ready, dump_event, error_event, shown
from dia2stream.server.connection import Connection
from dia2stream.server.conversations import Call, HangUp, Line
from dia2stream.server.logs import set_up
from dia2stream.server.metrics import Metrics, Reading
from dia2stream.server.web import Door, Web, query

if TYPE_CHECKING:
    from dia2stream.engine.engine import Engine

_log = logging.getLogger(__name__)

SEATS = 1
STUCK_SECONDS = 30.0
# A seat that is given back is free after a step of the model. Much longer means that there is no hope.
FREEING_SECONDS = 10.0
CLOSE_SECONDS = 2.0  # for a client to answer that we close
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
        self._seats = Seats(options, self._metrics)
        self._watch = Watch()
        self._door = Door(options.token, options.allow_origin)
        self._web = Web(self._door, self._unhealthy, self._unready, self._metrics.text)
        self._metrics.observe(self._seats.gauges, self._seats.counters)

    async def run(self) -> None:
        """Listens, loads, serves, and on SIGTERM lets the conversations finish."""
        stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, _settle, stop)
        listener = await self._listen()
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
            await self._seats.close()
            _log.info("stopped")

    # ---- From nothing to ready ----

    async def _listen(self) -> Listener:
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
            self._model, progress=self._progress, slots=SEATS, speech=self._speech, on_step=self._metrics.step
        )

    def _progress(self, stage: str, done: int, total: int) -> None:
        if self.stage is None or not self.stage.startswith(stage):
            _log.info("loading", extra={"stage": stage})
        self.stage = f"{stage} {100 * done // total}%" if total else stage

    def _begin(self, engine: "Engine") -> None:
        self._seats.engine = self._watch.engine = engine
        self.stage = None
        _log.info("ready", extra={"model": engine.checkpoint.name, "device": str(engine.checkpoint.device)})

    # ---- Health ----

    def _unhealthy(self) -> str | None:
        engine = self._seats.engine
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
            if (problem := self._unhealthy()) and not self._seats.connected:
                raise EngineError(problem)  # whatever started this process starts a new one

    async def _drain(self) -> None:
        """Refuses new clients, and lets the ones that are there hear what they have asked for."""
        self._stopping = True
        seconds = self._options.drain_seconds
        _log.info("stopping", extra={"seconds": seconds, "conversations": self._seats.connected})
        deadline = time.monotonic() + seconds
        self._seats.tell(Error("busy", f"the server stops: what is queued is spoken, for up to {seconds:g} s"))
        while self._seats.speaking and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        await self._seats.clear(HangUp(1013, "the server stops"))

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
        line = Line(connection, self._encoder(asked), _number(asked, "received_ms"))
        if problem := self._unhealthy():
            raise EngineError(problem)
        if reason := self._unready():
            raise CommandError("busy", reason)
        call = await self._seats.take(asked.get("conversation"), cast(Connection, connection).new_id)
        started = time.monotonic()
        _log.info("client", extra={"conversation": call.id[:6], "address": _address(connection)})
        try:
            ready = self._ready(call, line.encoder)
            if asked.get("conversation") not in (None, call.id):
                gone = CommandError("no_session", "that conversation is gone; this is a new one", field="conversation")
                call.session.refuse(gone)
            return await call.serve(line, ready)
        finally:
            self._seats.leave(call)
            _log.info(
                "client gone", extra={"conversation": call.id[:6], "seconds": round(time.monotonic() - started, 1)}
            )

    def _encoder(self, asked: dict[str, str]) -> Encoder:
        encoding = asked.get("encoding", self._options.encoding)
        rate = asked.get("sample_rate", str(self._options.sample_rate))
        _one_of("encoding", encoding, get_args(Encoding))
        _one_of("sample_rate", rate, [str(known) for known in get_args(SampleRate)])
        return Encoder(cast("Encoding", encoding), int(rate))

    def _ready(self, call: Call, encoder: Encoder) -> Ready:
        checkpoint = call.session.engine.checkpoint
        return Ready(
            version=__version__,
            model=checkpoint.name,
            device=str(checkpoint.device),
            sample_rate=encoder.sample_rate,
            encoding=encoder.encoding,
            frame_ms=FRAME_MS,
            voices=tuple(call.session.engine.voices),
            conversation=call.id,
        )


class Seats:
    """Who sits where: calls with a client, and calls that wait for theirs to come back."""

    def __init__(self, options: ServeOptions, metrics: Metrics) -> None:
        self.engine: Engine | None = None
        self._options, self._metrics = options, metrics
        self._calls: dict[str, Call] = {}

    async def take(self, wanted: str | None, new_id: str) -> Call:
        """The call of that id, or a new one with the other. Raises CommandError `busy` when every seat is taken.

        Whoever has the id gets the call, also from a client that is still there: a client comes back sooner than a
        server notices that its old connection is dead.
        """
        call = self._calls.get(wanted or "")
        if call is not None and call.seated and not call.over:
            call.expected = True
            await call.leave(HangUp(1000, "the conversation goes on over another connection"))
            self._metrics.returned.inc()
            return call
        return await self._new_call(new_id)

    async def _new_call(self, id: str) -> Call:
        assert self.engine is not None
        old = self._make_room()
        call = Call(id, self._metrics)
        self._calls[call.id] = call  # before anything is waited for: the seat is taken
        try:
            if old is not None:
                await old.leave(
                    HangUp(1013, "another client took the seat", Error("busy", "another client took the seat"))
                )
                await asyncio.wait_for(old.close(), FREEING_SECONDS)
            call.open(self.engine, self._options.max_lead_ms)
        except asyncio.TimeoutError:
            del self._calls[call.id]
            raise CommandError("busy", "the seat is not free yet") from None
        except BaseException:
            del self._calls[call.id]
            raise
        self._metrics.clients.inc()
        return call

    def _make_room(self) -> Call | None:
        """Takes a seat from whoever needs it least, if all are taken. Raises CommandError when all need theirs."""
        if len(self._calls) < SEATS:
            return None
        idle = [call for call in self._calls.values() if self._gives_way(call)]
        if not idle:
            raise CommandError("busy", f"every seat is taken: this server speaks {SEATS} conversation at a time")
        return self._calls.pop(min(idle, key=lambda call: call.since).id)

    def _gives_way(self, call: Call) -> bool:
        silent = not call.begun and time.monotonic() - call.since > self._options.linger
        return call.seated and (call.over or not call.connected or silent)

    def leave(self, call: Call) -> None:
        """Its client is gone: the call waits for it to come back, if it has anything to wait for."""
        if call.expected:
            return
        if call.over or not call.begun:
            self._forget(call)
        elif call.id in self._calls:
            asyncio.get_running_loop().call_later(self._options.linger, self._expire, call, call.since)

    def _expire(self, call: Call, since: float) -> None:
        if not call.connected and call.since == since:
            _log.info("conversation forgotten", extra={"conversation": call.id[:6]})
            self._forget(call)

    def _forget(self, call: Call) -> None:
        """Gives the engine's seat back; it counts as taken until it is."""
        if self._calls.get(call.id) is call:
            closing = asyncio.create_task(call.close())
            closing.add_done_callback(lambda _: self._calls.pop(call.id, None))

    # ---- All of them at once ----

    @property
    def connected(self) -> int:
        """How many clients are there."""
        return sum(call.connected for call in self._calls.values())

    @property
    def speaking(self) -> bool:
        """Whether a client waits for something that was asked for."""
        return any(call.speaking for call in self._calls.values())

    def tell(self, event: Event) -> None:
        """Sends every client an event."""
        for call in self._calls.values():
            call.tell(event)

    async def clear(self, how: HangUp) -> None:
        """Closes every connection."""
        leaving = [asyncio.ensure_future(call.leave(how)) for call in self._calls.values()]
        if leaving:
            await asyncio.wait(leaving, timeout=CLOSE_SECONDS)

    async def close(self) -> None:
        """Ends every conversation and the engine; does not wait for one that is stuck."""
        if self.engine is not None:
            ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            loop, engine = asyncio.get_running_loop(), self.engine

            def end() -> None:
                engine.close()
                with contextlib.suppress(RuntimeError):  # it took too long, and the loop is closed
                    loop.call_soon_threadsafe(_settle, ended)

            threading.Thread(target=end, name="close", daemon=True).start()
            await asyncio.wait({ended}, timeout=FREEING_SECONDS)

    # ---- What Prometheus asks ----

    def gauges(self) -> Iterable[Reading]:
        """Figures of this moment."""
        calls = [call for call in self._calls.values() if call.seated]
        outboxes = [call.session.conversation.outbox for call in calls if call.connected]
        now = time.monotonic()
        yield "ready", "Whether the model is loaded", self.engine is not None
        yield "seats", "Conversations that fit at once", SEATS
        yield "seats_taken", "Clients that are there", self.connected
        yield "lingering", "Conversations that wait for their client", len(calls) - self.connected
        yield "real_time_factor", "Work for a second of audio, in seconds, of late", self._metrics.real_time_factor
        lead = max([outbox.lead_ms(now) for outbox in outboxes], default=0.0)
        yield "lead_seconds", "Audio sent ahead of playback", lead / 1000
        yield "queue_frames", "Frames made and not sent", sum(outbox.waiting for outbox in outboxes)
        yield "queue_words", "Words that wait to be spoken", sum(call.session.queued_words for call in calls)
        if self.engine is not None:
            yield "gpu_memory_bytes", "Held on the GPU by this process", _gpu_memory(self.engine)

    def counters(self) -> Iterable[Reading]:
        """Totals that the engine keeps."""
        if self.engine is None:
            return
        stats = self.engine.stats
        yield "steps", "Steps of the model", stats.steps
        yield "frames", f"Frames made, {FRAME_MS} ms each", stats.frames
        yield "failures", "Steps and commands that failed", stats.failures
        yield "rollovers", "Contexts rebuilt because they were full", self.engine.rollovers


class Watch:
    """Notices when the engine has work and gets nowhere."""

    def __init__(self) -> None:
        self.engine: Engine | None = None
        self.problem: str | None = None
        self._progress = self._since = 0.0  # what the engine's clock said, and since when

    def look(self, now: float) -> None:
        """Call it every second or so."""
        if self.engine is None:
            return
        progress = self.engine.stats.last_progress
        if progress != self._progress or not self.engine.has_work:
            self._progress, self._since = progress, now
            if self.problem is not None:
                _log.warning("the engine goes on")
            self.problem = None
        elif self.problem is None and now - self._since > STUCK_SECONDS:
            self.problem = f"no step has finished for {now - self._since:.0f} s, and there is work"
            _log.error(self.problem, extra={"stack": _stack("dia2-engine")})


def _name_conversation(connection: ServerConnection, request: Request, response: Response) -> None:
    """Tells proxies in the handshake what the client is told by `ready`: see scripts/haproxy.cfg."""
    if response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
        response.headers["Dia2stream-Conversation"] = cast(Connection, connection).new_id


def _settle(waited_for: "asyncio.Future[None]") -> None:
    if not waited_for.done():
        waited_for.set_result(None)


def _stack(thread_name: str) -> str:
    """Where that thread is right now."""
    frames = sys._current_frames()
    threads = [thread for thread in threading.enumerate() if thread.name == thread_name and thread.ident in frames]
    return "".join("".join(traceback.format_stack(frames[thread.ident or 0])) for thread in threads)


def _gpu_memory(engine: "Engine") -> float:
    if engine.checkpoint.device.type != "cuda":
        return 0.0
    import torch

    return float(torch.cuda.memory_reserved(engine.checkpoint.device))


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
