"""The manuals tell the truth: their files exist, their code runs, their commands work, their tables are complete."""

import re
import shlex
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest
from command_lines import command_lines
from piping import PATIENCE
from serving import Serve
from tools import needs

from dia2stream.cli import app
from dia2stream.errors import CLOSE_CODES
from dia2stream.protocol.messages import COMMANDS, EVENTS, parse_command

ROOT = Path(__file__).parent.parent
MANUALS = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in (
        "README.md",
        "CONTRIBUTING.md",
        "dia2/voice/README.md",
        "dia2stream/bench/README.md",
        "dia2stream/cluster/README.md",
        "dia2stream/journal/README.md",
        "dia2stream/plugins/README.md",
        "dia2stream/protocol/README.md",
        "dia2stream/server/README.md",
        "dia2stream/server/dialects/README.md",
        "dia2stream/server/web/README.md",
        "dia2stream/stdio/README.md",
        "dia2stream/text/README.md",
    )
}
README, PROTOCOL, SERVER = (
    MANUALS[name] for name in ("README.md", "dia2stream/protocol/README.md", "dia2stream/server/README.md")
)
ALL = "\n".join(MANUALS.values())


def shown(pattern: str) -> list[str]:
    """Every different line of any manual that matches a pattern, or the group in it."""
    return list(dict.fromkeys(re.findall(pattern, ALL, re.MULTILINE)))


def test_no_manual_is_missing_from_these_tests():
    written = {path for package in ("dia2", "dia2stream") for path in (ROOT / package).rglob("README.md")}
    assert {str(path.relative_to(ROOT)) for path in written} <= set(MANUALS)


def test_the_readme_can_be_read_in_five_minutes():
    assert len(README.splitlines()) <= 230


@pytest.mark.parametrize("name", MANUALS)
def test_every_link_leads_to_a_file_and_a_heading(name):
    for target in re.findall(r"\]\(([^)]+)\)", MANUALS[name]):
        if target.startswith("https://"):
            continue
        path, _, heading = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), target
        headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE) if heading else []
        known = {re.sub(r"[^a-z0-9 -]", "", line.lower()).replace(" ", "-") for line in headings}
        assert not heading or heading in known, target


def test_every_path_named_in_passing_exists():
    """Paths in code marks, as `scripts/demo`, from the repository's root."""
    named = shown(r"`((?:scripts|tests|dia2|dia2stream)/[\w./-]+)`")
    assert named
    assert not [path for path in named if not (ROOT / path).exists()]


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
    client, offline, streaming = re.findall(r"```python\n(.*?)```", ALL, re.DOTALL)
    with Serve(token="secret") as server:
        exec(client.replace("ws://127.0.0.1:8765", server.url), {})
    told = capsys.readouterr().out
    assert "1920 samples\n" in told
    assert "Done(" in told
    exec(offline.replace("nari-labs/Dia2-2B", "random:tiny").replace('"cuda"', '"cpu"'), {})
    assert (tmp_path / "hello.wav").stat().st_size > 1000
    exec(streaming, {})
    told = capsys.readouterr().out
    assert "(1920,)\n" in told
    assert "Done(" in told


def table(text: str, heading: str) -> dict[str, set[str]]:
    """The rows of the table under a heading: the names in its first column, each with those in the second."""
    section = re.split(rf"^##+ {heading}\n", text, flags=re.MULTILINE)[1].split("\n#")[0]
    rows = [line.split("|")[1:3] for line in section.splitlines() if line.startswith("| `")]
    return {name: set(re.findall(r"`(\w+)`", given)) for names, given in rows for name in re.findall(r"`(\w+)`", names)}


@pytest.mark.parametrize(("heading", "messages"), [("Commands", COMMANDS), ("Events", EVENTS)])
def test_the_tables_have_every_command_and_event_with_its_fields(heading, messages):
    assert table(PROTOCOL, heading) == {name: {field.name for field in fields(cls)} for name, cls in messages.items()}


def test_the_table_of_errors_has_every_code_and_what_it_closes_with():
    section = PROTOCOL.split("### Errors\n")[1].split("\n#")[0]
    told = {
        code: int(close) if close else None for code, close in re.findall(r"^\| `(\w+)` \| (\d*) ?\|", section, re.M)
    }
    assert told == dict(CLOSE_CODES)


def test_the_tables_of_metrics_have_every_metric_and_no_other():
    section = SERVER.split("\n## Metrics\n")[1].split("\n## ")[0]
    told = {
        f"dia2stream_{name}"
        for row in re.findall(r"^\| (`.*?) \|", section, re.M)
        for name in re.findall(r"`(\w+)", row)
    }
    with Serve() as server:
        text = server.get("/metrics")[1]
    served = set(re.findall(r"^# TYPE (dia2stream_\w+) ", text, re.MULTILINE))
    # Prometheus' own client adds when a counter began.
    assert told == {name for name in served if not name.endswith("_created")}
    assert set(re.findall(r"`(process_\w+_\w+)`", section)) <= set(re.findall(r"process_\w+", text))


@pytest.mark.parametrize("line", shown(r'^ {4}(\{"cmd.*)'))
def test_every_command_shown_is_one(line):
    assert parse_command(line)


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        app([*command.split(), "--help"], prog_name="dia2stream")
    return capsys.readouterr().out


@pytest.mark.parametrize("line", shown(r"^ {4}(?:echo .*\| |DIA2STREAM_TOKEN=secret )?(dia2stream [^|<\n]*)"))
def test_every_flag_in_a_command_exists(line, capsys):
    _, command, *arguments = shlex.split(line)
    below = f" {arguments[0]}" if command == "voice" else ""  # a command of commands
    known = help_of(command + below, capsys)
    assert all(argument in known for argument in arguments if re.match(r"--?\w", argument))


def test_every_flag_named_in_passing_exists(capsys):
    """Flags in code marks, as `--linger`, are flags of some command."""
    known = set(re.findall(r"--[a-z0-9-]+", "".join(help_of(command, capsys) for command in command_lines())))
    assert set(shown(r"`(?:dia2stream \w+ )?(--[a-z0-9-]+)")) - {"--help", "--fix"} <= known


@needs("curl")
def test_every_address_shown_is_answered(tmp_path):
    lines = shown(r"^ {4}(curl .*?) *(?:#.*)?$")
    with Serve(token="secret") as server:
        for line in lines:
            command = [*shlex.split(line.replace("127.0.0.1:8765", f"127.0.0.1:{server.port}")), "--silent", "--fail"]
            assert subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=PATIENCE).returncode == 0, line
    assert len(lines) == 5
