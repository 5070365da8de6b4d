"""Weights in 8 bits: how far they are off, what they save, and that a model with them is the same model."""

from contextlib import closing
from pathlib import Path

import pytest
import torch
from models import dequantized
from torch import Tensor, nn

from dia2.checkpoint import random_models
from dia2.checkpoint.load import Checkpoint, LoadOptions, _build, load_checkpoint
from dia2.model.fp8 import Fp8Matrix, linear, quantize
from dia2.model.sampling import SlotSettings
from dia2.steps.stepper import Stepper
from dia2stream.bench.parts import backbone_bytes, depformer_bytes
from dia2stream.engine.engine import Engine
from dia2stream.items import Frame
from dia2stream.options import ModelOptions
from dia2stream.protocol.messages import Start


def tiny(weights: str, dtype: str = "float32") -> Checkpoint:
    return load_checkpoint("random:tiny", LoadOptions(device="cpu", dtype=dtype, weights=weights))


def matrices(loaded: Checkpoint) -> dict[str, Fp8Matrix]:
    modules = {"backbone": loaded.backbone, "depformer": loaded.depformer}
    return {
        f"{part}.{name}": matrix
        for part, module in modules.items()
        for name, matrix in module.named_modules()
        if isinstance(matrix, Fp8Matrix)
    }


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 1e20])
def test_a_weight_is_off_by_a_sixteenth_at_most(size: float) -> None:
    matrix = torch.randn(50, 300, generator=torch.Generator().manual_seed(0)) * size
    kept = dequantized(Fp8Matrix.of(matrix))
    smallest = matrix.abs().amax(dim=1, keepdim=True) / 448 * 2**-6  # below it values are evenly spaced
    assert ((kept - matrix).abs() <= torch.maximum(matrix.abs(), smallest) / 16 * 1.0001).all()


def test_a_row_of_zeros_stays_one() -> None:
    kept = Fp8Matrix.of(torch.tensor([[0.0, 0.0], [0.0, 2.0]]))
    assert dequantized(kept).tolist() == [[0.0, 0.0], [0.0, 2.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_is_that_of_the_rounded_weights(dtype: torch.dtype) -> None:
    matrix = Fp8Matrix.of(torch.randn(20, 64, generator=torch.Generator().manual_seed(0)))
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(1)).to(dtype)
    found = linear(x, matrix)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), x.float() @ dequantized(matrix).T, rtol=1e-2, atol=1e-2)


def test_views_are_cut_like_tensors() -> None:
    matrix = torch.randn(3, 8, 4, generator=torch.Generator().manual_seed(0))
    kept, whole = Fp8Matrix.of(matrix), dequantized(Fp8Matrix.of(matrix))
    assert torch.equal(dequantized(kept[1]), whole[1])
    assert torch.equal(dequantized(kept.flatten(0, 1)), whole.flatten(0, 1))
    parts = zip(kept[0].split([3, 5]), whole[0].split([3, 5]), strict=True)
    assert all(torch.equal(dequantized(part), expected) for part, expected in parts)
    assert len(list(kept)) == 3
    kept[2].copy_(matrix[0])
    assert torch.equal(dequantized(kept)[2], whole[0])


def test_only_matrices_of_layers_are_in_8_bits() -> None:
    names = set(matrices(tiny("fp8")))
    layers = {f"backbone.layers.{n}.{m}" for n in range(2) for m in ("attention.qkv", "attention.o_proj")}
    layers |= {f"backbone.layers.{n}.mlp.{m}" for n in range(2) for m in ("wi", "wo")}
    inner = {f"depformer.layers.0.{m}" for m in ("attention.in_proj", "attention.out_proj", "mlp.wi", "mlp.wo")}
    assert names == layers | inner | {"depformer.project_in"}


def test_a_file_loads_into_the_same_8_bits_as_its_rounded_tensors(goldens: Path) -> None:
    loaded = load_checkpoint(goldens / "checkpoint", LoadOptions(device="cpu", dtype="bfloat16", weights="fp8"))
    exact = load_checkpoint(goldens / "checkpoint", LoadOptions(device="cpu", dtype="float32"))
    modules: tuple[nn.Module, ...] = (exact.backbone, exact.depformer)
    for module in modules:
        quantize(module)
    expected = matrices(exact)
    assert expected
    for name, matrix in matrices(loaded).items():
        assert torch.equal(dequantized(matrix), dequantized(expected[name])), name
    assert loaded.backbone.cb0_head.dtype == torch.bfloat16


def test_the_same_random_model_comes_in_both() -> None:
    whole, small = tiny("dtype"), tiny("fp8")
    for name, matrix in matrices(small).items():
        part, _, path = name.partition(".")
        weight = getattr(whole, part).get_parameter(path)
        assert torch.equal(dequantized(matrix), dequantized(Fp8Matrix.of(weight))), name


def test_it_takes_half_the_memory_and_half_the_reading() -> None:
    whole, small = (published_shape(shrunk) for shrunk in (False, True))
    assert 0.50 < backbone_bytes(small[0]) / backbone_bytes(whole[0]) < 0.51
    assert 0.50 < depformer_bytes(small[1]) / depformer_bytes(whole[1]) < 0.53
    taken = [sum(weight.nbytes for module in both for weight in module.parameters()) for both in (small, whole)]
    assert taken[0] / taken[1] < 0.6  # tables of embeddings stay as they are


def published_shape(shrunk: bool) -> tuple[nn.Module, nn.Module]:
    """The published 2B shape in bfloat16, without memory."""
    modules = _build(random_models.random_model("random:2b").config, torch.bfloat16)
    if shrunk:
        for module in modules:
            quantize(module)
    return modules


def logits(loaded: Checkpoint) -> Tensor:
    """Of codebook 0 after some columns."""
    stepper = Stepper(loaded)
    stepper.begin(0, SlotSettings(), seed=0)
    stepper.codes.copy_(torch.randint(256, stepper.codes.shape, generator=torch.Generator().manual_seed(0)))
    for column in range(8):
        stepper.slots[0].column, stepper.slots[0].known = column, stepper.capacity
        stepper.slots[0].text = (20 + column, 3)
        stepper.act([0])
    return loaded.backbone.cb0_logits(stepper.hidden)


def test_logits_stay_close_and_are_not_the_same() -> None:
    exact, rounded = logits(tiny("dtype")), logits(tiny("fp8"))
    error = float((rounded - exact).norm() / exact.norm())
    assert 0.001 < error < 0.1


def test_an_engine_speaks_with_them_and_says_so() -> None:
    with closing(Engine.load(ModelOptions(model="random:tiny", device="cpu", weights="fp8"))) as engine:
        assert any(note.startswith("weights fp8: ") for note in engine.checkpoint.notes)
        with engine.conversation() as session:
            session.submit(Start("[S1] Hello there.", seed=0))
            session.finish()
            assert sum(isinstance(item, Frame) for item in session) > 5
