"""What a fuzzer of the port sends: requests, frames and commands that were right, and are wrong in one or more places.

Each kind of case is a function of a `random.Random`, so that a case can be had again from its number.
"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mutations import VALUES, mutate_bytes, mutate_json, nested
from serving import HANDSHAKE

from dia2stream.errors import CommandError
from dia2stream.protocol.messages import parse_command

TOKEN = "s3cret-of-the-fuzzer"  # must never be seen in the server's log

Random = random.Random
# plain: over TCP. tls: inside of TLS. raw: bytes without TLS for the port that speaks TLS.
Way = Literal["plain", "tls", "raw"]


@dataclass(frozen=True)
class Bytes:
    """Bytes for a connection, sent piece by piece.

    ends: whether the client closes its end behind them, "at once" or once it is "answered", or "never". A client that
    closes its end before its WebSocket is open is gone. answers: how many answers there must be; None for at least one.
    """

    pieces: tuple[bytes, ...]
    way: Way = "plain"
    ends: Literal["at once", "answered", "never"] = "at once"
    answers: int | None = None


@dataclass(frozen=True)
class Messages:
    """Messages for a WebSocket of our own protocol, each to be answered. refused: the codes of those that are wrong."""

    messages: tuple[str | bytes, ...]
    refused: tuple[str, ...]


# ---- HTTP ----

HOST = b"Host: 127.0.0.1\r\n"
KNOWS = b"Authorization: Bearer " + TOKEN.encode() + b"\r\n"
GETS = (b"/", b"/healthz", b"/readyz", b"/metrics", b"/nowhere", b"/v1/models", b"/v1/audio/voices", b"/v1/voices")
HEADERS = (
    *(b"Content-Length: " + value for value in (b"0", b"3", b"-1", b"+3", b"3, 3", b"1e3", b"9" * 400, b"\xb2", b"")),
    *(b"Transfer-Encoding: " + value for value in (b"chunked", b"gzip, chunked", b"chunked, chunked", b"\x0bchunked")),
    *(b"Host: " + value for value in (b"", b"evil.example", b"[::1", b"a b", b"\xff", b"127.0.0.1:99999", b"x" * 9000)),
    *(b"Connection: " + value for value in (b"close", b"keep-alive", b"Upgrade", b"upgrade, close", b",,,", b"\xe9")),
    *(b"Upgrade: " + value for value in (b"websocket", b"WebSocket", b"h2c", b"websocket, h2c", b"")),
    *(
        b"Authorization: " + value
        for value in (b"", b"Bearer", b"Basic OnM=", b"Token \xff\xfe", b"Bearer " + b"x" * 8000)
    ),
    *(b"Origin: " + value for value in (b"null", b"http://evil.example", b"http://127.0.0.1", b"\xff")),
    *(
        b"Expect: 100-continue",
        b"Expect: 200-ok",
        b"Range: bytes=0-",
        b"Accept-Encoding: \x00",
        b"Cookie: " + b"c" * 20_000,
    ),
    *(b"X-Conversation: " + value for value in (b"a", b"../..", b"\xc3\xa9", b"k" * 300)),
    *(
        b" folded: line",
        b"no colon",
        b": no name",
        b"na me: x",
        b"A:\tb\x01",
        b"X\xe9: y",
        b"\r",
        b"Sec-WebSocket-Version: 12",
    ),
)


def request(method: bytes, target: bytes, *headers: bytes, body: bytes = b"") -> bytes:
    """A whole request of somebody who has the token."""
    lines = b"".join(header + b"\r\n" for header in headers)
    return method + b" " + target + b" HTTP/1.1\r\n" + HOST + KNOWS + lines + b"\r\n" + body


def heads(rng: Random) -> Bytes:
    """Request lines and headers."""
    whole = rng.choice((request(rng.choice((b"GET", b"HEAD", b"OPTIONS", b"DELETE")), rng.choice(GETS)), HANDSHAKE))
    for _ in range(rng.randint(1, 3)):
        whole = _damage_head(whole, rng)
    return Bytes(_cut(whole, rng), ends="at once" if rng.random() < 0.9 else "never")


def _damage_head(whole: bytes, rng: Random) -> bytes:
    kind = rng.random()
    if kind < 0.4:
        return mutate_bytes(whole, rng)
    head, ends, body = whole.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    at = rng.randrange(len(lines))
    if kind < 0.75:
        lines.insert(max(1, at), rng.choice(HEADERS))
    elif kind < 0.8:
        lines[1:1] = [b"X%d: y" % number for number in range(rng.choice((100, 3000)))]
    elif kind < 0.9:
        lines[0] = (
            rng.choice((b"GET", b"get", b"G\x00T", b"", b"PRI", b"\xff" * 9)) + b" " + _target(rng) + _version(rng)
        )
    else:
        return (b"\n" if kind < 0.95 else b"\r").join(lines) + ends + body
    return b"\r\n".join(lines) + ends + body


def _target(rng: Random) -> bytes:
    return rng.choice(
        (
            *(b"*", b"", b"/%", b"/%00", b"/%ff%fe", b"//", b"/../etc/passwd", b"/c/%2F/v1/models", b"?", b"/#x"),
            *(
                b"http://a/b",
                b"/\xe9",
                b"/?" + b"&" * 3000,
                b"/?token=" + b"%e9" * 2000,
                b"/" + b"a" * 9000,
                b"/c//v1/speak",
            ),
        )
    )


def _version(rng: Random) -> bytes:
    return rng.choice(
        (b" HTTP/1.1", b" HTTP/1.1", b" HTTP/1.0", b" HTTP/9.9", b" HTTP/2.0", b"", b" HTTP/1.1 x", b" RTSP/1.0")
    )


def bodies(rng: Random) -> Bytes:
    """Requests with a body whose length is told rightly or wrongly."""
    target = rng.choice((*GETS, *(path for path, _ in POSTS)))
    body = rng.choice(
        (b"", b"abc", rng.randbytes(200), json.dumps({"input": "Hi."}).encode(), b"x" * 300_000, b"\n" * 5000)
    )
    told = rng.choice((len(body), len(body), len(body) + 3, max(0, len(body) - 1), 0, 2**31, 2**64))
    more = [rng.choice(HEADERS)] if rng.random() < 0.3 else []
    whole = request(
        rng.choice((b"POST", b"PUT", b"GET", b"PATCH")), target, b"Content-Length: %d" % told, *more, body=body
    )
    return Bytes(_cut(whole, rng))


def chunks(rng: Random) -> Bytes:
    """Bodies in chunks."""
    sizes = [rng.choice((0, 1, 5, 300, 70_000)) for _ in range(rng.randint(0, 5))]
    pieces = [
        b"%x%b\r\n" % (size, rng.choice((b"", b"", b";a=b", b";" + b"x" * 3000))) + b"c" * size + b"\r\n"
        for size in sizes
    ]
    end = rng.choice(
        (
            b"0\r\n\r\n",
            b"0\r\n\r\n",
            b"0\r\nA: b\r\n\r\n",
            b"",
            b"-1\r\n",
            b"g\r\n",
            b"f" * 20 + b"\r\n",
            b"0\r\nno\r\n\r\n",
        )
    )
    body = b"".join(pieces) + end
    if rng.random() < 0.4:
        body = mutate_bytes(body, rng)
    target = rng.choice((*GETS, *(path for path, _ in POSTS)))
    return Bytes(_cut(request(b"POST", target, b"Transfer-Encoding: chunked", body=body), rng))


def pipelines(rng: Random) -> Bytes:
    """Several requests at once, each right; at times, something behind them that is none."""
    count = rng.randint(2, 12)
    whole = b"".join(_right(rng) for _ in range(count))
    rest = rng.choice((b"", b"", b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nHo"))
    return Bytes(_cut(whole + rest, rng), answers=count + bool(rest))


def _right(rng: Random) -> bytes:
    if rng.random() < 0.6:
        return request(rng.choice((b"GET", b"HEAD")), rng.choice(GETS))
    body = rng.randbytes(rng.choice((0, 10, 2000)))
    return request(b"POST", rng.choice(GETS), b"Content-Length: %d" % len(body), body=body)


def half_closes(rng: Random) -> Bytes:
    """Requests that break off, and then nothing."""
    whole = _right(rng) if rng.random() < 0.7 else HANDSHAKE[:-1]
    return Bytes((whole[: rng.randint(1, len(whole))],))


def garbage(rng: Random) -> Bytes:
    """Bytes that were never anything."""
    start = rng.choice(
        (
            b"",
            b"\x16\x03\x01\x02\x00\x01",
            b"SSH-2.0-x\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\x00",
            b"EHLO x\r\n",
        )
    )
    return Bytes(_cut(start + rng.randbytes(rng.choice((1, 30, 3000))), rng), way=rng.choice(("plain", "raw")))


# ---- WebSockets ----


def packed(first: int, payload: bytes, rng: Random | None = None) -> bytes:
    """A masked frame; with `rng`, at times one that lies about its length or its mask."""
    size = len(payload)
    told = rng.choice((0, 125, 126, 65535, 2**31, 2**63)) if rng is not None and rng.random() < 0.1 else size
    masked = 0 if rng is not None and rng.random() < 0.1 else 0x80
    if told < 126:
        length = bytes([masked | told])
    elif told < 65536:
        length = bytes([masked | 126]) + told.to_bytes(2, "big")
    else:
        length = bytes([masked | 127]) + told.to_bytes(8, "big")
    return bytes([first]) + length + (b"\0\0\0\0" if masked else b"") + payload


PAYLOADS = (
    *(
        b"",
        b"\xff\xfe",
        b"{",
        b"\xed\xa0\x80",
        b"\x03\xe8",
        b"\x03\xe8bye",
        b"\x00\x00",
        b"\x0b\xb8\xff",
        b"\x03",
        b"\xff" * 200,
    ),
    *(b'{"cmd": "end"}', b'{"cmd": "start", "text": "[S1] Hi there."}', b"x" * 70_000, b"\x00" * 125, b"\x00" * 126),
)


def handshakes(rng: Random) -> Bytes:
    """What opens a WebSocket, at every address that has one."""
    path = rng.choice((b"/", b"/", *(path for path, _ in SOCKETS)))
    query = b"&".join(_parameter(rng) for _ in range(rng.randint(0, 4)))
    whole = _handshake(path + b"?" + query)
    if rng.random() < 0.5:
        whole = _damage_head(whole, rng)
    return Bytes(_cut(whole, rng), ends="answered")


def _handshake(target: bytes) -> bytes:
    return HANDSHAKE.replace(b"GET / ", b"GET " + target + b" ").replace(b"Host:", KNOWS + b"Host:")


def _parameter(rng: Random) -> bytes:
    name = rng.choice(
        (
            b"encoding",
            b"sample_rate",
            b"conversation",
            b"received_ms",
            b"busy",
            b"token",
            b"model",
            b"container",
            b"voice_id",
            b"x",
        )
    )
    value = rng.choice(
        (
            b"",
            b"pcm16",
            b"mulaw",
            b"8000",
            b"24000",
            b"-1",
            b"nan",
            b"1e999",
            b"event",
            b"%00",
            b"%ff",
            b"%C2%B2",
            b"\xe9",
            b"a" * 500,
        )
    )
    return name + b"=" + value


def frames(rng: Random) -> Bytes:
    """Frames of all kinds behind a right handshake: fragments, masks, control frames, lengths, reserved bits."""
    sent = []
    for _ in range(rng.randint(1, 12)):
        first = rng.choice(
            (0x81, 0x82, 0x01, 0x00, 0x80, 0x88, 0x89, 0x8A, 0x08, 0x09, 0xC1, 0xF1, 0x83, rng.randrange(256))
        )
        sent.append(packed(first, rng.choice(PAYLOADS), rng))
    data = b"".join(sent)
    if rng.random() < 0.3:
        data = mutate_bytes(data, rng)
    handshake = _handshake(b"/?wait=50")
    pieces = (handshake, *_cut(data, rng)) if rng.random() < 0.5 else _cut(handshake + data, rng)
    return Bytes(pieces, ends="answered")


# ---- Our own commands ----

COMMANDS: tuple[dict[str, Any], ...] = (
    {
        "cmd": "start",
        "text": "[S1] Hi. [S2] You?",
        "id": "a",
        "seed": 7,
        "final": True,
        "cfg_scale": 2.0,
        "text_rules": "auto",
    },
    {"cmd": "start", "text": "One", "final": False, "voice": "nobody", "text_top_k": 50, "audio_temperature": 0.8},
    {"cmd": "inject", "text": " two <break time='0.1s'/> three.", "id": "b", "final": False},
    {"cmd": "end"},
    {"cmd": "pause", "played_ms": 80.0},
    {"cmd": "resume"},
    {"cmd": "reset"},
    {
        "cmd": "listen",
        "audio": "AAABAP//",
        "words": [["Hi", 0.0, 0.1]],
        "speaker": "S2",
        "sample_rate": 8000,
        "final": False,
    },
    {"cmd": "start", "text": "GIF", "say": {"GIF": "jiff"}, "initial_padding": 2},
)


def commands(rng: Random) -> Messages:
    """Commands, right and wrong, deep and huge."""
    return _messages([_command(rng) for _ in range(rng.randint(1, 30))])


def floods(rng: Random) -> Messages:
    """The same small command so many times that a server must make its client wait."""
    one = rng.choice(
        ('{"cmd": "end"}', "{", '{"cmd": "resume"}', "[]", '{"cmd": "pause"}', "", '{"cmd":"listen","audio":"AAA="}')
    )
    return _messages([one] * rng.choice((300, 2000)))


def _messages(messages: Sequence[str | bytes]) -> Messages:
    return Messages(tuple(messages), tuple(code for message in messages if (code := refusal(message))))


def refusal(message: str | bytes) -> str | None:
    """The code with which a message is refused whatever the conversation is about; None when it can be read."""
    try:
        parse_command(message)
    except CommandError as error:
        return error.code
    return None


def _command(rng: Random) -> str | bytes:
    right = json.dumps(rng.choice(COMMANDS))
    kind = rng.random()
    if kind < 0.35:
        return right
    if kind < 0.75:
        return _encodable(mutate_json(right, rng))
    if kind < 0.9:
        return mutate_bytes(right.encode(), rng)
    return rng.choice(
        (nested(rng.choice((10, 2000, 100_000))), json.dumps(rng.choice(VALUES)), "x" * 300_000, right * 2, b"\x00", "")
    )


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


# ---- The wire formats of other services ----

_CARTESIA = {
    **{"model_id": "sonic-2", "transcript": "Hi there.", "voice": {"mode": "id", "id": "x"}, "language": "en"},
    "output_format": {"container": "raw", "encoding": "pcm_s16le", "sample_rate": 8000},
}
_ELEVENLABS = {"text": "Hi there.", "model_id": "eleven_flash_v2_5", "voice_settings": {"stability": 0.5, "speed": 1.0}}
_VOICE = b"/v1/text-to-speech/anybody"
POSTS: tuple[tuple[bytes, dict[str, Any]], ...] = (
    (
        b"/v1/audio/speech",
        {"model": "tts-1", "input": "Hi there.", "voice": "alloy", "response_format": "pcm", "speed": 1.0},
    ),
    (
        b"/v1/audio/speech",
        {"model": "tts-1", "input": "Hi.", "voice": "x", "stream_format": "sse", "response_format": "mp3"},
    ),
    (
        b"/c/key/v1/audio/speech",
        {"model": "tts-1", "input": "Hi.", "voice": "x", "response_format": "wav", "user": "me"},
    ),
    (b"/tts/bytes", _CARTESIA),
    (b"/tts/sse", {**_CARTESIA, "add_timestamps": True}),
    (b"/v1/speak?encoding=mulaw&sample_rate=8000", {"text": "Hi there."}),
    (b"/v2/speak?model=flux-anna-en", {"text": "Hi there."}),
    (_VOICE + b"?output_format=pcm_16000", _ELEVENLABS),
    (_VOICE + b"/stream?output_format=ulaw_8000", _ELEVENLABS),
    (_VOICE + b"/with-timestamps?output_format=pcm_8000", _ELEVENLABS),
    (_VOICE + b"/stream/with-timestamps", _ELEVENLABS),
)
SOCKETS: tuple[tuple[bytes, tuple[dict[str, Any], ...]], ...] = (
    (b"/tts/websocket", ({**_CARTESIA, "context_id": "a", "continue": True}, {"context_id": "a", "cancel": True})),
    (b"/v1/speak", ({"type": "Speak", "text": "Hi there."}, {"type": "Flush"}, {"type": "Clear"}, {"type": "Close"})),
    (
        b"/v2/speak",
        (
            {"type": "Speak", "text": "Hi."},
            {"type": "Flush"},
            {"type": "Interrupt", "played_ms": 10},
            {"type": "Close"},
        ),
    ),
    (
        _VOICE + b"/stream-input",
        ({"text": " ", "voice_settings": {"speed": 1}}, {"text": "Hi. ", "flush": True}, {"text": ""}),
    ),
    (
        _VOICE + b"/multi-stream-input",
        (
            {"text": " ", "context_id": "a"},
            {"text": "Hi. ", "context_id": "a", "flush": True},
            {"context_id": "a", "close_context": True},
            {"close_socket": True},
        ),
    ),
)


def dialect_requests(rng: Random) -> Bytes:
    """What their clients post, with damage."""
    path, right = rng.choice(POSTS)
    body = json.dumps(right)
    if rng.random() < 0.8:
        body = mutate_json(body, rng)
    data = body.encode("utf-8", "replace")
    if rng.random() < 0.2:
        data = mutate_bytes(data, rng)
    if rng.random() < 0.2:
        path += (b"&" if b"?" in path else b"?") + _parameter(rng)
    length = b"Content-Length: %d" % len(data)
    return Bytes((request(b"POST", path, b"Content-Type: application/json", b"Connection: close", length, body=data),))


def dialect_sockets(rng: Random) -> Bytes:
    """What their clients send over a WebSocket, with damage."""
    path, right = rng.choice(SOCKETS)
    if rng.random() < 0.3:
        path += b"?" + b"&".join(_parameter(rng) for _ in range(rng.randint(1, 3)))
    sent = []
    for message in [rng.choice(right) for _ in range(rng.randint(1, 8))]:
        text = json.dumps(message)
        data = (mutate_json(text, rng) if rng.random() < 0.6 else text).encode("utf-8", "replace")
        sent.append(
            packed(0x82 if rng.random() < 0.05 else 0x81, mutate_bytes(data, rng) if rng.random() < 0.1 else data)
        )
    return Bytes((_handshake(path), *sent), ends="answered")


# ---- TLS ----


def plain_bytes_for_tls(rng: Random) -> Bytes:
    """Somebody who does not know that the port speaks TLS."""
    made = rng.choice((heads, bodies, half_closes, handshakes))(rng)
    return Bytes(made.pieces, way="raw")


def requests_in_tls(rng: Random) -> Bytes:
    """The same requests, for a client that speaks TLS; such a connection cannot be closed by half."""
    made = rng.choice((heads, bodies, chunks, handshakes, frames))(rng)
    return Bytes(made.pieces, way="tls", ends="never")


def damaged_tls(rng: Random) -> Bytes:
    """The beginning of TLS, and then something else."""
    hello = b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03" + rng.randbytes(189)
    return Bytes(_cut(mutate_bytes(hello, rng), rng), way="raw")


def _cut(data: bytes, rng: Random) -> tuple[bytes, ...]:
    """The bytes in one to four pieces."""
    places = sorted(rng.randint(0, len(data)) for _ in range(rng.choice((0, 0, 1, 3))))
    return tuple(data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True))


KINDS: dict[str, tuple[int, Callable[[Random], Bytes | Messages]]] = {
    made.__name__: (weight, made)
    for weight, made in (
        *((6, heads), (4, bodies), (4, chunks), (3, pipelines), (3, half_closes), (2, garbage)),
        *((4, handshakes), (6, frames), (4, commands), (1, floods)),
        *((4, dialect_requests), (4, dialect_sockets)),
        *((2, plain_bytes_for_tls), (2, requests_in_tls), (1, damaged_tls)),
    )
}


def make_case(seed: int, number: int, only: str | None = None) -> tuple[str, Bytes | Messages]:
    """The kind and the contents of a case."""
    rng = random.Random(f"{seed} {number}")
    kind = rng.choices(list(KINDS), [weight for weight, _ in KINDS.values()])[0]
    kind = only or kind
    return kind, KINDS[kind][1](rng)
