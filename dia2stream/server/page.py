"""The page to try a server in a browser, and the files that it is made of.

The page talks to the server through client.js, a client that any other page or program may use too. So the files are
there for everybody, also for pages of other sites: nothing in them is secret. The page itself wants the token.
"""

from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response

_SERVER, _PROTOCOL = "dia2stream.server", "dia2stream.protocol"
# path -> the package and the place in it, and the type of the content
FILES = {
    "/client.js": (_SERVER, "web/client.js", "text/javascript"),
    "/page.js": (_SERVER, "web/page.js", "text/javascript"),
    "/page.css": (_SERVER, "web/page.css", "text/css"),
    "/protocol.d.ts": (_PROTOCOL, "protocol.d.ts", "text/plain"),
    "/protocol.schema.json": (_PROTOCOL, "protocol.schema.json", "application/schema+json"),
}
_ALWAYS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
# The page has no file of another server, talks to its own server, and is not to be framed. blob: is what it downloads.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; media-src blob:; "
    "connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page(request: Request) -> Response:
    """The page."""
    policy = {"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer"}
    return Response(_read(_SERVER, "web/page.html"), headers={**_ALWAYS, **policy}, media_type="text/html")


def file(request: Request) -> Response:
    """One of the files."""
    package, place, kind = FILES[request.url.path]
    return Response(_read(package, place), headers={**_ALWAYS, "Access-Control-Allow-Origin": "*"}, media_type=kind)


def _read(package: str, place: str) -> bytes:
    return files(package).joinpath(place).read_bytes()
