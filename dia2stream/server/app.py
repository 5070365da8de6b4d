"""Everything that is served on the port, as one ASGI application.

/                       the WebSocket of our own protocol; and a page to try it in a browser
/client.js, ...         what the page is made of, and the types of the protocol: see page.py
/info                   what speaks: the model, its voices, the settings
/healthz                200 while the process can be of use; when it says 503, start a new one
/readyz                 200 when a client would be served (or told `busy`), else 503 and why
/ping                   the same for RunPod, which takes 204 for `not yet`
/metrics                for Prometheus
what DIALECTS add       the addresses that other services' clients know
"""

import inspect
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute

from dia2stream.options import ServeOptions
from dia2stream.server import front, metrics, page
from dia2stream.server.connection import App, Receive, Scope, Send
from dia2stream.server.endpoint import Endpoint
from dia2stream.server.gate import Gate, behind, headers, no_token
from dia2stream.server.service import Service

# The wire formats of other services: each a function from the service to routes. See service.py.
DIALECTS: tuple[Callable[[Service], list[BaseRoute]], ...] = (front.routes,)

_ALWAYS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def make_routes(
    service: Service,
    options: ServeOptions,
    health: Callable[[], str | None],
    ready: Callable[[], str | None],
    scrape: Callable[[], Awaitable[bytes]],
    remark: Callable[[], str | None] = lambda: None,
) -> list[BaseRoute]:
    """Every address. health, ready: why not, or None. scrape: the metrics as text. remark: what else /readyz says."""

    def healthz(request: Request) -> Response:
        return _status(health())

    def readyz(request: Request) -> Response:
        return _status(ready(), remark())

    def ping(request: Request) -> Response:
        loading = (ready() or "").startswith("loading")
        return Response(None, HTTPStatus.NO_CONTENT, _ALWAYS) if loading else _status(ready())

    async def prometheus(request: Request) -> Response:
        return Response(await scrape(), headers=_ALWAYS, media_type=metrics.CONTENT_TYPE)

    def info(request: Request) -> Response:
        return JSONResponse({"loading": ready(), **service.about()}, headers=_ALWAYS)

    return [
        Route("/", _place(page.page, service.gate)),
        WebSocketRoute("/", Endpoint(service, options)),
        *(Route(path, _place(page.file)) for path in page.FILES),
        Route("/info", _place(info, service.gate)),
        Route("/healthz", _place(healthz)),
        Route("/readyz", _place(readyz)),
        Route("/ping", _place(ping)),
        Route("/metrics", _place(prometheus, service.gate)),
        *(route for dialect in DIALECTS for route in dialect(service)),
    ]


def make_app(gate: Gate, routes: list[BaseRoute]) -> App:
    """The application of these addresses, behind the gate."""
    nowhere = _Nowhere(routes)
    app = Starlette(
        routes=[*routes, WebSocketRoute("/{path:path}", nowhere)],
        exception_handlers={HTTPStatus.NOT_FOUND: nowhere.answer, HTTPStatus.METHOD_NOT_ALLOWED: _wrong_method},
    )
    app.router.redirect_slashes = False
    return behind(gate, app)


class _Nowhere:
    """Whatever is not there, and what there is instead."""

    def __init__(self, places: list[BaseRoute]) -> None:
        pages = sorted({route.path for route in places if isinstance(route, Route)})
        sockets = sorted({route.path for route in places if isinstance(route, WebSocketRoute)})
        self._pages = f"there is {', '.join(pages)}\n"
        self._sockets = f"a WebSocket is at {', '.join(sockets)}\n"

    async def answer(self, request: Request, error: Exception) -> Response:
        return PlainTextResponse(self._pages, HTTPStatus.NOT_FOUND, _ALWAYS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse(self._sockets, HTTPStatus.NOT_FOUND, _ALWAYS)(scope, receive, send)


def _place(
    answer: Callable[[Request], Response | Awaitable[Response]], gate: Gate | None = None
) -> Callable[[Request], object]:
    """An endpoint, for those who have the token if a gate is given. It needs no thread, as it takes no time."""

    async def endpoint(request: Request) -> Response:
        upgrades = [value.lower() for value in headers(request.scope, "upgrade")]
        if "websocket" in upgrades:
            text = "to open a WebSocket, send Connection: Upgrade too, over HTTP/1.1\n"
            return PlainTextResponse(text, HTTPStatus.UPGRADE_REQUIRED, {**_ALWAYS, "Upgrade": "websocket"})
        if gate is not None and not gate.knows(request.scope):
            return no_token()
        answered = answer(request)
        return await answered if inspect.isawaitable(answered) else answered

    return endpoint


async def _wrong_method(request: Request, error: Exception) -> Response:
    allowed = error.headers if isinstance(error, HTTPException) else None
    methods = (allowed or {}).get("Allow", "GET, HEAD")
    return PlainTextResponse(f"there is only {methods}\n", HTTPStatus.METHOD_NOT_ALLOWED, {**_ALWAYS, "Allow": methods})


def _status(problem: str | None, remark: str | None = None) -> Response:
    if problem is None:
        return PlainTextResponse(f"ok: {remark}\n" if remark else "ok\n", HTTPStatus.OK, _ALWAYS)
    return PlainTextResponse(f"{problem}\n", HTTPStatus.SERVICE_UNAVAILABLE, _ALWAYS)
