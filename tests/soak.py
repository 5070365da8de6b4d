"""A long run of `serve` under many scripted callers and bad clients at once; scripts/soak runs it.

In every slot somebody acts, one act after the other, at random: a call, a call of which every byte is known, or a bad
client. Now and then the whole server is stopped (SIGSTOP) for a while. In the end each kind of bad client comes alone,
and servers whose engine dies or hangs are watched. Everything that is wrong is told at once and counted; the run fails
if anything was, if memory or open files grew, or if the log has a traceback.

    soak.py --minutes 60 --calls 16 --slots 16
    soak.py --minutes 60 --calls 64 --slots 64 --model random:2b --device cuda
"""

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

os.environ.setdefault("TEST_PATIENCE", "3")  # a server that is stopped for half a minute, and a large model's loading

from piping import PATIENCE
from serving import DIES, HANGS, LONG, QUICK, SHORT, Serve, hear, take_slot
from soak_calls import PATIENT, Caller, Figures, KnownCall
from soak_clients import BAD_CLIENTS

from dia2stream.errors import Dia2StreamError, Disconnected
from dia2stream.protocol.audio_message import Audio
from dia2stream.protocol.messages import Error

MOST_FAULTS = 30  # the run ends: more of them say nothing new
LOOK_SECONDS = 5.0
# Growth from the second fifth of the run to the last that is no leak: the larger of these.
GROWTH_MB, GROWTH_SHARE, GROWTH_FILES = 40, 0.08, 10
# What may go wrong with a call without being a fault of this program.
WRONG = (AssertionError, Dia2StreamError, OSError, EOFError, asyncio.TimeoutError)


class Report(dict[str, dict[str, Any]]):
    """Figures by part, printed as they come: what stops a run half-way does not take them along."""

    def __setitem__(self, part: str, values: dict[str, Any]) -> None:
        super().__setitem__(part, values)
        print(f"{part}:")
        for name, value in values.items():
            print(
                f"  {name:34} {value:12.1f}" if isinstance(value, float) else f"  {name:34} {value!s:>12}", flush=True
            )


# ---- Calls ----


class Run:
    """Callers, bad clients and stops on one server, for a time."""

    def __init__(self, server: Serve, figures: Figures, options: argparse.Namespace) -> None:
        self.server, self.figures, self.options = server, figures, options
        self.known = KnownCall(server, figures, same(options))
        self.looks: list[tuple[float, float, int, float]] = []  # seconds, MB, open files, MB on the GPU
        self._began = self._until = time.monotonic()

    async def run(self) -> None:
        """The whole time. What is wrong is in the figures."""
        await self.known.learn()
        self._began = time.monotonic()
        self._until = self._began + 60 * self.options.minutes
        beside = [asyncio.create_task(self._look()), asyncio.create_task(self._stop_server())]
        await asyncio.gather(*[self._act(number) for number in range(self.options.calls)])
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)

    @property
    def _goes_on(self) -> bool:
        return time.monotonic() < self._until and len(self.figures.faults) < MOST_FAULTS

    async def _act(self, number: int) -> None:
        chance = random.Random(self.options.seed * 1000 + number)
        caller = Caller(self.server, self.figures, chance)
        while self._goes_on:
            name, act = self._choose(caller, chance)
            try:
                await act
                self.figures.count(f"ran {name}")
            except WRONG as error:
                self.figures.fault(f"{name} after {time.monotonic() - self._began:.0f} s", error)

    def _choose(self, caller: Caller, chance: random.Random) -> tuple[str, Awaitable[None]]:
        dice = chance.random()
        if dice < self.options.bad:
            client = chance.choice(BAD_CLIENTS)
            return client.__name__, client(self.server, self.figures, chance)
        if dice < self.options.bad + 0.2:
            return "known call", self.known.call(chance)
        return "call", caller.call()

    async def _look(self) -> None:
        on_gpu = self.options.device != "cpu"
        while True:
            gpu = await asyncio.to_thread(self.server.metric, "dia2stream_gpu_memory_bytes") if on_gpu else 0.0
            seconds = time.monotonic() - self._began
            self.looks.append((seconds, self.server.resident, self.server.open_files, gpu / 2**20))
            await asyncio.sleep(LOOK_SECONDS)

    async def _stop_server(self) -> None:
        """Suspends the server as a machine that is migrated: for seconds, and once for longer than its patience."""
        chance, long = random.Random(self.options.seed), self.options.minutes >= 10
        while True:
            await asyncio.sleep(self.options.stop_every)
            if not self._goes_on:
                return
            is_long = long and time.monotonic() - self._began > 30 * self.options.minutes
            long = long and not is_long
            self.server.process.send_signal(signal.SIGSTOP)
            try:
                await asyncio.sleep(33 if is_long else chance.uniform(1, 5))
            finally:
                self.server.process.send_signal(signal.SIGCONT)
            self.figures.count("server_stops")

    def drift(self) -> dict[str, float]:
        """The first fifth is warming up; the second is compared with the last one."""
        fifth = len(self.looks) // 5
        if not fifth:
            return {}
        rows: dict[str, float] = {}
        for place, name in ((1, "memory_mb"), (2, "open_files"), (3, "gpu_memory_mb")):
            for when, part in (("second_fifth", self.looks[fifth : 2 * fifth]), ("last_fifth", self.looks[-fifth:])):
                rows[f"{name}_{when}"] = statistics.median(look[place] for look in part)
        if self.options.minutes >= 5:
            self._judge(rows)
        return rows

    def _judge(self, rows: dict[str, float]) -> None:
        for name, most in (("memory_mb", GROWTH_MB), ("open_files", GROWTH_FILES), ("gpu_memory_mb", GROWTH_MB)):
            before, after = rows[f"{name}_second_fifth"], rows[f"{name}_last_fifth"]
            if after > before + max(most, GROWTH_SHARE * before):
                self.figures.fault("growth", AssertionError(f"{name} grew from {before:.0f} to {after:.0f}"))


