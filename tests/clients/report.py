"""How these programs talk to the test that runs them.

    python PROGRAM.py URL KEY FOLDER whole|turns [SERVICE]

`whole` is all that a program can show. `turns` speaks what it is asked for, turn by turn, on one connection where the
wire format has connections: {"name": "a", "text": "Hello."} on stdin, until stdin ends.
"""

import asyncio
import json
import re
import sys
import time
import urllib.request
import wave
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

URL, KEY, FOLDER, MODE = sys.argv[1], sys.argv[2], Path(sys.argv[3]), sys.argv[4]
SERVICE = "".join(sys.argv[5:6])
WS_URL = URL.replace("http", "ws", 1)

# What the bundled voice says well.
FIRST = "Please close the window before you leave. My brother works in a small hospital near the station."
SECOND = "It takes about twenty minutes to cook the rice."
LONG = " ".join([FIRST, SECOND] * 3)


def tell(what: str, **fields: Any) -> None:
    """One thing that happened."""
    print(json.dumps({"what": what, **fields}), flush=True)


def wait() -> None:
    """Until the test is done with what it was told."""
    sys.stdin.readline()


def save(name: str, pcm: bytes, rate: int = 24000) -> float:
    """Mono PCM16 as a WAV file. Returns its seconds."""
    with wave.open(str(FOLDER / f"{name}.wav"), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(pcm)
    return len(pcm) / 2 / rate


async def frames_made(more_than: int = -1) -> int:
    """The frames that the server has made since it began, as soon as they are more than so many. At most a minute."""
    asked = urllib.request.Request(f"{URL}/metrics", headers={"Authorization": f"Bearer {KEY}"})
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with await asyncio.to_thread(urllib.request.urlopen, asked) as answer:
            figures = (await asyncio.to_thread(answer.read)).decode()
        made = int(float(re.search(r"^dia2stream_frames_total (\S+)$", figures, re.MULTILINE)[1]))
        if made > more_than:
            return made
        await asyncio.sleep(0.05)
    raise TimeoutError(f"no more frames than {more_than} were made")


class Stopwatch:
    """Milliseconds from a request to its first sound; and when sound came, on the clock that all processes share."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.first_ms: float | None = None
        self.sounds: list[float] = []  # the first and the last

    def sound(self) -> None:
        """Some came."""
        if self.first_ms is None:
            self.first_ms = round((time.monotonic() - self._began) * 1000, 1)
        self.sounds = [*self.sounds[:1], time.time()]


# --- turns ---


def asked() -> Iterator[tuple[str, str]]:
    """The turns that the test asks for, each its name and its text."""
    tell("ready")
    for line in sys.stdin:
        turn = json.loads(line)
        yield turn["name"], turn["text"]


async def asked_meanwhile() -> AsyncIterator[tuple[str, str]]:
    """The same, while other tasks run."""
    turns = asked()
    while (turn := await asyncio.to_thread(next, turns, None)) is not None:
        yield turn


def tell_turn(name: str, pcm: bytes, watch: Stopwatch) -> None:
    """A turn was spoken."""
    tell("turn", name=name, seconds=save(name, pcm), first_ms=watch.first_ms, sounds=watch.sounds)


def tokens(text: str) -> list[str]:
    """A text as a language model gives it, more or less."""
    return [f"{word} " for word in text.split(" ")]
