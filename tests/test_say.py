"""`dia2stream say`: one text, one file, and one line about what came of it."""

import os
import re
import struct
import subprocess

import numpy as np
import pytest
import soundfile
from piping import ran

from dia2stream.audio import UNKNOWN_SIZE
from dia2stream.cli import app

MODEL = ("--model", "random:tiny", "--seed", "5")


@pytest.fixture
def say(capfd, monkeypatch, tmp_path):
    """Runs `say` in this process, in an empty folder: exit code, stdout, lines of stderr."""
    for name in [name for name in os.environ if name.startswith("DIA2STREAM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # else it tries for half a minute
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, list[str]]:
        with pytest.raises(SystemExit) as done:
            app(["say", *arguments], prog_name="dia2stream")
        out, err = capfd.readouterr()
        return done.value.code, out, err.splitlines()

    return run


def say_in_a_process(*arguments: str, **options) -> subprocess.CompletedProcess[bytes]:
    return ran("say", *arguments, *MODEL, text=False, **options)


def test_a_text_longer_than_a_command_may_be_is_spoken_into_a_file(say, tmp_path, monkeypatch):
    (tmp_path / "speech.txt").write_text("[S1]\n" * 5000 + "Hello there.")
    with open("speech.txt") as text:
        monkeypatch.setattr("sys.stdin", text)
        code, out, err = say("-", "-o", "hello.wav", *MODEL)
    assert (code, out) == (0, "")
    samples, rate = soundfile.read("hello.wav")
    assert (rate, len(samples) % 1920) == (24000, 0)
    assert np.abs(samples).max() > 0.01
    assert err[-1].startswith(f"dia2stream: hello.wav: {len(samples) / 24000:.1f} s of audio in ")
    assert err[-1].endswith("by random:tiny")


def test_a_text_goes_to_stdout_as_a_stream():
    done = say_in_a_process("[S1] Hello.", "-o", "-")
    assert done.returncode == 0
    assert struct.unpack_from("<I", done.stdout, 40) == (UNKNOWN_SIZE,)
    assert (len(done.stdout) - 44) % 3840 == 0
    assert done.stderr.decode().splitlines()[-1].startswith("dia2stream: stdout: ")


def test_a_full_disk_is_one_line():
    done = say_in_a_process("[S1] Hello.", "-o", "/dev/full")
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[-1] == "dia2stream: /dev/full: No space left on device"


def test_a_text_that_cannot_be_spoken_is_one_line(say):
    code, _, err = say('Wait <break time="99s"/> here.', "-o", "x.wav", *MODEL)
    assert code == 1
    assert err[-1] == "dia2stream: text: a break of 99 s is too long: at most 60 s"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["Hello.", "-o", "x.wav", "--model", "no/such"], "no/such"),
        (["Hello.", "-o", "no/such/x.wav"], "no/such/x.wav: No such file or directory"),
        (["Hello.", "-o", "."], ".: Is a directory"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_leaves_nothing_behind(say, tmp_path, arguments, line, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, out, err = say(*arguments)
    assert (code, out, len(err)) == (1, "", 1)
    assert line in err[0]
    assert not list(tmp_path.iterdir())


def test_an_older_file_outlives_a_model_that_cannot_be_had(say, tmp_path):
    (tmp_path / "x.wav").write_bytes(b"older")
    assert say("Hello.", "-o", "x.wav", "--model", "/no/such/folder")[0] == 1
    assert (tmp_path / "x.wav").read_bytes() == b"older"


@pytest.mark.parametrize("text", [" \n", "[S2]", "[S1] [s2]", "...", "\U0001f600", "<think>x</think>"])
def test_nothing_to_say_is_wrong_usage(say, text):
    code, _, err = say(text, "-o", "x.wav")
    assert code == 2
    assert "nothing to say" in err[-1]


@pytest.mark.parametrize(("ending", "kind"), [("mp3", "MP3"), ("flac", "FLAC"), ("OGG", "OGG"), ("wav", "WAV")])
def test_the_name_says_which_kind_of_file_it_becomes(say, tmp_path, ending, kind):
    (tmp_path / f"x.{ending}").write_bytes(b"older" * 10_000)
    code, _, err = say("One two.", "-o", f"x.{ending}", *MODEL)
    assert code == 0
    info = soundfile.info(f"x.{ending}")
    assert (info.format, info.samplerate, info.channels) == (kind, 24000, 1)
    seconds = float(re.search(r": ([\d.]+) s of audio", err[-1])[1])
    assert info.duration == pytest.approx(seconds, abs=0.2)


@pytest.mark.parametrize("name", ["x.m4a", "x.txt", "a.b/x.opus"])
def test_another_ending_is_wrong_usage(say, tmp_path, name):
    code, _, err = say("One.", "-o", name, *MODEL)
    assert code == 2
    assert "is not known; known are .wav, .mp3, .flac, .ogg" in " ".join(err)
    assert not list(tmp_path.iterdir())


def test_lines_are_one_text_and_marks_of_lines_are_pauses():
    flat = say_in_a_process("[S1] One two", "-o", "-")
    lines = say_in_a_process("-", "-o", "-", input=b"# [S1] One\r\n\r\n- two")
    assert lines.returncode == flat.returncode == 0
    assert len(lines.stdout) > len(flat.stdout)


def test_what_was_left_out_of_the_text_is_told(say):
    code, _, err = say("[S3] One [S3] two.", "-o", "x.wav", *MODEL)
    assert code == 0
    assert err[-2] == "dia2stream: [S3] is left out: the speakers are [S1] and [S2]"


def test_a_lexicon_that_cannot_be_used_is_told_before_the_model_is_loaded(say, tmp_path):
    (tmp_path / "words.txt").write_text("GIF jiff")
    code, _, err = say("GIF", "-o", "x.wav", "--lexicon", "words.txt", "--model", "no/such")
    assert (code, err) == (1, ["dia2stream: words.txt, line 1: 'GIF jiff' must be WORD=SAID, as GIF=jiff"])
    assert say("GIF", "-o", "x.wav", "--say", "GIF", "--model", "no/such")[2][0].startswith("dia2stream: 'GIF' must be")


# ---- Playing ----

RECORDER = """#!/bin/sh
echo "$@" > {folder}/arguments
cat > {folder}/samples
exit {code}
"""


@pytest.fixture
def speakers(tmp_path, monkeypatch):
    """A machine with a sound server and, in its path, whatever players a test puts there."""
    path = tmp_path / "bin"
    path.mkdir()
    monkeypatch.setenv("PULSE_SERVER", "here")
    monkeypatch.setenv("PATH", str(path))

    def put(name, code=0):
        script = path / name
        script.write_text(RECORDER.format(folder=tmp_path, code=code).replace("cat >", "/bin/cat >"))
        script.chmod(0o755)

    return put


@pytest.mark.parametrize(("player", "argument"), [("ffplay", "-ar 24000"), ("aplay", "-r 24000"), ("play", "-r 24000")])
def test_without_a_file_it_is_played(say, tmp_path, speakers, player, argument):
    speakers(player)
    code, out, err = say("One two.", *MODEL)
    assert (code, out) == (0, "")
    samples = np.frombuffer((tmp_path / "samples").read_bytes(), "<i2")
    assert argument in (tmp_path / "arguments").read_text()
    assert len(samples) > 1920
    assert np.abs(samples).max() > 100
    assert err[-1].startswith(f"dia2stream: {player}: {len(samples) / 24000:.1f} s of audio in ")


def test_a_player_that_reads_files_only_gets_one(say, tmp_path, speakers):
    speakers("afplay")
    assert say("One.", *MODEL)[0] == 0
    assert (tmp_path / "arguments").read_text().strip().endswith(".wav")


@pytest.mark.parametrize(
    ("environment", "line"),
    [
        ({"PULSE_SERVER": "here", "PATH": "/nowhere"}, "no player is installed, ffplay, aplay, play (sox) or afplay"),
        ({"PATH": "/nowhere", "XDG_RUNTIME_DIR": "/nowhere"}, "there is no sound device here to play on"),
    ],
)
def test_where_it_cannot_be_played_the_flag_for_a_file_is_named(say, monkeypatch, environment, line):
    monkeypatch.setattr("dia2stream.stdio.players._SOUND_CARDS", "/nowhere/timer")
    monkeypatch.delenv("PULSE_SERVER", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert say("One.", "--model", "no/such") == (1, "", [f"dia2stream: {line}: write a file with -o speech.wav"])


def test_a_player_that_fails_is_told_with_its_code(say, speakers):
    speakers("aplay", code=3)
    code, _, err = say("One.", *MODEL)
    assert (code, err[-1]) == (1, "dia2stream: aplay ended with code 3: write a file with -o speech.wav")
