"""`serve --record` writes conversations down, and `dia2stream replay` speaks them again."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
from piping import ran
from serving import Serve, hear, on_loop, sound, take_slot

from dia2stream.journal.record import CommandEntry, EarEntry, Record, StepsEntry, read_record
from dia2stream.protocol.messages import Done, Paused, Prepared, ResetDone, Resumed

TEXT = "[S1] One two three four five. [S2] Six seven eight."
NOISE = np.random.default_rng(1).integers(-3000, 3000, 24000).astype("<i2").tobytes()


def replayed(path: Path, out: Path, *flags: str) -> tuple[np.ndarray, str]:
    model = ("--model", "random:tiny", "--device", "cpu")
    run = ran("replay", str(path), "-o", str(out), *model, *flags)
    assert run.returncode == 0, run.stderr
    return soundfile.read(out, dtype="int16")[0], run.stderr.splitlines()[-1]


async def call(server: Serve) -> bytes:
    """A call with everything in it: an interruption, the caller's words, prepared replies, a pause, and a reset."""
    async with await take_slot(server) as client:
        await client.start(TEXT, seed=3)
        heard = sound(await hear(client, lambda item: client.received_ms >= 1200))
        await client.pause(900)
        heard += sound(await hear(client, Paused))
        await client.listen(NOISE, "wait a moment")
        await client.inject("[S1] Yes of course.", id="answer")
        heard += sound(await hear(client, lambda item: isinstance(item, Done) and item.id == "answer"))
        await client.prepare("Never heard.", "never")
        await hear(client, Prepared)
        await client.prepare("[S2] Well then.", "then")
        await hear(client, lambda item: isinstance(item, Prepared) and item.id == "then")
        await client.commit("then")
        heard += sound(await hear(client, lambda item: isinstance(item, Done) and item.id == "then"))
        await client.inject("And so on and on and on.", id="more")
        heard += sound(await hear(client, lambda item: client.received_ms * 48 >= len(heard) + 48 * 300))
        await client.pause()
        heard += sound(await hear(client, Paused))
        await client.resume()
        heard += sound(await hear(client, Resumed))
        heard += sound(await hear(client, lambda item: isinstance(item, Done) and item.id == "more"))
        await client.reset()
        await hear(client, ResetDone)
    return heard


def only_record(folder: Path) -> tuple[Path, Record]:
    [path] = folder.glob("*.dia2rec")
    return path, read_record(path.read_bytes(), str(path))


@pytest.mark.parametrize("secret", [False, True])
def test_a_recorded_call_is_heard_again(tmp_path: Path, secret: bool) -> None:
    folder = tmp_path / "records"
    flags = ["--record-without-text"] if secret else []
    heard = b""

    @on_loop
    async def speak() -> None:
        nonlocal heard
        heard = await call(server)

    with Serve(record=folder, extra=flags) as server:
        speak()
        assert server.stop() == 0
        assert not server.faults
    path, record = only_record(folder)
    assert path.stat().st_mode & 0o077 == 0
    data = path.read_bytes()
    assert (b"moment" in data, b"seven" in data, b"then" in data) == (not secret, not secret, not secret)
    assert b"Never" not in data
    assert any(isinstance(entry, EarEntry) for entry in record.entries) is not secret
    again, summary = replayed(path, tmp_path / "again.wav")
    original = np.frombuffer(heard, "<i2").astype(int)
    assert len(again) == len(original)
    assert abs(again - original).max() <= 1
    steps = sum(len(entry.actions) for entry in record.entries if isinstance(entry, StepsEntry))
    expected = "without the text, nothing was computed" if secret else f"all {steps} steps drew the same"
    assert expected in summary
    part, _ = replayed(path, tmp_path / "part.flac", "--until", "700")
    assert np.array_equal(part, again[: 9 * 1920])
    assert [entry.command["cmd"] for entry in record.entries if isinstance(entry, CommandEntry)] == [
        "start",
        "pause",
        "listen",
        "inject",
        "inject",
        "inject",
        "pause",
        "resume",
    ]


def test_what_cannot_be_replayed_or_recorded_is_one_clear_line(tmp_path: Path) -> None:
    def failure(*arguments: str) -> str:
        run = ran(*arguments)
        assert run.returncode in (1, 2)
        return run.stderr.splitlines()[-1] if run.returncode == 1 else run.stderr

    nothing = tmp_path / "x.dia2rec"
    nothing.write_bytes(b"RIFF")
    out = str(tmp_path / "x.wav")
    assert "is no record of a conversation" in failure("replay", str(nothing), "-o", out)
    assert "No such file" in failure("replay", str(tmp_path / "none"), "-o", out)
    assert "must end in" in failure("replay", str(nothing), "-o", "x.ogx")
    assert "No such option: --speculate" in failure("replay", str(nothing), "--speculate", "on")
    assert f"--record {nothing}: File exists" in failure("serve", "--record", str(nothing), "--port", "0")
