"""The backbone's weights as one row of chunks for each block of the kernel. backbone_sizes.cuh says who computes what.

Everything is made of tiles: 16 outputs by 32 inputs of a matrix, 1 KB in bf16, in the order in which the lanes of a
warp give them to the matrix unit. A chunk has two tiles for each of a block's 8 warps, or four in 8 bits. What a block
needs in a layer, chunk after chunk, lies in one piece.

There are two ways to divide a product among the warps. Where all of the residual stream goes in, each warp takes an
eighth of the inputs of all the block's outputs. Where few inputs go in, a warp has some of the outputs to itself.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dia2.cuda.clusters.words import PackedScales, in_words, mlp_scales, values_of
from dia2.model.backbone import Backbone
from dia2.model.fp8 import Fp8Matrix

WIDTH, HEADS, GROUP, DIM, MLP_WIDTH = 2048, 8, 2, 128, 6144
RANKS, WARPS = 8, 8
CLUSTERS = 15
UNITS_BESIDE, UNITS_ALONE = 40, 64
FIRST_ALONE = HEADS * RANKS * UNITS_BESIDE
"""The first hidden unit of the MLP that belongs to a cluster without a head."""


def in_lanes(tiles: Tensor) -> Tensor:
    """[..., 16, 32] -> [..., 512]: two halves, 16 bytes of each lane in either.

    The matrix unit takes 16 outputs by 16 inputs. Lane 4 g + t gives it outputs g and g + 8, and of the tile's inputs
    8 t to 8 t + 7 four to each half.
    """
    parts = tiles.unflatten(-2, (2, 8)).unflatten(-1, (4, 2, 2, 2))  # [..., +8, g, t, half, pair, 2]
    lanes: Tensor = parts.movedim((-3, -5, -4, -2, -6), (-6, -5, -4, -3, -2)).flatten(-6)
    return lanes


def by_inputs(outputs: Tensor) -> Tensor:
    """[..., n, WIDTH], n outputs of each block -> its chunks [..., WIDTH n / 8192, WARPS, 2, 512]."""
    tiles = outputs.unflatten(-2, (-1, 16)).unflatten(-1, (WARPS, -1, 32))  # [..., tiles, 16, warps, inputs, 32]
    return _chunks(tiles.movedim((-3, -2), (-5, -4)))


def by_outputs(shares: Tensor) -> Tensor:
    """[clusters, WIDTH, n], n inputs of each cluster -> its blocks' chunks [clusters, RANKS, n / 32, WARPS, 2, 512]."""
    tiles = shares.unflatten(-1, (-1, 32)).unflatten(1, (RANKS, WARPS, -1, 16))  # [..., tiles, 16, inputs, 32]
    return _chunks(tiles.movedim(-2, -4))


def _chunks(tiles: Tensor) -> Tensor:
    """A warp's tiles in its order, [..., WARPS, m, k, 16, 32] -> [..., m k / 2, WARPS, 2, 512], or four by four.

    A lane reads 16 bytes at once. In 8 bits, these are its parts of both halves of a tile.
    """
    lanes, in_a_chunk = in_lanes(tiles), 2
    if tiles.dtype == torch.uint8:
        lanes, in_a_chunk = in_words(lanes.unflatten(-1, (2, 32, 8)).transpose(-3, -2).flatten(-3)), 4
    chunks: Tensor = lanes.flatten(-3, -2).unflatten(-2, (-1, in_a_chunk))
    return chunks.movedim(-4, -3)


def pack_qkv(matrix: Tensor) -> Tensor:
    """[(GROUP + 2) HEADS DIM, WIDTH] -> [HEADS, RANKS, 16, WARPS, 2, 512]: a cluster has q, k and v of its KV head."""
    q, k, v = matrix.view(-1, DIM, WIDTH).split([HEADS * GROUP, HEADS, HEADS])
    heads = torch.cat([q.view(HEADS, -1, WIDTH), k, v], dim=1)
    return by_inputs(heads.view(HEADS, RANKS, -1, WIDTH))


