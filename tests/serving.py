"""`dia2stream serve` in a process of its own, and ways to look at it from outside."""

import asyncio
import contextlib
import functools
import json
import os
import random
import re
import select
import signal
import socket
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from email.message import Message
from pathlib import Path
from types import TracebackType
from typing import Any

from piping import PATIENCE, begin

from dia2stream.client import Client, connect
from dia2stream.protocol.audio_message import Audio
from dia2stream.protocol.messages import Done, Event

SHORT = "[S1] One two three four."
LONG = "[S1] " + "One two three four five six seven eight nine ten. " * 20


# A server whose model never is there, however quickly it loads.
NEVER_LOADED = """
import threading
from dia2stream.server.server import Server
load = Server._load_engine
Server._load_engine = lambda self: (load(self), threading.Event().wait())
"""


# A server whose slots are soon free for the next test: nobody has 10 s to come back to a conversation.
QUICK = """
from dia2stream.server import slots
slots.RETURN_SECONDS = 0.2
"""


# A server whose listeners play four times as fast as life: for tests that must not run ahead of a listener.
HASTY = """
from dia2stream.conversation import pace
class Hasty(pace.Pace):
    def dry_at(self, made_ms):
        at = super().dry_at(made_ms)
        return None if at is None else at / 4
    def played_ms(self, sent_ms, now):
        return super().played_ms(sent_ms, 4 * now)
    def lead_ms(self, sent_ms, now):
        return super().lead_ms(sent_ms, 4 * now)
    def wait(self, sent_ms, now):
        return super().wait(sent_ms, now) / 4
pace.Pace = Hasty
"""


