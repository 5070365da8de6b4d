"""Matrices of a weights file in 8 bits: half the bytes of float16 on disk and on the way; in memory they are floats.

A matrix W [..., N, K] is two tensors of the file: `W`, int8, and `W.scale`, float [..., N], one for each row. A weight
is their product, computed in float32. Who writes such a file rounds each weight once, to 1/127 of its row's largest.
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

SUFFIX = ".scale"
DTYPE = "I8"  # as safetensors names it

_LARGEST = 127


def quantized(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix [..., N, K] -> int8 [..., N, K] in -127..127, and float32 scales [..., N]."""
    wide = matrix.float()
    largest = wide.abs().amax(-1)
    scale = torch.where(largest > 0, largest / _LARGEST, 1.0)
    return (wide / scale[..., None]).round().clamp(-_LARGEST, _LARGEST).to(torch.int8), scale


def dequantized(values: Tensor, scale: Tensor) -> Tensor:
    """What `quantized` rounded: float32 [..., N, K]."""
    return values.float() * scale.float()[..., None]


def in_8_bits(tensors: Mapping[str, Tensor], smallest: int = 64) -> dict[str, Tensor]:
    """Tensors of a weights file, matrices with rows of `smallest` numbers or more in 8 bits, the others as they are."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.dim() > 1 and tensor.shape[-1] >= smallest:
            found[name], found[name + SUFFIX] = quantized(tensor)
        else:
            found[name] = tensor
    return found


def scales(dtypes: Mapping[str, str], names: Collection[str]) -> dict[str, str]:
    """dtypes: of a file's tensors, by name. Matrices of `names` in 8 bits -> the names of their scales.

    A scale that the file lacks is in the result all the same.
    """
    return {name: name + SUFFIX for name in names if dtypes.get(name) == DTYPE}
