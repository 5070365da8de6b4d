"""`voice make`, `show` and `play`, and `--voice`: over the random model's own codec, with clips of synthetic voices."""

import json
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from conftest import CLIPS
from piping import ran
from whisper import save_whisper

from dia2.voice.voice import Voice
from dia2stream.cli import app
from dia2stream.engine.engine import Engine
from dia2stream.options import ModelOptions, SpeechOptions

TEXT = "She bought three apples and a loaf of bread."
RATE = 24000
TINY = ("--model", "random:tiny", "--device", "cpu")

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs the command line in this process: exit code, stdout, stderr."""
    for name in [name for name in os.environ if name.startswith("DIA2STREAM_")]:
        monkeypatch.delenv(name)

    def run(*args: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as done:
            app([str(arg) for arg in args], prog_name="dia2stream")
        return (int(done.value.code or 0), *capsys.readouterr())

    return run


def clip(name: str = "flite_slt") -> Path:
    return CLIPS / f"{name}.flac"


@pytest.fixture(scope="module")
def ann(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A voice file."""
    path = tmp_path_factory.mktemp("voices") / "ann.voice.safetensors"
    with pytest.raises(SystemExit):
        app(["voice", "make", "ann", "--speaker-1", str(clip()), "--licence", "Flite", "-o", str(path), *TINY])
    return path


def test_given_words_come_first(cli: Cli, tmp_path: Path) -> None:
    """Words beside the clip are taken before the text; words of a flag before those."""
    out = tmp_path / "a.voice.safetensors"
    code, said, err = cli("voice", "make", "ann", "--speaker-1", clip(), "--text-1", "Other words.", "-o", out, *TINY)
    assert (code, err.count("\n")) == (0, 1)
    assert "words_1: given, flite_slt.words.json" in said
    words = tmp_path / "w.json"
    words.write_text(json.dumps([["Hello", 0.2, 0.6], ["world.", 0.7, 1.9]]), encoding="utf-8")
    code, said, _ = cli("voice", "make", "ann", "--speaker-1", clip(), "--words-1", words, "-o", out, *TINY)
    assert code == 0
    assert [word.text for word in Voice.load(out).clips[0].words] == ["Hello", "world."]
    assert "world." in said


def test_given_and_aligned_words_make_the_same_voice(cli: Cli, tmp_path: Path) -> None:
    """Issue 6: word starts within one frame of each other for 95 % of the words."""
    apart = []
    for name in ("flite_slt", "flite_rms", "flite_awb"):
        alone = tmp_path / f"{name}.flac"
        alone.write_bytes(clip(name).read_bytes())
        for source, options in ((clip(name), ()), (alone, ("--text-1", TEXT))):
            assert cli(
                "voice", "make", "x", "--speaker-1", source, *options, "-o", f"{source.stem}{len(options)}", *TINY
            )
        given, aligned = Voice.load(f"{name}0").clips[0], Voice.load(f"{name}2").clips[0]
        assert [w.text for w in given.words] == [w.text for w in aligned.words]
        apart += [abs(a.start - b.start) for a, b in zip(given.words, aligned.words, strict=True)]
    assert np.mean(np.array(apart) <= 0.08) >= 0.95


