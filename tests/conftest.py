"""What every test shares: where the goldens lie, one thread a worker, and no time limit on hypothesis' examples."""

import os
import signal
from pathlib import Path

# pytest-xdist fills the cores with workers already. Set before anything imports torch, which reads it once.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A job that a script put into the background ignores Ctrl-C, and so would every process that a test starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("dia2", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("dia2")

GOLDENS = Path(__file__).parent / "goldens"
CLIPS = Path(__file__).parent / "clips"


@pytest.fixture(params=["published-like", "every-option"], scope="session")
def goldens(request: pytest.FixtureRequest) -> Path:
    """A folder of goldens; a test that takes it runs once for each of the two checkpoints."""
    return GOLDENS / request.param
