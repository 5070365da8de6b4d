"""Clients that a server has to survive, for the soak test: each takes a slot, does what it does, and is gone.

What a client of a kind costs is measured here; that it costs the others nothing is seen by the callers beside it.
"""

import asyncio
import contextlib
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence

from piping import PATIENCE
from serving import (
    HANDSHAKE,
    LONG,
    SHORT,
    Serve,
    dialled,
    frame,
    hear,
    killed,
    longest_silence,
    pour,
    rest,
    stopped_reader,
    take_slot,
)
from soak_calls import PATIENT, Figures
from websockets.exceptions import ConnectionClosed

from dia2stream.client import Client, connect
from dia2stream.errors import CommandError, Disconnected
from dia2stream.protocol.audio_message import Audio
from dia2stream.protocol.messages import Done, Paused

LISTEN = b'{"cmd": "listen", "audio": "AAA="}'
RESUME = b'{"cmd": "resume"}'
START = b'{"cmd": "start", "text": "%s"}' % SHORT.encode()

# A process of its own, so that it can be killed or stopped: it speaks, and says so.
CLIENT = """
import socket, sys
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
s.sendall(b"GET /?wait=30 HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n"
          b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\\r\\nSec-WebSocket-Version: 13\\r\\n\\r\\n")
text = b'{"cmd": "start", "text": "' + sys.argv[2].encode() + b'"}'
s.sendall(b"\\x81\\xfe" + len(text).to_bytes(2, "big") + bytes(4) + text)
heard = 0
while True:
    data = s.recv(65536)
    heard += len(data)
    if not data:
        sys.exit()
    if heard > 20000:
        print("speaking", flush=True)
        heard = -10**12
"""


def speaking_process(server: Serve) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    command = [sys.executable, "-S", "-c", CLIENT, str(server.port), LONG]
    return killed(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))


async def speaks(process: subprocess.Popen[str]) -> None:
    """Waits until it is heard."""
    assert process.stdout is not None
    said = await asyncio.wait_for(asyncio.to_thread(process.stdout.readline), PATIENCE)
    assert said == "speaking\n", "a client of its own got nothing"


async def slot_of_its_own(server: Serve) -> Client:
    return await take_slot(server, **PATIENT)


# ---- Floods ----


async def floods_tiny_commands(server: Serve, figures: Figures, chance: random.Random) -> None:
    """And reads the answers: they come without a stall."""
    await (await slot_of_its_own(server)).hang_up()  # there was one
    with dialled(server) as raw:
        raw.sendall(HANDSHAKE.replace(b"GET /", b"GET /?wait=30"))
        for _ in range(5):
            silence = await asyncio.to_thread(longest_silence, raw, frame(0x81, RESUME), 5000, b'"no_session"')
            figures.measure("flood_silence_ms", silence * 1000)


async def floods_listen_and_goes(server: Serve, figures: Figures, chance: random.Random) -> None:
    """Milliseconds of the engine's work in 42 bytes, as many as the server takes. The client goes in mid-flood."""
    client = await slot_of_its_own(server)
    await client.start(SHORT)
    await client.pause()
    await hear(client, Paused)
    id = client.ready.conversation
    await client.close()
    with dialled(server) as raw:
        raw.sendall(HANDSHAKE.replace(b"GET /", f"GET /?conversation={id}".encode()))
        sent = await asyncio.to_thread(pour, raw, frame(0x81, LISTEN), 1.0)
    figures.count("listen_pieces_flooded", sent)


async def floods_pings(server: Serve, figures: Figures, chance: random.Random) -> None:
    """While it speaks."""
    client = await slot_of_its_own(server)
    await client.start(SHORT)
    await hear(client, Audio)

    async def flood() -> None:
        for _ in range(10):
            client.socket.transport.write(b"\x89\x80\0\0\0\0" * 1000)
            await (await client.socket.ping())

    await asyncio.gather(flood(), hear(client))  # a client whose buffer is full reads no pong either
    await client.hang_up()


