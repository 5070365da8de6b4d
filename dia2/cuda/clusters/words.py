"""How the kernels of clusters want weights: bf16 as they are, 8-bit values in words of four, with scales by output.

eight_bits.cuh turns a word back into bf16; `unpacked` is its plain twin.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dia2.model.fp8 import Fp8Matrix, Matrix


def values_of(matrix: Matrix) -> Tensor:
    """A matrix's values [..., N, K] for packing: e4m3 as its bytes, which are moved about like any other numbers."""
    return matrix.values.data.view(torch.uint8) if isinstance(matrix, Fp8Matrix) else matrix


def bytes_a_weight(matrix: Matrix) -> int:
    """1 or 2, what the kernels are compiled for."""
    return 1 if isinstance(matrix, Fp8Matrix) else 2


def in_words(values: Tensor) -> Tensor:
    """uint8 [..., n], four neighbours of which become a word; other values [..., n] stay as they are.

    In the first half of a word are values 0 and 2, in the second one values 1 and 3: the instructions want neighbours
    in the two halves of a register. The low byte comes first, as in the GPU's memory.
    """
    if values.dtype != torch.uint8:
        return values
    first, second = values.unflatten(-1, (-1, 2, 2)).unbind(-2)  # [..., words, halves] each
    low = (first & 0x0F) << 4 | second & 0x0F
    high = first & 0x80 | first >> 4 & 0x07 | (second & 0x80) >> 4 | second & 0x70
    return torch.stack([low, high], dim=-1).flatten(-3)


def unpacked(words: Tensor) -> Tensor:
    """What the kernels make of words, uint8 [..., n] -> bfloat16 [..., n], by the same operations."""
    halves = words.unflatten(-1, (-1, 2, 2)).int()
    half = halves[..., 0] | halves[..., 1] << 8  # [..., words, halves]
    second = half << 4 & 0x80F0 | half >> 4 & 0x0700
    pairs = torch.stack([half & 0x87F0, second], dim=-2)  # [..., words, first or second, halves]
    return pairs.to(torch.uint16).view(torch.bfloat16).flatten(-3) * 2.0**120


@dataclass(frozen=True)
class PackedScales:
    """The scales of all layers' outputs, float32, as they lie beside the packed matrices; empty where weights are bf16.

    qkv: [layers, ..., HEADS, outputs of a head]. out, down: [layers, ..., WIDTH]. gate_up: [layers, 2 MLP_WIDTH], gate
    and up of a hidden unit beside each other.
    """

    qkv: Tensor
    out: Tensor
    gate_up: Tensor
    down: Tensor

    @classmethod
    def none(cls) -> "PackedScales":
        """Of weights in bf16."""
        return cls(*(torch.empty(0) for _ in range(4)))

    def addresses(self) -> dict[str, int]:
        """What the kernels' parameters say of them."""
        named = {"qkv": self.qkv, "out": self.out, "gate_up": self.gate_up, "down": self.down}
        return {f"{name}_scale": tensor.data_ptr() for name, tensor in named.items()}


def mlp_scales(layers: list[Any]) -> tuple[Tensor, Tensor]:
    """`gate_up` and `down` of `PackedScales`, of layers in 8 bits."""
    gate_up = torch.stack([layer.mlp.wi.scale.view(2, -1).T.flatten() for layer in layers])
    return gate_up, torch.stack([layer.mlp.wo.scale for layer in layers])
