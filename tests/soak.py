"""A long run of `serve` under a scripted caller and bad clients; see scripts/soak. Stops at the first thing wrong.

The caller starts, injects, interrupts, drops its socket and comes back, at random, and holds the server to this:

- ready first; a word's start is the audio clock when it arrives; done's clock is the sum of the samples;
- what was asked for and not interrupted is said, word for word;
- at an interruption, what was said and what was not are together what was asked for in this turn;
- nothing is heard between `paused` and what ends the pause.
"""

import argparse
import asyncio
import contextlib
import json
import random
import signal
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from serving import LONG, QUICK, SHORT, Serve, hear, killed, take_slot
from websockets.exceptions import ConnectionClosed

from dia2stream.client import Client, connect
from dia2stream.errors import CommandError, Disconnected
from dia2stream.protocol.audio_message import Audio
from dia2stream.protocol.messages import Done, Error, Event, Paused, ResetDone, Started, WordEvent

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


@dataclass
class Figures:
    """What is measured."""

    calls: int = 0
    utterances: int = 0
    words: int = 0
    interruptions: int = 0
    drops: int = 0
    pause_ms: list[float] = field(default_factory=list)  # from sending pause to its answer, after which is silence
    first_audio_ms: list[float] = field(default_factory=list)
    memory: list[tuple[float, float, int]] = field(default_factory=list)  # seconds, MB, open files


class Caller:
    """One call after the other. Every item that comes is checked."""

    def __init__(self, server: Serve, figures: Figures, chance: random.Random) -> None:
        self.server, self.figures, self.chance = server, figures, chance
        self.client: Client
        self.paused = False
        self.clock: float = 0.0
        self.asked: list[str] = []  # words of this turn that were not interrupted
        self.said: list[str] = []
        self.waiting: set[int] = set()  # utterances that are not done, as the server numbers them
        self.number = 0
        self.told: set[tuple[str, int]] = set()
        self.sent_at = 0.0

    async def call(self) -> None:
        """One conversation of a few random acts."""
        self.client = await take_slot(self.server)
        try:
            await self._ask(first=True)
            for _ in range(self.chance.randint(2, 6)):
                await self.chance.choice([self._add, self._interrupt, self._drop, self._listen, self._hold])()
            await self._finish()
            await self.client.reset()
            await self._until(ResetDone)
        finally:
            await self.client.close()
        self.figures.calls += 1

    async def _ask(self, first: bool = False) -> None:
        words = [self.chance.choice(WORDS) for _ in range(self.chance.randint(2, 12))]
        text = f"[S{self.chance.randint(1, 2)}] {' '.join(words)}."
        self.asked += [*words[:-1], f"{words[-1]}."]
        self.number += 1
        self.waiting.add(self.number)
        self.figures.utterances += 1
        if first:
            await self.client.start(text)
            await self._until(Started)
        else:
            await self.client.inject(text)

    async def _add(self) -> None:
        await self._listen()
        await self._ask()

    async def _listen(self) -> None:
        """For a while; or until everything was said."""
        until = self.clock + self.chance.uniform(0, 2500)
        while self.waiting and self.clock < until:
            self._check(await self._next())

    async def _finish(self) -> None:
        while self.waiting:
            self._check(await self._next())
        assert self.said == self.asked, f"asked {self.asked}, said {self.said}"
        self.figures.words += len(self.said)
        self.asked, self.said = [], []

    async def _pause(self, played: float | None) -> Paused:
        began = time.monotonic()
        await self.client.pause(played)
        paused = await self._until(Paused)
        self.figures.pause_ms.append((time.monotonic() - began) * 1000)
        self.paused = True
        return paused

    async def _hold(self) -> None:
        """Pause, and go on as if nothing had been."""
        await self._listen()
        await self._pause(None)
        await asyncio.sleep(self.chance.uniform(0, 0.2))
        await self.client.resume()
        self.paused = False

    async def _interrupt(self) -> None:
        """Pause at what was heard, and say something else."""
        await self._listen()
        await self._rewind(max(0.0, self.clock - self.chance.uniform(0, 2500)))

    async def _rewind(self, played: float) -> None:
        paused = await self._pause(played)
        self._check_report(paused)
        self.paused, self.waiting, self.asked, self.said = False, set(), [], []
        await self._ask()
        self.figures.interruptions += 1

    def _check_report(self, paused: Paused) -> None:
        """Spoken and pending end with what was asked for and not interrupted; a turn may have begun before that."""
        turn = [*paused.spoken.split(), *paused.pending.split()]
        asked = self.asked[-len(turn) :] if turn else []
        assert turn[-len(asked) :] == asked if asked else True, f"asked {self.asked}, reported {paused}"

    async def _drop(self) -> None:
        """The socket breaks; the client comes back and goes on, or says something else."""
        await self._listen()
        had = self.client.received_ms
        self.client.socket.transport.abort()
        await asyncio.sleep(self.chance.choice([0, 0.01, 0.3]))
        id = self.client.ready.conversation
        self.client = await take_slot(self.server, conversation=id, received_ms=had)
        assert self.client.ready.conversation == id
        self.figures.drops += 1
        await self._until(Paused)
        if self.chance.random() < 0.3:
            await self._rewind(max(0.0, self.clock - 500))
        else:
            await self.client.resume()

    async def _until(self, kind: type[Event]) -> Any:
        while True:
            item = await self._next()
            if isinstance(item, kind):
                return item
            self._check(item)

    async def _next(self) -> Any:
        return await asyncio.wait_for(self.client.receive(), 30)

    def _check(self, item: Any) -> None:
        assert not isinstance(item, Error), item
        if isinstance(item, Audio):
            assert not self.paused, "audio in a pause"
            self.clock += 80
        elif isinstance(item, WordEvent):
            if (item.id, item.start_ms) in self.told:  # again, after a drop
                return
            self.told.add((item.id, item.start_ms))
            assert abs(item.start_ms - self.clock) < 1, f"{item} at {self.clock}"
            self.said.append(item.word)
        elif isinstance(item, Done):
            if ("done", int(item.id)) in self.told:
                return
            self.told.add(("done", int(item.id)))
            # Of an utterance that was sent to its end it may come after the interruption.
            self.waiting.discard(int(item.id))


