"""The depformer of clusters, as far as no GPU is needed: its weights' order, its compiler, and when it is not used."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tools import require
from torch import Tensor

from dia2.checkpoint.random_models import random_model
from dia2.cuda.clusters import depformer, nvrtc, packing, words
from dia2.cuda.clusters.packing import CLUSTERS, DIM, FIRST_ALONE, HEADS, MLP_WIDTH, RANKS, UNITS_ALONE, WARPS, WIDTH
from dia2.cuda.clusters.shapes import ARCHITECTURES
from dia2.model.config import Dia2Config
from dia2.model.fp8 import Fp8Matrix

UNITS = [packing.UNITS_BESIDE] * HEADS + [UNITS_ALONE] * (CLUSTERS - HEADS)  # of a block, by its cluster


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def by_input(piece: Tensor, x: Tensor) -> Tensor:
    """What a block makes of all of x [WIDTH]: piece [WARPS, chunks, tiles, 8, 32] -> [8 tiles], a warp at a time."""
    total = torch.zeros(piece.shape[2] * 8)
    for warp in range(WARPS):
        for chunk in range(piece.shape[1]):
            first = warp * WIDTH // WARPS + chunk * 32
            total += (piece[warp, chunk] @ x[first : first + 32]).flatten()
    return total


def by_output(piece: Tensor, x: Tensor) -> Tensor:
    """What a block adds to its columns: piece [WARPS, tiles, chunks, 8, 32], x [32 chunks] -> [8 tiles WARPS]."""
    warps = [
        torch.stack([piece[w, :, chunk] @ x[chunk * 32 : chunk * 32 + 32] for chunk in range(piece.shape[2])]).sum(0)
        for w in range(WARPS)
    ]
    return torch.stack(warps).flatten()


def test_a_cluster_has_q_k_and_v_of_its_head() -> None:
    matrix, x = torch.randn(3 * HEADS * DIM, WIDTH), torch.randn(WIDTH)
    expected = F.linear(x, matrix).view(3, HEADS, DIM)
    packed = packing.pack_qkv(matrix)
    for head in range(HEADS):
        found = torch.cat([by_input(packed[head, rank], x) for rank in range(RANKS)])
        torch.testing.assert_close(found, expected[:, head].flatten(), rtol=1e-4, atol=1e-3)


def test_the_shares_of_all_heads_are_the_out_projection() -> None:
    matrix, x = torch.randn(WIDTH, HEADS * DIM), torch.randn(HEADS, DIM)
    packed = packing.pack_out(matrix)
    shares = [torch.cat([by_output(packed[head, rank], x[head]) for rank in range(RANKS)]) for head in range(HEADS)]
    torch.testing.assert_close(sum(shares), F.linear(x.flatten(), matrix), rtol=1e-4, atol=1e-3)


def test_the_logits_lie_by_block() -> None:
    matrix, x = torch.randn(packing.CODES, WIDTH), torch.randn(WIDTH)
    packed = packing.pack_logits(matrix).flatten(0, 1)
    found = torch.cat([by_input(block, x) for block in packed])
    torch.testing.assert_close(found, F.linear(x, matrix), rtol=1e-4, atol=1e-3)


def test_the_shares_of_all_clusters_are_the_mlp() -> None:
    wi, wo, x = torch.randn(2 * MLP_WIDTH, WIDTH) / 32, torch.randn(WIDTH, MLP_WIDTH) / 55, torch.randn(WIDTH)
    gate, up = F.linear(x, wi).chunk(2)
    total, first = torch.zeros(WIDTH), 0
    gate_up, down = ([*beside, *alone] for beside, alone in (packing.pack_gate_up(wi), packing.pack_down(wo)))
    for cluster, units in enumerate(UNITS):
        both = torch.stack([by_input(gate_up[cluster][rank], x) for rank in range(RANKS)]).view(-1, 2)
        mine = slice(first, first + RANKS * units)
        torch.testing.assert_close(both, torch.stack([gate[mine], up[mine]], 1), rtol=1e-4, atol=1e-4)
        hidden = F.silu(both[:, 0]) * both[:, 1]
        total += torch.cat([by_output(down[cluster][rank], hidden) for rank in range(RANKS)])
        first += RANKS * units
    assert first == MLP_WIDTH
    assert sum(UNITS[:HEADS]) * RANKS == FIRST_ALONE
    torch.testing.assert_close(total, F.linear(F.silu(gate) * up, wo), rtol=1e-4, atol=1e-4)


# ---- Weights in 8 bits ----


def test_every_8_bit_value_comes_out_of_a_word_as_it_is() -> None:
    values = torch.arange(256, dtype=torch.uint8)
    values = values[values & 0x7F != 0x7F].repeat(2)  # those two are no numbers
    values = values[torch.randperm(len(values))]
    found = words.unpacked(words.in_words(values))
    assert torch.equal(found.float(), values.view(torch.float8_e4m3fn).float())


def test_matrices_in_8_bits_lie_as_those_in_16_and_their_scales_beside_them() -> None:
    x = torch.randn(WIDTH)
    qkv = Fp8Matrix.of(torch.randn(3 * HEADS * DIM, WIDTH))
    scale = packing.pack_qkv_scale(qkv.scale)
    pieces = words.unpacked(words.in_words(packing.pack_qkv(words.values_of(qkv)))).float()
    expected = qkv(x).view(3, HEADS, DIM)
    for head in range(HEADS):
        found = torch.cat([by_input(pieces[head, rank], x) for rank in range(RANKS)]) * scale[head]
        torch.testing.assert_close(found, expected[:, head].flatten(), rtol=1e-4, atol=1e-3)


class Layer:
    """An MLP of a layer in 8 bits."""

    def __init__(self) -> None:
        self.mlp = self
        self.wi = Fp8Matrix.of(torch.randn(2 * MLP_WIDTH, WIDTH) / 32)
        self.wo = Fp8Matrix.of(torch.randn(WIDTH, MLP_WIDTH) / 55)


def test_the_scales_of_gate_and_up_are_neighbours_as_their_sums_are() -> None:
    layer, x = Layer(), torch.randn(WIDTH)
    gate_up, down = words.mlp_scales([layer, layer])
    assert gate_up.shape == (2, 2 * MLP_WIDTH)
    assert torch.equal(down[1], layer.wo.scale)
    beside, _ = packing.pack_gate_up(words.values_of(layer.wi))
    block = words.unpacked(words.in_words(beside))[0, 3].float()
    first = 2 * 3 * packing.UNITS_BESIDE
    found = by_input(block, x) * gate_up[0, first : first + 2 * packing.UNITS_BESIDE]
    expected = layer.wi(x).view(2, -1).T.flatten()[first : first + 2 * packing.UNITS_BESIDE]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


# ---- Which models it is for ----


@pytest.mark.parametrize("name", ["random:1b", "random:2b"])
def test_the_published_shapes_fit(name: str) -> None:
    assert depformer.shape_obstacle(random_model(name).config) is None


def with_depformer(**changes: object) -> Dia2Config:
    config = random_model("random:2b").config
    sizes = replace(config.model.depformer, **changes)
    return replace(config, model=replace(config.model, depformer=sizes))


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (random_model("random:tiny").config, "the depformer's n_embd is 64, the kernel is made for 1024"),
        (with_depformer(n_hidden=4096), "the depformer's n_hidden is 4096, the kernel is made for 3072"),
        (with_depformer(gqa_head_dim=64), "the depformer's gqa_head_dim is 64, the kernel is made for 128"),
        (with_depformer(mlp_activations=("gelu", "linear")), "the depformer's activations are gelu and linear"),
        (with_depformer(text_embedding=True), "the depformer reads text"),
    ],
)
def test_another_shape_is_refused_with_the_reason(config: Dia2Config, reason: str) -> None:
    assert str(depformer.shape_obstacle(config)).startswith(reason)


# ---- Compiling, without a GPU ----


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "dia2" / "kernels"


COMPILED = [(architecture, weight_bytes) for architecture in ARCHITECTURES.values() for weight_bytes in (2, 1)]


@pytest.mark.parametrize(
    ("architecture", "weight_bytes"),
    [COMPILED[0], *(pytest.param(*rest, marks=pytest.mark.slow) for rest in COMPILED[1:])],
)
def test_it_compiles_for_hopper_and_blackwell_within_the_registers(architecture: str, weight_bytes: int) -> None:
    """The layout of shared memory and of the parameters are compared with Python's by the compiler."""
    require("nvidia")
    options = [*nvrtc.options_for(architecture, depformer.defines(weight_bytes)), "--ptxas-options=-v"]
    code, said = nvrtc.Compiler().compile(depformer.SOURCE, nvrtc.sources(), options)
    assert code.startswith(b"\x7fELF")
    assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in said
    used = re.search(r"Used (\d+) registers", said)
    assert used is not None
    assert int(used[1]) <= 255


