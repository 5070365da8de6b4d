"""What all kernels share: how they are launched, and the layout of a step's numbers.

Kernels are launched so that the next one may start before the last one has ended (programmatic dependent launch, on
Hopper and later GPUs). What the kernel before writes may then not be read until `wait_for_previous`. What nobody writes
during a step, weights above all, may be loaded before it, so that the memory is busy while kernels follow each other.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
# What the host tells the device about a step: int64 [n, STEP_FIELDS], a line for each slot that steps. These are the
# places of: its column, the column's index in the cache, its first frame that is not known, the column's two text
# tokens, and the slot, UNUSED in a line that is there to fill up the batch.
COLUMN, INDEX, KNOWN, MAIN, SECOND, SLOT, STEP_FIELDS = 0, 1, 2, 3, 4, 5, 6
SEEN = KNOWN  # of a line of a tree of columns, whose codes are all known: see `Tree.signed`
UNUSED = -1
DEPENDENT_LAUNCH = True
"""Whether kernels may start before the kernel ahead of them has ended, on a GPU that can do that."""


# A product and a sum are one instruction. Triton 3.10 leaves them apart where nobody asks for that.
FUSED = {"enable_fp_fusion": True}


def launch_options() -> dict[str, Any]:
    """Options for every launch: whether kernels overlap (`PDL` in the kernels), on this GPU."""
    if INTERPRETED or not DEPENDENT_LAUNCH or torch.cuda.get_device_capability()[0] < 9:
        return {"PDL": False, **FUSED}
    return {"PDL": True, "launch_pdl": True, **FUSED}


_compiled: ContextVar[set[Any] | None] = ContextVar("compiled", default=None)


def launch(kernel: Any, grid: tuple[int, ...], *given: Any, **options: Any) -> None:
    """Launches a kernel on a grid of programs; within `compiling_together`, it is only compiled."""
    compiled = _compiled.get()
    if compiled is None:
        kernel[grid](*given, **options)
        return
    # Triton takes a millisecond to find that a kernel is being compiled, and each layer launches the same ones.
    asked = kernel, *map(_kind, given), *options.items()
    if asked not in compiled:
        compiled.add(asked)
        kernel.warmup(*given, grid=grid, **options)


def only_compiles() -> bool:
    """Whether nothing that is launched now is to run: `compiling_together`."""
    return _compiled.get() is not None


def _kind(given: Any) -> Any:
    """Arguments of one kind have one compiled kernel: Triton asks of tensors for no more than this."""
    return (given.dtype, given.data_ptr() % 16 == 0) if isinstance(given, torch.Tensor) else given


@contextmanager
def compiling_together() -> Iterator[None]:
    """What is launched by `launch` meanwhile is compiled, on all cores at the same time, and not run.

    Compiling is most of a first start, and a kernel takes about a second of it. One that cannot be compiled is left to
    its first launch, which raises. Triton before 3.5 compiles one after the other.
    """
    mode = getattr(triton, "AsyncCompileMode", None)
    with ThreadPoolExecutor() as pool, nullcontext() if mode is None else mode(pool, ignore_errors=True):
        before = _compiled.set(set())
        try:
            yield
        finally:
            _compiled.reset(before)


def next_power_of_2(n: int) -> int:
    """The least power of 2 that is at least n: the length of a block that holds n values."""
    return 1 << max(0, n - 1).bit_length()


@triton.jit
def wait_for_previous(PDL: tl.constexpr):
    """Lets the next kernel start, and waits for the one ahead. What that one wrote may be read from here on."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
