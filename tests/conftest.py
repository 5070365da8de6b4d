"""What every test shares: where the goldens lie, one thread a worker, and no time limit on hypothesis' examples."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# pytest-xdist fills the cores with workers already. Set before anything imports torch, which reads it once.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import settings
from tools import require

if not torch.cuda.is_available():
    # Without a GPU our kernels run in Triton's interpreter, which Triton decides when it is imported, by any test.
    os.environ["TRITON_INTERPRET"] = "1"

# Tests talk to this machine only. Their own HTTP clients would send that through the proxy of whoever runs them.
for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
    del os.environ[name]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A job that a script put into the background ignores Ctrl-C, and so would every process that a test starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("dia2", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("dia2")

GOLDENS = Path(__file__).parent / "goldens"
CLIPS = Path(__file__).parent / "clips"


@pytest.hookimpl(tryfirst=True)  # before fixtures, which may need the tool
def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        require(*mark.args)


@pytest.fixture(params=["published-like", "every-option"], scope="session")
def goldens(request: pytest.FixtureRequest) -> Path:
    """A folder of goldens; a test that takes it runs once for each of the two checkpoints."""
    return GOLDENS / request.param


@pytest.fixture
def one_thread() -> Iterator[None]:
    """So that sums have one order, and a busy machine does not wait for threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def engine() -> Iterator[Any]:
    """A `ToyEngine` with one slot."""
    from engines import running  # which imports from here

    with running(slots=1) as engine:
        yield engine


@pytest.fixture
def pair() -> Iterator[Any]:
    """A `ToyEngine` with two slots."""
    from engines import running

    with running(slots=2) as engine:
        yield engine


# Servers for all tests of a module that leave them as they were.


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    """A patient one."""
    from serving import QUICK, Serve

    with Serve(before=QUICK, linger=60, ping_seconds=60, max_message_bytes=2**20) as running:
        yield running
        assert not running.faults


@pytest.fixture(scope="module")
def impatient() -> Iterator[Any]:
    """One that never waits for playback and soon gives up on the silent."""
    from piping import a_second
    from serving import QUICK, Serve

    slow = a_second()  # a machine that is busy takes longer to come back, and to answer a ping
    with Serve(before=QUICK, linger=3 * slow, ping_seconds=1.5 * slow, max_lead_ms=3_600_000) as running:
        yield running
        assert not running.faults


@pytest.fixture(scope="module")
def guarded() -> Iterator[Any]:
    """One with a token, and with a site that is allowed to use it."""
    from serving import Serve

    origins = "https://app.example, https://b.example/"
    with Serve(token="s3cret é", allow_origin=origins, log_format="json") as running:
        yield running
        assert not running.faults
