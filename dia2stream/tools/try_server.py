"""`dia2stream client`: has a server speak some texts, measures how soon, and plays or keeps the sound.

The first text starts a conversation. The second one is injected as soon as the first is heard, and each other one after
a silence: the three moments at which a voice agent sends text.
"""

import asyncio
import contextlib
import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, cast

from dia2stream.audio import SAMPLE_BYTES, wav_file
from dia2stream.client import Client, Received, connect
from dia2stream.errors import CommandError, Dia2StreamError, Disconnected, ErrorCode
from dia2stream.options import ClientOptions, Encoding
from dia2stream.protocol.audio_message import Audio
from dia2stream.protocol.messages import Done, Error, FirstAudio, Inject, Ready, Start

_TEXTS = (
    "[S1] Hello there, this is a test of streaming speech. It goes on for long enough to be joined.",
    "[S2] This was added while the first words were being spoken.",
    "[S1] And this came after a silence.",
)


def run(options: ClientOptions, texts: list[str]) -> None:
    """Speaks the texts and prints what was measured. Raises Dia2StreamError when the server refuses or goes away."""
    if options.play and shutil.which("ffplay") is None:
        raise Dia2StreamError("--play needs ffplay, which comes with ffmpeg; it is not on the PATH")
    files = WavFiles(Path(options.output)) if options.output is not None else None
    with FfplayOutput() if options.play else contextlib.nullcontext() as output:
        trial = asyncio.run(_try(options, texts or list(_TEXTS), output))
    if files is not None:
        files.write(trial)
    print(_table(trial), file=sys.stderr)
    print(json.dumps(trial.summary()))


@dataclass
class Said:
    """What was measured of one text; a time that was not measured is None."""

    text: str
    sent_at: float  # seconds, time.monotonic
    server_ms: float | None = None  # from the command's arrival to the first audio, as the server reports it
    client_ms: float | None = None  # from sending the command to the first audio, as measured here
    audio: bytearray = field(default_factory=bytearray, repr=False)


@dataclass
class Trial:
    """One run of the test client."""

    ready: Ready
    connect_ms: float
    said: dict[str, Said] = field(default_factory=dict)  # by the utterance's id
    done: int = 0  # utterances that are spoken to their end
    seconds: float = 0.0

    def audio_ms(self, audio: bytearray) -> float:
        """The length of encoded samples."""
        return 1000 * len(audio) / SAMPLE_BYTES[cast("Encoding", self.ready.encoding)] / self.ready.sample_rate

    def summary(self) -> dict[str, Any]:
        """The JSON object for programs."""
        return {
            "server": {"version": self.ready.version, "model": self.ready.model, "device": self.ready.device},
            "connect_ms": round(self.connect_ms, 1),
            "seconds": round(self.seconds, 2),
            "texts": [
                {
                    "id": id,
                    "server_first_audio_ms": said.server_ms,
                    "client_first_audio_ms": said.client_ms and round(said.client_ms, 1),
                    "audio_ms": round(self.audio_ms(said.audio)),
                }
                for id, said in self.said.items()
            ],
        }


async def _try(options: ClientOptions, texts: list[str], output: "FfplayOutput | None") -> Trial:
    """Speaks the texts, each at its moment, and returns when the last one is done."""
    began = time.monotonic()
    wishes: dict[str, Any] = {"encoding": options.encoding, "sample_rate": options.sample_rate}
    async with connect(options.url, token=options.token, **wishes) as client:
        trial = Trial(client.ready, (time.monotonic() - began) * 1000)
        waiting = list(texts)
        await _say(client, trial, waiting.pop(0))
        speaking: Said | None = None
        while waiting or trial.done < len(trial.said):
            item = await _next(client, options.timeout)
            speaking = _hear(item, trial, speaking, output)
            is_second = len(trial.said) == 1 and speaking is not None
            if waiting and (is_second or trial.done == len(trial.said)):
                await _say(client, trial, waiting.pop(0))
        trial.seconds = time.monotonic() - began
        await client.hang_up()
    return trial


async def _say(client: Client, trial: Trial, text: str) -> None:
    id = str(len(trial.said) + 1)
    trial.said[id] = Said(text, time.monotonic())
    await client.send(Inject(text, id=id) if id != "1" else Start(text, id=id))


async def _next(client: Client, timeout: float) -> Received:
    try:
        return await asyncio.wait_for(client.receive(), timeout)
    except asyncio.TimeoutError:
        raise Disconnected(f"the server was silent for {timeout:g} s") from None


def _hear(item: Received, trial: Trial, speaking: Said | None, output: "FfplayOutput | None") -> Said | None:
    """Enters what the server sent into the trial. Returns the text that is being spoken."""
    if isinstance(item, FirstAudio):
        speaking = trial.said[item.id]
        speaking.server_ms = item.latency_ms
    elif isinstance(item, Audio) and speaking is not None:
        if speaking.client_ms is None:
            speaking.client_ms = (time.monotonic() - speaking.sent_at) * 1000
        speaking.audio += item.data
        if output is not None:
            output.play(item.data, trial.ready)
    elif isinstance(item, Done):
        trial.done += 1
    elif isinstance(item, Error):
        raise CommandError(cast("ErrorCode", item.code), item.message)
    return speaking


class FfplayOutput:
    """Plays samples through ffplay. The first ones start it, and leaving the context waits until it has played all."""

    _FORMATS: ClassVar = {"pcm16": "s16le", "mulaw": "mulaw", "alaw": "alaw"}

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def play(self, data: bytes, ready: Ready) -> None:
        """Hands over samples of the format in `ready`; blocks while ffplay's buffer is full. It may have been quit."""
        if self._process is None:
            self._process = self._start(ready)
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(data)
            self._process.stdin.flush()

    def _start(self, ready: Ready) -> "subprocess.Popen[bytes]":
        kind = ["-f", self._FORMATS[ready.encoding], "-ar", str(ready.sample_rate)]
        quick = ["-nodisp", "-autoexit", "-loglevel", "error", "-fflags", "nobuffer", "-probesize", "32"]
        return subprocess.Popen(["ffplay", *quick, *kind, "-i", "pipe:0"], stdin=subprocess.PIPE)

    def __enter__(self) -> "FfplayOutput":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
            self._process.wait()


class WavFiles:
    """A folder with one WAV file for each utterance, named by its id."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, trial: Trial) -> None:
        """Writes the sound of every text."""
        encoding = cast("Encoding", trial.ready.encoding)
        for id, said in trial.said.items():
            wav = wav_file(encoding, trial.ready.sample_rate, bytes(said.audio))
            (self._folder / f"{id}.wav").write_bytes(wav)


def _table(trial: Trial) -> str:
    """The table for people."""
    ready = trial.ready
    lines = [
        f"{ready.model} on {ready.device}, {ready.encoding} at {ready.sample_rate} Hz; "
        f"connected in {trial.connect_ms:.0f} ms, spoke for {trial.seconds:.1f} s",
        f"{'first audio, ms: server':>26}{'here':>8}{'audio, s':>10}  text",
    ]
    for said in trial.said.values():
        server, here = (f"{ms:.1f}" if ms is not None else "-" for ms in (said.server_ms, said.client_ms))
        seconds = trial.audio_ms(said.audio) / 1000
        lines.append(f"{server:>26}{here:>8}{seconds:>10.2f}  {said.text[:60]}")
    return "\n".join(lines)