# What befalls the engine once the file is there; in the server's process.
DIES = """
from pathlib import Path
from dia2stream.engine.scheduler import Scheduler
class Fatal(BaseException): pass
decide = Scheduler.decide
def dies(self, now):
    if Path({flag!r}).exists():
        raise Fatal("out of luck")
    return decide(self, now)
Scheduler.decide = dies
"""
HANGS = """
import time
from pathlib import Path
from dia2stream.engine.batch import Batch
from dia2stream.server import watch
watch.STUCK_SECONDS, watch.LOST_SECONDS = {stuck}, {lost}
step = Batch.step
def hangs(self, *arguments, **options):
    while Path({flag!r}).exists():
        time.sleep(0.1)
    return step(self, *arguments, **options)
Batch.step = hangs
"""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Serve:
    """A running server. Keyword arguments are its flags: max_lead_ms=100 is --max-lead-ms 100.

    before: Python to run in the process first. extra: flags that take no value.
    """

    def __init__(
        self,
        *,
        wait: bool = True,
        before: str = "",
        environment: dict[str, str] | None = None,
        extra: Sequence[str] = (),
        **flags: object,
    ) -> None:
        flags = {"host": "127.0.0.1", "port": 0, "model": "random:tiny", "device": "cpu", **flags}
        arguments = [part for name, value in flags.items() for part in (f"--{name.replace('_', '-')}", str(value))]
        self.ping_seconds = float(str(flags.get("ping_seconds", 15)))
        self._key = {"Authorization": f"Bearer {flags['token']}"} if "token" in flags else {}
        clean = {name: value for name, value in os.environ.items() if not name.startswith("DIA2STREAM_")}
        env = {**clean, "OMP_NUM_THREADS": "1", **(environment or {})}
        pipes: dict[str, Any] = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = begin("serve", *arguments, *extra, before=before, env=env, **pipes)
        self.log: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.port = int(self.logged(r"listening.*port\D+(\d+)")[1])
            if wait:
                self.until(lambda: self.get("/readyz")[0] == 200)
        except BaseException:
            self.end()  # nobody else will
            print("".join(self.log[-30:]))
            raise

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def logged(self, pattern: str, seconds: float = PATIENCE) -> re.Match[str]:
        """The first line of the log that matches, when it is there."""
        found: list[re.Match[str]] = []

        def look() -> bool:
            found[:] = filter(None, (re.search(pattern, line) for line in self.log))
            return bool(found)

        self.until(look, seconds)
        return found[0]

    def until(self, condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "".join(self.log[-30:])
            assert self.process.poll() is None or not self._reader.is_alive(), "".join(self.log[-30:])
            time.sleep(0.02)

    def get(self, path: str, method: str = "GET", **headers: str) -> tuple[int, str, Message]:
        """Status, body and headers of an HTTP request."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return answer.status, answer.read().decode(), answer.headers
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read().decode(), refused.headers

    def metric(self, name: str) -> float:
        """One figure of /metrics, with its labels as Prometheus writes them."""
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.get("/metrics", **self._key)[1], re.MULTILINE)
        return float(found[1]) if found else 0.0

    @property
    def faults(self) -> list[str]:
        """Lines of the log that should not be there: tracebacks, and whatever is told at `error`."""
        return [line for line in self.log if "Traceback" in line or " ERROR " in line or '"level": "error"' in line]

    @property
    def resident(self) -> float:
        """Memory of the process, in MB."""
        with open(f"/proc/{self.process.pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20

    @property
    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def stop(self, seconds: float = PATIENCE) -> int:
        """SIGTERM. Returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(seconds)
        self._reader.join(5)
        return code

    def __enter__(self) -> "Serve":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()

    def end(self) -> None:
        """Kills it, if it still is there."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(5)
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


def free_ports(count: int) -> list[int]:
    """Ports that follow each other, that nobody has now, and that no outgoing connection is given."""
    while True:
        ports = list(range(first := random.randrange(15_000, 32_000), first + count))
        with contextlib.suppress(OSError), contextlib.ExitStack() as probes:
            for port in ports:
                probes.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return ports


def certificate(folder: Path) -> dict[str, Path]:
    """A certificate of our own, as the flags of a server; needs openssl."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    subprocess.run([*make.split(), "-keyout", key, "-out", cert], check=True, capture_output=True)
    return {"tls_cert": cert, "tls_key": key}


def tls_ends(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's TLS with such a certificate, and that of a client who trusts it; needs openssl."""
    made = certificate(folder)
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(made["tls_cert"], made["tls_key"])
    theirs = ssl.create_default_context(cafile=str(made["tls_cert"]))
    theirs.check_hostname = False
    return ours, theirs


def on_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Runs an async test, for as long as a test may wait."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **kwargs), PATIENCE))

    return run


async def hear(client: Client, until: type[Event] | Callable[[Any], bool] = Done) -> list[Any]:
    """What comes, up to the first item of that type, or for which the function is true."""
    items = []
    ends = until if not isinstance(until, type) else lambda item: isinstance(item, until)
    async for item in client:
        items.append(item)
        if ends(item):
            return items
    raise AssertionError(f"closed before the end: {items[-3:]}")


def sound(items: list[Any]) -> bytes:
    """The audio in them."""
    return b"".join(item.data for item in items if isinstance(item, Audio))


def events(items: list[Any]) -> list[Any]:
    """The events in them."""
    return [item for item in items if not isinstance(item, Audio)]


async def take_slot(server: Serve, seconds: float = PATIENCE / 2, **options: Any) -> Client:
    """A client, as soon as there is a slot."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return await connect(server.url, **options)
        except Exception:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.05)


@contextmanager
def killed(process: subprocess.Popen[Any]) -> Iterator[subprocess.Popen[Any]]:
    """A process that is gone afterwards."""
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def stopped_reader(server: Serve, path: str = "/") -> socket.socket:
    """A connection that has asked for speech and from then on takes nothing."""
    raw = socket.socket()
    raw.settimeout(PATIENCE)
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.connect(("127.0.0.1", server.port))
    raw.sendall(HANDSHAKE.replace(b"GET /", f"GET {path}".encode()))
    assert b"101" in raw.recv(200)
    raw.sendall(frame(0x81, json.dumps({"cmd": "start", "text": LONG * 5}).encode()))
    return raw


def frame(first: int, payload: bytes) -> bytes:
    """A masked WebSocket frame."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else bytes([0x80 | 126]) + size.to_bytes(2, "big")
    return bytes([first]) + length + b"\0\0\0\0" + payload


def pour(raw: socket.socket, piece: bytes, seconds: float) -> int:
    """Sends the same over and over, as fast as it is taken, and reads whatever comes. Returns how many went out."""
    raw.setblocking(False)
    many, sent, until = piece * max(1, 100_000 // len(piece)), 0, time.monotonic() + seconds
    while time.monotonic() < until:
        readable, writable, _ = select.select([raw], [raw], [], 0.05)
        if writable:
            sent += raw.send(many[sent % len(piece) :])
        if readable:
            raw.recv(1 << 20)
    return sent // len(piece)


def longest_silence(raw: socket.socket, piece: bytes, times: int, mark: bytes) -> float:
    """Sends the same so often, each time in a packet of its own, and reads as many answers, known by a mark in each.

    Returns for how many seconds nothing came at most.
    """
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sender = threading.Thread(target=lambda: [raw.sendall(piece) for _ in range(times)], daemon=True)
    sender.start()
    longest, last, answers, rest = 0.0, time.monotonic(), 0, b""
    while answers < times:
        came = raw.recv(1 << 16)
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
        assert came, f"closed after {answers} answers"
        answers += (rest + came).count(mark)
        rest = (rest + came)[1 - len(mark) :]
    sender.join()
    return longest


def dialled(server: Serve) -> socket.socket:
    """A bare connection."""
    return socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)


def rest(raw: socket.socket) -> bytes:
    """What comes until the server hangs up."""
    said = b""
    with contextlib.suppress(ConnectionError):
        while piece := raw.recv(1 << 16):
            said += piece
    return said
