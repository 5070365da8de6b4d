"""HTTP/1.1 over a connection: requests in, ASGI calls, answers out. h11 knows the rules, here they meet the socket.

Every request is answered, also one that makes no sense, and also one whose client has closed its end already:

    400  what is no HTTP, or ends in the middle     414, 431  a URL, or a head, that is too long
    408  a request that does not come to its end    500       the application failed

Answers may be streamed; then each piece waits until the client has taken most of the one before.
"""

import asyncio
import logging
from email.utils import formatdate
from http import HTTPStatus
from urllib.parse import unquote

import h11

from dia2stream.server.connection import GONE, App, ClientGone, Connection, Message, Scope, plain_answer
from dia2stream.server.websocket import WebSocket

_log = logging.getLogger(__name__)

MAX_HEAD = 16 * 1024  # bytes of a request's line and headers
MAX_TARGET = 8 * 1024  # bytes of its URL
MAX_AHEAD = 64 * 1024  # bytes of a request's body that wait for the application
MAX_UNWANTED = 1024 * 1024  # bytes of a body that are read after the answer, so that the connection can be used again
REQUEST_SECONDS = 10.0  # for a request's head to come
BODY_SECONDS = 60.0  # and for its body
KEEP_ALIVE_SECONDS = 15.0  # between two requests
# A client that has closed its end may wait for its answer, or may be gone. The next bytes for it show which: the kernel
# of one that is gone answers them with a reset. So after so long without any, the client is sent `100 Continue`.
HALF_CLOSED_SECONDS = 1.0
# In the middle of an answer there is nothing to send but the answer. So a client that has closed its end counts as gone
# when the answer stands still for so long: its slot may be somebody else's.
STALLED_SECONDS = 1.0