def test_what_was_compiled_is_read_from_disk_until_the_sources_change(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require("nvidia")
    files = {"a.cu": b'#include "b.cuh"\nextern "C" __global__ void f(int* x) { *x = N; }', "b.cuh": b""}
    compiled_files = []
    monkeypatch.setattr(nvrtc, "sources", lambda: dict(files))
    compile = nvrtc.Compiler.compile

    def counting(self: nvrtc.Compiler, *arguments: object) -> tuple[bytes, str]:
        compiled_files.append(arguments)
        return compile(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(nvrtc.Compiler, "compile", counting)
    first = nvrtc.compiled("a.cu", "sm_90a", {"N": 1})
    assert nvrtc.compiled("a.cu", "sm_90a", {"N": 1}) == first
    assert len(compiled_files) == 1
    assert [path.read_bytes() for path in cache.iterdir()] == [first]
    nvrtc.compiled("a.cu", "sm_90a", {"N": 2})
    files["b.cuh"] = b"// changed"
    nvrtc.compiled("a.cu", "sm_90a", {"N": 1})
    nvrtc.compiled("a.cu", "sm_80", {"N": 1})
    assert len(compiled_files) == len(list(cache.iterdir())) == 4


def test_where_nothing_can_be_written_it_is_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require("nvidia")
    (tmp_path / "dia2").write_text("a file where a folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(nvrtc, "sources", lambda: {"a.cu": b'extern "C" __global__ void f() {}'})
    assert nvrtc.compiled("a.cu", "sm_90a", {}) == nvrtc.compiled("a.cu", "sm_90a", {})


def test_a_mistake_in_a_source_is_one_line_with_its_place(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    require("nvidia")
    monkeypatch.setattr(nvrtc, "sources", lambda: {"a.cu": b"\n\nint f() { return g; }"})
    with pytest.raises(nvrtc.CompilerError, match=r"a\.cu\(3\): error: identifier \"g\" is undefined"):
        nvrtc.compiled("a.cu", "sm_90a", {})
