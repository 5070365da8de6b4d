"""`dia2stream say`: one text, one file, and one line about what came of it."""

import os
import struct
import subprocess

import numpy as np
import pytest
import soundfile
from piping import ENVIRONMENT, PATIENCE, dia2stream

from dia2stream.audio import UNKNOWN_SIZE
from dia2stream.cli import app

MODEL = ("--model", "random:tiny", "--seed", "5")


@pytest.fixture
def say(capfd, monkeypatch, tmp_path):
    """Runs `say` in this process, in an empty folder: exit code, stdout, lines of stderr."""
    for name in [name for name in os.environ if name.startswith("DIA2STREAM_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, list[str]]:
        with pytest.raises(SystemExit) as done:
            app(["say", *arguments], prog_name="dia2stream")
        out, err = capfd.readouterr()
        return done.value.code, out, err.splitlines()

    return run


def say_in_a_process(*arguments: str, **options) -> subprocess.CompletedProcess[bytes]:
    command = dia2stream("say", *arguments, *MODEL)
    return subprocess.run(command, capture_output=True, env=ENVIRONMENT, timeout=PATIENCE, **options)


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


def test_nothing_to_say_is_wrong_usage(say):
    code, _, err = say(" \n", "-o", "x.wav")
    assert code == 2
    assert "nothing to say" in err[-1]
