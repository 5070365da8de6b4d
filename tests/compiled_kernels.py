"""Compiles every Triton kernel that a step, a pass and the codec launch, for a GPU that need not be here.

    compiled_kernels.py CAPABILITY [WEIGHTS [tiles|together]]        80, 86, 89, 90, 100 or 120; "dtype" or "fp8"

The model has the 2B shape, one layer of each kind and a short vocabulary: the same kernels as the whole model's. They
are launched as in a real step, on tensors of the CPU, and Triton compiles each of them instead of running it. The only
line that is printed is JSON: what every kernel takes, its name, shared memory in bytes and warps. With "tiles", it
is only a step of one conversation, with every set of tiles. With "together", it is how many kernels of the codec, of
steps and of passes are compiled at the same time, and which of them launches behind that would have to compile.
"""

import json
import sys
import warnings
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from dia2.checkpoint import random_models
from dia2.checkpoint.load import Checkpoint, LoadOptions, load_checkpoint
from dia2.codec.config import PUBLISHED
from dia2.codec.mimi import Mimi
from dia2.codec.ring import RingView
from dia2.cuda.fused_codec import MOST_ROWS, FusedDecoder
from dia2.cuda.graphs import batch_sizes
from dia2.cuda.kernels.launch import compiling_together
from dia2.cuda.kernels.products import TILE_SETS
from dia2.cuda.kernels.ring import attend_ring_fused
from dia2.cuda.programs import KernelBuffers, KernelProgram
from dia2.cuda.stepper import GraphStepper
from dia2.model.sampling import SlotSettings

SLOTS = 8  # batches of 1 and 2 sum products up in registers, those of 4 and 8 leave them to a library
PASS_COLUMNS = 20, 400  # few are run in small tiles, many in large ones


