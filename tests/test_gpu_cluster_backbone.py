"""The backbone of clusters beside its plain twin, the layers of dia2/model/backbone.py.

Run by scripts/gpu-tests, on a GPU that can run it; elsewhere these tests are skipped with the reason.
"""

import copy
import ctypes
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

import pytest
import torch
from replays import assert_every_launch_makes
from test_gpu_stepper import captured, distance, loaded, talk
from tools import require
from torch import Tensor

require("triton")

from dia2.checkpoint.load import Checkpoint
from dia2.cuda.clusters.backbone import ClusterBackbone
from dia2.cuda.kernels.launch import COLUMN, INDEX, SLOT, STEP_FIELDS, UNUSED
from dia2.model.backbone import Backbone
from dia2.model.kv_cache import KVCache, context_columns
from dia2.model.sampling import SlotSettings
from dia2.model.slots import SlotIndex

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(580)]

CUDA = torch.device("cuda")
SLOTS = 3


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


@dataclass
class Bench:
    """A backbone's layers in both forms, with a cache that is full of noise, and the tensors of a step."""

    checkpoint: Checkpoint
    whole: ClusterBackbone
    cache: KVCache
    dice: torch.Generator = field(default_factory=lambda: torch.Generator(CUDA).manual_seed(0))

    def __post_init__(self) -> None:
        self.fields = torch.zeros(1, STEP_FIELDS, dtype=torch.int64, device=CUDA)
        self.hidden = torch.zeros(2, self.checkpoint.backbone.cb0_head.shape[1], dtype=torch.bfloat16, device=CUDA)
        self.params = self.whole.bind(self.hidden, self.fields, self.cache)
        for part in (self.cache.k, self.cache.v):
            for layer in part:
                layer.copy_(torch.randn(layer.shape, device=CUDA, generator=self.dice))

    def new_column(self, slot: int, index: int, position: int) -> Tensor:
        """Puts a slot at a column, which is embedded as noise [2, D]."""
        self.cache.blocks.hold(max(slot, 0), index + 1)
        self.fields[0, COLUMN], self.fields[0, INDEX], self.fields[0, SLOT] = position, index, slot
        return torch.randn(self.hidden.shape, device=CUDA, generator=self.dice).bfloat16()

    def run(self, column: Tensor) -> Tensor:
        self.hidden.copy_(column)
        self.whole.launch(self.params)
        return self.hidden.clone()


@cache
def bench(block_columns: int | None = 64, weights: str = "dtype") -> Bench:
    checkpoint = loaded("random:2b", "bfloat16", weights)
    config = checkpoint.config
    slots = 1 if block_columns is None else SLOTS
    cache = KVCache(config, slots, 2, context_columns(config), CUDA, torch.bfloat16, block_columns)
    whole, reason = ClusterBackbone.make(checkpoint.backbone, config, cache)
    if whole is None:
        pytest.skip(reason)
    return Bench(checkpoint, whole, cache)


def by_layers(made: Bench, backbone: Backbone, column: Tensor, slot: int, index: int, position: int) -> Tensor:
    """The plain twin, in the backbone's dtype; it writes to a cache of its own that begins as a copy."""
    dtype = backbone.cb0_head.dtype
    config, live = made.checkpoint.config, index + 1
    copy = KVCache(config, 1, 2, context_columns(config), CUDA, dtype)
    columns = made.cache.copied(slot, 2, live)
    copy.k[:, 0, :, :, :live], copy.v[:, 0, :, :, :live] = columns.k, columns.v
    at = torch.full((2, 1), index, device=CUDA)
    update = copy.view(SlotIndex.of([0], CUDA), 2).at(at, live)
    mask = torch.ones(1, 1, 1, live, dtype=torch.bool, device=CUDA)
    angles = backbone.rotary.at(torch.full((2, 1), position, device=CUDA))
    x = column.to(dtype, copy=True)[:, None]  # layers add to it in place
    for number, layer in enumerate(backbone.layers):
        x = layer(x, number, angles, mask, update)
    return x[:, 0]


@cache
def exact() -> Backbone:
    """The same weights, computed with in float32."""
    checkpoint = loaded("random:2b", "bfloat16")
    model = checkpoint.backbone
    with torch.device("meta"):
        made = Backbone(checkpoint.config, model.rotary.shape[0])
    made = made.to_empty(device=CUDA).float()
    for mine, theirs in zip(made.parameters(), model.parameters(), strict=True):
        mine.copy_(theirs)
    made.prepare()
    return made


@pytest.mark.parametrize(
    ("slot", "index", "shift"),
    [(0, 0, 0), (1, 1, 0), (2, 10, 1), (0, 16, 0), (1, 17, 1), (1, 63, 0), (2, 64, 0), (0, 130, 0), (1, 1490, 1)],
)
@pytest.mark.parametrize("block_columns", [None, 64])
def test_its_hidden_state_is_nearer_to_float32_than_the_layers_in_bfloat16(
    slot: int, index: int, shift: int, block_columns: int | None
) -> None:
    made = bench(block_columns)
    slot = slot if block_columns else 0
    torch.set_float32_matmul_precision("highest")
    where = slot, index, index - shift
    column = made.new_column(*where)
    right = by_layers(made, exact(), column, *where)
    theirs = by_layers(made, made.checkpoint.backbone, column, *where)
    ours = made.run(column)
    assert ours.isfinite().all()
    assert distance(ours, right) < 0.8 * distance(theirs, right)


