"""What every test shares: where the goldens lie, one thread a worker, and no time limit on hypothesis' examples."""

import os
from pathlib import Path

# pytest-xdist fills the cores with workers already. Set before anything imports torch, which reads it once.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

settings.register_profile("dia2", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("dia2")

GOLDENS = Path(__file__).parent / "goldens"
CLIPS = Path(__file__).parent / "clips"


@pytest.fixture(params=["published-like", "every-option"], scope="session")
def goldens(request: pytest.FixtureRequest) -> Path:
    """A folder of goldens; a test that takes it runs once for each of the two checkpoints."""
    return GOLDENS / request.param