def test_the_words_that_whisper_hears_are_shown(cli: Cli, tmp_path: Path) -> None:
    whisper = str(save_whisper(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        source = ("--speaker-1", clip("kokoro_af_heart"), "--transcriber", whisper)
        code, said, _ = cli("voice", "make", "x", *source, "-o", "x.voice.safetensors", *TINY)
    assert code == 0
    voice = Voice.load("x.voice.safetensors")
    assert voice.provenance["words_1"] == f"transcribed by {whisper}"
    assert len(voice.clips[0].words) > 2
    assert all(f"{word.text} " in said and f"{word.start:.2f}" in said for word in voice.clips[0].words)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_silence_is_trimmed_and_the_words_move_with_it(cli: Cli, tmp_path: Path) -> None:
    sound, rate = soundfile.read(clip())
    silence = np.zeros(rate)
    soundfile.write(tmp_path / "late.wav", np.concatenate([silence, sound, silence]), rate)
    early = [
        [text, start + 1, end + 1] for text, start, end in json.loads((CLIPS / "flite_slt.words.json").read_text())
    ]
    (tmp_path / "late.words.json").write_text(json.dumps(early))
    for source, out in ((clip(), "early"), (tmp_path / "late.wav", "late")):
        assert cli("voice", "make", "x", "--speaker-1", source, "-o", out, *TINY)[0] == 0
    early, late = Voice.load("early").clips[0], Voice.load("late").clips[0]
    assert abs(early.codes.shape[1] - late.codes.shape[1]) <= 1
    assert all(abs(a.start - b.start) < 0.03 for a, b in zip(early.words, late.words, strict=True))
    assert early.words[0].start < 0.15


def test_one_clip_serves_both_speakers_unless_told_otherwise(cli: Cli) -> None:
    def made(*options: object) -> Voice:
        assert cli("voice", "make", "x", "--speaker-1", clip(), *options, "-o", "x.voice.safetensors", *TINY)[0] == 0
        return Voice.load("x.voice.safetensors")

    both = made()
    assert len(both.clips) == 2
    assert both.clips[0].codes.tolist() == both.clips[1].codes.tolist()
    assert both.provenance["speaker_2"] == "speaker_1 again"
    assert len(made("--speaker-2", "none").clips) == 1
    two = made("--speaker-2", clip("kokoro_af_heart"), "--text-2", TEXT)
    assert two.clips[1].codes.tolist() != two.clips[0].codes.tolist()
    assert two.provenance["words_2"] == "aligned to the text"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--speaker-1", "no.wav"], "--speaker-1: no such file: no.wav"),
        (["--speaker-1", clip(), "--speaker-2", "no.wav"], "--speaker-2: no such file: no.wav"),
        (["--speaker-1", clip(), "--text-2", "Hi."], "--text-2 and --words-2 need --speaker-2"),
        (["--speaker-1", clip("kokoro_af_heart")], "Give --text-1, --words-1, or --transcriber openai/"),
        (["--speaker-1", clip(), "--words-1", "late.json"], "late.json: 'Hi' starts at 9 s, "),
        (["--speaker-1", clip(), "--words-1", "no.json"], "no.json cannot be read: "),
        (["--speaker-1", "text.wav", "--text-1", "Hi"], "voice clip text.wav cannot be read: "),
        (["--speaker-1", "hour.wav", "--text-1", "Hi"], "voice clip hour.wav is 3600 s long; at most 300 s are read"),
        (["--speaker-1", "quiet.wav", "--words-1", "hi.json"], "voice clip quiet.wav is nearly silent"),
        (["--speaker-1", clip(), "-o", "no/such/x"], "no folder no/such to write x into"),
        (
            ["--speaker-1", "long.wav", "--words-1", "hi.json"],
            "voice x is 140.0 s long; half of the model's context is 60",
        ),
    ],
)
def test_what_cannot_be_made_is_told_in_one_line(cli: Cli, tmp_path: Path, options: list[Any], complaint: str) -> None:
    (tmp_path / "text.wav").write_text("notes")
    (tmp_path / "late.json").write_text('[["Hi", 9, 10]]')
    (tmp_path / "hi.json").write_text('[["Hi", 0.5, 1]]')
    noise = np.random.default_rng(0).normal(0, 0.1, 70 * 8000)
    if "hour.wav" in options:
        soundfile.write(tmp_path / "hour.wav", np.zeros(3600 * 8000, np.int16), 8000)
    soundfile.write(tmp_path / "quiet.wav", noise[:16000] / 1000, 8000)
    soundfile.write(tmp_path / "long.wav", noise, 8000)
    out = [] if "-o" in options else ["-o", "x.voice.safetensors"]
    code, said, err = cli("voice", "make", "x", *options, *out, *TINY)
    assert (code, said) == (1, "")
    assert err.startswith("dia2stream: ")
    assert complaint in err
    assert err.count("\n") == 1
    assert not (tmp_path / "x.voice.safetensors").exists()


