"""How these programs talk to the test that runs them."""

import json
import sys
import time
import wave
from pathlib import Path
from typing import Any

URL, KEY, FOLDER = sys.argv[1], sys.argv[2], Path(sys.argv[3])
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


class Stopwatch:
    """Milliseconds from a request to its first sound."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.first_ms: float | None = None

    def sound(self) -> None:
        """Some came."""
        if self.first_ms is None:
            self.first_ms = round((time.monotonic() - self._began) * 1000, 1)
