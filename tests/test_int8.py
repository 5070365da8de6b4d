"""Weights files in 8 bits: each weight is rounded once, lands exactly as value times scale, and damage is told."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from dia2.checkpoint.int8 import dequantized, in_8_bits, quantized
from dia2.checkpoint.load import Checkpoint, LoadOptions, load_checkpoint
from dia2.errors import CheckpointError

GOLDEN = Path(__file__).parent / "goldens" / "published-like" / "checkpoint"
MATRIX, NORM = "transformer.action_head.weight", "transformer.norm.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The goldens' checkpoint with its matrices in 8 bits."""
    shutil.copytree(GOLDEN, tmp_path / "checkpoint")
    change(tmp_path / "checkpoint", lambda raw: in_8_bits(raw, smallest=16))
    return tmp_path / "checkpoint"


def change(folder: Path, by: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    path = folder / "model.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in by(load_file(path)).items()}, path)


def load(folder: Path, **options: str) -> Checkpoint:
    return load_checkpoint(folder, LoadOptions(device="cpu", **options))


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    return str(caught.value)


@given(st.integers(0, 999), st.sampled_from([1e-30, 1e-3, 1.0, 1e4]))
def test_a_weight_is_off_by_half_a_step_of_its_row_at_most(seed: int, size: float) -> None:
    matrix = size * torch.randn(2, 5, 64, generator=torch.Generator().manual_seed(seed))
    matrix[0, 1] = 0
    values, scale = quantized(matrix)
    apart = (dequantized(values, scale) - matrix).abs()
    assert (values.dtype, scale.shape, values.shape) == (torch.int8, (2, 5), matrix.shape)
    assert (apart <= scale[..., None] * 0.5001).all()
    assert (dequantized(values, scale)[0, 1] == 0).all()
    assert values.abs().max() == 127


def test_what_was_rounded_once_is_not_rounded_again() -> None:
    values, scale = quantized(torch.randn(7, 64, generator=torch.Generator().manual_seed(0)))
    again, second = quantized(dequantized(values, scale))
    assert torch.equal(values, again)
    assert torch.allclose(scale, second, rtol=1e-6)


def test_vectors_and_narrow_matrices_stay_as_they_are() -> None:
    tensors = {"norm": torch.ones(64), "narrow": torch.ones(8, 16), "wide": torch.ones(8, 64)}
    found = in_8_bits(tensors)
    assert {name: tensor.dtype for name, tensor in found.items()} == {
        "norm": torch.float32,
        "narrow": torch.float32,
        "wide": torch.int8,
        "wide.scale": torch.float32,
    }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_weight_lands_as_its_value_times_its_rows_scale(folder: Path, dtype: str) -> None:
    file, loaded = load_file(folder / "model.safetensors"), load(folder, dtype=dtype)
    landed = loaded.backbone.checkpoint_tensors() | loaded.depformer.checkpoint_tensors()
    in_8 = [name for name in landed if file[name].dtype is torch.int8]
    assert len(in_8) > 10
    assert set(file) == set(landed) | {f"{name}.scale" for name in in_8}
    for name, tensor in landed.items():
        wanted = file[name].float() * file[f"{name}.scale"].unsqueeze(-1) if name in in_8 else file[name]
        assert torch.equal(tensor, wanted.to(tensor.dtype)), name


def test_the_file_is_half_of_float16_and_the_logits_hardly_change(folder: Path) -> None:
    """The same weights rounded to 8 bits: the hidden state of a step stays near to what it was."""
    plain, small = load(GOLDEN), load(folder)
    for name, tensor in small.backbone.checkpoint_tensors().items():
        exact = plain.backbone.checkpoint_tensors()[name]
        assert (tensor - exact).norm() <= 0.01 * exact.norm(), name
    bytes_a_weight = (folder / "model.safetensors").stat().st_size / (GOLDEN / "model.safetensors").stat().st_size * 4
    assert bytes_a_weight < 1.3  # rows of 16 numbers have a scale each; those of a real model are longer


def test_fp8_weights_can_be_made_of_them(folder: Path) -> None:
    loaded = load(folder, weights="fp8")
    assert loaded.weights == "fp8"
    assert torch.isfinite(loaded.backbone.checkpoint_tensors()[NORM]).all()


def test_a_scale_that_is_missing_misshapen_or_no_float_is_told(folder: Path) -> None:
    def by(raw: dict[str, Tensor]) -> dict[str, Tensor]:
        del raw[f"{MATRIX}.scale"]
        raw["depformer.logits.0.weight.scale"] = torch.ones(3)
        raw["depformer.logits.1.weight.scale"] = raw["depformer.logits.1.weight.scale"].to(torch.int32)
        return raw

    change(folder, by)
    error = refusal(folder)
    assert f"1 missing: {MATRIX}.scale" in error
    assert "1 misshapen: depformer.logits.0.weight.scale [3] for [" in error
    assert "1 of another dtype than float: depformer.logits.1.weight.scale I32" in error


def test_a_scale_of_a_matrix_that_is_not_in_8_bits_is_unexpected(folder: Path) -> None:
    change(folder, lambda raw: raw | {MATRIX: raw[MATRIX].float()})
    assert f"1 unexpected: {MATRIX}.scale" in refusal(folder)


def test_a_vector_in_8_bits_is_refused(folder: Path) -> None:
    change(folder, lambda raw: raw | {NORM: torch.ones(raw[NORM].shape, dtype=torch.int8)})
    assert f"1 of another dtype than float: {NORM} I8" in refusal(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e4])
def test_a_scale_that_makes_no_usable_weight_is_damage(folder: Path, value: float) -> None:
    def by(raw: dict[str, Tensor]) -> dict[str, Tensor]:
        raw[f"{MATRIX}.scale"][0] = value
        return raw

    change(folder, by)
    assert f"is damaged: {MATRIX}" in refusal(folder)


def test_the_bundled_layout_says_nothing_of_it_in_its_config(folder: Path) -> None:
    """Which matrices are in 8 bits stands in the weights file alone."""
    assert json.loads((folder / "config.json").read_text()) == json.loads((GOLDEN / "config.json").read_text())