def pack_qkv_scale(scale: Tensor) -> Tensor:
    """[(GROUP + 2) HEADS DIM] -> [HEADS, (GROUP + 2) DIM], in the order of `pack_qkv`."""
    q, k, v = scale.view(-1, DIM).split([HEADS * GROUP, HEADS, HEADS])
    return torch.cat([q.reshape(HEADS, -1), k, v], dim=1)


def pack_out(matrix: Tensor) -> Tensor:
    """[WIDTH, HEADS GROUP DIM] -> [HEADS, RANKS, 8, WARPS, 2, 512]: a cluster has the inputs from its heads."""
    return by_outputs(matrix.view(WIDTH, HEADS, -1).transpose(0, 1))


def pack_gate_up(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """[2 MLP_WIDTH, WIDTH] -> [clusters, RANKS, units / 2, WARPS, 2, 512], of clusters with a head and without.

    Gate and up of a hidden unit are neighbours, so that one lane gets both.
    """
    units = matrix.view(2, MLP_WIDTH, WIDTH).transpose(0, 1)
    beside = units[:FIRST_ALONE].reshape(HEADS, RANKS, 2 * UNITS_BESIDE, WIDTH)
    alone = units[FIRST_ALONE:].reshape(CLUSTERS - HEADS, RANKS, 2 * UNITS_ALONE, WIDTH)
    return by_inputs(beside), by_inputs(alone)


def pack_down(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """[WIDTH, MLP_WIDTH] -> [clusters, RANKS, units / 4, WARPS, 2, 512], of clusters with a head and without."""
    beside = matrix[:, :FIRST_ALONE].unflatten(1, (HEADS, -1)).transpose(0, 1)
    alone = matrix[:, FIRST_ALONE:].unflatten(1, (CLUSTERS - HEADS, -1)).transpose(0, 1)
    return by_outputs(beside), by_outputs(alone)


@dataclass(frozen=True)
class PackedBackbone:
    """Every matrix of a backbone's layers, and the norms of all layers beside each other.

    heads, others: [layers, clusters, RANKS, chunks, WARPS, 2, 512], the rows of chunks of blocks with a head, and of
    those without; in 8 bits [..., WARPS, 4, 512], bytes whose scales are in `scales`.
    norms: pre_norm and post_norm [layers, WIDTH], q_norm and k_norm [layers, DIM].
    """

    heads: Tensor
    others: Tensor
    pre_norm: Tensor
    post_norm: Tensor
    q_norm: Tensor
    k_norm: Tensor
    scales: PackedScales

    @classmethod
    def of(cls, backbone: Backbone) -> "PackedBackbone":
        layers: Any = list(backbone.layers)
        heads = others = torch.empty(0)
        for number, layer in enumerate(layers):  # one after the other: a copy of all would not fit beside the model
            beside, alone = pack_layer(layer)
            if number == 0:
                heads, others = (part.new_empty(len(layers), *part.shape) for part in (beside, alone))
            heads[number], others[number] = beside, alone
        return cls(
            heads,
            others,
            torch.stack([layer.pre_norm.weight for layer in layers]),
            torch.stack([layer.post_norm.weight for layer in layers]),
            torch.stack([layer.attention.q_norm.weight for layer in layers]),
            torch.stack([layer.attention.k_norm.weight for layer in layers]),
            _scales(layers),
        )


def pack_layer(layer: Any) -> tuple[Tensor, Tensor]:
    """A layer's chunks [clusters, RANKS, chunks, WARPS, 2, 512], of blocks with a head and without."""
    gate_up, down = pack_gate_up(values_of(layer.mlp.wi)), pack_down(values_of(layer.mlp.wo))
    attention = pack_qkv(values_of(layer.attention.qkv)), pack_out(values_of(layer.attention.o_proj))
    return torch.cat([*attention, gate_up[0], down[0]], dim=2), torch.cat([gate_up[1], down[1]], dim=2)


def _scales(layers: list[Any]) -> PackedScales:
    if not isinstance(layers[0].mlp.wi, Fp8Matrix):
        return PackedScales.none()
    qkv = torch.stack([pack_qkv_scale(layer.attention.qkv.scale) for layer in layers])
    return PackedScales(qkv, torch.stack([layer.attention.o_proj.scale for layer in layers]), *mlp_scales(layers))
