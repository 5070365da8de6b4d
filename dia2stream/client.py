"""The client's end of the protocol.

    async with connect("ws://127.0.0.1:8765", token="secret") as c:
        await c.start("[S1] Hello there.")
        async for item in c:
            if isinstance(item, Audio):
                play(item.data)  # c.ready.encoding at c.ready.sample_rate
            elif isinstance(item, Word):
                print(item.start_ms, item.word)
            elif isinstance(item, Done):
                break

Commands may be sent at any moment, also while another task iterates. To interrupt the speech, pause at the position
that the listener has heard, and inject what is to be said instead:

    await c.pause(played_ms=840)      # a position on the conversation's audio clock, see `received_ms`
    await c.inject("[S2] You were saying?")

The model can also hear the caller, so that the reply fits how the caller spoke:

    await c.listen(pcm, "Can you hear me?")      # mono PCM16 at 24 kHz
    await c.inject("Yes, very well.")

A fork is a copy of the conversation, with a connection of its own, for example to try two replies:

    await c.fork()
    ...                                          # Forked comes among the other events
    async with connect(url, conversation=forked.conversation, received_ms=c.received_ms) as other:
        await other.resume()                     # or inject: what one of them says, the other never knows

A reply that may be wanted soon can be made in advance. Its first frame leaves at the commit:

    await c.prepare("Sure, I can help with that.", id="7")
    await c.commit("7")                          # or c.discard("7"), and it never was

After a lost connection, `connect(url, conversation=c.ready.conversation, received_ms=c.received_ms)` continues the
conversation where it stopped. A client needs neither torch nor a GPU.
"""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import Any, TypeAlias
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import (
    ConcurrencyError,
    ConnectionClosed,
    ConnectionClosedOK,
    InvalidStatus,
    WebSocketException,
)

from dia2stream.errors import CommandError, Disconnected, ProtocolError, UnknownEvent
from dia2stream.protocol.audio_message import Audio, unpack_audio
from dia2stream.protocol.messages import (
    Cancel,
    Command,
    Commit,
    Discard,
    End,
    Error,
    Event,
    Fork,
    Inject,
    Listen,
    Pause,
    Prepare,
    Ready,
    Reset,
    ResetDone,
    Resume,
    Start,
    Started,
    dump_command,
    parse_event,
)
from dia2stream.reach import proxy_for, reason, without_secrets

_OPEN_SECONDS = 10.0  # for a handshake, when there is a slot
# What opening a WebSocket raises. ImportError is for a SOCKS proxy, ValueError for a port or a host that is none.
_UNREACHED = (OSError, WebSocketException, TimeoutError, asyncio.TimeoutError, ImportError, ValueError)

# A message from the server is an event or audio.
Received: TypeAlias = Event | Audio


