"""The command line: quick help, flags and their environment variables, one-line errors, the documented exit codes."""

import io
import os
import re
import resource
import signal
import subprocess
import sys
import types
from dataclasses import fields
from typing import Literal, get_args, get_origin

import pytest
from command_lines import command_lines
from tools import needs

from dia2.errors import CheckpointError
from dia2stream import __version__
from dia2stream.cli import app
from dia2stream.errors import Dia2StreamError
from dia2stream.options import ModelOptions, PipeOptions, SayOptions, ServeOptions, SpeechOptions
from dia2stream.protocol.messages import COMMANDS, Start

PIPE_GROUPS = (ModelOptions, SpeechOptions, PipeOptions)
HEAVY = {"torch", "transformers", "numpy", "dia2", "dia2stream.engine.engine", "dia2stream.stdio.pipe"}


class Pipe(types.ModuleType):
    """Stands in for dia2stream.pipe: records what it was asked for, or fails as told."""

    def __init__(self) -> None:
        super().__init__("dia2stream.stdio.pipe")
        self.asked = None
        self.failure = None

    def run(self, *args):
        self.asked = args
        if self.failure:
            raise self.failure

    say = run


@pytest.fixture
def pipe(monkeypatch):
    for name in [name for name in os.environ if name.startswith("DIA2STREAM_")]:
        monkeypatch.delenv(name)
    fake = Pipe()
    monkeypatch.setitem(sys.modules, "dia2stream.stdio.pipe", fake)
    return fake


@pytest.fixture
def cli(pipe, capsys):
    """Runs the command line in this process: exit code, stdout, stderr."""

    def run(*args):
        with pytest.raises(SystemExit) as done:
            app(args, prog_name="dia2stream")
        return (done.value.code, *capsys.readouterr())

    return run


