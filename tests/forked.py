"""A program of ours in a process of its own that starts at once: it is forked off one that has loaded PyTorch.

Loading PyTorch takes most of what a start costs, and the tests start some hundred servers and pipes. The new process
has its own environment, folder, streams and signals. Modules of ours are loaded anew, so code that runs before the
program finds them as `python -c` would.
"""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import IO, Any

# Nothing of ours, and not huggingface_hub, whose environment is read when it is imported.
PRELOADED = [
    *("torch", "numpy", "regex", "safetensors.torch", "soundfile", "soxr", "tokenizers", "tqdm", "typer"),
    *("rich.console", "anyio", "h11", "prometheus_client", "starlette.applications", "websockets.asyncio.client"),
]

_reading = threading.Lock()  # multiprocessing reads the exit code of a process twice when two threads ask for it


def context() -> Any:
    """The context whose processes are forked off one that has loaded what all need."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(PRELOADED)
    return found


class Forked:
    """As a `subprocess.Popen` of `python -c PROGRAM ARGUMENTS`, as far as tests need it.

    stdin, stdout, stderr: subprocess.PIPE, a file, or None for that of the tests.
    """

    def __init__(
        self,
        program: str,
        arguments: Sequence[str],
        *,
        env: Mapping[str, str],
        stdin: IO[Any] | int | None = subprocess.DEVNULL,
        stdout: IO[Any] | int | None = None,
        stderr: IO[Any] | int | None = None,
        text: bool = False,
        bufsize: int = -1,
        cwd: Path | None = None,
    ) -> None:
        theirs, ours, opened = [], [], []
        for number, stream in enumerate((stdin, stdout, stderr)):
            their, our = _ends(number, stream)
            theirs.append(number if their is None else their)
            opened += [] if their is None else [their]
            mode = ("w" if number == 0 else "r") + ("" if text else "b")
            ours.append(None if our is None else os.fdopen(our, mode, buffering=bufsize))
        self.stdin, self.stdout, self.stderr = ours
        streams = [_Passed(their) for their in theirs]
        told = (program, list(arguments), dict(env), cwd or Path.cwd(), streams)
        self._process = context().Process(target=_run, args=told, daemon=True)
        with _reading:
            self._process.start()
        for end in opened:
            os.close(end)

    @property
    def pid(self) -> int:
        pid: int = self._process.pid
        return pid

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def poll(self) -> int | None:
        with _reading:
            code: int | None = self._process.exitcode
        return code

    def wait(self, timeout: float | None = None) -> int:
        multiprocessing.connection.wait([self._process.sentinel], timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired("a forked program", timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def communicate(self, input: bytes | str | None = None, timeout: float | None = None) -> tuple[Any, Any]:
        with ThreadPoolExecutor(2) as readers:
            out, err = (stream and readers.submit(stream.read) for stream in (self.stdout, self.stderr))
            if self.stdin is not None:
                with contextlib.suppress(BrokenPipeError), self.stdin:
                    self.stdin.write(input)
            try:
                self.wait(timeout)
            finally:
                self.kill()
        for stream in filter(None, (self.stdout, self.stderr)):
            stream.close()
        return out and out.result(), err and err.result()

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _ends(number: int, stream: IO[Any] | int | None) -> tuple[int | None, int | None]:
    """What the new process gets as its stream and we then close, and what we keep of it."""
    if stream == subprocess.PIPE:
        reading, writing = os.pipe()
        return (reading, writing) if number == 0 else (writing, reading)
    if stream == subprocess.DEVNULL:
        return os.open(os.devnull, os.O_RDWR), None
    return (None, None) if stream is None else (os.dup(stream if isinstance(stream, int) else stream.fileno()), None)


class _Passed:
    """A file descriptor on its way into another process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (DupFd(self._descriptor),)


def _arrived(descriptor: Any) -> int:
    number: int = descriptor.detach()
    return number


def _run(program: str, arguments: list[str], env: dict[str, str], folder: Path, streams: list[int]) -> None:
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin = sys.__stdin__ = os.fdopen(0, closefd=False)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    sys.argv = ["-c", *arguments]
    try:
        exec(compile(program, "<string>", "exec"), {"__name__": "__main__"})
    except Exception:
        sys.excepthook(*sys.exc_info())
        sys.exit(1)
