"""Torch's threads as users get them: these processes run without the OMP_NUM_THREADS that conftest.py sets."""

import subprocess
import sys
from itertools import takewhile
from types import SimpleNamespace

import pytest
import torch
from piping import ENVIRONMENT, PATIENCE, dia2stream

from dia2.checkpoint import threads
from dia2.checkpoint.threads import ONE_THREAD_WEIGHTS, set_threads

AS_A_USER = {name: value for name, value in ENVIRONMENT.items() if not name.startswith(("OMP_", "MKL_"))}

# Speaks with the engine. Prints how many threads an operation of a step has, then the CPU seconds of an idle second.
SPEAK = """
import sys, time, torch
from dia2.steps.stepper import Stepper
from dia2stream.engine import Engine
from dia2stream.options import ModelOptions
from dia2stream.protocol.messages import Start

act, seen = Stepper.act, set()
def noting(*arguments, **options):
    seen.add(torch.get_num_threads())
    return act(*arguments, **options)
Stepper.act = noting
engine = Engine.load(ModelOptions("random:tiny", "cpu", threads=int(sys.argv[1]) if sys.argv[1:] else None))
with engine.conversation() as conversation:
    conversation.submit(Start("[S1] Hello there."))
    conversation.finish()
    list(conversation)
time.sleep(0.3)
began = time.process_time()
time.sleep(1)
print(*seen, time.process_time() - began)
"""


def speak(*arguments: str) -> tuple[int, float]:
    """(threads of every step, CPU seconds of one idle second) of a process that spoke with random:tiny."""
    command = [sys.executable, "-c", SPEAK, *arguments]
    told = subprocess.check_output(command, env=AS_A_USER, text=True, timeout=PATIENCE)
    count, idle = told.split()
    return int(count), float(idle)


@pytest.mark.parametrize(("arguments", "expected"), [((), 1), (("3",), 3)], ids=["auto", "three"])
def test_steps_use_the_chosen_number_of_threads_and_idle_threads_do_not_spin(arguments, expected):
    count, idle = speak(*arguments)
    assert count == expected
    assert idle < 0.2


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ([], "threads 1: auto, more would slow down a model of "),
        (["--threads", "auto"], "threads 1: auto, more would slow down a model of "),
        (["--threads", "2"], "threads 2: as asked"),
    ],
)
def test_the_log_says_how_many_threads_and_why(flags, line):
    command = dia2stream("serve", "--device", "cpu", "--host", "127.0.0.1", "--port", "0", *flags)
    with subprocess.Popen(command, env=AS_A_USER, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        log = list(takewhile(lambda logged: " ready" not in logged, process.stderr))
        process.kill()
    assert any(line in logged for logged in log), log


@pytest.mark.parametrize("value", ["0", "-1", "many", "²", "1.5", "9" * 5000])
def test_another_value_is_refused(value):
    done = subprocess.run(
        dia2stream("pipe", f"--threads={value}"), env=AS_A_USER, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 2
    assert "is not auto or a whole number of at least 1" in " ".join(done.stderr.split())


@pytest.fixture
def unchanged_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def model(weights: int, device: str) -> SimpleNamespace:
    """As much of a checkpoint as the choice looks at."""
    part = torch.nn.Linear(weights, 1, bias=False, device="meta")
    return SimpleNamespace(backbone=part, depformer=torch.nn.Identity(), device=torch.device(device))


@pytest.mark.parametrize(
    ("weights", "device", "limit", "expected"),
    [
        (ONE_THREAD_WEIGHTS - 1, "cpu", None, 1),
        (ONE_THREAD_WEIGHTS, "cpu", None, 6),
        (ONE_THREAD_WEIGHTS, "cpu", 4, 4),
        (ONE_THREAD_WEIGHTS, "cpu", 8, 6),
        (ONE_THREAD_WEIGHTS, "cuda", None, 1),
    ],
)
def test_auto_looks_at_the_size_the_device_and_what_the_process_may_use(
    weights, device, limit, expected, unchanged_threads, monkeypatch
):
    torch.set_num_threads(6)
    monkeypatch.setattr(threads, "cgroup_cores", lambda: limit)
    assert set_threads(None, model(weights, device)).startswith(f"threads {expected}: auto")
    assert torch.get_num_threads() == expected


@pytest.mark.parametrize(
    ("text", "cores"),
    [("max 100000\n", None), ("200000 100000\n", 2), ("150000 100000", 1), ("50000 100000", 1), ("", None)],
)
def test_a_containers_limit_is_read(text, cores, tmp_path):
    (tmp_path / "cpu.max").write_text(text)
    assert threads.cgroup_cores(str(tmp_path)) == cores
    assert threads.cgroup_cores(str(tmp_path / "none")) is None
