"""`serve`: the protocol over WebSocket, and HTTP beside it, on one port, unattended.

The port opens first, then the model is loaded: probes and clients are told how far it is. Everything here runs on one
event loop and never waits for the model; loading has a thread, and so has the engine.

    Port, Connection    sockets, and what is spoken over them: HTTP, WebSocket
    app                 who may come in; which address does what
    Service             what the addresses ask for: a slot, and somebody to serve a client
    ServedConversation  commands to the engine's thread, audio and events from its outbox

**Slots.** The engine holds so many conversations, today one. A client gets a slot or is told `busy` at once. Slots of
conversations whose client is gone are kept for it `linger` seconds, but give way to a client who is there: a phone bot
whose framework connects anew for each call must not stand before a locked door. So does the slot of a client that has
not begun to speak in as long a time.
"""

import asyncio
import contextlib
import ipaddress
import logging
import os
import signal
import ssl
import threading
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from dia2stream.errors import Dia2StreamError, EngineError
from dia2stream.options import ModelOptions, ServeOptions, SpeechOptions
from dia2stream.protocol.messages import Error
from dia2stream.server.agent import Agent
from dia2stream.server.app import make_app, make_routes
from dia2stream.server.connection import Limits
from dia2stream.server.conversations import HangUp
from dia2stream.server.gate import Gate
from dia2stream.server.keeping import KeepingJournal, open_keeping
from dia2stream.server.logs import set_up
from dia2stream.server.memory import give_back
from dia2stream.server.metrics import Metrics
from dia2stream.server.port import Port
from dia2stream.server.service import Service
from dia2stream.server.slots import Slots, settle
from dia2stream.server.watch import LOOK_SECONDS, Watch

if TYPE_CHECKING:
    from dia2stream.engine.engine import Engine

_log = logging.getLogger(__name__)
_NO_ENGINE = HangUp(1011, "the engine hangs", Error("internal", "the engine does not answer; the log says more"))


def run(model: ModelOptions, speech: SpeechOptions, options: ServeOptions) -> None:
    """Serves until SIGTERM, and ends the process. Raises Dia2Error or Dia2StreamError when it cannot begin."""
    set_up(options.log_level, options.log_format)
    server, code = Server(model, speech, options), 0
    try:
        asyncio.run(server.run())
    except EngineError as error:
        if not server.began:
            raise
        _log.error("the engine is lost: the process ends, to be started again", extra={"reason": str(error)})
        code = 1
    # All is closed and logged. An orderly exit would take torch apart for seconds, and wait for a download, or for a
    # call of the GPU's driver that hangs.
    logging.shutdown()
    os._exit(code)