async def calls(server: Serve, figures: Figures, minutes: float, seed: int) -> None:
    """The scripted caller, and every few seconds a second client that is refused."""
    caller, began, looked = Caller(server, figures, random.Random(seed)), time.monotonic(), 0.0
    while time.monotonic() < began + minutes * 60:
        caller.__init__(server, figures, caller.chance)  # type: ignore[misc]
        await caller.call()
        if time.monotonic() > looked + 5:
            looked = time.monotonic()
            figures.memory.append((looked - began, server.resident, server.open_files))


KILLED = """
import socket, sys
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
s.sendall(b"GET / HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n"
          b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\\r\\nSec-WebSocket-Version: 13\\r\\n\\r\\n")
text = b'{"cmd": "start", "text": "' + sys.argv[2].encode() + b'"}'
s.sendall(b"\\x81\\xfe" + len(text).to_bytes(2, "big") + bytes(4) + text)
heard = 0
while True:
    heard += len(s.recv(65536))
    if heard > 20000:
        print("speaking", flush=True)
"""


async def kills(server: Serve, count: int) -> list[float]:
    """Kills a client in mid-speech, again and again. Milliseconds from then until the next one is heard."""
    until_free = []
    for _ in range(count):
        command = [sys.executable, "-S", "-c", KILLED, str(server.port), LONG]
        with killed(subprocess.Popen(command, stdout=subprocess.PIPE, text=True)) as process:
            assert process.stdout is not None
            assert await asyncio.to_thread(process.stdout.readline) == "speaking\n"
            process.send_signal(signal.SIGKILL)
            process.wait()
            began = time.monotonic()
            client = await take_slot(server, seconds=2)
            until_free.append((time.monotonic() - began) * 1000)
            await client.close()
    return until_free


