"""The program that plays sound on this machine: ffplay, aplay, sox's play, or afplay.

Only where there is something to play on. A program that runs without a sound device would fail, or wait.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from dia2stream.errors import Dia2StreamError
from dia2stream.items import FRAME_MS, FRAME_SAMPLES

_RATE = str(FRAME_SAMPLES * 1000 // FRAME_MS)
# What each takes to play 16-bit samples from its standard input.
_PLAYERS = {
    "ffplay": ["-nodisp", "-autoexit", "-loglevel", "error", "-f", "s16le", "-ar", _RATE, "-i", "pipe:0"],
    "aplay": ["-q", "-t", "raw", "-f", "S16_LE", "-r", _RATE, "-c", "1"],
    "play": ["-q", "-t", "raw", "-e", "signed", "-b", "16", "-c", "1", "-r", _RATE, "-"],
}
_SOUND_CARDS = "/dev/snd/timer"  # is there if any is
_ELSEWHERE = "write a file with -o speech.wav"


class NoPlayer(Dia2StreamError):
    """There is nothing to play sound with here."""


def find_player() -> str:
    """The name of the program that will play. Raises NoPlayer."""
    if not _has_sound():
        raise NoPlayer(f"there is no sound device here to play on: {_ELSEWHERE}")
    found = next((name for name in (*_PLAYERS, "afplay") if shutil.which(name)), None)
    if found is None:
        raise NoPlayer(f"no player is installed, ffplay, aplay, play (sox) or afplay: {_ELSEWHERE}")
    return found


def _has_sound() -> bool:
    """Whether a sound card or a sound server is there, as far as it can be told."""
    if sys.platform != "linux":
        return True
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    sockets = [os.path.join(runtime, name) for name in ("pulse/native", "pipewire-0")] if runtime else []
    return "PULSE_SERVER" in os.environ or any(map(os.path.exists, [*sockets, _SOUND_CARDS]))


@contextmanager
def playing(player: str) -> Iterator[int]:
    """A descriptor that takes what `takes_wav` says; leaving the context waits until it was played. Raises NoPlayer."""
    code = 0
    if takes_wav(player):  # it plays files only
        with tempfile.NamedTemporaryFile(suffix=".wav") as file:
            yield file.fileno()
            code = subprocess.run([player, file.name]).returncode
    else:
        process = subprocess.Popen([player, *_PLAYERS[player]], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        assert process.stdin is not None
        try:
            yield process.stdin.fileno()
        finally:
            with suppress(BrokenPipeError):
                process.stdin.close()
            code = process.wait()
    if code:
        raise NoPlayer(f"{player} ended with code {code}: {_ELSEWHERE}")


def takes_wav(player: str) -> bool:
    """Whether a player takes a WAV file, and not samples as they come."""
    return player not in _PLAYERS
