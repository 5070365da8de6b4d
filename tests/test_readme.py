"""The README tells the truth: its files exist, its code runs, its commands are taken."""

import re
import shlex
from pathlib import Path

import pytest

from dia2stream.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def tree() -> set[str]:
    """The files named under "What is where"."""
    named, folder = set(), ""
    for line in README.split("## What is where")[1].split("\n## ")[0].splitlines():
        if match := re.match(r" {4}(\S+/) ", line):
            folder = match[1]
        elif match := re.match(r" {6}(\S+\.py) ", line):
            named.add(folder + match[1])
    return named


def test_every_module_is_in_the_tree_and_nothing_else_is():
    there = {f"{package}/{path.name}" for package in ("dia2", "dia2stream") for path in (ROOT / package).glob("*.py")}
    assert tree() == {name for name in there if not name.endswith("/__init__.py")}


def test_the_python_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    [code] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(code.replace("nari-labs/Dia2-2B", "random:tiny").replace('"cuda"', '"cpu"'), {})
    assert (tmp_path / "hello.wav").stat().st_size > 1000


@pytest.mark.parametrize("line", re.findall(r"^ {4}(?:echo .*\| )?(dia2stream [^|<\n]*)", README, re.MULTILINE))
def test_every_flag_in_a_command_exists(line, capsys):
    _, command, *arguments = shlex.split(line)
    with pytest.raises(SystemExit):
        app([command, "--help"], prog_name="dia2stream")
    known = capsys.readouterr().out
    assert all(argument in known for argument in arguments if re.match(r"--?\w", argument))