@cache
def exact_in_8_bits() -> Backbone:
    """The same rounded weights, computed with in float32."""
    return copy.deepcopy(loaded("random:2b", "bfloat16", "fp8").backbone).float()


@pytest.mark.parametrize(("slot", "index"), [(0, 0), (1, 1), (0, 16), (2, 64), (0, 130), (1, 700), (1, 1490)])
def test_with_8_bit_weights_its_hidden_state_is_nearer_to_float32_than_the_layers(slot: int, index: int) -> None:
    made = bench(64, "fp8")
    torch.set_float32_matmul_precision("highest")
    column = made.new_column(slot, index, index)
    right = by_layers(made, exact_in_8_bits(), column, slot, index, index)
    theirs = by_layers(made, made.checkpoint.backbone, column, slot, index, index)
    ours = made.run(column)
    assert ours.isfinite().all()
    assert distance(ours, right) < 0.8 * distance(theirs, right)


def test_with_8_bit_weights_it_gives_the_same_bits_10_000_times_without_a_hang() -> None:
    made = bench(64, "fp8")
    column = made.new_column(1, 700, 700)
    expected = made.run(column)
    assert_every_launch_makes(
        expected, made.hidden, lambda: made.whole.launch(made.params), lambda: made.hidden.copy_(column)
    )


def test_it_writes_the_new_column_alone() -> None:
    made = bench()
    column = made.new_column(1, 200, 200)
    before = made.cache.k.clone(), made.cache.v.clone()
    made.run(column)
    block = int(made.cache.table[1, 200 // 64])
    for now, was in zip((made.cache.k, made.cache.v), before, strict=True):
        written = (now != was).flatten(5).any(dim=5)  # [layers, blocks, 2, heads, columns]
        assert written[:, block, :, :, 200 % 64].all()
        written[:, block, :, :, 200 % 64] = False
        assert not written.any()


def test_a_column_that_it_wrote_is_read_by_the_next_one() -> None:
    made = bench()
    torch.set_float32_matmul_precision("highest")
    made.run(made.new_column(2, 31, 31))
    column = made.new_column(2, 32, 32)
    right = by_layers(made, exact(), column, 2, 32, 32)
    assert distance(made.run(column), right) < 0.01


def test_a_line_that_fills_up_a_batch_writes_no_column() -> None:
    made = bench()
    column = made.new_column(0, 5, 0)
    made.fields[0, SLOT] = UNUSED
    before = made.cache.k.clone(), made.cache.v.clone()
    assert made.run(column).isfinite().all()
    assert torch.equal(made.cache.k, before[0])
    assert torch.equal(made.cache.v, before[1])


def test_it_gives_the_same_bits_10_000_times_without_a_hang() -> None:
    made = bench()
    column = made.new_column(1, 700, 700)
    expected = made.run(column)
    assert_every_launch_makes(
        expected, made.hidden, lambda: made.whole.launch(made.params), lambda: made.hidden.copy_(column)
    )


def test_it_shares_the_gpu_with_others_of_its_kind_and_with_other_kernels() -> None:
    made = bench()
    config = made.checkpoint.config
    other, reason = ClusterBackbone.make(made.checkpoint.backbone, config, made.cache)
    assert other is not None, reason
    column = made.new_column(0, 300, 300)
    expected = made.run(column)
    hidden = column.clone()
    params: ctypes.Structure = other.bind(hidden, made.fields, made.cache)
    streams = [torch.cuda.Stream() for _ in range(3)]
    matrix = torch.randn(4096, 4096, device=CUDA)
    torch.cuda.synchronize()
    for _ in range(100):
        with torch.cuda.stream(streams[0]):
            made.hidden.copy_(column)
            made.whole.launch(made.params)
        with torch.cuda.stream(streams[1]):
            hidden.copy_(column)
            other.launch(params)
        with torch.cuda.stream(streams[2]):
            matrix @ matrix
    torch.cuda.synchronize()
    assert torch.equal(made.hidden, expected)
    assert torch.equal(hidden, expected)


def test_a_stepper_takes_it_for_one_conversation_and_says_so() -> None:
    bench()  # skips where it cannot be used
    stepper = captured(loaded("random:2b", "bfloat16"), slots=2)
    assert stepper.backbone_kind.startswith("one kernel (15 of ")
    assert [type(stepper.programs[size]).__name__ for size in (1, 2)] == ["ClusterProgram", "KernelProgram"]


def test_a_model_of_another_width_has_its_depformer_alone_as_one_kernel() -> None:
    bench()
    stepper = captured(loaded("random:1b", "bfloat16"))
    assert stepper.backbone_kind == "a kernel a product (the backbone's n_embd is 1024, the kernel is made for 2048)"
    assert stepper.depformer_kind.startswith("one kernel (15 of ")
    assert talk(stepper, SlotSettings(), columns=3)[0].shape[1] == 4


def test_8_bit_weights_are_refused_with_a_reason() -> None:
    checkpoint = loaded("random:2b", "bfloat16", "fp8")
    whole, reason = ClusterBackbone.make(checkpoint.backbone, checkpoint.config, bench().cache)
    assert whole is None
    assert reason.endswith(("the kernel is for bfloat16 weights", "the kernel needs 9.0"))
