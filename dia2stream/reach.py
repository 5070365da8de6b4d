"""How a client reaches a server: through which proxy, and what its user is told when it cannot.

The environment names proxies (https_proxy, http_proxy, all_proxy) and the hosts that need none (no_proxy). A server on
the same machine never needs one: to a proxy, 127.0.0.1 is the proxy's own machine.
"""

import asyncio
import errno
import ipaddress
import os
import re
import ssl
import urllib.request
from urllib.parse import urlsplit, urlunsplit

from websockets.exceptions import InvalidMessage, InvalidProxy, InvalidStatus

# The variables that are asked, without `_proxy` at their end; the first that is set counts. A ws:// connection asks for
# https_proxy too: both need a proxy that hands on bytes as they are (CONNECT).
_SECURE = ("wss", "socks", "https", "all")
_PLAIN = ("ws", "socks", "https", "http", "all")
# What OpenSSL says when the first bytes of an answer are no TLS, by version of OpenSSL and of the bytes.
_NO_TLS = {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"}
_LONGEST = 200  # characters of a server's own words


def is_loopback(host: str) -> bool:
    """Whether a host, as in a URL, is this machine."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback or address.is_unspecified


def proxy_for(url: str) -> str | None:
    """The URL of the proxy through which a ws:// or wss:// URL is to be reached; None for none.

    Raises ValueError for a URL whose port is no number.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    secure = parts.scheme == "wss"
    if is_loopback(host) or urllib.request.proxy_bypass(f"{host}:{parts.port or (443 if secure else 80)}"):
        return None
    proxies = urllib.request.getproxies()
    name = next((name for name in (_SECURE if secure else _PLAIN) if proxies.get(name)), None)
    if name is None:
        return None
    if "://" not in proxies[name]:
        return f"{'socks5h' if name == 'socks' else 'http'}://{proxies[name]}"
    # Operating systems give the address of a SOCKS proxy with http:// before it.
    return re.sub("^http:", "socks5h:", proxies[name]) if name == "socks" else proxies[name]


def without_secrets(url: str) -> str:
    """A URL as it may be shown: without user, password and query, which may hold a token."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def reason(url: str, proxy: str | None, error: Exception) -> str:
    """Why a server was not reached, in one line. proxy: the one that was asked."""
    told = _reason(error, secure=url.startswith("wss:"))
    return told if proxy is None else f"through the proxy {without_secrets(proxy)}: {told}"


def _reason(error: Exception, secure: bool) -> str:
    if isinstance(error, InvalidStatus):
        return _answer(error, secure)
    if isinstance(error, InvalidMessage):
        return "no answer in HTTP" + ("" if secure else "; if the server speaks TLS, use wss://")
    if isinstance(error, InvalidProxy):  # its text would show the proxy's password
        return f"no usable URL of a proxy: {error.msg}"
    if isinstance(error, ImportError):
        return "a SOCKS proxy needs the package python-socks: pip install python-socks"
    if isinstance(error, ssl.SSLError):
        return _tls(error)
    if isinstance(error, TimeoutError | asyncio.TimeoutError) and not getattr(error, "errno", None):
        return "no answer in time"
    if isinstance(error, OSError):
        return _system(error, secure)
    return _line(str(error)) or type(error).__name__


def _answer(refused: InvalidStatus, secure: bool) -> str:
    """What a server said instead of opening a WebSocket."""
    response = refused.response
    body = bytes(response.body or b"").decode(errors="replace")
    if not secure and response.status_code == 400 and "https" in body.lower():  # ours says so, and nginx and others
        return "the server speaks TLS: use wss://"
    words = _line(body) if "text/plain" in response.headers.get("Content-Type", "") else ""
    return f"the server answered {response.status_code} {response.reason_phrase}" + (f": {words}" if words else "")


def _tls(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not trusted: {error.verify_message}"
    if error.reason in _NO_TLS:
        return "the server does not speak TLS: use ws://"
    if isinstance(error, ssl.SSLEOFError):
        return _system(ConnectionResetError(), secure=True)
    return f"TLS failed: {(error.reason or str(error)).replace('_', ' ').lower()}"


def _system(error: OSError, secure: bool) -> str:
    if secure and isinstance(error, ConnectionError) and error.errno in (None, errno.ECONNRESET, errno.EPIPE):
        return "the connection broke in the TLS handshake; if the server does not speak TLS, use ws://"
    numbers = {error.errno} if error.errno else set(map(int, re.findall(r"\[Errno (\d+)\]", str(error))))
    if len(numbers) == 1 and (number := numbers.pop()) > 0:  # of every address that a name has
        return os.strerror(number)
    return error.strerror or _line(str(error)) or "the connection broke"


def _line(text: str) -> str:
    """The first line of a text, printable and not too long."""
    first = text.strip().partition("\n")[0][:_LONGEST]
    return "".join(c if c.isprintable() else "?" for c in first)