class Http:
    """The speaker that every connection begins with."""

    ends_with_client = False

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._http = h11.Connection(h11.SERVER, MAX_HEAD)
        self._exchange: Exchange | None = None
        self._ended = False  # the client sends no more
        self._served = False  # a request was answered
        self._since: float | None = None  # when what we wait for was begun
        self._unwanted = 0

    # ---- Called by the connection ----

    @property
    def expects_nothing(self) -> bool:
        return self._exchange is not None and not self._exchange.awaits_body

    def data(self, data: bytes) -> None:
        self._http.receive_data(data)
        self._read()

    def end_of_data(self) -> bool:
        self._ended = True
        self._http.receive_data(b"")
        self._read()
        return self._exchange is not None or self._connection.closing

    def lost(self) -> None:
        if self._exchange is not None:
            self._exchange.client_is_gone()

    def finish(self) -> None:
        if self._exchange is None:
            self._connection.close()

    def look(self, now: float, silence: float) -> None:
        if self._since is None:
            self._since = now
        waited = now - self._since
        silent = silence >= self._connection.limits.patience  # it would be dropped without an answer soon
        if self._exchange is None:
            if silent or waited > (KEEP_ALIVE_SECONDS if self._served else REQUEST_SECONDS):
                if self._http.trailing_data[0]:
                    self.refuse(HTTPStatus.REQUEST_TIMEOUT, "the request did not come to its end")
                else:
                    self._connection.close()
        elif self._ended and now - self._connection.active > HALF_CLOSED_SECONDS:
            self._look_for_client(self._exchange, now)
        elif self._exchange.awaits_body and (silent or waited > BODY_SECONDS):
            self.refuse(HTTPStatus.REQUEST_TIMEOUT, "the request's body did not come to its end")

    def probe(self) -> None:
        pass  # whoever waits for an answer is sent one, and bytes of no answer would be one

    def _look_for_client(self, exchange: "Exchange", now: float) -> None:
        """Finds out whether a client that has closed its end is there."""
        if not exchange.started and exchange.scope["http_version"] == "1.1":
            exchange.go_on()
        elif not exchange.started or now - self._connection.active > STALLED_SECONDS:
            exchange.client_is_gone()
            self._connection.close()

    # ---- Requests ----

    def _read(self) -> None:
        while not self._connection.closing:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                self._refuse_nonsense(error)
                return
            if isinstance(event, h11.Request):
                if not self._begin(event):
                    return
            elif isinstance(event, h11.Data):
                self._take_body(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                if self._exchange is not None:
                    self._exchange.body_ends()
                elif self._http.our_state is h11.DONE:
                    self._next()
            else:
                self._nothing_more(event)
                return

    def _nothing_more(self, event: object) -> None:
        if event is h11.PAUSED:  # another request, before this one is answered
            self._connection.read(False)
        elif isinstance(event, h11.ConnectionClosed) and self._exchange is None:
            self._connection.close()

    def _begin(self, request: h11.Request) -> bool:
        """Starts the application. Returns whether to read on as HTTP."""
        self._since = None
        if len(request.target) > MAX_TARGET:
            self.refuse(HTTPStatus.REQUEST_URI_TOO_LONG, f"the URL is over {MAX_TARGET} bytes")
            return False
        if _wants_websocket(request):
            if request.method != b"GET" or _has_body(request):
                self.refuse(HTTPStatus.BAD_REQUEST, "a WebSocket is opened by a GET without a body")
                return False
            rest = self._http.trailing_data[0]
            websocket = WebSocket(self._connection, scope_of("websocket", request, self._connection))
            self._connection.switch(websocket)
            websocket.open(rest)
            return False
        self._unwanted = 0
        self._exchange = Exchange(self, self._connection, self._http, scope_of("http", request, self._connection))
        self._connection.run(self._exchange.run(self._connection.app))
        return True

    def _take_body(self, data: bytes) -> None:
        if self._exchange is not None:
            self._exchange.body(data)
        else:
            self._unwanted += len(data)
            if self._unwanted > MAX_UNWANTED:
                self._connection.close()

    def done(self) -> None:
        """The exchange is over; the next request may come."""
        self._exchange, self._served, self._since = None, True, None
        if self._http.our_state is not h11.DONE:
            self._connection.close()
            return
        self._connection.read(True)
        if self._http.their_state is h11.DONE:
            self._next()
            self._read()

    def _next(self) -> None:
        self._http.start_next_cycle()

    # ---- What is no request ----

    def _refuse_nonsense(self, error: h11.RemoteProtocolError) -> None:
        status = HTTPStatus(error.error_status_hint)
        text = {
            HTTPStatus.BAD_REQUEST: "this is no HTTP request",
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: f"the request's head is over {MAX_HEAD} bytes",
            HTTPStatus.NOT_IMPLEMENTED: "a body may be sent with Content-Length, or chunked and not otherwise encoded",
        }
        self.refuse(status, text.get(status, status.phrase))

    def refuse(self, status: HTTPStatus, text: str) -> None:
        """Answers what cannot be served, unless an answer is on its way, and closes the connection."""
        answered = self._exchange is not None and self._exchange.started
        if self._exchange is not None:
            self._exchange.client_is_gone()
        if not answered:
            self._connection.write(plain_answer(status, text))
        self._connection.close()


class Exchange:
    """One request and its answer, as ASGI sees them."""

    def __init__(self, http: Http, connection: Connection, rules: h11.Connection, scope: Scope) -> None:
        self.started = False  # the answer
        self.scope = scope
        self._http, self._connection, self._rules = http, connection, rules
        self._body = bytearray()
        self._body_ended = self._body_given = False
        self._gone = self._complete = False
        self._news = asyncio.Event()

    # ---- The request ----

    @property
    def awaits_body(self) -> bool:
        return not self._body_ended and not self._complete

    def body(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > MAX_AHEAD:
            self._connection.read(False)
        self._news.set()

    def body_ends(self) -> None:
        self._body_ended = True
        self._news.set()

    def client_is_gone(self) -> None:
        self._gone = True
        self._news.set()

    def go_on(self) -> None:
        """Sends `100 Continue`, which may come at any moment before the answer, and as often as one likes."""
        self._connection.write(self._rules.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")

    async def receive(self) -> Message:
        if self._rules.they_are_waiting_for_100_continue and not self._gone:
            self.go_on()
        while not (self._gone or self._complete):
            if self._body or (self._body_ended and not self._body_given):
                message = {"type": "http.request", "body": bytes(self._body), "more_body": not self._body_ended}
                self._body.clear()
                self._body_given = self._body_ended
                self._connection.read(True)
                return message
            self._news.clear()
            await self._news.wait()
        return {"type": "http.disconnect"}

    # ---- The answer ----

    async def run(self, app: App) -> None:
        """Has the application answer, and answers for it when it fails to."""
        try:
            await app(self.scope, self.receive, self.send)
        except Exception:
            if not self._gone:  # else it failed for want of a client, which libraries say in various ways
                _log.exception("serving a request failed", extra={"path": self.scope["path"]})
        if self._complete or self._gone:
            return
        if not self.started:
            self._http.refuse(HTTPStatus.INTERNAL_SERVER_ERROR, "the server failed; its log says why")
        else:
            self._connection.drop("the answer broke off")

    async def send(self, message: Message) -> None:
        if self._gone:
            raise ClientGone("the client is gone")
        if message["type"] == "http.response.start":
            self._start(message)
            return
        body = b"" if self.scope["method"] == "HEAD" else message.get("body", b"")
        self._connection.write(self._rules.send(h11.Data(data=body)) or b"")
        if message.get("more_body", False):
            await self._connection.drain()
            return
        self._connection.write(self._rules.send(h11.EndOfMessage()) or b"")
        self._complete = True
        self._news.set()
        self._http.done()

    def _start(self, message: Message) -> None:
        self.started = True
        headers = [(b"date", formatdate(usegmt=True).encode()), *message.get("headers", ())]
        reason = {status.value: status.phrase for status in HTTPStatus}.get(message["status"], "")
        response = h11.Response(status_code=message["status"], headers=headers, reason=reason)
        self._connection.write(self._rules.send(response) or b"")


def scope_of(kind: str, request: h11.Request, connection: Connection) -> Scope:
    """The ASGI scope of a request. kind: http or websocket."""
    raw_path, _, query = request.target.partition(b"?")
    secure = connection.transport.get_extra_info("sslcontext") is not None
    scheme = {"http": "http", "websocket": "ws"}[kind] + ("s" if secure else "")
    return {
        "type": kind,
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": request.http_version.decode(),
        "method": request.method.decode(),
        "scheme": scheme,
        "path": unquote(raw_path.decode("ascii")),
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "headers": list(request.headers),
        "client": _address(connection.transport.get_extra_info("peername")),
        "server": _address(connection.transport.get_extra_info("sockname")),
        "state": {},
        "extensions": {GONE: connection.gone},
    }


def _wants_websocket(request: h11.Request) -> bool:
    asked = b"websocket" in _tokens(request, b"upgrade") and b"upgrade" in _tokens(request, b"connection")
    return asked and request.http_version == b"1.1"


def _tokens(request: h11.Request, name: bytes) -> list[bytes]:
    return [token.strip().lower() for key, value in request.headers if key == name for token in value.split(b",")]


def _has_body(request: h11.Request) -> bool:
    lengths = [value for key, value in request.headers if key == b"content-length"]
    return lengths not in ([], [b"0"]) or bool(_tokens(request, b"transfer-encoding"))


def _address(name: object) -> tuple[str, int] | None:
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) else None
