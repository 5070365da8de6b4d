"""Damaged input on the port for as long as you like: scripts/fuzz wire --minutes 30; --help has the other options.

A case is what one client sends: HTTP requests, WebSocket frames, commands or messages of other services' formats, right
or damaged (see wire_cases.py). It goes to a real `serve` in a process of its own, over TCP or TLS, many cases at once.
A fault is:

- no answer: every request gets a status line, and every command its event, in time; then the connection ends;
- an answer that is none: a malformed head, frame or event, a status of 500, the code `internal`, a close with 1011;
- a traceback, a line at ERROR or the token in the server's log;
- a server that has ended, keeps descriptors or memory, or no longer serves a real call.

A case follows from the seed and its number alone: --case N runs it again.
"""

import argparse
import asyncio
import contextlib
import json
import math
import re
import socket
import ssl
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

from serving import QUICK, SHORT, Serve, certificate, hear, take_slot
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.protocol import CLIENT
from websockets.protocol import Protocol as Frames
from wire_cases import KINDS, TOKEN, Bytes, Messages, make_case

from dia2stream.client import connect
from dia2stream.errors import Dia2StreamError
from dia2stream.protocol.messages import Done, Error, Started, parse_event

JOBS = 10  # cases at once
SLOTS = 8
# The server's own longest waits are 10 s, for a request's head and for a model that is being loaded.
PATIENCE = 60.0  # seconds for an answer
ENOUGH = 200_000  # bytes of an answer, after which a client hangs up
LOOK_EVERY = 15.0  # seconds between two looks at the server
GROWTH = 40.0  # MB that the server may grow by, once it has served SETTLED cases
SETTLED = 2000
SENTINEL = "the last one"

_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) [^\r\n]*\r\n")
_SECURE = ssl.create_default_context()
_SECURE.check_hostname, _SECURE.verify_mode = False, ssl.CERT_NONE


class Fault(Exception):
    """What was wrong, in one line."""


# ---- One case ----


async def run_case(case: Bytes | Messages, server: "Servers") -> str:
    """What came of a case: "200", "101 1002". Raises Fault."""
    if isinstance(case, Messages):
        return await speak(case, server.plain.url)
    said = await (exchange_in_tls if case.way == "tls" else exchange)(case, server)
    return judge(case, said)


async def exchange(case: Bytes, server: "Servers") -> bytes:
    """What the server says until it closes, or until it has said enough."""
    loop = asyncio.get_running_loop()
    port = (server.plain if case.way == "plain" else server.secure).port
    said = bytearray()
    with socket.socket() as raw:
        raw.setblocking(False)
        await loop.sock_connect(raw, ("127.0.0.1", port))
        answered = asyncio.Event()
        sending = asyncio.create_task(send(raw, case, answered))
        try:
            with contextlib.suppress(ConnectionError):
                while data := await asyncio.wait_for(loop.sock_recv(raw, 1 << 16), PATIENCE):
                    said += data
                    if not answered.is_set() and _STATUS.search(said):
                        answered.set()
                    if len(said) > ENOUGH or (case.ends == "never" and answered.is_set()):
                        break
        except asyncio.TimeoutError:
            raise Fault(f"silence for {PATIENCE:.0f} s after {bytes(said[:200])!r}") from None
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
    return bytes(said)


async def send(raw: socket.socket, case: Bytes, answered: asyncio.Event) -> None:
    """Sends the pieces, each for itself; the server may have closed by then."""
    with contextlib.suppress(OSError):
        for piece in case.pieces:
            await asyncio.get_running_loop().sock_sendall(raw, piece)
            await asyncio.sleep(0.002)
        if case.ends == "answered":
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(answered.wait(), PATIENCE / 2)
        if case.ends != "never":
            raw.shutdown(socket.SHUT_WR)


async def exchange_in_tls(case: Bytes, server: "Servers") -> bytes:
    """The same inside of TLS, up to a status line."""
    said = bytearray()
    reader, writer = await asyncio.open_connection("127.0.0.1", server.secure.port, ssl=_SECURE)
    sending = asyncio.create_task(send_in_tls(writer, case))
    try:
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while not _STATUS.search(said) and (data := await asyncio.wait_for(reader.read(1 << 16), PATIENCE)):
                said += data
    except asyncio.TimeoutError:
        raise Fault(f"silence for {PATIENCE:.0f} s") from None
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        writer.transport.abort()
    return bytes(said)


async def send_in_tls(writer: asyncio.StreamWriter, case: Bytes) -> None:
    with contextlib.suppress(OSError):
        for piece in case.pieces:
            writer.write(piece)
            await writer.drain()


def judge(case: Bytes, said: bytes) -> str:
    """Whether an answer is one: its statuses, and the frames behind a handshake. Raises Fault."""
    sent = b"".join(case.pieces)
    if case.way == "raw" and sent[:1] == b"\x16":
        return "closed"  # it began as TLS does, and was answered by an alert, or not at all
    statuses = [int(status) for status in _STATUS.findall(said)]
    final = [status for status in statuses if status != 100]
    if not final:
        if sent.strip(b"\r\n"):
            raise Fault(f"no answer but {said[:200]!r}")
        return "closed"
    if not said.startswith(b"HTTP/1.1 ") or any(status >= 500 and status not in (501, 503) for status in final):
        raise Fault(f"answered {said[:300]!r}")
    if case.way == "raw" and b"https://" not in said:
        raise Fault(f"plain HTTP on the TLS port is answered {said[:300]!r}")
    if case.answers is not None and len(final) != case.answers and len(said) <= ENOUGH:
        raise Fault(f"{len(final)} answers to {case.answers} requests: {final}")
    if final[-1] == 101:
        return f"101 {judge_frames(said.rpartition(b'HTTP/1.1 101 ')[2].partition(bytes([13, 10, 13, 10]))[2])}"
    return str(final[-1])


def judge_frames(data: bytes) -> str:
    """The close code, or "ended". Raises Fault for frames and events that are none."""
    frames = Frames(CLIENT, max_size=None)
    frames.receive_data(data)
    for frame in frames.events_received():
        if isinstance(frame, Frame) and frame.opcode is Opcode.TEXT:
            judge_text(bytes(frame.data))
    if frames.parser_exc is not None:
        raise Fault(f"malformed frames: {frames.parser_exc}")
    if frames.close_rcvd is None:
        return "ended"
    if frames.close_rcvd.code in (1006, 1011):
        raise Fault(f"closed with {frames.close_rcvd}")
    return str(frames.close_rcvd.code)


def judge_text(data: bytes) -> None:
    """Raises Fault for a text message that is no JSON, or says that the server failed."""
    try:
        json.loads(data)
    except ValueError:
        raise Fault(f"a message that is no JSON: {data[:200]!r}") from None
    if b'"internal"' in data or b"the server failed" in data:
        raise Fault(f"told {data[:300]!r}")


async def speak(case: Messages, url: str) -> str:
    """Sends messages, and reads until the command behind them is answered. Raises Fault."""
    codes: Counter[str] = Counter()
    try:
        async with open_websocket(f"{url}/?token={TOKEN}&wait=50", compression=None, open_timeout=PATIENCE) as peer:
            sending = asyncio.create_task(send_all(peer, case.messages))
            try:
                while True:
                    message = await asyncio.wait_for(peer.recv(), PATIENCE)
                    if isinstance(message, bytes):
                        continue
                    judge_text(message.encode())
                    event = parse_event(message)
                    codes[event.code if isinstance(event, Error) else type(event).__name__] += 1
                    if isinstance(event, Started) and event.id == SENTINEL:
                        break
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
    except asyncio.TimeoutError:
        raise Fault(f"silence for {PATIENCE:.0f} s after {dict(codes)}") from None
    except InvalidStatus as refused:
        if refused.response.status_code == 503:
            return "busy"
        raise Fault(f"refused with {refused.response.status_code}") from None
    except ConnectionClosed as closed:
        raise Fault(f"closed with {closed.rcvd} after {dict(codes)}") from None
    if missing := Counter(case.refused) - codes:
        raise Fault(f"{dict(missing)} of the refusals did not come, only {dict(codes)}")
    return "every message answered"


async def send_all(peer: Any, messages: tuple[str | bytes, ...]) -> None:
    for message in messages:
        await peer.send(message)
    await peer.send(json.dumps({"cmd": "start", "text": "", "id": SENTINEL}))


# ---- The servers ----


class Servers:
    """Two of `serve`, without and with TLS, each looked at every now and then."""

    def __init__(self, folder: Path) -> None:
        flags = {"token": TOKEN, "slots": SLOTS, "queue_seconds": 60, "log_level": "debug"}
        self.plain = Serve(before=QUICK, **flags)
        try:
            self.secure = Serve(wait=False, **flags, **certificate(folder))
            self.secure.logged(" ready ")
        except BaseException:
            self.plain.end()
            raise
        self.memory: list[float] = []  # MB, at each look at the first server

    def close(self) -> None:
        self.plain.end()
        self.secure.end()

    async def look(self) -> list[str]:
        """What is wrong with them. Nobody else may be using them."""
        found = []
        for name, server in (("serve", self.plain), ("serve with TLS", self.secure)):
            if server.process.poll() is not None:
                found.append(f"{name} ended with {server.process.returncode}")
            found += [f"{name} logged: {line.strip()[:3000]}" for line in server.faults]
            found += [f"{name} logged the token: {line.strip()[:300]}" for line in server.log if TOKEN in line]
            server.log.clear()
        if not found:
            await self._call(found)
            self.memory.append(self.plain.resident)
        return found

    async def _call(self, found: list[str]) -> None:
        """A real call, and whether the connections of before are gone."""
        try:
            client = await asyncio.wait_for(take_slot(self.plain, token=TOKEN), PATIENCE)
            await client.start(SHORT, seed=1)
            heard = await asyncio.wait_for(hear(client, Done), PATIENCE)
            if not any(isinstance(item, Done) for item in heard):
                found.append("a real call heard no end")
            await client.hang_up()
            async with connect(f"wss://127.0.0.1:{self.secure.port}", token=TOKEN, ssl=_SECURE):
                pass
        except (Dia2StreamError, OSError, asyncio.TimeoutError, AssertionError) as error:
            found.append(f"a real call failed: {type(error).__name__}: {error}")
        deadline = time.monotonic() + PATIENCE
        while self.plain.open_files > 60:  # a few dozens belong to torch and to the event loop
            if time.monotonic() > deadline:
                found.append(f"{self.plain.open_files} descriptors stay open")
                break
            await asyncio.sleep(0.2)


# ---- All of them ----


class Run:
    """Runs case after case, JOBS at once, and counts what came of them."""

    def __init__(
        self, servers: Servers, seed: int, first: int, only: str | None, on_fault: Callable[[str], None]
    ) -> None:
        self.servers, self.seed, self.only, self.on_fault = servers, seed, only, on_fault
        self.outcomes: Counter[str] = Counter()
        self.faults: list[dict[str, Any]] = []
        self.cases, self.first = 0, first
        self.slowest = 0.0  # seconds of the case that took longest

    async def run(self, seconds: float, cases: float) -> None:
        """Until the time is up, or so many cases have been run."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.cases < cases:
            first, look_at = self.first + self.cases, min(until, time.monotonic() + LOOK_EVERY)
            await asyncio.gather(*(self._work(look_at, cases) for _ in range(JOBS)))
            for found in await self.servers.look():
                self._fault(f"cases {first} to {self.first + self.cases - 1}: {found}")
            if any(server.process.poll() is not None for server in (self.servers.plain, self.servers.secure)):
                return

    async def _work(self, until: float, cases: float) -> None:
        while time.monotonic() < until and self.cases < cases:
            number = self.first + self.cases
            self.cases += 1
            kind, case = make_case(self.seed, number, self.only)
            began = time.monotonic()
            try:
                self.outcomes[f"{kind}: {await run_case(case, self.servers)}"] += 1
            except Fault as fault:
                self._fault(f"case {number}, {kind}: {fault}")
            except Exception as error:
                self._fault(f"case {number}, {kind}: {type(error).__name__}: {error}")
            self.slowest = max(self.slowest, time.monotonic() - began)

    def _fault(self, what: str) -> None:
        self.outcomes["FAULT"] += 1
        if len(self.faults) < 1000:
            self.faults.append({"fault": what})
        self.on_fault(what)

    @property
    def grown(self) -> float:
        """MB that the server has grown by since it had served SETTLED cases, or half of those of a short run."""
        settled = self.servers.memory[self._settled :]
        return max(0.0, settled[-1] - settled[0]) if settled else 0.0

    @property
    def _settled(self) -> int:
        looks = len(self.servers.memory)
        return min(looks // 2, math.ceil(looks * SETTLED / max(1, self.cases)))


async def fuzz(options: argparse.Namespace) -> Run:
    """Starts the servers, runs the cases, and stops the servers."""
    with tempfile.TemporaryDirectory() as folder:
        servers = Servers(Path(folder))
        try:
            run = Run(
                servers, options.seed, options.first, options.only, lambda what: print(f"FAULT: {what}", flush=True)
            )
            if options.case is not None:
                await show(options, servers)
            else:
                await run.run(math.inf if options.cases else options.minutes * 60, options.cases or math.inf)
            return run
        finally:
            servers.close()


async def show(options: argparse.Namespace, servers: Servers) -> None:
    """One case alone, with what is sent."""
    kind, case = make_case(options.seed, options.case, options.only)
    print(kind, repr(case)[:5000])
    work: Awaitable[str] = run_case(case, servers)
    print(await work)
    print(*await servers.look(), sep="\n")


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/fuzz wire", description=__doc__.split("\n\n")[1])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--cases", type=int, help="stop after so many cases")
    parser.add_argument("--first", type=int, default=0, help="the number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=list(KINDS))
    parser.add_argument("--case", type=int, help="run this one alone, and show what is sent")
    parser.add_argument("--json", type=Path, help="write what was found to this file")
    options = parser.parse_args()
    began = time.monotonic()
    run = asyncio.run(fuzz(options))
    for outcome, count in sorted(run.outcomes.items()):
        print(f"{count:8}  {outcome}")
    found = len(run.faults)
    print(
        f"{run.cases} cases of seed {options.seed} in {time.monotonic() - began:.0f} s, {found} faults, "
        f"the slowest took {run.slowest:.1f} s, memory grew by {run.grown:.0f} MB"
    )
    if options.json:
        told = {"cases": run.cases, "outcomes": run.outcomes, "grown": run.grown, "faults": run.faults}
        options.json.write_text(json.dumps({**told, "memory": run.servers.memory, "slowest": run.slowest}, indent=1))
    return int(bool(found) or run.grown > GROWTH)


if __name__ == "__main__":
    sys.exit(main())
