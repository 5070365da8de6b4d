"""Which stepper and codec a machine gets: captured CUDA graphs where they run, else the eager ones, and why."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

import torch

from dia2.codec.frames import FrameCodec
from dia2.codec.hearing import Hearing
from dia2.codec.mimi import Mimi
from dia2.codec.ring import Attend, attend_ring
from dia2.steps.stepper import Stepper

if TYPE_CHECKING:
    from dia2.checkpoint.load import Checkpoint
    from dia2.cuda.choice import Chooser

Kernels = Literal["auto", "timed", "retimed"]


def make_stepper(
    checkpoint: Checkpoint,
    slots: int = 1,
    blocks: int | None = None,
    *,
    ahead: bool = False,
    speculate: bool | None = None,
    kernels: Kernels = "auto",
) -> tuple[Stepper, str]:
    """The fastest stepper this machine can run, ready to step, and one line that says which and why.

    blocks: of the key/value cache; None: as many as all slots' full contexts take. ahead: of the graphs, begin a lone
    conversation's next lead-in step before the host knows the action of this one. speculate: run lead-ins as trees of
    columns (dia2/steps/speculation.py); None: where that was measured to be faster. kernels: how the form of one
    conversation's graphs is chosen (dia2/cuda/forms.py): by the rule, or by time, once or now.
    """
    why_not = obstacle_to_graphs(checkpoint.device)
    if speculate is None:
        # Measured to be faster on a CPU, and in graphs for any number of slots; without graphs a pass is launches.
        speculate = checkpoint.device.type == "cpu" or why_not is None
    if why_not is not None:
        return Stepper(checkpoint, slots, blocks, speculate=speculate), f"steps run eagerly: {why_not}"
    from dia2.cuda.stepper import GraphStepper  # imports triton

    chooser = None if kernels == "auto" else _make_chooser(checkpoint, again=kernels == "retimed")
    graphs = GraphStepper(checkpoint, slots, blocks=blocks, ahead=ahead, speculate=speculate, chooser=chooser)
    one = f"one conversation's backbone is {graphs.backbone_kind}, its depformer {graphs.depformer_kind}"
    form = "" if chooser is None else f"; the form is {graphs.form.name}: {graphs.form_reason}"
    return graphs, f"steps are CUDA graphs of {graphs.kind}; {one}{form}"


def _make_chooser(checkpoint: Checkpoint, *, again: bool) -> Chooser:
    from dia2.cuda.forms import make_chooser  # imports triton

    return make_chooser(checkpoint, again=again)


def make_codec(codec: Mimi, slots: int = 1, *, fuse: bool = True) -> FrameCodec:
    """The codec of `slots` conversations: captured graphs on CUDA, else plain calls. Its `kind` says which and why.

    fuse: for few rows, try kernels that do several operations at once; each batch size takes them only if they prove
    right and faster there.
    """
    if codec.device.type != "cuda":
        return FrameCodec(codec, slots)
    from dia2.cuda.codec import GraphCodec

    return GraphCodec(codec, slots, _attend(codec.device), fuse and obstacle_to_graphs(codec.device) is None)


def make_hearing(codec: Mimi, slots: int = 1) -> Hearing:
    """What hears the callers of `slots` conversations: captured graphs on CUDA, else plain calls."""
    if codec.device.type != "cuda":
        return Hearing(codec, slots)
    from dia2.cuda.hearing import GraphHearing

    return GraphHearing(codec, slots, _attend(codec.device))


def _attend(device: torch.device) -> Attend:
    """How the codec's transformers attend in passes of one frame."""
    if obstacle_to_graphs(device) is not None:
        return attend_ring
    from dia2.cuda.kernels.ring import attend_ring_fused  # imports triton

    return attend_ring_fused


def obstacle_to_graphs(device: torch.device) -> str | None:
    """Why steps cannot be CUDA graphs on this device; None where they can."""
    if device.type != "cuda":
        return f"the device is {device}, CUDA graphs need a CUDA one"
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        return f"the GPU's compute capability is {major}.{minor}, the kernels need 8.0"
    if find_spec("triton") is None:
        return "triton is not installed"
    if not ("CC" in os.environ or shutil.which("gcc") or shutil.which("clang")):
        return "triton needs a C compiler, and neither gcc nor clang is installed, nor does CC name one"
    return None