async def pings(server: Serve, count: int) -> dict[str, float]:
    """A client that speaks, and sends that many pings meanwhile."""
    memory, began = server.resident, time.monotonic()
    async with await take_slot(server) as client:
        await client.start(LONG)
        await hear(client, Audio)

        async def flood() -> None:
            for _ in range(count // 1000):
                client.socket.transport.write(b"\x89\x80\0\0\0\0" * 1000)
                await (await client.socket.ping())  # who reads no answers is dropped: see connection.MAX_UNREAD

        flooding, gap, last = asyncio.create_task(flood()), 0.0, time.monotonic()
        while not flooding.done():
            item = await client.receive()
            if isinstance(item, Audio):
                gap, last = max(gap, time.monotonic() - last), time.monotonic()
            elif isinstance(item, Done):
                await client.start(LONG)
        taken = time.monotonic() - began
        await client.reset()
        await hear(client, ResetDone)
    return {"pings": count, "seconds": taken, "largest_gap_ms": gap * 1000, "memory_mb": server.resident - memory}


async def crowd(server: Serve) -> dict[str, float]:
    """Twenty clients at once; the one that gets the slot speaks."""

    async def arrive() -> tuple[Client | None, float]:
        began = time.monotonic()
        try:
            return await connect(server.url), time.monotonic() - began
        except CommandError:
            return None, time.monotonic() - began

    came = await asyncio.gather(*[arrive() for _ in range(20)])
    [(client, _)] = [(client, at) for client, at in came if client is not None]
    await client.start(LONG)
    await hear(client, Audio)
    late = [await arrive() for _ in range(50)]
    await client.reset()
    await hear(client, ResetDone)
    await client.close()
    alone = [at * 1000 for _, at in late]
    return {
        "all_at_once_slowest_ms": max(at for _, at in came) * 1000,
        "refused_while_speaking_median_ms": statistics.median(alone),
        "refused_while_speaking_slowest_ms": max(alone),
    }


async def never_reads(server: Serve) -> dict[str, float]:
    """A client that asks for a lot, and takes nothing."""
    memory, made, began = server.resident, server.metric("dia2stream_frames_total"), time.monotonic()
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect(("127.0.0.1", server.port))
        raw.sendall(
            b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        text = json.dumps({"cmd": "start", "text": LONG * 10}).encode()
        raw.sendall(b"\x81\xfe" + len(text).to_bytes(2, "big") + bytes(4) + text)
        client = await take_slot(server, seconds=60)
        seconds = time.monotonic() - began
        frames = server.metric("dia2stream_frames_total") - made
        await client.close()
    return {"seconds_until_free": seconds, "frames_made": frames, "memory_mb": server.resident - memory}


async def half_speed(server: Serve, seconds: float) -> dict[str, float]:
    """A client that takes half of what is spoken in real time."""
    memory, made, began = server.resident, server.metric("dia2stream_frames_total"), time.monotonic()
    async with await take_slot(server, max_queue=1) as client:
        await client.start(LONG * 3)
        while time.monotonic() < began + seconds:
            if isinstance(await client.receive(), Audio):
                await asyncio.sleep(0.16)
        ahead = server.metric("dia2stream_frames_total") - made - client.received_ms / 80
        asked = time.monotonic()
        await client.pause()
        await hear(client, Paused)
        answer = time.monotonic() - asked
        await client.reset()
        await hear(client, ResetDone)
    return {"frames_ahead": ahead, "pause_answered_s": answer, "memory_mb": server.resident - memory}


async def too_big(server: Serve) -> dict[str, float]:
    """Ten megabytes in one message."""
    memory = server.resident
    client = await take_slot(server)
    began = time.monotonic()
    with contextlib.suppress(ConnectionClosed):
        await client.socket.send("x" * 10_000_000)
    with contextlib.suppress(Disconnected):
        await hear(client, Done)
    assert client.socket.close_code == 1009
    return {"seconds": time.monotonic() - began, "memory_mb": server.resident - memory}


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def drift(memory: list[tuple[float, float, int]]) -> dict[str, float]:
    """The first fifth is warming up; from there to the end, in MB and files an hour by least squares."""
    steady = memory[len(memory) // 5 :]
    if len(steady) < 3:
        return {}
    hours = [seconds / 3600 for seconds, _, _ in steady]
    slope = statistics.linear_regression
    return {
        "mb_first": steady[0][1],
        "mb_last": steady[-1][1],
        "mb_an_hour": slope(hours, [mb for _, mb, _ in steady]).slope,
        "files_first": steady[0][2],
        "files_last": steady[-1][2],
    }


class Report(dict[str, dict[str, Any]]):
    """Figures by part, printed as they come: what stops a run half-way does not take them along."""

    def __setitem__(self, part: str, values: dict[str, Any]) -> None:
        super().__setitem__(part, values)
        print(f"{part}:")
        for name, value in values.items():
            print(f"  {name:34} {value:10.1f}" if isinstance(value, float) else f"  {name:34} {value:10}", flush=True)


async def run(options: argparse.Namespace) -> Report:
    figures, report = Figures(), Report()
    with Serve(before=QUICK, ping_seconds=5, linger=30) as server:
        await calls(server, figures, options.minutes, options.seed)
        frames = server.metric("dia2stream_frame_seconds_count")
        frame_ms = 1000 * server.metric("dia2stream_frame_seconds_sum") / frames
        p99 = percentile(figures.pause_ms, 0.99)
        report["calls"] = {
            "minutes": options.minutes,
            **{name: getattr(figures, name) for name in ("calls", "utterances", "words", "interruptions", "drops")},
            "frame_ms": frame_ms,
            "pauses": len(figures.pause_ms),
            "pause_to_silence_p50_ms": percentile(figures.pause_ms, 0.5),
            "pause_to_silence_p99_ms": p99,
            "pause_to_silence_p99_frames": p99 / frame_ms,
            "real_time_factor": server.metric("dia2stream_real_time_factor"),
            **drift(figures.memory),
        }
        memory = server.resident
        until_free = await kills(server, options.kills)
        report["kills"] = {
            "killed": options.kills,
            "slot_free_median_ms": percentile(until_free, 0.5),
            "slot_free_slowest_ms": max(until_free, default=0),
            "memory_mb": server.resident - memory,
        }
        report["crowd"] = await crowd(server)
        report["pings"] = await pings(server, options.pings)
        report["ten_megabytes"] = await too_big(server)
        report["half_speed"] = await half_speed(server, 10)
        report["never_reads"] = await never_reads(server)
        async with await take_slot(server) as client:  # and it still speaks
            await client.start(SHORT)
            await hear(client)
        report["end"] = {"open_files": server.open_files, "memory_mb": server.resident, "exit_code": server.stop()}
        faults = [line for line in server.log if "Traceback" in line or " ERROR " in line]
        assert not faults, faults
    if options.plot:
        plot(figures.memory, options.plot)
    return report


def plot(memory: list[tuple[float, float, int]], file: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4))
    axes = figure.subplots()
    axes.plot([s / 60 for s, _, _ in memory], [mb for _, mb, _ in memory], label="memory, MB")
    axes.plot([s / 60 for s, _, _ in memory], [files for _, _, files in memory], label="open files")
    axes.set_xlabel("minutes")
    axes.set_ylim(0)
    axes.legend()
    figure.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30, help="of calls")
    parser.add_argument("--kills", type=int, default=100, help="clients killed in mid-speech")
    parser.add_argument("--pings", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0, help="of what the caller does")
    parser.add_argument("--json", help="write the figures here too")
    parser.add_argument("--plot", help="draw memory and open files over the time of the calls, a PNG")
    options = parser.parse_args()
    report = asyncio.run(run(options))
    line = json.dumps(report)
    print(line)
    if options.json:
        Path(options.json).write_text(line + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