class Server:
    """One server. `run` is its whole life."""

    def __init__(self, model: ModelOptions, speech: SpeechOptions, options: ServeOptions) -> None:
        self._model, self._speech, self._options = model, speech, options
        self.stage: str | None = "starting"  # of loading; None once that is done
        self._stopping = False
        self._metrics = Metrics()
        self._slots = Slots(options, self._metrics)
        self._slots.keeping = open_keeping(options, self._slots.lose)
        self.watch = Watch()
        self._metrics.observe(self._slots.gauges, self._slots.counters)
        gate = Gate(options.token, options.allow_origin, options.allow_host)
        service = Service(gate, self._slots, self._metrics, self.unhealthy, self.unready)
        self.scrape: Callable[[], Awaitable[bytes]] = self._scrape  # the answer to GET /metrics; a cluster has its own
        scrape = lambda: self.scrape()  # noqa: E731
        self.routes = make_routes(service, options, self.unhealthy, self.unready, scrape, self._remark)
        self.app = make_app(gate, self.routes)

    async def run(self) -> None:
        """Listens, loads, serves, and on SIGTERM lets the conversations finish."""
        stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, settle, stop)
        agent = Agent(lambda: self.invites)
        port = await self._open_port()
        try:
            if self._options.agent_port is not None:
                port_of_agent = await agent.open(self._options.host, self._options.agent_port)
                _log.info("agent", extra={"host": self._options.host, "port": port_of_agent})
            await self.live(stop)
        finally:
            agent.close()
            await port.close()
            await self.close()

    async def live(self, stop: "asyncio.Future[None]", on_ready: Callable[[], None] = lambda: None) -> None:
        """Loads the model, serves, and when `stop` is done lets the conversations finish. Somebody else has the port.

        on_ready: called when the model is loaded. Raises EngineError, or what loading raises, when there is nothing to
        serve with.
        """
        loaded = self._load()
        waiting: list[asyncio.Future[Any]] = [loaded, stop]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if not stop.done():
            self._begin(await loaded)
            on_ready()
            await self._watch_until(stop)
        loaded.cancel()
        await self._drain()

    async def close(self) -> None:
        """Gives up everything; the last thing that is called."""
        await asyncio.to_thread(self._slots.keeping.close)
        await self._slots.close(wait=self.unhealthy() is None)
        _log.info("stopped")

    @property
    def began(self) -> bool:
        """Whether there ever was an engine."""
        return self._slots.engine is not None

    @property
    def slots(self) -> int:
        """How many conversations there may be at once."""
        return self._slots.count

    @property
    def invites(self) -> int | None:
        """How many more clients could be served; None while nobody is."""
        return self._slots.free if self.unready() is None else None

    @property
    def taken(self) -> int:
        """How many slots a new client cannot have."""
        return self._slots.count - self._slots.free

    def hold(self, request: str) -> bool:
        """Keeps a slot for the client of a request that is about to come: see holds.py. Returns whether it is kept."""
        return self.unready() is None and self._slots.hold(request)

    def let_go(self, request: str) -> None:
        """A request for which a slot may be kept needs none, or has ended."""
        self._slots.let_go(request)

    async def _scrape(self) -> bytes:
        return self._metrics.text()

    # ---- From nothing to ready ----

    async def _open_port(self) -> Port:
        options = self._options
        limits = Limits(options.ping_seconds, options.max_message_bytes)
        port = Port(self.app, limits, _tls(options.tls_cert, options.tls_key))
        await port.open(options.host, options.port)
        tls = options.tls_cert is not None
        _log.info("listening", extra={"host": options.host, "port": port.addresses[0][1], "tls": tls})
        if options.token is None and not all(_is_loopback(host) for host, _ in port.addresses):
            _log.warning("anyone who reaches this address can speak: set --token, or --host 127.0.0.1")
        return port

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
            self._model,
            progress=self._progress,
            speech=self._speech,
            observers=[self._metrics],
            slots=self._options.slots,
        )

    def _progress(self, stage: str, done: int, total: int) -> None:
        if self.stage is None or not self.stage.startswith(stage):
            _log.info("loading", extra={"stage": stage})
        self.stage = f"{stage} {100 * done // total}%" if total else stage

    def _begin(self, engine: "Engine") -> None:
        self._slots.engine = self.watch.engine = engine
        self._slots.count = engine.capacity.slots
        holds = self._slots.holds
        self._slots.admits = lambda: engine.capacity.overload(engine.capacity.slots - engine.free + holds.count)
        self.stage = None
        _log.info("ready", extra={"model": engine.checkpoint.name, "device": str(engine.checkpoint.device)})

    # ---- Health ----

    def unhealthy(self) -> str | None:
        """Why the process can be of no use any more."""
        engine = self._slots.engine
        return (engine.broken if engine else None) or (self.watch.problem if self.watch.lost else None)

    def _remark(self) -> str | None:
        keeping = self._slots.keeping
        return keeping.remark if isinstance(keeping, KeepingJournal) else None

    def unready(self) -> str | None:
        """Why a client would not be served now."""
        if self._stopping:
            return "shutting down"
        if self.stage is not None:
            return f"loading: {self.stage}"
        return self.unhealthy() or self.watch.problem

    async def _watch_until(self, stop: "asyncio.Future[None]") -> None:
        """Looks after the engine until it is time to stop. Raises EngineError when the engine is beyond help."""
        connected = 0
        while not stop.done():
            await asyncio.wait({stop}, timeout=LOOK_SECONDS)
            self.watch.look(time.monotonic())
            before, connected = connected, self._slots.connected
            if before and not connected:
                await asyncio.to_thread(give_back)
            if self.watch.problem is not None or self.unhealthy() is not None:
                await self._slots.clear(_NO_ENGINE)  # a client that is told can go to another server
            if (problem := self.unhealthy()) is not None:
                raise EngineError(problem)  # whatever started this process starts a new one

    async def _drain(self) -> None:
        """Refuses new clients, and lets the ones that are there hear what they have asked for."""
        await self._slots.close_holds()
        self._stopping = True
        seconds = self._options.drain_seconds
        _log.info("stopping", extra={"seconds": seconds, "conversations": self._slots.connected})
        if isinstance(self._slots.keeping, KeepingJournal):
            # Nobody has to finish here: another server goes on, as soon as this one lets go.
            how = HangUp(1012, "the server stops; come back with ?conversation=ID")
            await self._slots.clear(how, hands_over=True)
            await asyncio.to_thread(self._slots.keeping.close)
            return
        deadline = time.monotonic() + seconds
        self._slots.tell(Error("busy", f"the server stops: what is queued is spoken, for up to {seconds:g} s"))
        while self._slots.speaking and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        await self._slots.clear(HangUp(1013, "the server stops"))


def _tls(certificate: str | None, key: str | None) -> ssl.SSLContext | None:
    if certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        raise Dia2StreamError(f"{certificate}: no PEM certificate with its key: {error.reason or error}") from None
    return context


def _is_loopback(host: str) -> bool:
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback
