"""The parts both transformers are built from: norm, rotation, attention, gated MLP, text embedding.

Weights that are read together are packed into one tensor: q, k and v are one matrix, gate and up are one, the
codebooks' embeddings are one table. A checkpoint has them under separate names. So every module that owns packed
weights lists, in `checkpoint_tensors`, each published name with the view of its weights that the tensor is copied into.
Modules are built on the meta device and allocated once (`allocate`), so no weight is ever in memory twice.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dia2.model.fp8 import Matrix, linear

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "swish": F.silu,
    "swiglu": F.silu,
    "gelu": F.gelu,
    "geglu": F.gelu,
    "relu": F.relu,
    "linear": lambda x: x,
    "identity": lambda x: x,
}


def empty_weight(*shape: int) -> nn.Parameter:
    """An uninitialised weight of the default dtype: the loader fills it, and it is never trained."""
    return nn.Parameter(torch.empty(*shape), requires_grad=False)


def allocate(module: nn.Module, device: torch.device | str) -> None:
    """Gives a module that was built on the meta device its memory, uninitialised.

    `Module.to_empty` does the same, but asks in Python for the strides of each tensor, and for that torch imports
    sympy: half a second of every start. For the same reason no table is filled on the meta device.
    """
    for part in module.modules():
        for name, weight in list(part.named_parameters(recurse=False)):
            memory = torch.empty(weight.shape, dtype=weight.dtype, device=device)
            setattr(part, name, nn.Parameter(memory, requires_grad=weight.requires_grad))
        for name, table in list(part.named_buffers(recurse=False)):
            setattr(part, name, torch.empty(table.shape, dtype=table.dtype, device=device))


def prefixed(prefix: str, tensors: Mapping[str, Matrix]) -> dict[str, Matrix]:
    """The same tensors with `prefix.` in front of their names."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def split_by_name(names: Iterable[object], table: Matrix, pattern: str) -> dict[str, Matrix]:
    """The parts of a packed table [n, ...] by their published names: `pattern` formatted with each of `names`."""
    return {pattern.format(name): part for name, part in zip(names, table, strict=True)}


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension, computed in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = empty_weight(width)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), self.eps).to(x.dtype)


class Rotary(nn.Module):
    """Half-split rotary embedding: the pairs are (i, i + head_dim / 2), read from a table of `positions` rows."""

    cos: Tensor  # [positions, head_dim / 2], float32
    sin: Tensor

    def __init__(self, head_dim: int, min_timescale: float, max_timescale: float, positions: int) -> None:
        super().__init__()
        self.shape = positions, head_dim // 2
        self.timescales = min_timescale, max_timescale
        self.register_buffer("cos", torch.empty(0), persistent=False)
        self.register_buffer("sin", torch.empty(0), persistent=False)

    def prepare(self, device: torch.device) -> None:
        """Fills the tables, once the device is known. They are float32 in a model of any dtype."""
        positions, half = self.shape
        low, high = self.timescales
        timescale = low * (high / low) ** (torch.arange(half, dtype=torch.float32) / half)
        angles = torch.arange(positions, dtype=torch.float32)[:, None] / timescale
        self.cos, self.sin = angles.cos().to(device), angles.sin().to(device)

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """positions [..., n] -> cos and sin [..., n, 1, head_dim / 2], to rotate x [..., n, heads, head_dim]."""
        return self.cos[positions].unsqueeze(-2), self.sin[positions].unsqueeze(-2)


def rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Rotates x [..., n, heads, head_dim] in float32 and gives it back in its own dtype."""
    cos, sin = angles
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """q [rows, n, heads, head_dim], k and v [rows, kv_heads, steps, head_dim] -> [rows, n, heads * head_dim].

    Scores are not scaled: the published model uses a scale of 1. mask: [rows or 1, 1, n, steps], True where a query may
    look.
    """
    grouped = k.shape[1] != q.shape[2]
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k, v, attn_mask=mask, scale=1.0, enable_gqa=grouped)
    return out.transpose(1, 2).flatten(2)


class GatedMLP(nn.Module):
    """wo(act0(gate) * act1(up)); gate and up are the halves of one product."""

    def __init__(self, width: int, hidden: int, activations: tuple[str, ...]) -> None:
        super().__init__()
        self.wi: Matrix = empty_weight(2 * hidden, width)
        self.wo: Matrix = empty_weight(width, hidden)
        self.gate_activation, self.up_activation = (_ACTIVATIONS[name] for name in activations)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = linear(x, self.wi).chunk(2, dim=-1)
        return linear(self.gate_activation(gate) * self.up_activation(up), self.wo)

    def checkpoint_tensors(self) -> dict[str, Matrix]:
        return {"wi.weight": self.wi, "wo.weight": self.wo}


class TextEmbedding(nn.Module):
    """The sum of both text streams' embeddings: main_proj(E[main]) + second_proj(E[second]), 0 for a second pad."""

    def __init__(self, vocab: int, width: int, rank: int | None, pad: int) -> None:
        super().__init__()
        self.embedding = empty_weight(vocab, rank or width)
        self.main_proj = empty_weight(width, rank or width)
        self.second_proj = empty_weight(width, rank or width)
        self.pad = pad

    def forward(self, main: Tensor, second: Tensor) -> Tensor:
        """main, second int64 [...] -> [..., width]."""
        spoken = F.linear(self.embedding[second], self.second_proj) * (second != self.pad).unsqueeze(-1)
        return F.linear(self.embedding[main], self.main_proj) + spoken

    def checkpoint_tensors(self) -> dict[str, Matrix]:
        return {
            "embedding.weight": self.embedding,
            "main_proj.weight": self.main_proj,
            "second_proj.weight": self.second_proj,
        }
