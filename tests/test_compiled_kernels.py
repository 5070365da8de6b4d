"""Every kernel of ours compiles for each GPU that people rent, and fits into its shared memory."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tools import require

require("triton")

from dia2.cuda.kernels.products import TILE_SETS

PROGRAM = Path(__file__).parent / "compiled_kernels.py"
KERNELS = Path(__file__).parent.parent / "dia2" / "cuda" / "kernels"
# The most that a block may have, from NVIDIA's tables of compute capabilities.
SHARED_KB = {
    "A100": (80, 163),
    "A40": (86, 99),
    "4090, L40S": (89, 99),
    "H100": (90, 227),
    "B200": (100, 227),
    "5090": (120, 99),
}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("weights", ["dtype", "fp8"])
@pytest.mark.parametrize("card", SHARED_KB)
def test_every_kernel_compiles_for_a_card_and_fits_into_it(card: str, weights: str) -> None:
    kernels = compiled(card, weights)
    assert {kernel["name"] for kernel in kernels} == launched_kernels()


@pytest.mark.slow
def test_every_set_of_tiles_compiles_for_a_card_of_little_shared_memory_and_fits_into_it() -> None:
    products = [kernel for kernel in compiled("4090, L40S", "dtype", "tiles") if kernel["name"] == "_gated_kernel"]
    assert {kernel["warps"] for kernel in products} >= {tiles.usual.warps for tiles in TILE_SETS.values()}


@pytest.mark.slow
def test_what_is_captured_is_compiled_together_without_being_launched() -> None:
    [told] = compiled("H100", "dtype", "together")
    assert told["name"] == "compiled together"
    codec, steps, passes = told["kernels"]
    assert codec == 18
    assert steps > 30
    assert passes > 5
    assert told["in_the_next_launch"] == []


def compiled(card: str, *arguments: str) -> list[dict[str, Any]]:
    """The kernels that were compiled for a card, all of which fit into its shared memory."""
    capability, most = SHARED_KB[card]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(PROGRAM), str(capability), *arguments]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert told.returncode == 0, told.stderr[-2000:]
    kernels: list[dict[str, Any]] = json.loads(told.stdout.splitlines()[-1])
    for kernel in kernels:
        assert kernel.get("shared", 0) <= most * 1024, f"{kernel} on {card}"
    return kernels


def launched_kernels() -> set[str]:
    """The names of all kernels that are launched from Python."""
    sources = [path.read_text(encoding="utf-8") for path in KERNELS.glob("*.py")]
    return {name for source in sources for name in re.findall(r"\blaunch\(\s*(_\w+_kernel),", source)}
