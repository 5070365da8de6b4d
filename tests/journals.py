"""Places where tests keep journals, and what is in them."""

import asyncio
import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from piping import PATIENCE

from dia2stream.items import FRAME_MS
from dia2stream.journal.heard import heard
from dia2stream.journal.record import EarEntry, Record, read_record
from dia2stream.journal.store import key_of


@contextlib.contextmanager
def redis_running(folder: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A Redis of our own: its URL and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as asked:
                asked.sendall(b"PING\r\n")
                if asked.recv(10).startswith(b"+PONG"):
                    break
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield f"redis://127.0.0.1:{port}", process
    finally:
        process.kill()
        process.wait()


def log_of(journal: str, id: str) -> bytes:
    """What a journal has of a conversation."""
    if journal.startswith("redis:"):
        import redis

        with redis.Redis.from_url(journal) as asked:
            return bytes(asked.get(f"dia2stream:{{{key_of(id)}}}:log") or b"")
    path = Path(journal) / f"{key_of(id)}.log"
    return path.read_bytes() if path.exists() else b""


async def record_of(journal: str, id: str, clock_ms: int) -> Record:
    """A conversation's record, as soon as so much of its audio is in it."""
    deadline = time.monotonic() + PATIENCE
    while True:
        log = await asyncio.to_thread(log_of, journal, id)
        if log:
            record = read_record(log)
            if sum(len(stretch.frames) for stretch in heard(record)) * FRAME_MS >= clock_ms:
                return record
        assert time.monotonic() < deadline, f"the journal has {len(log)} bytes of a conversation of {clock_ms} ms"
        await asyncio.sleep(0.1)


def codes_in(record: Record, clock_ms: int) -> tuple[NDArray[np.int16], bytes]:
    """The codes of all that was heard, [frames, C], and those of what the caller said, in a record of so much audio."""
    frames = [codes for stretch in heard(record) for codes in stretch.frames]
    caller = [entry.codes for entry in record.entries if isinstance(entry, EarEntry)]
    return np.stack(frames[: clock_ms // FRAME_MS]), b"".join(codes.T.tobytes() for codes in caller)
