"""HTTP beside the WebSocket: who may come in, and the four addresses that a plain GET can ask for.

    /healthz    200 while the process can be of use; when it says 503, start a new one
    /readyz     200 when a client would be served (or told `busy`), else 503 and why
    /metrics    for Prometheus                                  } with a token set,
    /           a page to try it in a browser                   } these need it

A browser sends `Origin` and a page cannot change it, so a page of another site is told apart by it; programs send none.
Knows nothing of conversations: what is ready, and what is measured, is asked of functions that it is given.
"""

import hashlib
import hmac
from collections.abc import Callable
from http import HTTPStatus
from importlib.resources import files
from urllib.parse import parse_qs

from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from dia2stream.server import metrics

# The page has no other file, talks to its own server, and is not to be framed. blob: is its audio worklet.
_PAGE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' blob:; style-src 'unsafe-inline'; img-src data:; "
    "connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_NEEDS_TOKEN = "this needs the server's token: send Authorization: Bearer TOKEN, or add ?token=TOKEN\n"


class Door:
    """Says who may come in."""

    def __init__(self, token: str | None, allowed_origins: str | None) -> None:
        self._digest = _digest(token) if token else None
        self._origins = {origin.strip().rstrip("/").lower() for origin in (allowed_origins or "").split(",")} - {""}

    def knows(self, request: Request) -> bool:
        """Whether the request has the token, or none is needed. Takes the same time for every wrong one."""
        if self._digest is None:
            return True
        return any(hmac.compare_digest(_digest(token), self._digest) for token in _tokens(request))

    def admits_origin(self, request: Request) -> bool:
        """Whether the page that asks, if it is one, is ours or listed."""
        origins = request.headers.get_all("Origin")
        return all(self._admits(origin.lower(), request.headers) for origin in origins)

    def _admits(self, origin: str, headers: Headers) -> bool:
        if "*" in self._origins or origin in self._origins:
            return True
        # A proxy may have put its own name for us into Host. No page can set either header.
        ours = {_host(name) for key in ("Host", "X-Forwarded-Host") for name in headers.get_all(key)}
        return _host(origin.partition("://")[2]) in ours - {""}


class Web:
    """Answers plain HTTP, and lets WebSocket handshakes through that may come in."""

    def __init__(
        self, door: Door, health: Callable[[], str | None], ready: Callable[[], str | None], scrape: Callable[[], bytes]
    ) -> None:
        """health, ready: why not, or None. scrape: the metrics as text."""
        self._door, self._health, self._ready, self._scrape = door, health, ready, scrape

    def answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """The response; None to go on with the WebSocket handshake."""
        path = request.path.partition("?")[0]
        # get_all: asking for one of a header that is there twice raises.
        if "websocket" in [value.lower() for value in request.headers.get_all("Upgrade")]:
            return self._handshake(path, request)
        method = getattr(request, "method", "GET")  # websockets before 17 lets nothing else through
        if method == "HEAD":
            return _without_body(self._get(path, request))
        if method != "GET":
            return _text(HTTPStatus.METHOD_NOT_ALLOWED, "there is only GET\n", ("Allow", "GET, HEAD"))
        return self._get(path, request)

    def _get(self, path: str, request: Request) -> Response:
        if path == "/healthz":
            return _status(self._health())
        if path == "/readyz":
            return _status(self._ready())
        if path not in ("/", "/metrics"):
            return _text(HTTPStatus.NOT_FOUND, "there is /, /healthz, /readyz and /metrics\n")
        if not self._door.knows(request):
            return _text(HTTPStatus.UNAUTHORIZED, _NEEDS_TOKEN, ("WWW-Authenticate", "Bearer"))
        if path == "/metrics":
            return _response(HTTPStatus.OK, self._scrape(), metrics.CONTENT_TYPE)
        return _page()

    def _handshake(self, path: str, request: Request) -> Response | None:
        """Turns away what no client should ever see; a missing token is told over the WebSocket, where it can be."""
        if path != "/":
            return _text(HTTPStatus.NOT_FOUND, "the WebSocket is at /\n")
        if not self._door.admits_origin(request):
            return _text(HTTPStatus.FORBIDDEN, "pages of this origin may not connect; see --allow-origin\n")
        return None


def query(request: Request) -> dict[str, str]:
    """The parameters of the request's URL; of one that is given twice, the last."""
    return {name: values[-1] for name, values in _query(request).items()}


def _query(request: Request) -> dict[str, list[str]]:
    return parse_qs(request.path.partition("?")[2])


def _tokens(request: Request) -> list[str]:
    """What the request offers as tokens."""
    found = _query(request).get("token", [])
    for value in request.headers.get_all("Authorization"):
        scheme, _, token = value.partition(" ")
        if scheme.lower() == "bearer":
            found.append(token.strip().encode("latin-1", "replace").decode("utf-8", "replace"))
    return found


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _host(netloc: str) -> str:
    """host:port without what is said by default."""
    return netloc.strip().lower().removesuffix(":80").removesuffix(":443")


def _status(problem: str | None) -> Response:
    return _text(HTTPStatus.OK, "ok\n") if problem is None else _text(HTTPStatus.SERVICE_UNAVAILABLE, f"{problem}\n")


def _without_body(response: Response) -> Response:
    response.body = b""
    return response


def _page() -> Response:
    body = files(__package__).joinpath("page.html").read_bytes()
    policy = [("Content-Security-Policy", _PAGE_POLICY), ("Referrer-Policy", "no-referrer")]
    return _response(HTTPStatus.OK, body, "text/html; charset=utf-8", *policy)


def _text(status: HTTPStatus, text: str, *more: tuple[str, str]) -> Response:
    return _response(status, text.encode(), "text/plain; charset=utf-8", *more)


def _response(status: HTTPStatus, body: bytes, content_type: str, *more: tuple[str, str]) -> Response:
    headers = Headers([("Content-Type", content_type), ("Content-Length", str(len(body))), *more])
    headers.update([("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"), ("Connection", "close")])
    return Response(status.value, status.phrase, headers, body)
