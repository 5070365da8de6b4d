"""The parts that the codec's decoder and its encoder have in common: what owns tensors of the published file, causal
convolutions, residual blocks, and the transformer.

A part knows the names of its tensors in the published file (`published`), and after loading it derives what its pass
reads (`prepare`): scales go into the matrices before them, the halves of RoPE's pairs are put beside each other.

Tensors are channels-last, [n, time, channels], for n slots of a state.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dia2.codec.config import STRIDE, MimiConfig
from dia2.codec.ring import Attend, RingView
from dia2.codec.state import CodecState, StateShape

_USAGE_FLOOR: Final = 1e-5  # for codebook entries that training never used, whose usage of 0 would divide by zero


@contextmanager
def exact_float32() -> Iterator[None]:
    """Switches TF32 off on CUDA, whatever the rest of the process computes in.

    With TF32, the sound depends on how a sequence is cut into passes, by more than a step of PCM16, and the encoder
    gives another code in one of a hundred. A captured graph keeps the precision that was set when it was captured.
    """
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


class Part(nn.Module):
    """A part of the decoder. It owns the tensors `name`.* of the file, and may keep `carry` floats for later."""

    def __init__(self, name: str, carry: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.name = name
        self.carry = carry

    def published(self) -> dict[str, Tensor]:
        """What the file calls each tensor, behind the part's name -> the tensor, or view, that it is copied into."""
        raise NotImplementedError

    def fan_in(self, weight: Tensor) -> int:
        """How many products with values of a published weight are summed up in one output."""
        return weight[0].numel()

    def prepare(self) -> None:
        """Derives what `forward` reads from what was loaded."""


