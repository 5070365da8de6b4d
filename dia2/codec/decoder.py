"""The codec's decoder network: codes -> samples, a frame or many at a time, over a state that is passed in.

Why it can stream at all is told in mimi.py, what it remembers in state.py. Here are its parts, from the codes upwards:
`_Codebooks`, `_Upsample`, the transformer's `_Layer`, and the convolutions (`_Conv`, `_TransposedConv`) that turn 25
vectors a second into 24,000 samples. A part knows the names of its tensors in the published file (`published`), and
after loading it derives what decoding reads (`prepare`): codebooks are projected once instead of at every frame, scales
go into the matrices before them, the halves of RoPE's pairs are put beside each other.

Tensors are channels-last, [n, time, channels], for n slots of the state.
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
from dia2.codec.ring import Attend, RingView, attend_ring
from dia2.codec.state import DecoderState, StateShape

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


class MimiDecoder(nn.Module):
    """The network, for the first `codebooks` codebooks of the codec.

    It is built on the meta device, without memory. Then come, in this order: `to_empty(device=...)`, a copy into each
    of `checkpoint_tensors()` (or `randomize`), and `prepare()`. Raises ValueError for more codebooks than the codec
    has.
    """

    frequencies: Tensor  # float64 [head_dim / 2], radians per position

    def __init__(self, config: MimiConfig, codebooks: int) -> None:
        super().__init__()
        if not 1 <= codebooks <= config.num_quantizers:
            raise ValueError(f"codebooks is {codebooks}, the codec has 1..{config.num_quantizers}")
        self.config = config
        self.codebooks = codebooks
        with torch.device("meta"):
            self.codes = _Codebooks("quantizer", config, codebooks)
            self.upsample = _Upsample("upsample.conv", config)
            layers = (f"decoder_transformer.layers.{i}" for i in range(config.num_hidden_layers))
            self.layers = nn.ModuleList(_Layer(name, config) for name in layers)
            self.first, self.stages, self.last = _seanet(config)

    def checkpoint_tensors(self) -> dict[str, Tensor]:
        """Published tensor name -> the tensor, or view of one, to copy it into (float32, of the file's shape)."""
        return {f"{part.name}.{name}": tensor for part in self._parts() for name, tensor in part.published().items()}

    def state_shape(self) -> StateShape:
        """What one conversation remembers."""
        config = self.config
        carries = {part.name: part.carry for part in self._parts() if part.carry}
        heads, width = config.num_key_value_heads, config.head_dim
        return StateShape(carries, config.num_hidden_layers, heads, width, config.sliding_window)

    @torch.no_grad()
    def randomize(self, generator: torch.Generator) -> None:
        """Fills the checkpoint's tensors with noise of such levels that activations keep theirs through the layers."""
        for part in self._parts():
            for name, tensor in part.published().items():
                if name.endswith(("bias", "norm.weight", "cluster_usage", "scale")):
                    constant = {"bias": 0.0, "scale": self.config.layer_scale_initial_scale}
                    tensor.fill_(constant.get(name.rpartition(".")[2], 1.0))
                else:
                    limit = math.sqrt(3 / part.fan_in(tensor))
                    tensor.uniform_(-limit, limit, generator=generator)

    @torch.no_grad()
    def prepare(self) -> None:
        """After loading: derives what decoding reads, drops the rest. checkpoint_tensors() works no longer then."""
        with exact_float32():
            for part in self._parts():
                part.prepare()
        device, width = self.last.weight.device, self.config.head_dim
        exponents = torch.arange(0, width, 2, dtype=torch.float64, device=device) / width
        self.register_buffer("frequencies", self.config.rope_theta**-exponents)

    def forward(
        self, codes: Tensor, state: DecoderState, rows: Tensor | None = None, attend: Attend = attend_ring
    ) -> Tensor:
        """Codes [n, codebooks, frames] -> sound [n, frames * frame_samples]; moves n slots of `state` on.

        rows: int64 [n], the slot of each, none twice; without it they are for all slots in order, which copies less.
        frames: 1..FRAMES_PER_PASS. attend: how the transformer attends.
        """
        frames, where = codes.shape[2], slice(None) if rows is None else rows
        each = torch.arange(codes.shape[0], device=codes.device) if rows is None else rows
        carry = state.log[each, state.entry(where)]  # a copy, [n, floats], whose parts the layers update
        parts = state.shape.parts(carry)
        x: Tensor = self.upsample(self.codes(codes), parts)  # [n, 2 frames, hidden]
        view = self._look(state, x.shape[1], where, each)
        for number, layer in enumerate(self.layers):
            x = layer(x, state.keys[number], state.values[number], view, attend)
        x = self.first(x, parts)
        for stage in self.stages:
            x = stage(x, parts)
        x = self.last(F.elu_(x), parts)  # [n, samples, 1]
        state.log[each, state.entry(where, ahead=frames)] = carry
        state.position[where] += STRIDE * frames
        state.filled[where] = (state.filled[where] + STRIDE * frames).clamp_(max=state.capacity)
        return x.squeeze(2)

    def _parts(self) -> list[_Part]:
        return [module for module in self.modules() if isinstance(module, _Part)]

    def _look(self, state: DecoderState, steps: int, where: Tensor | slice, each: Tensor) -> RingView:
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


def _seanet(config: MimiConfig) -> tuple[_Conv, nn.ModuleList, _Conv]:
    """The convolutional half. Its layers are numbered as in the file, where every ELU counts as one."""
    width = config.num_filters << len(config.upsampling_ratios)
    first = _Conv("decoder.layers.0.conv", config.hidden_size, width, config.kernel_size)
    stages, index = nn.ModuleList(), 1
    for ratio in config.upsampling_ratios:
        stages.append(_Stage(config, index, width, ratio))
        width //= 2
        index += 2 + config.num_residual_layers
    return first, stages, _Conv(f"decoder.layers.{index + 1}.conv", width, 1, config.last_kernel_size)


class _Part(nn.Module):
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


def _empty(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape), requires_grad=False)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [slots, steps, in] @ weight [out, in]^T + bias [out] -> a new tensor [slots, steps, out]."""
    if x.device.type == "cpu" and x.shape[0] * x.shape[1] <= STRIDE:
        # A single frame on a CPU takes as long as reading the weights. With the factors in this order they are read
        # at full speed.
        product = torch.mm(weight, x.flatten(0, 1).T).T.contiguous()
        return (product if bias is None else product.add_(bias)).view(*x.shape[:2], -1)
    return F.linear(x, weight, bias)


class _Codebooks(_Part):
    """Codes -> latents. In the file it is a split residual quantizer: each codebook has a table of vectors; the vectors
    of the first codebooks (semantic) are summed and projected by one matrix, those of the others (acoustic) by another,
    and both results are added.

    All of this is linear. So `prepare` projects the tables, and decoding is one gather and one sum.
    """

    table: Tensor  # [codebooks * codebook_size + 1, hidden]; the last row is zero, for ids that are no codes
    start: Tensor  # int64 [codebooks, 1], where each codebook's rows begin

    def __init__(self, name: str, config: MimiConfig, codebooks: int) -> None:
        super().__init__(name)
        self.codebooks, self.size = codebooks, config.codebook_size
        self.semantic, self.hidden = config.num_semantic_quantizers, config.hidden_size
        self.embed_sum = _empty(codebooks, config.codebook_size, config.codebook_dim)
        self.cluster_usage = _empty(codebooks, config.codebook_size)
        # One projection per kind of codebook that is used; codebooks as wide as the latents need none.
        kinds = 0 if config.codebook_dim == config.hidden_size else 1 + (codebooks > self.semantic)
        self.output_proj = nn.ParameterList(_empty(config.hidden_size, config.codebook_dim, 1) for _ in range(kinds))

    def published(self) -> dict[str, Tensor]:
        semantic, acoustic = "semantic_residual_vector_quantizer", "acoustic_residual_vector_quantizer"
        tensors: dict[str, Tensor] = {
            f"{kind}.output_proj.weight": weight
            for kind, weight in zip((semantic, acoustic), self.output_proj, strict=False)
        }
        for k in range(self.codebooks):
            kind, layer = (semantic, k) if k < self.semantic else (acoustic, k - self.semantic)
            codebook = f"{kind}.layers.{layer}.codebook"
            tensors[f"{codebook}.embed_sum"] = self.embed_sum[k]
            tensors[f"{codebook}.cluster_usage"] = self.cluster_usage[k]
        return tensors

    def prepare(self) -> None:
        table = self.embed_sum.new_zeros(self.codebooks * self.size + 1, self.hidden)
        for k, rows in enumerate(table[:-1].split(self.size)):
            vectors = self.embed_sum[k] / self.cluster_usage[k].clamp(min=_USAGE_FLOOR)[:, None]
            if self.output_proj:
                vectors = vectors @ self.output_proj[int(k >= self.semantic)].squeeze(2).T
            rows.copy_(vectors)
        del self.embed_sum, self.cluster_usage, self.output_proj
        self.register_buffer("table", table)
        self.register_buffer("start", torch.arange(self.codebooks, device=table.device)[:, None] * self.size)

    def forward(self, codes: Tensor) -> Tensor:
        """[slots, codebooks, n] -> [slots, n, hidden]."""
        valid = (codes >= 0) & (codes < self.size)
        rows = torch.where(valid, codes + self.start, self.table.shape[0] - 1)
        return F.embedding(rows, self.table).sum(1)


class _Layer(_Part):
    """A transformer layer: attention over the window, then an MLP; both normed before and scaled after."""

    def __init__(self, name: str, config: MimiConfig) -> None:
        self.heads, self.groups, self.width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        super().__init__(name)
        hidden = config.hidden_size
        self.attention_norm = nn.LayerNorm(hidden, config.norm_eps).requires_grad_(False)
        self.qkv = _empty((self.heads + 2 * self.groups) * self.width, hidden)
        self.out = _empty(hidden, self.heads * self.width)
        self.attention_scale = _empty(hidden)
        self.mlp_norm = nn.LayerNorm(hidden, config.norm_eps).requires_grad_(False)
        self.up = _empty(config.intermediate_size, hidden)
        self.down = _empty(hidden, config.intermediate_size)
        self.mlp_scale = _empty(hidden)

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
        mixed = attend(_linear(self.attention_norm(x), self.qkv), keys, values, view)
        x = _linear(mixed, self.out).add_(x)
        return _linear(F.gelu(_linear(self.mlp_norm(x), self.up)), self.down).add_(x)


class _Stage(nn.Module):
    """One step up in rate: ELU, a transposed convolution that halves the width, residual blocks."""

    def __init__(self, config: MimiConfig, index: int, width: int, ratio: int) -> None:
        super().__init__()
        self.up = _TransposedConv(f"decoder.layers.{index + 1}.conv", width, width // 2, ratio)
        self.blocks = nn.ModuleList(
            _Residual(f"decoder.layers.{index + 2 + i}", config, width // 2, config.dilation_growth_rate**i)
            for i in range(config.num_residual_layers)
        )

    def forward(self, x: Tensor, carry: dict[str, Tensor]) -> Tensor:
        """[slots, steps, width] -> [slots, steps * ratio, width / 2]."""
        x = self.up(F.elu_(x), carry)
        for block in self.blocks:
            x = block(x, carry)
        return x


class _Residual(nn.Module):
    """A block that adds to its input: ELU, convolution to fewer channels, ELU, pointwise convolution back."""

    def __init__(self, name: str, config: MimiConfig, width: int, dilation: int) -> None:
        super().__init__()
        inner = width // config.compress
        self.squeeze = _Conv(f"{name}.block.1.conv", width, inner, config.residual_kernel_size, dilation)
        self.expand = _Conv(f"{name}.block.3.conv", inner, width, 1)

    def forward(self, x: Tensor, carry: dict[str, Tensor]) -> Tensor:
        """[slots, steps, width] -> the same shape."""
        change: Tensor = self.expand(F.elu_(self.squeeze(F.elu(x), carry)), carry)
        return change.add_(x)


class _Conv(_Part):
    """A causal convolution: a matrix product over windows of the input, the last inputs of the pass before in front."""

    def __init__(self, name: str, inputs: int, outputs: int, kernel: int, dilation: int = 1) -> None:
        self.context = (kernel - 1) * dilation
        super().__init__(name, carry=(self.context, inputs) if self.context else ())
        self.kernel, self.dilation = kernel, dilation
        self.weight = _empty(outputs, kernel * inputs)
        self.bias = _empty(outputs)

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
        return _linear(x, self.weight, self.bias)


class _OverlapAdd(_Part):
    """A transposed convolution of kernel 2 * stride: what an input gives to outputs of the next one waits for them."""

    def __init__(self, name: str, outputs: int, stride: int) -> None:
        super().__init__(name, carry=(1, stride * outputs))
        self.outputs = outputs

    def spread(self, x: Tensor) -> Tensor:
        """[slots, steps, inputs] -> [slots, steps, 2 * stride * outputs], in order of time."""
        raise NotImplementedError

    def forward(self, x: Tensor, carry: dict[str, Tensor]) -> Tensor:
        """[slots, steps, inputs] -> [slots, steps * stride, outputs]."""
        now, later = self.spread(x).chunk(2, dim=2)
        waiting = carry[self.name]
        sound = now + torch.cat([waiting, later[:, :-1]], dim=1)
        waiting.copy_(later[:, -1:])
        return sound.view(x.shape[0], -1, self.outputs)


class _TransposedConv(_OverlapAdd):
    """A dense transposed convolution: one matrix product gives everything that an input spreads over outputs."""

    def __init__(self, name: str, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(name, outputs, stride)
        self.stride = stride
        self.weight = _empty(2 * stride * outputs, inputs)
        self.bias = _empty(outputs)

    def published(self) -> dict[str, Tensor]:
        weight = self.weight.view(-1, self.outputs, self.weight.shape[1]).permute(2, 1, 0)  # [in, out, kernel]
        return {"weight": weight, "bias": self.bias}

    def fan_in(self, weight: Tensor) -> int:
        return 2 * weight.shape[0]

    def prepare(self) -> None:
        # Every output gets two contributions and one bias: the first contribution brings it along.
        once = self.bias.repeat(self.stride)
        self.bias = nn.Parameter(torch.cat([once, torch.zeros_like(once)]), requires_grad=False)

    def spread(self, x: Tensor) -> Tensor:
        return _linear(x, self.weight, self.bias)


class _Upsample(_OverlapAdd):
    """From frames to latent frames: a transposed convolution in groups of channels, of one in the published codec."""

    def __init__(self, name: str, config: MimiConfig) -> None:
        super().__init__(name, config.hidden_size, STRIDE)
        self.groups = config.upsample_groups
        self.weight = _empty(2 * STRIDE, config.hidden_size, config.hidden_size // self.groups)  # [tap, in, out]

    def published(self) -> dict[str, Tensor]:
        return {"weight": self.weight.permute(1, 2, 0)}

    def fan_in(self, weight: Tensor) -> int:
        return 2 * weight.shape[1]

    def spread(self, x: Tensor) -> Tensor:
        width = self.weight.shape[2]  # channels in a group
        taps = self.weight.view(-1, self.groups, width, width)  # [tap, group, in, out]
        inputs = x.view(*x.shape[:2], 1, self.groups, width, 1)
        return (inputs * taps).sum(4).flatten(2)
