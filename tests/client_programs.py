"""The programs of tests/clients, as processes, and the server that they speak to."""

import json
import os
import subprocess
import threading
from pathlib import Path
from queue import Empty, Queue
from typing import Any

from conftest import CLIPS
from piping import PATIENCE, ROOT, dia2stream
from serving import QUICK, Serve, killed

CLIENTS = Path(__file__).parent / "clients"
PYTHON = Path(os.environ.get("DIA2STREAM_CLIENTS_PYTHON", ROOT / ".venv-clients" / "bin" / "python"))
KEY = "key-17"

FIRST = "Please close the window before you leave. My brother works in a small hospital near the station."
SECOND = "It takes about twenty minutes to cook the rice."
LONG = " ".join([FIRST, SECOND] * 3)

# Whether a framework's own plugin for a format tells words as they are played.
WORDS = {"cartesia": True, "elevenlabs": True, "openai": False, "deepgram": False, "flux": False}
# Programs that speak turns, with their services.
EVERY = [
    ("openai_sdk", ""),
    ("cartesia_sdk", ""),
    ("deepgram_sdk", "aura"),
    ("deepgram_sdk", "flux"),
    ("elevenlabs_sdk", ""),
    *(("pipecat_pipeline", service) for service in WORDS),
    *(("livekit_plugin", plugin) for plugin in WORDS),
    ("pipecat_dia2", ""),
    ("livekit_dia2", ""),
]


class Program:
    """A client that runs. What it tells comes by name; its sounds lie in a folder."""

    def __init__(
        self, folder: Path, name: str, server: "Restarted | Serve", mode: str = "whole", service: str = ""
    ) -> None:
        assert PYTHON.exists(), "there is no environment for the clients: run scripts/test-clients"
        self.folder, self.server = folder, server
        command = [PYTHON, CLIENTS / f"{name}.py", f"http://127.0.0.1:{server.port}", KEY, folder, mode, service]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}  # for the plugins of ours; torch is not there
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = subprocess.Popen(command, text=True, env=environment, **streams)
        self._told: Queue[str | None] = Queue()
        self._errors: list[str] = []
        for stream, take in ((self.process.stdout, self._told.put), (self.process.stderr, self._errors.append)):
            threading.Thread(target=self._read, args=(stream, take), daemon=True).start()

    def _read(self, stream: Any, take: Any) -> None:
        for line in stream:
            take(line)
        if stream is self.process.stdout:
            self._told.put(None)

    def told(self, what: str) -> dict[str, Any]:
        """The next thing that it tells, which has to be of that name."""
        message = self.told_next()
        assert message.pop("what") == what, message
        return message

    def told_next(self) -> dict[str, Any]:
        """The next thing that it tells, with its name as `what`."""
        try:
            line = self._told.get(timeout=2 * PATIENCE)
        except Empty:
            line = None
        assert line is not None, "".join(self._errors[-30:])
        return dict(json.loads(line))

    def go_on(self, line: str = "") -> None:
        """It waits for this."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def ask(self, name: str, text: str) -> None:
        """A turn, in the mode `turns`."""
        self.go_on(json.dumps({"name": name, "text": text}))

    def leave(self) -> None:
        """No more turns."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.ended_well()

    def ended_well(self) -> None:
        """Waits for its end."""
        assert self.process.wait(PATIENCE) == 0, "".join(self._errors[-30:])

    def kill(self) -> None:
        """It is gone. It is no process group of its own, so that a time limit of all the tests ends it too."""
        with killed(self.process):
            pass

    def restarted(self) -> None:
        """The server is killed and comes back under the client, who then speaks again."""
        self.told("restart")
        assert isinstance(self.server, Restarted)
        self.server.restart()
        self.go_on()
        assert self.told("restarted")["seconds"] > 1


class Restarted:
    """A server that can be replaced by another one on its port. It speaks in the voice of a clip.

    It has a seed, so that a text sounds the same in each run of the tests: how well it is said is no matter of luck.
    """

    def __init__(self, voice: Path) -> None:
        self._voice = voice
        self._server = self._serve(port=0)
        self.port = self._server.port

    def _serve(self, port: int) -> Serve:
        listens = {"DIA2STREAM_LISTEN": "true"}
        flags = {"model": "bundled", "token": KEY, "port": port, "slots": 2, "voice": self._voice, "seed": 7}
        return Serve(before=QUICK, environment=listens, **flags)

    def restart(self) -> None:
        """Kills it and starts another one."""
        self.faultless()
        self._server.end()
        self._server = self._serve(self.port)

    def wait_until_free(self) -> None:
        """Every client is gone, and its slot is for whoever comes next."""
        self._server.until(lambda: self._server.metric("dia2stream_slots_taken") == 0)

    def faultless(self) -> None:
        assert not self._server.faults

    def end(self) -> None:
        self._server.end()


def make_voice(folder: Path) -> Path:
    """The voice of a clip. Without any, each name of a voice would be a random one, and some are hard to understand."""
    path = folder / "slt.voice.safetensors"
    clip, words = CLIPS / "flite_slt.flac", CLIPS / "flite_slt.words.json"
    arguments = ["--speaker-1", clip, "--words-1", words, "--model", "bundled", "--device", "cpu", "-o", path]
    made = subprocess.run(dia2stream("voice", "make", "slt", *map(str, arguments)), capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return path
