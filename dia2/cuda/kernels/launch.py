"""What all kernels share: how they are launched, and the layout of a step's numbers."""

import os
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
UNUSED = -1
# ---- Launching ----

DEPENDENT_LAUNCH = True
"""Whether kernels may start before the one ahead has ended, where the GPU can do that."""


def launch_options() -> dict[str, Any]:
    """Launch options for programmatic dependent launch (`PDL` in the kernels)."""
    if INTERPRETED or not DEPENDENT_LAUNCH or torch.cuda.get_device_capability()[0] < 9:
        return {"PDL": False}
    return {"PDL": True, "launch_pdl": True}


def next_power_of_2(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


@triton.jit
def wait_for_previous(PDL: tl.constexpr):
    """Lets the next kernel start, then waits for the one ahead: what it wrote may be read from here on."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
