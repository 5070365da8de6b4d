"""`dia2stream pipe` as a program that embeds it sees it: a process, its three streams, and what came out so far."""

import json
import os
import select
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from forked import Forked

ROOT = Path(__file__).parent.parent
PATIENCE = 90.0 * float(os.environ.get("TEST_PATIENCE", "1"))  # seconds until a test gives up on something

# Cores are for the tests' workers, and whoever runs the tests may have settings of their own.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("DIA2STREAM_")}
ENVIRONMENT |= {"OMP_NUM_THREADS": "1", "DIA2STREAM_MODEL": "random:tiny", "PYTHONPATH": str(ROOT)}

Event = dict[str, Any]


def a_second() -> float:
    """A second of an idle machine: on a busy one it takes as long as there are processes waiting for a core.

    The load of the last minute comes late, and a container's share of the cores is not in it: work is timed too.
    """
    began, worked = time.monotonic(), time.thread_time()
    while time.thread_time() - worked < 0.05:
        pass
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1), (time.monotonic() - began) / 0.05)


def soon() -> float:
    """Seconds that suffice for what happens at once. Where it does not, a deadline of 10 s or more is waited for."""
    return max(5.0, 2 * a_second())


def dia2stream(*arguments: str) -> list[str]:
    """The command line of a `dia2stream` command."""
    return [sys.executable, "-m", "dia2stream", *arguments]


def begin(*arguments: str, env: dict[str, str], before: str = "", **options: Any) -> "subprocess.Popen[Any] | Forked":
    """Starts a `dia2stream` command. before: Python to run in the process first. Options are Popen's.

    Tests fork it off a process that has loaded PyTorch, if the environment is that of the tests, but for our settings.
    """
    program = f"{before}\nfrom dia2stream.__main__ import main; main()"
    if "PYTEST_CURRENT_TEST" in os.environ and all(ours(name) for name, _ in env.items() ^ os.environ.items()):
        return Forked(program, arguments, env=env, **options)
    command = [sys.executable, "-c", program, *arguments] if before else dia2stream(*arguments)
    return subprocess.Popen(command, env=env, **options)


def ran(
    *arguments: str,
    env: dict[str, str] | None = None,
    input: Any = None,
    text: bool = True,
    timeout: float = PATIENCE,
    **options: Any,
) -> "subprocess.CompletedProcess[Any]":
    """Runs a `dia2stream` command to its end. Its output is kept. env: ENVIRONMENT where none is given."""
    pipes = {"stdin": subprocess.DEVNULL if input is None else subprocess.PIPE, "stdout": subprocess.PIPE}
    options = {**pipes, "stderr": subprocess.PIPE, **options}
    process = begin(*arguments, env=ENVIRONMENT if env is None else env, text=text, **options)
    try:
        out, err = process.communicate(input, timeout)
    except BaseException:
        process.kill()
        raise
    return subprocess.CompletedProcess(arguments, process.wait(), out, err)


def ours(name: str) -> bool:
    """Whether a variable of the environment is none that a library reads when it is loaded.

    PYTHONPATH is not needed: a forked process looks for modules where the tests do.
    """
    return name.startswith(("DIA2STREAM_", "PYTEST_")) or name in ("PATH", "PYTHONPATH")


def put_on_path(folder: Path) -> None:
    """Makes a `dia2stream` command in a folder that is, or will be, on the path."""
    script = folder / "dia2stream"
    script.write_text(f'#!/bin/sh\nexec {shlex.join(dia2stream())} "$@"\n')
    script.chmod(0o755)


class Pipe:
    """A running pipe. Audio and events are read as they come, by two threads; `stall` stops reading audio for a while.

    before: Python to run in the process first. Options are Popen's; give `stdout` and audio goes there unread.
    """

    def __init__(self, *flags: str, before: str = "", env: dict[str, str] | None = None, **options: Any) -> None:
        options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        self.process = begin("pipe", *flags, before=before, env=ENVIRONMENT | (env or {}), bufsize=0, **options)
        self.audio = bytearray()
        self.lines: list[str] = []  # of stderr
        self._events: list[Event] = []
        self._reading = threading.Event()
        self._reading.set()
        self._quit = threading.Event()
        self._news = threading.Condition()
        self._threads = [threading.Thread(target=self._read_events, daemon=True)]
        if self.process.stdout is not None:
            self._threads.append(threading.Thread(target=self._read_audio, daemon=True))
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> "Pipe":
        return self

    def __exit__(self, *exception: object) -> None:
        self._quit.set()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._settle()
        for stream in (self.process.stdin, self.process.stderr):
            if stream is not None:
                stream.close()

    # ---- In ----

    def send(self, cmd: str, **fields: Any) -> None:
        self.write(json.dumps({"cmd": cmd, **fields}).encode() + b"\n")

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self.process.stdin.write(view) :]

    def end_input(self) -> None:
        self.process.stdin.close()

    # ---- Out ----

    @property
    def events(self) -> list[Event]:
        """What stderr had so far, all of which has to be JSON."""
        self._events += [json.loads(line) for line in self.lines[len(self._events) :]]
        return self._events

    def wait_for(self, event: str, since: int = 0, **fields: Any) -> Event:
        """The first event of that name, with those fields, from line `since` on."""
        wanted = {"event": event, **fields}
        found: list[Event] = []

        def look() -> bool:
            found[:] = [e for e in self.events[since:] if wanted.items() <= e.items()]
            return bool(found)

        self.wait_until(look, wanted)
        return found[0]

    def wait_for_audio(self, size: int) -> None:
        """Until there are so many bytes."""
        self.wait_until(lambda: len(self.audio) >= size, f"{size} bytes of audio")

    def wait_until(self, condition: Callable[[], bool], what: object) -> None:
        with self._news:
            if not self._news.wait_for(lambda: condition() or self.process.poll() is not None, PATIENCE):
                raise AssertionError(f"{what} did not come in {PATIENCE:.0f} s; events: {self.lines[-20:]}")
        if not condition():
            self._settle()
        assert condition(), f"the process ended without {what}; events: {self.lines[-20:]}"

    def stall(self) -> None:
        """Stops reading audio; a read that is under way still takes one piece."""
        self._reading.clear()

    def go_on(self) -> None:
        self._reading.set()

    # ---- The end ----

    def close_stdout(self) -> float:
        """Quits, as a player does that was closed. Returns the seconds until the process has ended."""
        self._quit.set()
        started = time.monotonic()
        self.process.wait(PATIENCE)
        return time.monotonic() - started

    def wait(self) -> int:
        """The exit code, once everything was read."""
        code = self.process.wait(PATIENCE)
        self._settle()
        return code

    def _settle(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE)

    def memory_kb(self) -> int:
        """What the process holds of the machine's memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return int(status.split("VmRSS:")[1].split()[0])

    def _read_audio(self) -> None:
        with self.process.stdout as stdout:
            while not self._quit.is_set():
                if not self._reading.is_set() or not select.select([stdout], [], [], 0.02)[0]:
                    self._quit.wait(0.01)
                    continue
                if not (piece := os.read(stdout.fileno(), 1 << 16)):
                    return
                with self._news:
                    self.audio += piece
                    self._news.notify_all()

    def _read_events(self) -> None:
        begun = b""
        while piece := self.process.stderr.read(1 << 16):
            *whole, begun = (begun + piece).split(b"\n")
            with self._news:
                self.lines += [line.decode() for line in whole]
                self._news.notify_all()
        with self._news:
            self.lines += [begun.decode()] if begun else []
            self._news.notify_all()