class connect:
    """Opens a connection, when it is awaited or entered.

    url: ws:// or wss://; http:// and https:// mean the same. conversation: the id of a conversation to continue.
    received_ms: how many milliseconds of that conversation's audio have arrived. encoding, sample_rate: of the audio;
    the server's own by default. wait: for how many seconds to stand in line if no slot is free. options: those of
    websockets.connect. Without the option `proxy`, the environment names the proxy, and a server on this machine is
    reached without one.

    Raises CommandError when the server refuses, Disconnected when the server cannot be reached.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        conversation: str | None = None,
        received_ms: float | None = None,
        encoding: str | None = None,
        sample_rate: int | None = None,
        wait: float | None = None,
        **options: Any,
    ) -> None:
        in_header = token is not None and token.isascii() and token.isprintable()  # what every proxy leaves as it is
        wishes = {
            "token": None if in_header else token,
            "conversation": conversation,
            "received_ms": received_ms,
            "encoding": encoding,
            "sample_rate": sample_rate,
            "wait": wait,
        }
        self._url = _address(url, {name: str(value) for name, value in wishes.items() if value is not None})
        headers = dict(options.pop("additional_headers", {}))
        if in_header:
            headers["Authorization"] = f"Bearer {token}"
        self._received_ms = received_ms or 0.0
        patience = {} if wait is None else {"open_timeout": _OPEN_SECONDS + wait}
        self._options = {"compression": None, "additional_headers": headers, **patience, **options}
        self._client: Client | None = None

    def __await__(self) -> Any:
        return self._connect().__await__()

    async def __aenter__(self) -> "Client":
        self._client = await self._connect()
        return self._client

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if self._client is not None:
            await self._client.close()

    async def _connect(self) -> "Client":
        socket = await self._open()
        client = Client(socket, self._received_ms)
        try:
            first = await client.receive()
        except BaseException:
            await socket.close()
            raise
        if isinstance(first, Ready):
            client.ready = first
            return client
        await socket.close()
        if isinstance(first, Error):
            raise CommandError(first.code, first.message, field=first.field)  # type: ignore[arg-type]
        raise Disconnected(f"{without_secrets(self._url)}: no dia2stream server: it began with {type(first).__name__}")

    async def _open(self) -> ClientConnection:
        """The WebSocket, directly or through a proxy. Raises CommandError when the server refuses, Disconnected."""
        proxy: str | None = None
        try:
            proxy = self._proxy()
            return await open_websocket(self._url, **{**self._options, "proxy": proxy})
        except _UNREACHED as error:
            refusal = _refusal(error) if isinstance(error, InvalidStatus) else None
            raise refusal or Disconnected(f"{without_secrets(self._url)}: {reason(self._url, proxy, error)}") from None

    def _proxy(self) -> str | None:
        """The proxy that the options name, or else the environment."""
        if self._options.get("sock") is not None:
            return None
        proxy = self._options.get("proxy", True)  # which has the meaning that websockets gives it
        return proxy_for(self._url) if proxy is True else proxy


class Client:
    """A connection. Iterate over it for events and audio; the iteration ends when the server closes in good order."""

    ready: Ready

    def __init__(self, socket: ClientConnection, received_ms: float = 0.0) -> None:
        self.socket = socket
        self._samples, self._before_ms = 0, received_ms

    @property
    def received_ms(self) -> float:
        """Milliseconds of this conversation's audio that have arrived: where the next sample is on the audio clock."""
        return self._before_ms + self._samples * 1000 / self.ready.sample_rate

    async def send(self, command: Command) -> None:
        """Sends any command of the protocol. Raises Disconnected when the connection is gone."""
        try:
            await self.socket.send(dump_command(command))
        except ConnectionClosed as error:
            raise Disconnected(f"the connection is gone: {_closed(error)}") from None

    async def start(self, text: str, **fields: Any) -> None:
        """Begins a new conversation. fields: the other fields of the `start` command."""
        await self.send(Start(text, **fields))

    async def inject(self, text: str, **fields: Any) -> None:
        """Adds text, at any moment; after a pause, instead of what was not heard. `fields` are id, final and voice."""
        await self.send(Inject(text, **fields))

    async def end(self, id: str | None = None) -> None:
        """Closes text that was opened with final=False: the open one, or that of an id, if it is still open."""
        await self.send(End(id))

    async def cancel(self, id: str) -> None:
        """Has the server forget an utterance that waits to be spoken."""
        await self.send(Cancel(id))

    async def prepare(self, text: str, id: str, **fields: Any) -> None:
        """Has a reply made in advance, which `commit` has spoken at once, and `discard` forgotten.

        fields: final and voice. More of its text comes by `inject` and `end` with this id.
        """
        await self.send(Prepare(text, id, **fields))

    async def commit(self, id: str) -> None:
        """Has the prepared reply spoken: as `inject` with its text, but its first frame is there already."""
        await self.send(Commit(id))

    async def discard(self, id: str) -> None:
        """Has the prepared reply forgotten, as if it had never been there."""
        await self.send(Discard(id))

    async def listen(
        self,
        pcm: bytes = b"",
        text: str = "",
        *,
        words: Sequence[tuple[str, float, float]] | None = None,
        speaker: str = "S2",
        sample_rate: int = 24000,
        final: bool = True,
    ) -> None:
        """Tells the model what the caller said. pcm: mono PCM16, up to 4 s at 24 kHz; send longer audio in pieces.

        words: (word, start, end) in seconds from the start of this piece; a `text` alone is spread over what sounds.
        final: False when more of what they say follows.
        """
        audio = base64.b64encode(pcm).decode()
        timed = None if words is None else tuple(words)
        await self.send(Listen(audio, text, timed, speaker, sample_rate, final))

    async def pause(self, played_ms: float | None = None) -> None:
        """Stops the speech now. played_ms: the position on the audio clock up to which the listener has heard it."""
        await self.send(Pause(played_ms))

    async def resume(self) -> None:
        """Continues the speech exactly where it stopped."""
        await self.send(Resume())

    async def reset(self) -> None:
        """Forgets the conversation."""
        await self.send(Reset())

    async def fork(self) -> None:
        """Has the conversation copied as it is now. `Forked` follows, with the id to `connect` to for the copy."""
        await self.send(Fork())

    async def close(self) -> None:
        """Closes the connection; the server keeps the conversation for a while, and its slot for a few seconds."""
        await asyncio.gather(self.socket.close(), self._discard())

    async def _discard(self) -> None:
        """Reads what nobody has read: the server's answer to the close comes behind it."""
        with contextlib.suppress(ConnectionClosed, ConcurrencyError):  # somebody else reads already
            while True:
                await self.socket.recv()

    async def hang_up(self) -> None:
        """Closes the connection for good: the conversation is forgotten, and its slot is free at once."""
        with contextlib.suppress(Disconnected):
            await self.reset()
        await self.close()

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def receive(self) -> Received:
        """The next event or audio. Raises Disconnected when the connection has ended, ProtocolError for nonsense."""
        while True:
            try:
                message = await self.socket.recv()
            except ConnectionClosed as error:
                raise Disconnected(f"the connection is gone: {_closed(error)}") from None
            with contextlib.suppress(UnknownEvent):  # of a newer server
                return self._read(message)

    def _read(self, message: str | bytes) -> Received:
        if isinstance(message, bytes):
            audio = unpack_audio(message)
            self._samples += audio.samples
            return audio
        event = parse_event(message)
        if isinstance(event, Started | ResetDone):
            self._samples, self._before_ms = 0, 0.0
        return event

    async def __aiter__(self) -> AsyncIterator[Received]:
        while True:
            try:
                yield await self.receive()
            except Disconnected:
                if isinstance(self.socket.protocol.close_exc, ConnectionClosedOK):
                    return
                raise


def _address(url: str, wishes: dict[str, str]) -> str:
    try:
        parts = urlsplit(url if "://" in url else f"ws://{url}")
    except ValueError as error:
        raise Disconnected(f"{url.partition('?')[0][:200]!r} is no URL: {error}") from None
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    asked = urlencode([*parse_qsl(parts.query), *wishes.items()])
    return urlunsplit((scheme, parts.netloc, parts.path or "/", asked, ""))


def _refusal(refused: InvalidStatus) -> CommandError | None:
    """The error event that a dia2stream server answers a handshake with; None for another server's answer."""
    try:
        error = parse_event(bytes(refused.response.body or b""))
    except ProtocolError:
        return None
    if not isinstance(error, Error):
        return None
    return CommandError(error.code, error.message, field=error.field)  # type: ignore[arg-type]


def _closed(error: ConnectionClosed) -> str:
    close = error.rcvd
    return f"closed with {close.code} {close.reason}".rstrip() if close else "it broke"