def process(*args: str, before: str = "", **options) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own, after some Python that prepares it."""
    code = f"import sys\n{before}\nfrom dia2stream.__main__ import main; main()"
    return subprocess.run([sys.executable, "-c", code, *args], text=True, timeout=100, **options)


# --- help ---


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["pipe", "--help"], ["say", "-h"]])
def test_help_and_version_load_no_model_library(args):
    before = f"import atexit; atexit.register(lambda: print({HEAVY} & set(sys.modules), file=sys.stderr))"
    done = process(*args, before=before, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "set()\n")


def test_help_takes_well_under_a_second_of_processor_time():
    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = spent()
    process("--help", capture_output=True)
    assert spent() - before < 1.0


def test_version_is_one_line(cli):
    assert cli("--version") == (0, f"dia2stream {__version__}\n", "")


@pytest.mark.parametrize("command", command_lines())
def test_help_has_examples_and_fits_into_80_columns(cli, command):
    lines = cli(*command.split(), "--help")[1].splitlines()
    assert lines[lines.index("  Examples:") + 1 :]
    assert [line for line in lines if len(line) > 80] == []


def test_help_begins_with_what_people_want_first(cli):
    listed = cli("--help")[1].split("Commands:\n")[1]
    assert re.findall(r"^  (\w+) ", listed, re.MULTILINE)[:3] == ["say", "pipe", "serve"]
    assert "..." not in listed


def test_help_names_every_command_and_every_flag(cli):
    text = cli("pipe", "--help")[1]
    # A pipe has one conversation, so there is nowhere for a fork to go.
    assert all(f'{{"cmd": "{name}"' in text for name in COMMANDS if name != "fork")
    for group in PIPE_GROUPS:
        for field in fields(group):
            assert f"--{field.name.replace('_', '-')}" in text


@pytest.mark.parametrize(
    ("command", "headings"),
    [
        (["say"], ["Arguments", "Output", "Speech", "Model", "Other options"]),
        (["pipe"], ["Input and output", "Speech", "Model", "Other options"]),
        (["serve"], ["Server", "Speech", "Model", "Other options"]),
        (["bench"], ["One call at a time", "Many calls at once", "Speech", "Model", "Other options"]),
        (["voice", "make"], ["Arguments", "Clips", "Model", "Other options"]),
    ],
)
def test_options_stand_in_groups_with_those_of_the_command_itself_first(cli, command, headings):
    lines = cli(*command, "--help")[1].splitlines()
    assert [line[:-1] for line in lines if line.endswith(":") and not line.startswith(" ")] == headings
    heading = lines.index("Output:") if command == ["say"] else None
    assert heading is None or lines[heading + 1].startswith("  -o, --output")


@pytest.mark.parametrize("group", [[], ["voice"]])
def test_no_summary_of_a_command_is_cut_off(cli, group):
    text = cli(*group, "--help")[1]
    assert "..." not in text.split("Commands:")[1]
    assert max(map(len, text.splitlines())) <= 80


# --- flags ---


def test_speech_options_are_what_start_can_set():
    settable = {field.name for field in fields(Start)} - {"text", "id", "final"}
    assert {field.name for field in fields(SpeechOptions)} == settable | {"lexicon", "gain_db"}  # the server's own


def test_flags_reach_the_command_and_the_rest_keeps_its_default(cli, pipe):
    cli("pipe", "--model", "here", "--cfg-scale", "1", "--sample-rate", "8000", "--wav")
    assert pipe.asked == (
        ModelOptions(model="here"),
        SpeechOptions(cfg_scale=1.0),
        PipeOptions(wav=True, sample_rate=8000),
    )


def test_every_flag_has_an_environment_variable_and_wins_over_it(cli, pipe, monkeypatch):
    for name, value in {"SEED": "7", "FRAMED": "1", "DEVICE": "cpu", "MAX_LEAD_MS": "80"}.items():
        monkeypatch.setenv(f"DIA2STREAM_{name}", value)
    cli("pipe", "--device", "cuda")
    assert pipe.asked == (ModelOptions(device="cuda"), SpeechOptions(seed=7), PipeOptions(framed=True, max_lead_ms=80))


@pytest.mark.parametrize("field", [f for group in PIPE_GROUPS for f in fields(group)], ids=lambda field: field.name)
def test_each_flag_of_pipe_can_be_set_by_its_variable(cli, pipe, monkeypatch, field):
    kind = get_args(field.type)[0]
    value = {bool: True, float: 2.0, float | None: 2.0, tuple[str, ...]: ("a", "b")}.get(kind)
    if get_origin(kind) is Literal:
        value = get_args(kind)[-1]
    elif value is None:
        value = 100 if int in (kind, *get_args(kind)) else "a"
    monkeypatch.setenv(f"DIA2STREAM_{field.name.upper()}", " ".join(value) if kind == tuple[str, ...] else str(value))
    cli("pipe")
    assert field.default != value
    assert [getattr(group, field.name) for group in pipe.asked if hasattr(group, field.name)] == [value]


def test_each_flag_of_serve_can_be_set_by_its_variable(cli, pipe, monkeypatch):
    monkeypatch.setitem(sys.modules, "dia2stream.server.server", pipe)
    usual = {int: 2048, int | None: 2048, float: 2.0, bool: True, str: "a", str | None: "a"}
    kinds = {field.name: get_args(field.type)[0] for field in fields(ServeOptions)}
    values = {name: usual[kind] if kind in usual else get_args(kind)[-1] for name, kind in kinds.items()}
    values["slots"] = "8"
    for other in ("record", "journal"):  # one excludes the other
        chosen = {name: value for name, value in values.items() if not name.startswith(other)}
        with monkeypatch.context() as environment:
            for name, value in chosen.items():
                environment.setenv(f"DIA2STREAM_{name.upper()}", str(value))
            cli("serve")
        assert pipe.asked == (ModelOptions(), SpeechOptions(), ServeOptions(**chosen))


def test_say_takes_its_text_and_where_to_write(cli, pipe):
    cli("say", "[S1] Hello.", "-o", "hello.wav")
    assert pipe.asked == ("[S1] Hello.", ModelOptions(), SpeechOptions(), SayOptions(output="hello.wav"))


def test_say_reads_its_text_from_stdin(pipe, cli, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"[S1] From \xff stdin.\n")))
    cli("say", "-", "-o", "hello.wav")
    assert pipe.asked[0] == "[S1] From  stdin.\n"


# --- failures ---


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["pipe", "--sample-rate", "44100"], "--sample-rate"),
        (["pipe", "--cfg-scale", "99"], "--cfg-scale"),
        (["pipe", "--seed", "-1"], "--seed"),
        (["pipe", "--max-lead-ms", "10"], "--max-lead-ms"),
        (["pipe", "--wav", "--framed"], "--wav and --framed are mutually exclusive"),
        (["serve", "--token", ""], "--token is empty: leave it out, or give a secret"),
        (["serve", "--tls-key", "key.pem"], "--tls-key needs --tls-cert"),
        (["serve", "--ping-seconds", "0"], "--ping-seconds must be more than 0"),
        (["say", "Hello.", "-o", "x.m4a"], "known are .wav, .mp3, .flac, .ogg"),
        (["say", "[S2]", "-o", "x.wav"], "nothing to say"),
        (["say", " ", "-o", "x.wav"], "nothing to say"),
        (["sing"], "sing"),
    ],
)
def test_wrong_usage_is_told_and_exits_2(cli, pipe, args, says):
    code, out, err = cli(*args)
    assert (code, out, pipe.asked) == (2, "", None)
    assert says in err


@pytest.mark.parametrize(
    ("failure", "line"),
    [
        (CheckpointError("no such repo: me/mine"), "no such repo: me/mine"),
        (Dia2StreamError("no seat"), "no seat"),
        (FileNotFoundError(2, "No such file or directory", "no/x.wav"), "no/x.wav: No such file or directory"),
    ],
)
def test_a_failure_that_is_the_users_to_mend_is_one_line(cli, pipe, failure, line):
    pipe.failure = failure
    assert cli("pipe") == (1, "", f"dia2stream: {line}\n")


def test_a_fault_of_ours_keeps_its_traceback(pipe):
    pipe.failure = KeyError("oops")
    with pytest.raises(KeyError, match="oops"):
        app(["pipe"])


@pytest.mark.parametrize("module", ["typer", "dia2stream.stdio.pipe"])
def test_ctrl_c_exits_130_at_once_while_importing_and_while_threads_work(module):
    before = f"""
import os, signal, threading, time
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            threading.Thread(target=time.sleep, args=(90,)).start()
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(90)
sys.meta_path.insert(0, Finder())
"""
    done = process("pipe", before=before, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGINT, "", "")


@needs("unshare")
def test_sigterm_ends_the_first_process_of_a_container():
    isolated = ["unshare", "--pid", "--fork", "--mount-proc"]
    if subprocess.run([*isolated, "true"], capture_output=True).returncode:
        pytest.skip("process namespaces are not allowed here")
    code = """
import os, signal, sys, time
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            os.kill(1, signal.SIGTERM)
            time.sleep(5)
sys.meta_path.insert(0, Finder())
from dia2stream.__main__ import main
main()
"""
    done = subprocess.run([*isolated, sys.executable, "-c", code, "--version"], capture_output=True, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGTERM, b"", b"")


def test_audio_is_not_written_to_a_terminal():
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    done = process("pipe", stdout=theirs, stderr=subprocess.PIPE)
    os.close(ours)
    os.close(theirs)
    assert done.returncode == 2
    assert "stdout is a terminal" in done.stderr