async def calls(options: argparse.Namespace, figures: Figures, report: Report) -> None:
    """The long part: everybody at once."""
    with Serve(**flags(options), ping_seconds=5, linger=30) as server:
        run = Run(server, figures, options)
        await run.run()
        report["calls"] = {"minutes": options.minutes, "slots": options.slots, **figures.table(), **run.drift()}
        frames = server.metric("dia2stream_frame_seconds_count")
        async with await take_slot(server, **PATIENT) as client:  # and it still speaks
            await client.start(SHORT)
            await hear(client)
        report["server"] = {
            "frame_ms": 1000 * server.metric("dia2stream_frame_seconds_sum") / max(1, frames),
            "real_time_factor": server.metric("dia2stream_real_time_factor"),
            "open_files": server.open_files,
            "memory_mb": server.resident,
            "exit_code": server.stop(),
        }
        check_end(server, figures, code=0)


def same(options: argparse.Namespace) -> Literal["bytes", "samples", "length"]:
    """What of a known call must be as it was alone, see `KnownCall`."""
    if options.slots == 1:
        return "bytes"
    return "samples" if options.device == "cpu" else "length"


def check_end(server: Serve, figures: Figures, code: int, expected: str = "nothing") -> None:
    """How the process has ended, and what it has logged."""
    if server.process.returncode != code:
        figures.fault("exit", AssertionError(f"code {server.process.returncode}, not {code}"))
    for line in server.faults:
        if expected not in line:
            figures.fault("log", AssertionError(line.strip()))


def flags(options: argparse.Namespace, **others: Any) -> dict[str, Any]:
    """The flags of a server, and what is set for it otherwise."""
    environment = {"DIA2STREAM_LISTEN": "1"}
    return {
        "model": options.model,
        "device": options.device,
        "slots": options.slots,
        "environment": environment,
        **others,
    }


# ---- Each bad client alone ----


async def each_alone(options: argparse.Namespace, figures: Figures, report: Report) -> None:
    """Every kind of bad client on a server of one slot: when the next client is heard, and what memory was taken."""
    with Serve(**flags(options, slots=1), before=QUICK, ping_seconds=3, linger=30) as server:
        chance, rows = random.Random(options.seed), {}
        await known_alone(server, figures, chance, options.times)
        for client in BAD_CLIENTS:
            if server.process.poll() is not None:
                break
            memory, seconds = server.resident, []
            for _ in range(options.times):
                try:
                    await client(server, figures, chance)
                    seconds.append(await heard_after(server))
                except WRONG as error:
                    figures.fault(f"{client.__name__} alone", error)
            rows[f"{client.__name__} next_heard_s"] = max(seconds, default=0.0)
            rows[f"{client.__name__} memory_mb"] = server.resident - memory
        server.stop()
        report["alone"] = rows
        check_end(server, figures, code=0)


