"""The libraries under the port, at both ends of their bounds: every request is answered, and no log holds a token."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from piping import PATIENCE, ROOT

LIBRARIES = ("h11", "starlette", "websockets")
TESTS = ("test_port.py", "test_http.py", "test_reach.py")


def lowest(library: str) -> str:
    """The library at the bound in pyproject.toml."""
    [bound] = re.findall(rf'^    "{library}>=([0-9.]+)",$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    return f"{library}=={bound}"


@pytest.mark.slow
@pytest.mark.parametrize("wanted", [[lowest(name) for name in LIBRARIES], list(LIBRARIES)], ids=["lowest", "newest"])
def test_the_port_keeps_its_promises_with_these_versions(wanted: list[str], tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(tmp_path), *wanted]
    installed = subprocess.run(pip, capture_output=True, text=True, timeout=PATIENCE)
    if "NewConnectionError" in installed.stderr:
        pytest.skip("no package registry can be reached")
    assert installed.returncode == 0, installed.stderr
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    where = "import h11, starlette, websockets as w; print(*(m.__file__ for m in (h11, starlette, w)), sep='\\n')"
    found = subprocess.run([sys.executable, "-c", where], capture_output=True, text=True, env=environment)
    assert all(line.startswith(str(tmp_path)) for line in found.stdout.split()), found.stdout + found.stderr
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"]
    tests = [str(ROOT / "tests" / name) for name in TESTS]
    done = subprocess.run([*command, *tests], capture_output=True, text=True, timeout=6 * PATIENCE, env=environment)
    assert done.returncode == 0, done.stdout[-5000:]


def test_the_tests_of_the_port_can_run_where_check_bounds_puts_them(tmp_path: Path) -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "check-bounds"))
    script["copy_tests"](tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "--collect-only"]
    tests = [f"tests/{name}" for name in script["PORT_TESTS"]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, *tests], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
