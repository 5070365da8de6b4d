"""Weights in 8 bits: half the memory of bfloat16, and half the bytes that a step reads.

Only the matrices inside the layers are in 8 bits, which is nearly all of a model. Embeddings, norms and the heads that
give logits stay as they were. Activations stay in the model's dtype, and sums in float32. An 8-bit value is exact in
every wider type, so the only error is that each weight was rounded once: to 4 significant bits, relative to the largest
weight of its row.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_MATRICES = ("qkv", "o_proj", "in_proj", "out_proj", "project_in", "wi", "wo")
_LARGEST = 448.0  # of e4m3


class Fp8Matrix(nn.Module):
    """A matrix [..., N, K] of e4m3 values, with a float32 scale for each of its rows, the outputs.

    Indexing, splitting and flattening the leading dimensions gives views, as with a tensor.
    """

    def __init__(self, values: Tensor, scale: Tensor) -> None:
        """values: float8_e4m3fn [..., N, K]. scale: float32 [..., N]."""
        super().__init__()
        self.values = nn.Parameter(values, requires_grad=False)
        self.scale = nn.Parameter(scale, requires_grad=False)

    @classmethod
    def of(cls, matrix: Tensor) -> "Fp8Matrix":
        """A copy of a matrix [..., N, K] in 8 bits; of a matrix on the meta device, a copy of its shape."""
        values = torch.empty_like(matrix, dtype=torch.float8_e4m3fn)
        scale = matrix.new_empty(matrix.shape[:-1], dtype=torch.float32)
        copy = cls(values, scale)
        return copy if matrix.is_meta else copy.copy_(matrix)

    def copy_(self, matrix: Tensor) -> "Fp8Matrix":
        """Copies a matrix of the same shape, rounded to 8 bits."""
        matrix = matrix.float()
        largest = matrix.abs().amax(dim=-1)
        self.scale.copy_(torch.where(largest > 0, largest / _LARGEST, 1.0))
        self.values.copy_(matrix / self.scale.unsqueeze(-1))
        return self

    def forward(self, x: Tensor) -> Tensor:
        """x [..., K] -> x @ matrix.T [..., N], in x's dtype."""
        return (F.linear(x, self.values.to(x.dtype)) * self.scale).to(x.dtype)

    def __iter__(self) -> "Iterator[Fp8Matrix]":
        return (self[index] for index in range(len(self.values)))

    def __getitem__(self, index: int) -> "Fp8Matrix":
        return Fp8Matrix(self.values[index], self.scale[index])

    def split(self, sizes: int | Sequence[int]) -> "list[Fp8Matrix]":
        """Cut along the first dimension."""
        parts = zip(self.values.split(sizes), self.scale.split(sizes), strict=True)
        return [Fp8Matrix(values, scale) for values, scale in parts]

    def flatten(self, start: int, end: int) -> "Fp8Matrix":
        """Leading dimensions made one."""
        return Fp8Matrix(self.values.flatten(start, end), self.scale.flatten(start, end))

    @property
    def shape(self) -> torch.Size:
        """[..., N, K]."""
        return self.values.shape

    def numel(self) -> int:
        """How many values."""
        return self.values.numel()

    def element_size(self) -> int:
        """Bytes a value."""
        return 1


Matrix = Tensor | Fp8Matrix


def quantize(module: nn.Module) -> None:
    """Turns the matrices of all layers in `module` into 8 bits, one after the other.

    On the meta device, before loading, this makes room for 8-bit weights, and loading rounds what it copies.
    """
    for owner in list(module.modules()):
        for name in _MATRICES:
            matrix = getattr(owner, name, None)
            if isinstance(matrix, nn.Parameter):
                delattr(owner, name)
                owner.add_module(name, Fp8Matrix.of(matrix))


def linear(x: Tensor, matrix: Matrix) -> Tensor:
    """x [..., K] @ matrix [N, K].T -> [..., N]."""
    if isinstance(matrix, Fp8Matrix):
        return matrix.forward(x)
    return F.linear(x, matrix)