async def sends_too_much(server: Serve, figures: Figures, chance: random.Random) -> None:
    """Ten megabytes in one message: closed with 1009."""
    client = await slot_of_its_own(server)
    with contextlib.suppress(ConnectionClosed):
        await client.socket.send("x" * 10_000_000)
    with contextlib.suppress(Disconnected):
        await hear(client, Done)
    assert client.socket.close_code == 1009, client.socket.close_code


async def talks_nonsense(server: Serve, figures: Figures, chance: random.Random) -> None:
    """Damaged frames, messages and requests."""
    for opening in (HANDSHAKE, b"", b"POST / HTTP/1.1\r\nHost: x\r\n"):
        with dialled(server) as raw, contextlib.suppress(ConnectionError):
            raw.sendall(opening + chance.randbytes(chance.randint(1, 2000)))
            raw.shutdown(socket.SHUT_WR)
            assert b"Traceback" not in await asyncio.to_thread(rest, raw)


# ---- Clients that are there no more ----


async def is_killed(server: Serve, figures: Figures, chance: random.Random) -> None:
    """In mid-speech."""
    with speaking_process(server) as process:
        await speaks(process)


async def is_stopped(server: Serve, figures: Figures, chance: random.Random) -> None:
    """SIGSTOP: its kernel is there, and nobody answers a ping or reads. It is dropped, or goes on in time."""
    with speaking_process(server) as process:
        await speaks(process)
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(chance.uniform(0.5, 4 * server.ping_seconds))
        process.send_signal(signal.SIGCONT)


async def stops_reading(server: Serve, figures: Figures, chance: random.Random) -> None:
    """Half-open: a socket that takes nothing more. The server drops it after two ping intervals."""
    began = time.monotonic()
    with await with_slot(server) as raw:
        await asyncio.sleep(3 * server.ping_seconds)
        await asyncio.to_thread(rest, raw)
    figures.measure("stopped_reader_s", time.monotonic() - began)


async def falls_silent(server: Serve, figures: Figures, chance: random.Random) -> None:
    """Half-open: it reads, but says nothing more and answers no ping, like one whose machine is gone."""
    began = time.monotonic()
    with await with_slot(server) as raw:
        raw.sendall(frame(0x81, START))
        await asyncio.to_thread(rest, raw)
    seconds = time.monotonic() - began
    figures.measure("silent_client_s", seconds)


async def with_slot(server: Serve) -> socket.socket:
    """A bare connection that has asked for a lot of speech and takes little; it may have to wait for its slot."""
    client = await slot_of_its_own(server)
    await client.start(SHORT)
    id = client.ready.conversation
    await client.close()
    return await asyncio.to_thread(stopped_reader, server, f"/?conversation={id}")


async def reads_at_half_speed(server: Serve, figures: Figures, chance: random.Random) -> None:
    """Takes half of what is spoken in real time; a pause acts at once all the same."""
    client, began = await take_slot(server, **{**PATIENT, "max_queue": 1}), time.monotonic()
    await client.start(LONG)
    while time.monotonic() < began + 5:
        if isinstance(await client.receive(), Audio):
            await asyncio.sleep(0.16)
    await client.pause()
    await hear(client, Paused)
    await client.hang_up()


async def comes_in_a_crowd(server: Serve, figures: Figures, chance: random.Random) -> None:
    """Twenty clients at once that do not wait: each gets a slot or is told `busy`, at once."""

    async def arrive() -> None:
        began = time.monotonic()
        try:
            await (await connect(server.url, ping_interval=None)).hang_up()
        except CommandError as error:
            if error.code != "busy":
                raise
            figures.measure("refused_ms", (time.monotonic() - began) * 1000)

    await asyncio.gather(*[arrive() for _ in range(20)])


BAD_CLIENTS: Sequence[Callable[[Serve, Figures, random.Random], Awaitable[None]]] = (
    floods_tiny_commands,
    floods_listen_and_goes,
    floods_pings,
    sends_too_much,
    talks_nonsense,
    is_killed,
    is_stopped,
    stops_reading,
    falls_silent,
    reads_at_half_speed,
    comes_in_a_crowd,
)
