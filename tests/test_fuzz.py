"""The fuzzers themselves: some hundred cases of each find nothing, and a fault is found where there is one."""

import json
import math
import subprocess
import sys
from pathlib import Path

import fuzz_files
import pytest
from piping import PATIENCE, ROOT


def test_damaged_files_are_refused_in_one_line_or_are_of_use(tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    command = [str(ROOT / "tests" / "fuzz_files.py"), "--cases", "200", "--seed", "11", "--json", str(found)]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=2 * PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(found.read_text())
    assert told["cases"] == 200
    kinds = {outcome.partition(":")[0] for outcome in told["outcomes"]}
    assert kinds == {name for name, _ in fuzz_files.KINDS}
    assert any("succeeded" in outcome for outcome in told["outcomes"])


@pytest.mark.parametrize(
    "message",
    ["", "two\nlines", "\x1b[31mred", "half \ud800", "x" * 5000],
    ids=["none", "lines", "red", "half", "long"],
)
def test_a_message_that_is_not_one_printable_line_is_a_fault(message: str) -> None:
    with pytest.raises(AssertionError):
        fuzz_files.check_message(message)


@pytest.mark.parametrize(
    ("worker", "fault"),
    [
        ("print('{\"began\": 7}', flush=True); import os; os.abort()", "the process ended with -6"),
        ("import sys; print('panicked', file=sys.stderr)", "on stderr: panicked"),
        ('print(\'{"case": 3, "fault": "KeyError: 1", "trace": ""}\')', "KeyError: 1"),
    ],
    ids=["it dies", "it prints", "it raises"],
)
def test_the_watch_sees_a_worker_fail(worker: str, fault: str) -> None:
    faults = []
    watch = fuzz_files.Watch(0, None, lambda case, what: faults.append((case, what)))
    watch.command = lambda first: [sys.executable, "-c", worker]
    watch.watch_one(3, math.inf, None)
    assert fault in [what for _, what in faults]