def empty(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape), requires_grad=False)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [slots, steps, in] @ weight [out, in]^T + bias [out] -> a new tensor [slots, steps, out]."""
    if x.device.type == "cpu" and x.shape[0] * x.shape[1] <= STRIDE:
        # A single frame on a CPU takes as long as reading the weights. With the factors in this order they are read
        # at full speed.
        product = torch.mm(weight, x.flatten(0, 1).T).T.contiguous()
        return (product if bias is None else product.add_(bias)).view(*x.shape[:2], -1)
    return F.linear(x, weight, bias)


class Conv(Part):
    """A causal convolution: a matrix product over windows of the input, the last inputs of the pass before in front."""

    def __init__(self, name: str, inputs: int, outputs: int, kernel: int, dilation: int = 1) -> None:
        self.context = (kernel - 1) * dilation
        super().__init__(name, carry=(self.context, inputs) if self.context else ())
        self.kernel, self.dilation = kernel, dilation
        self.weight = empty(outputs, kernel * inputs)
        self.bias = empty(outputs)

    def published(self) -> dict[str, Tensor]:
        weight = self.weight.view(self.weight.shape[0], self.kernel, -1).transpose(1, 2)  # [out, in, kernel]
        return {"weight": weight, "bias": self.bias}

    def forward(self, x: Tensor, carry: dict[str, Tensor]) -> Tensor:
        """[slots, steps, inputs] -> [slots, steps, outputs]."""
        if self.context:
            steps, past = x.shape[1], carry[self.name]
            x = torch.cat([past, x], dim=1)
            past.copy_(x[:, steps:])
            x = torch.cat([x[:, i * self.dilation :][:, :steps] for i in range(self.kernel)], dim=2)
        return linear(x, self.weight, self.bias)


class Residual(nn.Module):
    """A block that adds to its input: ELU, convolution to fewer channels, ELU, pointwise convolution back."""

    def __init__(self, name: str, config: MimiConfig, width: int, dilation: int) -> None:
        super().__init__()
        inner = width // config.compress
        self.squeeze = Conv(f"{name}.block.1.conv", width, inner, config.residual_kernel_size, dilation)
        self.expand = Conv(f"{name}.block.3.conv", inner, width, 1)

    def forward(self, x: Tensor, carry: dict[str, Tensor]) -> Tensor:
        """[slots, steps, width] -> the same shape."""
        change: Tensor = self.expand(F.elu_(self.squeeze(F.elu(x), carry)), carry)
        return change.add_(x)


class Layer(Part):
    """A transformer layer: attention over the window, then an MLP; both normed before and scaled after."""

    def __init__(self, name: str, config: MimiConfig) -> None:
        self.heads, self.groups, self.width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        super().__init__(name)
        hidden = config.hidden_size
        self.attention_norm = nn.LayerNorm(hidden, config.norm_eps).requires_grad_(False)
        self.qkv = empty((self.heads + 2 * self.groups) * self.width, hidden)
        self.out = empty(hidden, self.heads * self.width)
        self.attention_scale = empty(hidden)
        self.mlp_norm = nn.LayerNorm(hidden, config.norm_eps).requires_grad_(False)
        self.up = empty(config.intermediate_size, hidden)
        self.down = empty(hidden, config.intermediate_size)
        self.mlp_scale = empty(hidden)

    def published(self) -> dict[str, Tensor]:
        q, k, v = torch.split(self.qkv, [heads * self.width for heads in (self.heads, self.groups, self.groups)])
        return {
            "input_layernorm.weight": self.attention_norm.weight,
            "input_layernorm.bias": self.attention_norm.bias,
            "self_attn.q_proj.weight": q,
            "self_attn.k_proj.weight": k,
            "self_attn.v_proj.weight": v,
            "self_attn.o_proj.weight": self.out,
            "self_attn_layer_scale.scale": self.attention_scale,
            "post_attention_layernorm.weight": self.mlp_norm.weight,
            "post_attention_layernorm.bias": self.mlp_norm.bias,
            "mlp.fc1.weight": self.up,
            "mlp.fc2.weight": self.down,
            "mlp_layer_scale.scale": self.mlp_scale,
        }

    def prepare(self) -> None:
        # RoPE turns the pairs (i, i + head_dim / 2) of each head of q and k. Here both parts of a pair are put next to
        # each other, so that a pair is a complex number. Attention takes only products of q and k, so their common
        # order does not matter.
        turned = self.qkv[: (self.heads + self.groups) * self.width]
        turned.copy_(turned.view(-1, 2, self.width // 2, turned.shape[1]).transpose(1, 2).reshape(turned.shape))
        self.qkv[: self.heads * self.width] /= math.sqrt(self.width)
        self.out.mul_(self.attention_scale[:, None])
        self.down.mul_(self.mlp_scale[:, None])
        del self.attention_scale, self.mlp_scale

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, view: RingView, attend: Attend) -> Tensor:
        """[n, steps, hidden] -> the same shape. keys, values: rings of all slots, [slots, groups, capacity, width]."""
        mixed = attend(linear(self.attention_norm(x), self.qkv), keys, values, view)
        x = linear(mixed, self.out).add_(x)
        return linear(F.gelu(linear(self.mlp_norm(x), self.up)), self.down).add_(x)


class Codebooks(Part):
    """The codebooks of the file's split residual quantizer: the first ones (semantic) and the others (acoustic) each
    have a matrix that projects.

    projection: what the file calls this matrix; shape: of it.
    """

    def __init__(self, name: str, config: MimiConfig, codebooks: int, projection: str, shape: tuple[int, ...]) -> None:
        super().__init__(name)
        self.codebooks, self.semantic, self.projection = codebooks, config.num_semantic_quantizers, projection
        self.embed_sum = empty(codebooks, config.codebook_size, config.codebook_dim)
        self.cluster_usage = empty(codebooks, config.codebook_size)
        # One projection per kind of codebook that is used; codebooks as wide as the latents need none.
        kinds = 0 if config.codebook_dim == config.hidden_size else 1 + (codebooks > self.semantic)
        self.projections = nn.ParameterList(empty(*shape) for _ in range(kinds))

    def published(self) -> dict[str, Tensor]:
        semantic, acoustic = "semantic_residual_vector_quantizer", "acoustic_residual_vector_quantizer"
        tensors: dict[str, Tensor] = {
            f"{kind}.{self.projection}.weight": weight
            for kind, weight in zip((semantic, acoustic), self.projections, strict=False)
        }
        for k in range(self.codebooks):
            kind, layer = (semantic, k) if k < self.semantic else (acoustic, k - self.semantic)
            codebook = f"{kind}.layers.{layer}.codebook"
            tensors[f"{codebook}.embed_sum"] = self.embed_sum[k]
            tensors[f"{codebook}.cluster_usage"] = self.cluster_usage[k]
        return tensors

    def vectors(self, codebook: int) -> Tensor:
        """The entries of a codebook, [codebook_size, codebook_dim]; until `prepare` drops what they are made of."""
        return self.embed_sum[codebook] / self.cluster_usage[codebook].clamp(min=_USAGE_FLOOR)[:, None]


class CodecNetwork(nn.Module):
    """A network that streams, for the first `codebooks` codebooks of the codec: the decoder or the encoder.

    It is built on the meta device, without memory. Then come, in this order: `allocate` (dia2/model/layers.py), a copy
    into each of `checkpoint_tensors()` (or `randomize`), and `prepare()`. Raises ValueError for more codebooks than the
    codec has.
    """

    frequencies: Tensor  # float64 [head_dim / 2], radians per position

    def __init__(self, config: MimiConfig, codebooks: int) -> None:
        super().__init__()
        if not 1 <= codebooks <= config.num_quantizers:
            raise ValueError(f"codebooks is {codebooks}, the codec has 1..{config.num_quantizers}")
        self.config = config
        self.codebooks = codebooks

    def checkpoint_tensors(self) -> dict[str, Tensor]:
        """Published tensor name -> the tensor, or view of one, to copy it into (float32, of the file's shape)."""
        return {f"{part.name}.{name}": tensor for part in self.parts() for name, tensor in part.published().items()}

    def state_shape(self) -> StateShape:
        """What one conversation remembers."""
        config = self.config
        carries = {part.name: part.carry for part in self.parts() if part.carry}
        heads, width = config.num_key_value_heads, config.head_dim
        return StateShape(carries, config.num_hidden_layers, heads, width, config.sliding_window)

    @torch.no_grad()
    def randomize(self, generator: torch.Generator) -> None:
        """Fills the checkpoint's tensors with noise of such levels that activations keep theirs through the layers."""
        for part in self.parts():
            for name, tensor in part.published().items():
                if name.endswith(("bias", "norm.weight", "cluster_usage", "scale")):
                    constant = {"bias": 0.0, "scale": self.config.layer_scale_initial_scale}
                    tensor.fill_(constant.get(name.rpartition(".")[2], 1.0))
                else:
                    limit = math.sqrt(3 / part.fan_in(tensor))
                    tensor.uniform_(-limit, limit, generator=generator)

    @torch.no_grad()
    def prepare(self) -> None:
        """After loading: derives what a pass reads, drops the rest. checkpoint_tensors() works no longer then."""
        with exact_float32():
            for part in self.parts():
                part.prepare()
        device, width = next(self.parameters()).device, self.config.head_dim
        exponents = torch.arange(0, width, 2, dtype=torch.float64, device=device) / width
        self.register_buffer("frequencies", self.config.rope_theta**-exponents)

    def parts(self) -> list[Part]:
        """All parts, in the order in which they were built."""
        return [module for module in self.modules() if isinstance(module, Part)]

    @contextmanager
    def moving(
        self, state: CodecState, rows: Tensor | None, count: int, frames: int
    ) -> Iterator[tuple[dict[str, Tensor], RingView]]:
        """What a pass over `frames` frames of `count` slots reads and updates; moves the slots on behind it.

        rows: int64 [n], the slot of each, none twice; without it they are all slots in order, which copies less.
        """
        where = slice(None) if rows is None else rows
        each = torch.arange(count, device=state.position.device) if rows is None else rows
        carry = state.log[each, state.entry(where)]  # a copy, [n, floats], whose parts the layers update
        yield state.shape.parts(carry), self._look(state, STRIDE * frames, where, each)
        state.log[each, state.entry(where, ahead=frames)] = carry
        state.position[where] += STRIDE * frames
        state.filled[where] = (state.filled[where] + STRIDE * frames).clamp_(max=state.capacity)

    def _look(self, state: CodecState, steps: int, where: Tensor | slice, each: Tensor) -> RingView:
        """What the next `steps` positions of n slots see."""
        position = state.position[where]
        now = position[:, None] + torch.arange(steps, device=each.device)
        angles = now[:, :, None, None] * self.frequencies  # float64: exact enough after years
        return RingView(
            rotation=torch.polar(torch.ones_like(angles), angles).to(torch.complex64),
            slots=each,
            read=where,
            position=position,
            filled=state.filled[where],
            steps=steps,
            capacity=state.capacity,
            window=self.config.sliding_window,
        )
