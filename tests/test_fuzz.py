"""The fuzzers themselves: some hundred cases of each find nothing, and a fault is found where there is one."""

import json
import math
import subprocess
import sys
from pathlib import Path

import fuzz_files
import fuzz_wire
import pytest
import wire_cases
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


@pytest.mark.long
@pytest.mark.needs("openssl")
def test_whatever_comes_over_the_wire_is_answered(tmp_path: Path) -> None:
    found = tmp_path / "found.json"
    command = [str(ROOT / "tests" / "fuzz_wire.py"), "--cases", "250", "--seed", "11", "--json", str(found)]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, timeout=3 * PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(found.read_text())
    assert told["cases"] == 250
    assert {outcome.partition(":")[0] for outcome in told["outcomes"]} == set(wire_cases.KINDS)
    assert len(told["memory"]) >= 1


@pytest.mark.parametrize(
    ("case", "said", "fault"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"", "no answer"),
        (b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 500 Internal Server Error\r\n\r\n", "answered"),
        (b"GET / HTTP/1.1\r\n\r\n", b"hello HTTP/1.1 200 OK\r\n\r\n", "answered"),
        (b"GET / ...", b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x81\x01{", "no JSON"),
        (b"GET / ...", b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x88\x02\x03\xf3", "closed with 1011"),
        (b"GET / ...", b"HTTP/1.1 101 Switching Protocols\r\n\r\n\xf1\x00", "malformed frames"),
        (b"GET / ...", b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x81\x13" + b'{"code":"internal"}', "told"),
    ],
)
def test_an_answer_that_is_none_is_a_fault(case: bytes, said: bytes, fault: str) -> None:
    with pytest.raises(fuzz_wire.Fault, match=fault):
        fuzz_wire.judge(wire_cases.Bytes((case,)), said)


def test_the_number_of_answers_is_that_of_the_requests() -> None:
    one = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    two = wire_cases.Bytes((b"GET / HTTP/1.1\r\n\r\n" * 2,), answers=2)
    assert fuzz_wire.judge(two, one + one) == "200"
    with pytest.raises(fuzz_wire.Fault, match="1 answers to 2"):
        fuzz_wire.judge(two, one)


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