class AbsentGpu:
    """What Triton asks of a driver before it compiles."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


class Compiled:
    """In place of the launch of a kernel."""

    def __init__(self) -> None:
        self.kernels: dict[str, dict[str, Any]] = {}
        self._launch: Any = JITFunction.run

    def run(self, function: Any, *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = self._launch(function, *args, grid=grid, warmup=True, **options)
        taken = {"name": function.__name__, "shared": kernel.metadata.shared, "warps": kernel.metadata.num_warps}
        self.kernels[kernel.hash] = taken
        return kernel


def short_model(weights: str) -> Checkpoint:
    """The 2B shape, of which the kernels see every part once."""
    whole = random_models.random_model("random:2b")
    model, data = whole.config.model, whole.config.data
    parts = {"decoder": replace(model.decoder, n_layer=1), "depformer": replace(model.depformer, n_layer=1)}
    config = replace(whole.config, model=replace(model, **parts), data=replace(data, text_vocab_size=1024))
    codec = replace(random_models.random_model("random:tiny").mimi, num_quantizers=data.codebooks)
    random_models._MODELS["short"] = replace(whole, config=config, mimi=codec)
    return load_checkpoint("random:short", LoadOptions(device="cpu", dtype="bfloat16", weights=weights))


def launch_steps(checkpoint: Checkpoint) -> None:
    """A step of every batch size, a lead-in step that is begun ahead, and passes."""
    stepper = GraphStepper(checkpoint, SLOTS, ahead=True)
    for slot in range(SLOTS):
        stepper.begin(slot, SlotSettings(), seed=0)
    for size in stepper.sizes:
        stepper.act(range(size))
        stepper.complete([stepper.opening] * size)
    stepper.run_ahead(stepper.programs[1])
    for columns in PASS_COLUMNS:
        stepper.prefill(0, [stepper.opening] * columns)


def launch_tiles(checkpoint: Checkpoint) -> None:
    """A step of one conversation with every set of tiles."""
    stepper = GraphStepper(checkpoint, 1)
    buffers = KernelBuffers(stepper.tensors)
    stepper.begin(0, SlotSettings(), seed=0)
    for tiles in TILE_SETS.values():
        program = KernelProgram(stepper.tensors, buffers, tiles)
        program.column()
        program.codes()


def launch_codec() -> None:
    """The attention of a codec's frame, in the published shape."""
    groups, width = PUBLISHED.num_key_value_heads, PUBLISHED.head_dim
    steps, capacity, slots = 2, 2 * PUBLISHED.sliding_window, torch.arange(2)
    keys, values = torch.zeros(2, 2, groups, capacity, width).unbind()
    turns = torch.ones(2, steps, 1, width // 2, dtype=torch.complex64)
    view = RingView(turns, slots, slots, slots, slots, steps, capacity, PUBLISHED.sliding_window)
    qkv = torch.zeros(2, steps, (PUBLISHED.num_attention_heads + 2 * groups) * width)
    attend_ring_fused(qkv, keys, values, view)


def launch_fused_codec() -> None:
    """A frame of the codec by fused kernels, in the published shape, at the batch sizes that they take."""
    for precision, most in (("tf32x3", MOST_ROWS), ("ieee", 1)):
        for rows in batch_sizes(most):
            launch_frame(codec_decoder(precision), rows)


def codec_decoder(precision: str) -> FusedDecoder:
    mimi = Mimi.random(replace(PUBLISHED, num_hidden_layers=1, codebook_size=16), 32, "cpu", seed=1)
    return FusedDecoder(mimi.decoder, mimi.state(MOST_ROWS, back=1), precision)


def launch_frame(decoder: FusedDecoder, rows: int) -> None:
    codes, sound = torch.zeros(rows, 32, 1, dtype=torch.int64), torch.zeros(rows, PUBLISHED.frame_samples)
    decoder(codes, torch.arange(rows), sound)


@torch.inference_mode()
def compile_together(checkpoint: Checkpoint) -> None:
    """A frame of the codec of one row, and all that a stepper captures, compiled as the product does it."""
    names: list[str] = []
    knobs.runtime.jit_post_compile_hook = lambda *, fn, **_: names.append(fn.name)
    decoder, stepper = codec_decoder("tf32x3"), GraphStepper(checkpoint, SLOTS, speculate=True)
    passes, line, counts = stepper._passes, stepper._unused, [0]
    assert passes is not None
    with compiling_together():
        launch_frame(decoder, 1)
    counts.append(len(names))
    stepper.compile_kernels()
    counts.append(len(names))
    passes.compile_kernels()
    counts.append(len(names))
    run = JITFunction.run
    JITFunction.run = lambda function, *args, warmup, **options: run(function, *args, warmup=True, **options)
    launch_frame(decoder, 1)
    for work in (*stepper.columns.values(), *stepper.depformers.values()):
        work()
    for columns in passes.sizes:
        passes.run(0, 0, 0, [stepper.opening] * columns)
    for trees in ([line], [line] * passes.tree_size(1)), [[line]] * 4:
        passes.run_trees(trees)
        passes.draw_code(0, 0, line)
    parts = [after - before for before, after in pairwise(counts)]
    told = {"name": "compiled together", "kernels": parts, "in_the_next_launch": names[counts[-1] :]}
    print(json.dumps([told]))


def main(capability: int, weights: str = "dtype", part: str = "") -> None:
    warnings.simplefilter("ignore")
    driver.set_active(AbsentGpu(capability))
    torch.cuda.get_device_capability = lambda device=None: divmod(capability, 10)
    if part == "together":
        compile_together(short_model(weights))
        return
    compiled = Compiled()
    JITFunction.run = lambda function, *args, **options: compiled.run(function, *args, **options)
    if part == "tiles":
        launch_tiles(short_model(weights))
    else:
        launch_steps(short_model(weights))
        launch_codec()
        launch_fused_codec()
    print(json.dumps(list(compiled.kernels.values())))


if __name__ == "__main__":
    _, capability, *more = sys.argv
    main(int(capability), *more)
