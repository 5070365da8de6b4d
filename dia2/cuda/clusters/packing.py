"""A depformer's weights in the order in which the kernel's warps read them. depformer_sizes.cuh says who computes what.

Everything is made of tiles: 8 outputs by 32 inputs of a matrix, row by row, 512 bytes in bf16. A warp copies a piece,
some tiles that lie one after the other, into its own part of shared memory.

There are two ways to divide a product among a block's 8 warps. Where all of the residual stream goes in, each warp
takes an eighth of the inputs of all the block's outputs. Where few inputs go in, a warp has some of the outputs to
itself.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dia2.cuda.clusters.words import PackedScales, in_words, mlp_scales, values_of
from dia2.model.depformer import Depformer
from dia2.model.fp8 import Fp8Matrix

WIDTH, HEADS, DIM, MLP_WIDTH, CODES, MOST_STAGES = 1024, 8, 128, 3072, 2048, 32
RANKS, WARPS = 8, 8
CLUSTERS = 15
UNITS_BESIDE, UNITS_ALONE = 20, 32
FIRST_ALONE = HEADS * RANKS * UNITS_BESIDE
"""The first hidden unit of the MLP that belongs to a cluster without a head."""


def by_inputs(outputs: Tensor) -> Tensor:
    """[..., n, WIDTH], n outputs of each block -> [..., WARPS, 4, n / 8, 8, 32]: a warp has an eighth of the inputs."""
    tiles: Tensor = outputs.unflatten(-2, (-1, 8)).unflatten(-1, (WARPS, -1, 32))  # [..., tiles, 8, warps, chunks, 32]
    return tiles.movedim((-3, -2), (-5, -4))


def by_outputs(shares: Tensor) -> Tensor:
    """[clusters, WIDTH, n], the n inputs of each cluster -> [clusters, RANKS, WARPS, 2, n / 32, 8, 32]."""
    tiles: Tensor = shares.unflatten(-1, (-1, 32)).unflatten(1, (RANKS, WARPS, -1, 8))  # [..., tiles, 8, chunks, 32]
    return tiles.transpose(-3, -2)


def pack_qkv(matrix: Tensor) -> Tensor:
    """[3 HEADS DIM, WIDTH] -> [HEADS, RANKS, WARPS, 4, 6, 8, 32]: a cluster has q, k and v of its head."""
    heads = matrix.view(3, HEADS, DIM, WIDTH).transpose(0, 1)
    return by_inputs(heads.reshape(HEADS, RANKS, -1, WIDTH))


def pack_qkv_scale(scale: Tensor) -> Tensor:
    """[3 HEADS DIM] -> [HEADS, 3 DIM], in the order of `pack_qkv`."""
    return scale.view(3, HEADS, DIM).transpose(0, 1).reshape(HEADS, -1)


def pack_out(matrix: Tensor) -> Tensor:
    """[WIDTH, HEADS DIM] -> [HEADS, RANKS, WARPS, 2, 4, 8, 32]: a cluster has the inputs from its head."""
    return by_outputs(matrix.view(WIDTH, HEADS, DIM).transpose(0, 1))


def pack_logits(matrix: Tensor) -> Tensor:
    """[CODES, WIDTH] -> [HEADS, RANKS, WARPS, 4, 4, 8, 32]."""
    return by_inputs(matrix.view(HEADS, RANKS, -1, WIDTH))


def pack_gate_up(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """[2 MLP_WIDTH, WIDTH] -> [clusters, RANKS, WARPS, 4, units / 4, 8, 32], of clusters with a head and without.

    Gate and up of a hidden unit are neighbours, so that one lane gets both.
    """
    units = matrix.view(2, MLP_WIDTH, WIDTH).transpose(0, 1)
    beside = units[:FIRST_ALONE].reshape(HEADS, RANKS, 2 * UNITS_BESIDE, WIDTH)
    alone = units[FIRST_ALONE:].reshape(CLUSTERS - HEADS, RANKS, 2 * UNITS_ALONE, WIDTH)
    return by_inputs(beside), by_inputs(alone)


def pack_down(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """[WIDTH, MLP_WIDTH] -> [clusters, RANKS, WARPS, 2, units / 4, 8, 32], of clusters with a head and without."""
    beside = matrix[:, :FIRST_ALONE].unflatten(1, (HEADS, -1)).transpose(0, 1)
    alone = matrix[:, FIRST_ALONE:].unflatten(1, (CLUSTERS - HEADS, -1)).transpose(0, 1)
    return by_outputs(beside), by_outputs(alone)


@dataclass(frozen=True)
class PackedWeights:
    """Every matrix of a depformer's layers and heads, and the norms of all layers beside each other.

    qkv, out: [layers, groups, ...]. logits: [stages, ...]. gate_up, down: [layers, ...] of clusters with a head, and of
    those without. All but the logits may be 8-bit values in words, whose scales are in `scales`.
    norms: pre_norm and post_norm [layers, WIDTH], q_norm and k_norm [layers, DIM].
    """

    qkv: Tensor
    out: Tensor
    gate_up: tuple[Tensor, Tensor]
    down: tuple[Tensor, Tensor]
    logits: Tensor
    pre_norm: Tensor
    post_norm: Tensor
    q_norm: Tensor
    k_norm: Tensor
    scales: PackedScales

    @classmethod
    def of(cls, depformer: Depformer) -> "PackedWeights":
        layers: Any = list(depformer.layers)
        gate_up = [pack_gate_up(values_of(layer.mlp.wi)) for layer in layers]
        down = [pack_down(values_of(layer.mlp.wo)) for layer in layers]
        qkv = [pack_qkv(values_of(group)) for layer in layers for group in layer.attention.in_proj]
        out = [pack_out(values_of(group)) for layer in layers for group in layer.attention.out_proj]
        return cls(
            _stacked(qkv).unflatten(0, (len(layers), -1)),
            _stacked(out).unflatten(0, (len(layers), -1)),
            (_stacked([beside for beside, _ in gate_up]), _stacked([alone for _, alone in gate_up])),
            (_stacked([beside for beside, _ in down]), _stacked([alone for _, alone in down])),
            torch.stack([pack_logits(head[: depformer.codes]) for head in depformer.heads]),
            torch.stack([layer.pre_norm.weight for layer in layers]),
            torch.stack([layer.post_norm.weight for layer in layers]),
            torch.stack([layer.attention.q_norm.weight for layer in layers]),
            torch.stack([layer.attention.k_norm.weight for layer in layers]),
            _scales(layers),
        )


def _stacked(packed: list[Tensor]) -> Tensor:
    return torch.stack([in_words(matrix) for matrix in packed])


def _scales(layers: list[Any]) -> PackedScales:
    if not isinstance(layers[0].mlp.wi, Fp8Matrix):
        return PackedScales.none()
    qkv = [torch.stack([pack_qkv_scale(group.scale) for group in layer.attention.in_proj]) for layer in layers]
    out = [torch.stack([group.scale for group in layer.attention.out_proj]) for layer in layers]
    return PackedScales(torch.stack(qkv), torch.stack(out), *mlp_scales(layers))
