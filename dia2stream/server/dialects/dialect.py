"""What every wire format has in common: the interface of a translator, and what a request brings.

A client that was written for somebody else's service speaks that service's wire format. A translator stands between it
and one of our conversations. It does no I/O, has no clock of its own, and never waits:

    a message of the client   -> receive -> our commands, and messages back
    an event or a frame       -> take    -> messages in the client's format, and our commands

Example, Cartesia: {"context_id": "a", "transcript": "Hello", ...} -> Start("Hello", id="1"); a Frame of that utterance
-> {"type": "chunk", "context_id": "a", "data": "..."}; {"context_id": "a", "cancel": true} -> Pause(played_ms=840).

Each format is one module with a list of ROUTES. `server/front.py` mounts them and moves the bytes.
"""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from dia2stream.errors import CommandError
from dia2stream.items import Item
from dia2stream.protocol.fields import MAX_ID_CHARS, Refused, shown
from dia2stream.protocol.messages import Command
from dia2stream.protocol.strict_json import load

RETRY_SECONDS = 2  # what a client that is refused for want of a slot is told to wait


@dataclass(frozen=True)
class Request:
    """An HTTP request, or the handshake of a WebSocket.

    headers: by lower-case name. path_values: what stands in the path where the route has a {name}. conversation: the
    key that tells this client apart, if it sends one.
    """

    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    path_values: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def json(self) -> dict[str, object]:
        """The body, an object. Raises CommandError."""
        return read_object(self.body)


@dataclass(frozen=True)
class Response:
    """A whole HTTP answer."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Close:
    """The end of a socket or of a body. code, reason: of a WebSocket. broken: whether a body ends before its time."""

    code: int = 1000
    reason: str = ""
    broken: bool = False


# What a translator gives: a command for the conversation, a message for the client (text or binary, or bytes of a
# body), the end, or a whole answer in place of a body that has not begun.
Output: TypeAlias = Command | str | bytes | Close | Response


@dataclass(frozen=True)
class Served:
    """What a translator may know of the server. voices: the first is the default. created: in Unix time."""

    model: str
    voices: tuple[str, ...]
    created: int


@dataclass(frozen=True)
class Standing:
    """The conversation that a client comes to. begun: whether anything was said in it. clock_ms: its audio clock."""

    begun: bool = False
    clock_ms: int = 0


class Translator(ABC):
    """One socket, or one request that is answered by speech. Times are seconds on a clock that only goes forward."""

    headers: Mapping[str, str] = {}  # of the answer or of the handshake
    conversation: str | None = None  # a key in the request's body that tells this client apart

    @abstractmethod
    def begin(self, standing: Standing, now: float) -> list[Output]:
        """The client has its conversation."""

    def receive(self, message: str | bytes, now: float) -> list[Output]:
        """The client sent a message. A request that was answered has no more to say."""
        return []

    @abstractmethod
    def take(self, item: Item, now: float) -> list[Output]:
        """An event, or a frame that is sent with what this returns."""

    def look(self, now: float) -> list[Output]:
        """Time has passed. Called some ten times a second."""
        return []

    @abstractmethod
    def leave(self, now: float) -> list[Output]:
        """The client is gone. Returns commands only."""

    @abstractmethod
    def fail(self, error: CommandError) -> list[Output]:
        """The conversation cannot go on: the error in the format's own shape, and the end."""


@dataclass(frozen=True)
class FirstKey:
    """How a socket brings its key in its first message, where a format's clients may. read: the key in it, if there is
    one. refuse: the message that tells the error before the socket is closed.
    """

    read: Callable[[str | bytes], str | None]
    refuse: Callable[[CommandError], str]


@dataclass(frozen=True)
class Route:
    """An address. open: the translator, or the answer. refuse: an error in the format's own shape. first_key: of a
    socket whose handshake may come without the key.
    """

    method: Literal["GET", "POST", "WEBSOCKET"]
    path: str
    open: Callable[[Request, Served], Translator | Response]
    refuse: Callable[[CommandError], Response]
    first_key: FirstKey | None = None


def read_object(text: str | bytes) -> dict[str, object]:
    """A JSON object. Raises CommandError."""
    try:
        value = load(text)
    except Refused as refused:
        raise CommandError(refused.code, str(refused)) from None
    if not isinstance(value, dict):
        raise CommandError("bad_json", f"a JSON object is expected, not {shown(value)}")
    return value


def status_of(error: CommandError) -> int:
    """The HTTP status that says the same."""
    known = {"unauthorized": 401, "busy": 429, "overloaded": 503, "internal": 500}
    return known.get(error.code, 400)


def retry_after(error: CommandError) -> dict[str, str]:
    """The header that keeps a client which retries at once from doing so."""
    return {"Retry-After": str(RETRY_SECONDS)} if error.code in ("busy", "overloaded") else {}


def conversation_of(request: Request) -> str | None:
    """The key that tells this client apart, if the handshake or the request has one. Raises CommandError."""
    asked = [request.headers.get("x-conversation"), request.query.get("conversation")]
    key = next((key for key in asked if key), None)
    if key is None and "conversation" in request.path_values:
        key = request.path_values["conversation"]
    return None if key is None else checked_key(key)


def checked_key(key: str) -> str:
    """Raises CommandError for a key that is too long."""
    if len(key) > MAX_ID_CHARS:
        raise CommandError(
            "bad_field", f"conversation must be a string of up to {MAX_ID_CHARS} characters", field="conversation"
        )
    return key


@dataclass(frozen=True)
class Voice:
    """How `start` is asked for a voice. seed: what makes the voice, where the server has none to choose from."""

    name: str | None = None
    seed: int | None = None


def choose_voice(asked: str | None, served: Served) -> Voice:
    """The server's voice of that name, else its first one, else a random one that is always the same for that name.

    Clients send the names of voices that only their own service has ("alloy", a UUID), often unchangeably. They want to
    hear the same voice each time, whatever it is.
    """
    if asked in served.voices:
        return Voice(asked)
    return Voice(seed=None if served.voices else zlib.crc32((asked or "").encode("utf-8", "surrogatepass")))