async def known_alone(server: Serve, figures: Figures, chance: random.Random, times: int) -> None:
    """Reconnects in mid-speech, compared to the byte."""
    known = KnownCall(server, figures, "bytes")
    await known.learn()
    for _ in range(4 * times):
        try:
            await known.call(chance)
        except WRONG as error:
            figures.fault("known call alone", error)


async def heard_after(server: Serve) -> float:
    """Seconds until another client is heard."""
    began = time.monotonic()
    client = await take_slot(server, **PATIENT)
    await client.start(SHORT)
    await hear(client, Audio)
    await client.hang_up()
    return time.monotonic() - began


# ---- An engine that dies or hangs ----


async def engine_ends(before: str, options: argparse.Namespace, figures: Figures, report: Report, part: str) -> None:
    """All slots speak; then the engine dies or hangs. Clients are told, the process ends, and another one serves."""
    with tempfile.TemporaryDirectory() as folder:
        flag = Path(folder) / "now"
        with Serve(**flags(options), before=before.format(flag=str(flag), stuck=2.0, lost=6.0)) as server:
            clients = [await take_slot(server, **PATIENT) for _ in range(options.slots)]
            for client in clients:
                await client.start(LONG)
            for client in clients:
                await hear(client, Audio)
            began = time.monotonic()
            flag.touch()
            told = await asyncio.gather(*[told_of_the_end(client) for client in clients])
            await asyncio.to_thread(server.process.wait, PATIENCE)
            report[part] = {
                "clients": len(clients),
                "last_client_told_s": max(told) - began,
                "process_ended_s": time.monotonic() - began,
                "exit_code": server.process.returncode,
            }
            if server.process.returncode != 1:
                figures.fault(part, AssertionError(f"the process ended with {server.process.returncode}"))


async def told_of_the_end(client: Any) -> float:
    """When a client that speaks has been told `internal` and is let go with 1011."""
    assert (await hear(client, Error))[-1].code == "internal"
    try:
        while True:
            await client.receive()
    except Disconnected as error:
        if "1011" not in str(error):
            raise
    return time.monotonic()


# ---- The program ----


async def run(options: argparse.Namespace) -> tuple[Report, Figures]:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(16 + options.calls))
    report, figures = Report(), Figures()
    parts: Sequence[tuple[str, Callable[[], Awaitable[None]]]] = (
        ("alone", lambda: each_alone(options, figures, report)),
        ("engine_dies", lambda: engine_ends(DIES, options, figures, report, "engine_dies")),
        ("step_hangs", lambda: engine_ends(HANGS, options, figures, report, "step_hangs")),
        ("calls", lambda: calls(options, figures, report)),
    )
    for name, part in parts:
        if name in options.parts.split(","):
            try:
                await part()
            except WRONG as error:
                figures.fault(name, error)
    report["faults"] = {str(number): fault for number, fault in enumerate(figures.faults, start=1)}
    return report, figures


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30, help="of calls")
    parser.add_argument("--calls", type=int, default=4, help="who act at once")
    parser.add_argument("--slots", type=int, help="of the server; as many as calls if not given")
    parser.add_argument("--model", default="random:tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bad", type=float, default=0.2, help="the share of acts that are a bad client's")
    parser.add_argument("--stop-every", type=float, default=300, help="seconds between two SIGSTOPs of the server")
    parser.add_argument("--times", type=int, default=3, help="how often each bad client comes alone")
    parser.add_argument("--parts", default="alone,engine_dies,step_hangs,calls", help="which to run")
    parser.add_argument("--seed", type=int, default=0, help="of what the callers do")
    parser.add_argument("--json", help="write the figures here too")
    options = parser.parse_args(arguments)
    options.slots = options.slots or options.calls
    return options


def main() -> int:
    options = parse()
    report, figures = asyncio.run(run(options))
    line = json.dumps(report)
    print(line)
    if options.json:
        Path(options.json).write_text(line + "\n", encoding="utf-8")
    return 1 if figures.faults else 0


if __name__ == "__main__":
    sys.exit(main())
