"""The backbone of clusters, as far as no GPU is needed: its weights' order, its compiler, and when it is not used."""

import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tools import require
from torch import Tensor

from dia2.checkpoint.random_models import random_model
from dia2.cuda.clusters import backbone, nvrtc, words
from dia2.cuda.clusters import backbone_packing as packing
from dia2.cuda.clusters.backbone_packing import CLUSTERS, DIM, GROUP, HEADS, MLP_WIDTH, RANKS, UNITS_ALONE, WARPS, WIDTH
from dia2.cuda.clusters.nvrtc import CompilerError
from dia2.model.backbone import Backbone
from dia2.model.config import Dia2Config
from dia2.model.fp8 import Fp8Matrix
from dia2.model.kv_cache import KVCache

UNITS = [packing.UNITS_BESIDE] * HEADS + [UNITS_ALONE] * (CLUSTERS - HEADS)  # of a block, by its cluster


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def _place_of_each() -> Tensor:
    """Where each weight of a tile [16, 32] stands among its 512.

    Register r of lane 4 g + t has two neighbouring inputs of output g, or g + 8 where r is odd. Lane t reads the inputs
    8 t to 8 t + 7 of the product's other side; the instruction for the first half takes the first four of them.
    """
    where = torch.full((16, 32), -1)
    for place in range(512):
        half, lane, register, second = place // 256, place // 8 % 32, place // 2 % 4, place % 2
        output = lane // 4 + 8 * (register % 2)
        where[output, lane % 4 * 8 + half * 4 + register // 2 * 2 + second] = place
    return where


PLACES = _place_of_each()


def matrix_of(tiles: Tensor) -> Tensor:
    """Tiles as the matrix unit reads them, [n, 512] -> [n, 16, 32]."""
    return tiles[:, PLACES]


def test_a_tile_lies_as_the_matrix_unit_reads_it() -> None:
    tiles = torch.randn(3, 16, 32)
    assert torch.equal(matrix_of(packing.in_lanes(tiles)), tiles)


def by_input(chunks: Tensor, x: Tensor, outputs: int) -> Tensor:
    """What a block makes of all of x [WIDTH], a warp at a time: chunks [n, WARPS, 2, 512] -> [outputs]."""
    total = torch.zeros(outputs // 16, 16)
    for warp in range(WARPS):
        tiles = matrix_of(chunks[:, warp].flatten(0, 1)).unflatten(0, (-1, outputs // 16))  # [inputs, tiles, 16, 32]
        mine = x[warp * WIDTH // WARPS :][: WIDTH // WARPS].view(-1, 32)
        total += torch.einsum("itok,ik->to", tiles, mine)
    return total.flatten()


def by_output(chunks: Tensor, x: Tensor) -> Tensor:
    """What a block adds to its columns: chunks [n, WARPS, 2, 512], x [32 n] -> [32 WARPS]."""
    warps = []
    for warp in range(WARPS):
        tiles = matrix_of(chunks[:, warp].flatten(0, 1)).unflatten(0, (-1, 2))  # [inputs, tiles, 16, 32]
        warps.append(torch.einsum("itok,ik->to", tiles, x.view(-1, 32)))
    return torch.stack(warps).flatten()


def test_a_cluster_has_q_k_and_v_of_its_head() -> None:
    matrix, x = torch.randn((GROUP + 2) * HEADS * DIM, WIDTH), torch.randn(WIDTH)
    q, k, v = F.linear(x, matrix).view(-1, DIM).split([HEADS * GROUP, HEADS, HEADS])
    packed = packing.pack_qkv(matrix)
    for head in (0, 3, HEADS - 1):
        expected = torch.cat([q[head * GROUP : (head + 1) * GROUP].flatten(), k[head], v[head]])
        found = torch.cat([by_input(packed[head, rank], x, len(expected) // RANKS) for rank in range(RANKS)])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_the_shares_of_all_heads_are_the_out_projection() -> None:
    matrix, x = torch.randn(WIDTH, HEADS * GROUP * DIM), torch.randn(HEADS, GROUP * DIM)
    packed = packing.pack_out(matrix)
    shares = [torch.cat([by_output(packed[head, rank], x[head]) for rank in range(RANKS)]) for head in range(HEADS)]
    torch.testing.assert_close(torch.stack(shares).sum(0), F.linear(x.flatten(), matrix), rtol=1e-4, atol=2e-3)


def test_the_shares_of_all_clusters_are_the_mlp() -> None:
    wi, wo, x = torch.randn(2 * MLP_WIDTH, WIDTH) / 45, torch.randn(WIDTH, MLP_WIDTH) / 78, torch.randn(WIDTH)
    gate, up = F.linear(x, wi).chunk(2)
    total, first = torch.zeros(WIDTH), 0
    gate_up, down = ([*beside, *alone] for beside, alone in (packing.pack_gate_up(wi), packing.pack_down(wo)))
    for cluster, units in enumerate(UNITS):
        both = torch.stack([by_input(gate_up[cluster][rank], x, 2 * units) for rank in range(RANKS)]).view(-1, 2)
        mine = slice(first, first + RANKS * units)
        torch.testing.assert_close(both, torch.stack([gate[mine], up[mine]], 1), rtol=1e-4, atol=1e-4)
        hidden = F.silu(both[:, 0]) * both[:, 1]
        total += torch.cat([by_output(down[cluster][rank], hidden) for rank in range(RANKS)])
        first += RANKS * units
    assert first == MLP_WIDTH
    torch.testing.assert_close(total, F.linear(F.silu(gate) * up, wo), rtol=1e-4, atol=1e-4)


# ---- Weights in 8 bits ----


def in_halves(chunks: Tensor) -> Tensor:
    """What the kernel makes of chunks in 8 bits, [n, WARPS, 4, 512] -> [2 n, WARPS, 2, 512], as chunks in 16 lie."""
    lanes = words.unpacked(chunks).float().unflatten(-1, (32, 2, 8)).transpose(-3, -2).flatten(-3)
    return lanes.unflatten(-2, (2, 2)).transpose(1, 2).flatten(0, 1)


def test_products_of_chunks_in_8_bits_times_the_scales_are_those_of_the_layers() -> None:
    x, mixed = torch.randn(WIDTH), torch.randn(HEADS, GROUP * DIM)
    qkv = Fp8Matrix.of(torch.randn((GROUP + 2) * HEADS * DIM, WIDTH))
    out = Fp8Matrix.of(torch.randn(WIDTH, HEADS * GROUP * DIM))
    q, k, v = qkv(x).view(-1, DIM).split([HEADS * GROUP, HEADS, HEADS])
    packed, scale = packing.pack_qkv(words.values_of(qkv)), packing.pack_qkv_scale(qkv.scale)
    for head in (0, HEADS - 1):
        expected = torch.cat([q[head * GROUP : (head + 1) * GROUP].flatten(), k[head], v[head]])
        outputs = len(expected) // RANKS
        found = torch.cat([by_input(in_halves(packed[head, rank]), x, outputs) for rank in range(RANKS)]) * scale[head]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
    packed = packing.pack_out(words.values_of(out))
    shares = [
        torch.cat([by_output(in_halves(packed[head, rank]), mixed[head]) for rank in range(RANKS)]) * out.scale
        for head in range(HEADS)
    ]
    torch.testing.assert_close(torch.stack(shares).sum(0), out(mixed.flatten()), rtol=1e-4, atol=5e-3)


def test_chunks_in_8_bits_are_half_as_many_and_as_long() -> None:
    matrix = Fp8Matrix.of(torch.randn(2 * MLP_WIDTH, WIDTH))
    (small, _), (large, _) = (packing.pack_gate_up(m) for m in (words.values_of(matrix), torch.zeros(matrix.shape)))
    assert small.shape == (HEADS, RANKS, large.shape[2] // 2, WARPS, 4, 512)
    assert small.dtype == torch.uint8


# ---- Which models it is for ----


def test_the_2b_shape_fits() -> None:
    assert backbone.shape_obstacle(random_model("random:2b").config) is None


def with_decoder(**changes: object) -> Dia2Config:
    config = random_model("random:2b").config
    return replace(config, model=replace(config.model, decoder=replace(config.model.decoder, **changes)))


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (random_model("random:1b").config, "the backbone's n_embd is 1024, the kernel is made for 2048"),
        (with_decoder(n_hidden=8192), "the backbone's n_hidden is 8192, the kernel is made for 6144"),
        (with_decoder(kv_heads=16), "the backbone's kv_heads is 16, the kernel is made for 8"),
        (with_decoder(gqa_head_dim=64), "the backbone's gqa_head_dim is 64, the kernel is made for 128"),
        (with_decoder(n_layer=1), "the backbone has one layer, the kernel is made for two and more"),
    ],
)
def test_another_shape_is_refused_with_the_reason(config: Dia2Config, reason: str) -> None:
    assert backbone.shape_obstacle(config) == reason


@pytest.mark.parametrize(
    ("block_columns", "reason"),
    [
        (None, None),
        (64, None),
        (16, None),
        (100, "a block of the cache has 100 columns, the kernel takes multiples of 16"),
    ],
)
def test_blocks_that_its_chunks_do_not_fit_in_are_refused(block_columns: int | None, reason: str | None) -> None:
    cache = KVCache(random_model("random:tiny").config, 1, 2, 1502, torch.device("cpu"), torch.float32, block_columns)
    assert backbone.cache_obstacle(cache) == reason


def test_a_context_of_more_columns_than_a_block_has_room_for_is_refused() -> None:
    cache = KVCache(random_model("random:tiny").config, 1, 2, 4097, torch.device("cpu"), torch.float32)
    assert backbone.cache_obstacle(cache) == "a context has 4097 columns, the kernel takes 4096"


class Kernel:
    """In place of the real one, on a GPU where 14 clusters run at once."""

    def __init__(self, weight_bytes: int) -> None:
        assert weight_bytes == 2

    def clusters_at_once(self) -> int:
        return 14


def refuse(weight_bytes: int) -> Kernel:
    raise CompilerError("there is no NVRTC")


@pytest.mark.parametrize(
    ("model", "dtype", "capability", "load", "reason"),
    [
        ("random:2b", torch.bfloat16, (8, 9), Kernel, "the GPU's compute capability is 8.9, the kernel needs 9.0"),
        ("random:2b", torch.float32, (9, 0), Kernel, "the kernel is for bfloat16 weights"),
        ("random:1b", torch.bfloat16, (9, 0), Kernel, "the backbone's n_embd is 1024, the kernel is made for 2048"),
        ("random:2b", torch.bfloat16, (9, 0), refuse, "there is no NVRTC"),
        (
            "random:2b",
            torch.bfloat16,
            (9, 0),
            Kernel,
            "14 clusters of 8 blocks run at once on this GPU, 15 are needed",
        ),
    ],
)
def test_where_it_cannot_run_the_reason_is_given(
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    dtype: torch.dtype,
    capability: tuple[int, int],
    load: Callable[[int], Kernel],
    reason: str,
) -> None:
    config = random_model(model).config
    with torch.device("meta"):
        layers = Backbone(config, 1).to(dtype)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(backbone, "load_kernel", load)
    cache = KVCache(random_model("random:tiny").config, 1, 2, 1502, torch.device("cpu"), torch.float32)
    assert backbone.ClusterBackbone.make(layers, config, cache) == (None, reason)


# ---- Compiling, without a GPU ----


@pytest.mark.parametrize("weight_bytes", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_it_compiles_for_hopper_within_the_registers(weight_bytes: int) -> None:
    """The layout of shared memory and of the parameters are compared with Python's by the compiler."""
    require("nvidia")
    options = [*nvrtc.options_for("sm_90a", backbone.defines(weight_bytes)), "--ptxas-options=-v"]
    code, said = nvrtc.Compiler().compile(backbone.SOURCE, nvrtc.sources(), options)
    assert code.startswith(b"\x7fELF")
    spilled = re.search(r"(\d+) bytes spill stores", said)
    # In 8 bits NVRTC 13.0 keeps all in registers, and 13.5 puts two of them aside.
    assert spilled is not None
    assert int(spilled[1]) <= (0 if weight_bytes == 2 else 16)
    used = re.search(r"Used (\d+) registers", said)
    assert used is not None
    assert int(used[1]) <= 224  # of 288 threads, as many as a multiprocessor has


def test_what_racecheck_watches_compiles_without_spills_and_has_all_that_it_asks_for() -> None:
    require("nvidia")
    names = {**backbone.defines(2), **backbone.RACECHECKED}
    options = [*nvrtc.options_for("sm_90a", names), "--ptxas-options=-v"]
    sources = nvrtc.sources()
    _, said = nvrtc.Compiler().compile(backbone.SOURCE, sources, options)
    assert "0 bytes spill stores" in said
    text = b"".join(sources.values())
    assert all(f"#ifdef {name}".encode() in text or f"#ifndef {name}".encode() in text for name in backbone.RACECHECKED)


@pytest.mark.slow
@pytest.mark.parametrize("weight_bytes", [2, 1])
def test_it_compiles_for_blackwell(weight_bytes: int) -> None:
    require("nvidia")
    options = nvrtc.options_for("sm_100a", backbone.defines(weight_bytes))
    code, _ = nvrtc.Compiler().compile(backbone.SOURCE, nvrtc.sources(), options)
    assert code.startswith(b"\x7fELF")
