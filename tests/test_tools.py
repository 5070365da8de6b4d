"""No test is skipped in silence for want of a tool: one list says what is needed, one helper skips, CI fails."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from piping import PATIENCE, ROOT
from tools import LIST, PROGRAMS

TESTS = Path(__file__).parent
SAMPLE = """
from tools import needs, require

@needs("sox")
def test_one_that_needs_sox():
    pass

def test_one_that_needs_nothing():
    pass
"""


def run_sample(folder: Path, text: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """The outcome of pytest on one file of tests, with the repository's conftest and no programs on the path."""
    (folder / "test_sample.py").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "-c", str(ROOT / "pyproject.toml"), "-n", "0"]
    return subprocess.run(
        [*command, "--rootdir", str(folder), "-p", "no:cacheprovider", str(folder)],
        env={**os.environ, "PATH": str(folder), "PYTHONPATH": str(TESTS), "DIA2STREAM_NO_SKIPS": "", **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def test_a_test_without_its_tool_is_skipped_and_says_how_to_get_it(tmp_path):
    done = run_sample(tmp_path, SAMPLE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed, 1 skipped" in done.stdout
    assert "no sox here: apt-get install sox" in done.stdout


def test_in_ci_a_test_without_its_tool_fails(tmp_path):
    done = run_sample(tmp_path, SAMPLE, DIA2STREAM_NO_SKIPS="1")
    assert done.returncode == 1
    assert "1 passed, 1 error" in done.stdout
    assert "no sox here: apt-get install sox" in done.stdout


@pytest.mark.parametrize(("strict", "outcome"), [("", "1 skipped"), ("1", "1 error")])
def test_a_module_that_cannot_be_imported_without_a_tool_is_treated_likewise(strict, outcome, tmp_path):
    done = run_sample(
        tmp_path, "from tools import require\nrequire('sox')\nimport not_there", DIA2STREAM_NO_SKIPS=strict
    )
    assert outcome in done.stdout, done.stdout + done.stderr
    assert "no sox here" in done.stdout


def test_only_the_helper_looks_for_tools():
    """`pty` is part of Python, but not on Windows."""
    looks = re.compile(r'\bwhich\(|importorskip\((?!"pty"\))')
    others = [path for path in TESTS.glob("*.py") if path.name not in ("tools.py", "test_tools.py")]
    assert not [path.name for path in others if looks.search(path.read_text(encoding="utf-8"))]


def test_the_list_is_sorted_and_the_script_prints_what_this_machine_lacks(tmp_path):
    packages = [line.split()[0] for line in LIST.read_text("utf-8").splitlines() if line and not line.startswith("#")]
    assert packages == sorted(packages)
    for program in ("bash", "dirname", "sed", "sox"):
        (tmp_path / program).symlink_to(next(p for p in map(Path, (f"/usr/bin/{program}", "/bin/true")) if p.exists()))
    done = subprocess.run(
        [ROOT / "scripts" / "debian-packages"], env={"PATH": str(tmp_path)}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert PROGRAMS["play"] == "sox"
    assert "sox" in told  # it has two programs, and one of them is not on this path
    assert set(told) == set(packages)