def test_a_damaged_mp3_is_told_in_one_line_although_its_decoder_has_more_to_say(tmp_path: Path) -> None:
    out = ["-o", "x.voice.safetensors"]
    for name, damage in (("cut.mp3", lambda whole: whole[: len(whole) // 2]), ("noise.mp3", lambda whole: whole[::-1])):
        soundfile.write(tmp_path / name, np.random.default_rng(0).normal(0, 0.1, 4 * RATE), RATE)
        (tmp_path / name).write_bytes(damage((tmp_path / name).read_bytes()))
        done = ran("voice", "make", "x", "--speaker-1", name, "--text-1", "Hi", *out, *TINY, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"dia2stream: voice clip {name} ")
        assert done.stderr.count("\n") == 1


def test_over_ten_seconds_warns(cli: Cli, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).normal(0, 0.1, 12 * 8000), 8000)
    (tmp_path / "a.words.json").write_text('[["Hi", 0.5, 1]]')
    code, _, err = cli("voice", "make", "x", "--speaker-1", "a.wav", "--speaker-2", "none", "-o", "x", *TINY)
    assert code == 0
    assert "speaker 1's clip is 12.0 s long; what is over 10 s takes up context" in err


def test_show_prints_the_words_and_draws_them(cli: Cli, ann: Path) -> None:
    code, said, err = cli("voice", "show", ann, "--png", "ann.png", *TINY)
    assert (code, err) == (0, "")
    for part in ("ann: 4.", "licence: Flite", "apples", "S1 and S2", "made_by: dia2stream"):
        assert part in said
    assert Path("ann.png").read_bytes().startswith(b"\x89PNG")
    assert cli("voice", "show", ann)[:2] == (0, said)
    code, _, err = cli("voice", "show", ann, "--png", "no/folder/ann.png", *TINY)
    assert (code, err.count("\n")) == (1, 1)


def test_without_matplotlib_one_line_says_what_to_install(cli: Cli, ann: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_agg", None)
    code, _, err = cli("voice", "show", ann, "--png", "ann.png", *TINY)
    assert (code, err) == (1, "dia2stream: drawing needs matplotlib: pip install 'dia2stream[plot]'\n")


def test_play_speaks_a_line_in_the_voice(cli: Cli, ann: Path) -> None:
    code, _, err = cli("voice", "play", ann, "--text", "Hello there.", "-o", "ann.wav", "--seed", "1", *TINY)
    assert code == 0, err
    alone = cli("say", "Hello there.", "-o", "alone.wav", "--seed", "1", *TINY)
    voiced = cli("say", "Hello there.", "-o", "voiced.wav", "--seed", "1", "--voice", ann, *TINY)
    assert (alone[0], voiced[0]) == (0, 0)
    assert Path("ann.wav").read_bytes() == Path("voiced.wav").read_bytes() != Path("alone.wav").read_bytes()


def test_a_bad_voice_is_told_before_the_model_is_loaded(cli: Cli) -> None:
    code, said, err = cli("say", "Hi.", "-o", "x.wav", "--voice", "no.voice.safetensors", "--model", "no/such-model")
    assert (code, said) == (1, "")
    assert err.splitlines()[-1] == "dia2stream: voice no.voice.safetensors: no such file"


def test_a_voice_of_another_model_is_refused(cli: Cli, ann: Path) -> None:
    kept = Voice.load(ann)
    replace(kept, clips=tuple(replace(clip, codes=clip.codes[:5]) for clip in kept.clips)).save("other")
    code, _, err = cli("say", "Hi.", "-o", "x.wav", "--voice", "other", *TINY)
    assert code == 1
    assert err.splitlines()[-1].startswith("dia2stream: voice ann has 5 codebooks, the model 8: make it again")


def test_an_engine_has_the_voices_of_its_files(ann: Path) -> None:
    speech = SpeechOptions(voice=(str(ann), f"bob={ann}"))
    engine = Engine.load(ModelOptions("random:tiny", device="cpu"), speech=speech)
    try:
        assert list(engine.voices) == ["ann", "bob"]
        assert engine.voices["ann"].frames == Voice.load(ann).frames
    finally:
        engine.close()
