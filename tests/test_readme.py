"""The README tells the truth: its files exist, its code runs, its commands are taken."""

import re
import shlex
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest
from piping import PATIENCE
from serving import Serve
from tools import needs

from dia2stream.cli import app
from dia2stream.protocol.messages import COMMANDS, EVENTS, parse_command

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def tree() -> set[str]:
    """The folders of packages named under "What is where"."""
    named, above = set(), ""
    for line in README.split("## What is where")[1].split("\n## ")[0].splitlines():
        if match := re.match(r" {4}(\S+/) ", line):
            above = match[1]
        elif match := re.match(r" {6}(\S+/) ", line):
            named.add(above + match[1])
    return named


def test_every_room_is_in_the_tree_and_nothing_else_is():
    packages = [ROOT / "dia2", ROOT / "dia2stream"]
    rooms = {f"{p.name}/{r.name}/" for p in packages for r in p.iterdir() if r.is_dir() and r.name != "__pycache__"}
    assert tree() & {room for room in tree() if room.startswith("dia2")} == rooms


def test_the_python_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    offline, streaming = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(offline.replace("nari-labs/Dia2-2B", "random:tiny").replace('"cuda"', '"cpu"'), {})
    assert (tmp_path / "hello.wav").stat().st_size > 1000
    exec(streaming, {})
    told = capsys.readouterr().out
    assert "(1920,)\n" in told
    assert "Done(" in told


def table(heading: str) -> dict[str, set[str]]:
    """The rows of the table under a heading: the names in its first column, each with those in the second."""
    section = README.split(f"### {heading}\n")[1].split("\n#")[0]
    rows = [line.split("|")[1:3] for line in section.splitlines() if line.startswith("| `")]
    return {name: set(re.findall(r"`(\w+)`", given)) for names, given in rows for name in re.findall(r"`(\w+)`", names)}


@pytest.mark.parametrize(("heading", "messages"), [("Commands", COMMANDS), ("Events", EVENTS)])
def test_the_tables_have_every_command_and_event_with_its_fields(heading, messages):
    assert table(heading) == {name: {field.name for field in fields(cls)} for name, cls in messages.items()}


@pytest.mark.parametrize("line", re.findall(r'^ {4}(\{"cmd.*)', README, re.MULTILINE))
def test_every_command_shown_is_one(line):
    assert parse_command(line)


@pytest.mark.parametrize("line", re.findall(r"^ {4}(?:echo .*\| )?(dia2stream [^|<\n]*)", README, re.MULTILINE))
def test_every_flag_in_a_command_exists(line, capsys):
    _, command, *arguments = shlex.split(line)
    below = arguments[:1] if command == "voice" else []  # a command of commands
    with pytest.raises(SystemExit):
        app([command, *below, "--help"], prog_name="dia2stream")
    known = capsys.readouterr().out
    assert all(argument in known for argument in arguments if re.match(r"--?\w", argument))


@needs("curl")
def test_every_address_shown_is_answered():
    lines = re.findall(r"^ {4}(curl .*?) *(?:#.*)?$", README, re.MULTILINE)
    with Serve(token="secret") as server:
        for line in lines:
            command = [*shlex.split(line.replace("127.0.0.1:8765", f"127.0.0.1:{server.port}")), "--silent", "--fail"]
            assert subprocess.run(command, capture_output=True, timeout=PATIENCE).returncode == 0, line
    assert len(lines) == 4
