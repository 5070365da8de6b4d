"""The forms that a step of one conversation can have on a GPU, and how one is checked and timed.

By the rule, without timing, it is the first: kernels of clusters where they can be used, else a kernel a product in the
tiles that suit an H100. Which form is the fastest on another card nobody knows before it was timed there (choice.py).

A form is taken only if its logits, of a column late in a context and of every stage, are those of the layers' own
operations but for rounding. So kernels that were only compiled for a card so far may be tried on it.
"""

import hashlib
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import triton
from torch import Tensor
from triton.runtime.errors import OutOfResources, PTXASError

from dia2.cuda.choice import Chooser, Key, Step
from dia2.cuda.clusters.driver import driver_version
from dia2.cuda.programs import StepProgram
from dia2.cuda.user_cache import cache_folder
from dia2.model.fp8 import Fp8Matrix

if TYPE_CHECKING:
    from dia2.checkpoint.load import Checkpoint

TOLERANCE = 0.03
"""How far from the layers' own a form's logits may be, relative to them. Both round to 16 bits, each in its own order:
1.2 to 1.5 % from float32, the kernels less. The tests of 8-bit weights have the same bound."""
COLUMN = 400
"""Where steps are checked and timed, or near the end of a shorter context."""
ROUNDS, REPEATS = 7, 5
TOO_LARGE = (OutOfResources, PTXASError, torch.OutOfMemoryError)
"""What a form raises that this card has not enough registers, shared memory or memory for."""


@dataclass(frozen=True)
class Form:
    """name: for the file and the log. clusters: with kernels of clusters where they can be used.

    tiles: of the products of all other kernels, a name of `TILE_SETS`; None: the layers' own operations.
    """

    name: str
    clusters: bool
    tiles: str | None


FORMS = (
    Form("clusters", True, "h100"),
    Form("kernels", False, "h100"),
    Form("kernels in tiles of 4", False, "4"),
    Form("kernels in tiles of 2", False, "2"),
    Form("kernels in tiles of 8", False, "8"),
)
LAYERS = Form("layers", False, None)
"""Only where one conversation is all that there can be: its hidden states are not the kernels', which larger batches
leave for its depformer."""


def forms_for(sizes: tuple[int, ...]) -> tuple[Form, ...]:
    """The forms of a stepper whose graphs have these batch sizes."""
    return (*FORMS, LAYERS) if sizes == (1,) else FORMS


def farthest(program: StepProgram, plain: StepProgram, given: Tensor) -> float:
    """How far a program's logits are from another's at most: of the column that its fields name, and of every stage.

    given: int64 [C], the codes that the stages read. Infinite where a logit is no number.
    """
    right = [plain.column_logits().clone(), *plain.codes_after(given)]
    found = [program.column_logits().clone(), *program.codes_after(given)]
    off = max(float((a.float() - b.float()).norm() / b.float().norm()) for a, b in zip(found, right, strict=True))
    return off if all(bool(logits.isfinite().all()) for logits in found) else float("inf")


def device_milliseconds(step: Step) -> float:
    """The median time that the GPU takes for a step, of some rounds of a few steps back to back."""
    step()
    torch.cuda.synchronize()
    times: list[float] = []
    for _ in range(ROUNDS):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(REPEATS):
            step()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop) / REPEATS)
    return statistics.median(times)


def make_chooser(checkpoint: "Checkpoint", *, again: bool) -> Chooser:
    """What times the forms of a model's steps on its CUDA device. again: also if that was done before."""
    return Chooser(cache_folder("forms"), key_for(checkpoint), device_milliseconds, again=again)


def key_for(checkpoint: "Checkpoint") -> Key:
    """What a choice for a model on its CUDA device depends on."""
    device = checkpoint.device
    major, minor = torch.cuda.get_device_capability(device)
    in_8_bits = any(isinstance(module, Fp8Matrix) for module in checkpoint.backbone.modules())
    return Key(
        card=torch.cuda.get_device_name(device),
        capability=f"{major}.{minor}",
        driver=driver_version(),
        torch=torch.__version__,
        triton=triton.__version__,
        model=_digest(repr(checkpoint.config).encode()),
        dtype=str(checkpoint.dtype).removeprefix("torch."),
        weights="fp8" if in_8_bits else "dtype",
        kernels=sources_digest(),
    )


def sources_digest() -> str:
    """Of all sources in this folder: the version of our kernels."""
    folder = Path(__file__).parent
    paths = sorted(path for path in folder.rglob("*") if path.suffix in (".py", ".cu", ".cuh"))
    return _digest(b"\0".join(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes() for path in paths))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
