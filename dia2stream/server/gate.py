"""Who may come in: every request passes here first, HTTP or WebSocket, whatever dialect it speaks.

Three checks, in this order:

- **Host.** Any site can have its own name point to 127.0.0.1 (DNS rebinding), and its pages are then of "the same
  origin" as a server there. So without a token only hosts that nobody else can own are served: an IP address,
  localhost, or a name that `--allow-host` lists. Programs that send no Host, as health checks do, are no page.
- **Origin.** A browser sends it and a page cannot change it, so a page of another site is told apart by it. It may open
  no WebSocket and post nothing, unless `--allow-origin` lists it.
- **Token.** Accepted in every form in which clients of other services send theirs. Health is anybody's business.
"""

import hashlib
import hmac
import ipaddress
from http import HTTPStatus
from urllib.parse import parse_qs

from starlette.responses import PlainTextResponse, Response

from dia2stream.protocol.fields import shown
from dia2stream.server.connection import App, Receive, Scope, Send

OPEN_PATHS = ("/healthz", "/readyz", "/ping")  # what probes ask for, under whatever name
_NEEDS_TOKEN = "this needs the server's token: send Authorization: Bearer TOKEN, or add ?token=TOKEN\n"
_TOKEN_HEADERS = ("x-api-key", "xi-api-key", "kyutai-api-key")
TOKEN_SCHEMES = ("bearer", "token")
_TOKEN_PARAMETERS = ("token", "api_key", "authorization")


class Gate:
    """Says who may come in.

    allow_origins, allow_hosts: what the options list, separated by commas; * is all.
    """

    def __init__(self, token: str | None, allow_origins: str | None = None, allow_hosts: str | None = None) -> None:
        self._digest = _digest(token) if token else None
        self._origins = {origin.rstrip("/") for origin in _listed(allow_origins)}
        self._hosts = _listed(allow_hosts)

    def knows(self, scope: Scope) -> bool:
        """Whether the request has the token, or needs none."""
        return self._digest is None or any(self.accepts(token) for token in _tokens(scope))

    def accepts(self, token: str) -> bool:
        """Whether it is the token, or none is needed. Takes the same time for every wrong one."""
        return self._digest is None or hmac.compare_digest(_digest(token), self._digest)

    def refusal(self, scope: Scope) -> Response | None:
        """Why the request may not come in, tokens apart; None when it may."""
        if not self._admits_host(scope):
            host = shown(_header(scope, "host"))
            problem = (
                f"without a token this server answers to IP addresses and localhost only, not to {host}: "
                "list that name in --allow-host, or set a --token\n"
            )
            return PlainTextResponse(problem, HTTPStatus.MISDIRECTED_REQUEST)
        if _may_change_something(scope) and not self._admits_origin(scope):
            return PlainTextResponse("pages of this origin may not connect; see --allow-origin\n", HTTPStatus.FORBIDDEN)
        return None

    def _admits_host(self, scope: Scope) -> bool:
        if self._digest is not None or "*" in self._hosts or scope["path"] in OPEN_PATHS:
            return True
        return all(self._is_ours(host) for host in headers(scope, "host"))

    def _is_ours(self, host: str) -> bool:
        name = _without_port(host).rstrip(".").lower()
        return name in {"", "localhost"} or name in self._hosts or host.lower() in self._hosts or _is_address(name)

    def _admits_origin(self, scope: Scope) -> bool:
        return all(self._admits(origin.lower(), scope) for origin in headers(scope, "origin"))

    def _admits(self, origin: str, scope: Scope) -> bool:
        if "*" in self._origins or origin in self._origins:
            return True
        # A proxy may have put its own name for us into Host. No page can set either header.
        ours = {_host(name) for key in ("host", "x-forwarded-host") for name in headers(scope, key)}
        return _host(origin.partition("://")[2]) in ours - {""}


def behind(gate: Gate, app: App) -> App:
    """`app`, for requests whose host and origin are all right. Tokens are its business."""

    async def checked(scope: Scope, receive: Receive, send: Send) -> None:
        await (gate.refusal(scope) or app)(scope, receive, send)

    return checked


def no_token() -> Response:
    """What a request without the token is answered, where no other shape is expected."""
    return PlainTextResponse(_NEEDS_TOKEN, HTTPStatus.UNAUTHORIZED, {"WWW-Authenticate": "Bearer"})


def headers(scope: Scope, name: str) -> list[str]:
    """All values of a header, given in lower case."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key.decode("latin-1").lower() == name]


def offers_token(scope: Scope) -> bool:
    """Whether the request brings a token, right or wrong."""
    return bool(_tokens(scope))


def subprotocols(scope: Scope) -> list[str]:
    """What a WebSocket offers. Browsers have no other header for a key: Deepgram's clients there offer `token, KEY`."""
    return [name.strip() for value in headers(scope, "sec-websocket-protocol") for name in value.split(",")]


def query(scope: Scope) -> dict[str, list[str]]:
    """The parameters of the request's URL."""
    return parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)


def _header(scope: Scope, name: str) -> str:
    return (headers(scope, name) or [""])[0]


def _may_change_something(scope: Scope) -> bool:
    return scope["type"] == "websocket" or scope["method"] not in ("GET", "HEAD", "OPTIONS")


def _tokens(scope: Scope) -> list[str]:
    """What the request offers as tokens."""
    asked = query(scope)
    found = [value for name in _TOKEN_PARAMETERS for value in asked.get(name, [])]
    found += [_as_sent(value) for name in _TOKEN_HEADERS for value in headers(scope, name)]
    found += [_as_sent(without_scheme(value)) for value in headers(scope, "authorization")]
    scheme, *keys = subprotocols(scope) or [""]
    return found + (keys[:1] if scheme.lower() in TOKEN_SCHEMES else [])


def without_scheme(value: str) -> str:
    """The token of an Authorization header."""
    scheme, _, token = value.partition(" ")
    return token if scheme.lower() in TOKEN_SCHEMES else value


def _as_sent(value: str) -> str:
    """A header's value, whose bytes clients mean as UTF-8."""
    return value.strip().encode("latin-1", "replace").decode("utf-8", "replace")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


def _listed(option: str | None) -> set[str]:
    return {part.strip().lower() for part in (option or "").split(",")} - {""}


def _host(netloc: str) -> str:
    """host:port without what is said by default."""
    return netloc.strip().lower().removesuffix(":80").removesuffix(":443")


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
