"""Which stepper a machine gets, and the reason that is given for it."""

import shutil
from pathlib import Path

import pytest
import torch
from conftest import GOLDENS
from models import checkpoint

from dia2 import backend
from dia2.backend import make_codec, make_stepper, obstacle_to_graphs
from dia2.codec.frames import FrameCodec
from dia2.steps.stepper import Stepper

CUDA = torch.device("cuda", 0)


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose GPU and programs are up to it."""
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(shutil, "which", lambda program: f"/usr/bin/{program}")
    monkeypatch.setattr(backend, "find_spec", lambda name: object())


def test_a_cpu_steps_eagerly_and_says_why(goldens: Path) -> None:
    stepper, reason = make_stepper(checkpoint(goldens), slots=2)
    assert type(stepper) is Stepper
    assert len(stepper.slots) == 2
    assert reason == "steps run eagerly: the device is cpu, CUDA graphs need a CUDA one"


def test_a_cpu_decodes_by_plain_calls() -> None:
    assert type(make_codec(checkpoint(GOLDENS / "published-like").codec)) is FrameCodec


def test_nothing_keeps_an_able_machine_from_graphs(able: None) -> None:
    assert obstacle_to_graphs(CUDA) is None


def test_an_old_gpu_is_named_with_what_is_needed(able: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert obstacle_to_graphs(CUDA) == "the GPU's compute capability is 7.5, the kernels need 8.0"


def test_a_missing_triton_is_named(able: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "find_spec", lambda name: None)
    assert obstacle_to_graphs(CUDA) == "triton is not installed"


def test_without_a_compiler_there_are_no_graphs(able: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: None)
    assert "C compiler" in str(obstacle_to_graphs(CUDA))
    monkeypatch.setenv("CC", "/opt/bin/cc")
    assert obstacle_to_graphs(CUDA) is None
