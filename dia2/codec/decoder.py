"""The codec's decoder network: codes -> samples, a frame or many at a time, over a state that is passed in.

Why it can stream at all is told in mimi.py, what it remembers in state.py. Here are its parts, from the codes upwards:
`_Codebooks`, `_Upsample`, the transformer's `Layer`, and the convolutions (`Conv`, `TransposedConv`) that turn 25
vectors a second into 24,000 samples. What the encoder has too is in parts.py. After loading, codebooks are projected
once instead of at every frame.

Tensors are channels-last, [n, time, channels], for n slots of the state.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dia2.codec.config import STRIDE, MimiConfig
from dia2.codec.parts import Codebooks, CodecNetwork, Conv, Layer, Part, Residual, empty, linear
from dia2.codec.ring import Attend, RingView, attend_ring
from dia2.codec.state import CodecState


class MimiDecoder(CodecNetwork):
    """The network, for the first `codebooks` codebooks of the codec."""

    def __init__(self, config: MimiConfig, codebooks: int) -> None:
        super().__init__(config, codebooks)
        with torch.device("meta"):
            self.codes = _Codebooks("quantizer", config, codebooks)
            self.upsample = _Upsample("upsample.conv", config)
            layers = (f"decoder_transformer.layers.{i}" for i in range(config.num_hidden_layers))
            self.layers = nn.ModuleList(Layer(name, config) for name in layers)
            self.first, self.stages, self.last = _seanet(config)

    def forward(
        self, codes: Tensor, state: CodecState, rows: Tensor | None = None, attend: Attend = attend_ring
    ) -> Tensor:
        """Codes [n, codebooks, frames] -> sound [n, frames * frame_samples]; moves n slots of `state` on.

        rows: int64 [n], the slot of each, none twice; without it they are for all slots in order, which copies less.
        frames: 1..FRAMES_PER_PASS. attend: how the transformer attends.
        """
        with self.moving(state, rows, codes.shape[0], codes.shape[2]) as (carry, view):
            x: Tensor = self.first(self._latents(codes, state, carry, view, attend), carry)
            for stage in self.stages:
                x = stage(x, carry)
            x = self.last(F.elu_(x), carry)  # [n, samples, 1]
        return x.squeeze(2)

    def listen(self, codes: Tensor, state: CodecState, rows: Tensor | None, attend: Attend = attend_ring) -> None:
        """Moves n slots on as `forward` does, but makes no sound: the convolutions remember nothing of these frames.

        They take nine tenths of a pass. Where `lead_in` frames go through `forward` behind these, it is as if all had.
        """
        with self.moving(state, rows, codes.shape[0], codes.shape[2]) as (carry, view):
            self._latents(codes, state, carry, view, attend)

    def _latents(
        self, codes: Tensor, state: CodecState, carry: dict[str, Tensor], view: RingView, attend: Attend
    ) -> Tensor:
        """What the convolutions make sound of, [n, 2 frames, hidden]."""
        x: Tensor = self.upsample(self.codes(codes), carry)
        for number, layer in enumerate(self.layers):
            x = layer(x, state.keys[number], state.values[number], view, attend)
        return x

    @property
    def lead_in(self) -> int:
        """How many frames back the convolutions hear: 4 in the published codec."""
        rate, positions = 1, float(self.first.context)
        for stage in cast("list[Stage]", self.stages):
            positions += 1 / rate  # what a transposed convolution adds to the outputs of the next input
            rate *= stage.up.stride
            blocks = cast("list[Residual]", stage.blocks)
            positions += sum(block.squeeze.context + block.expand.context for block in blocks) / rate
        return math.ceil((positions + self.last.context / rate) / STRIDE)

    @property
    def reach(self) -> int:
        """How many frames back the sound of a frame depends on what was heard."""
        return self.lead_in + 1 + math.ceil(len(self.layers) * (self.config.sliding_window - 1) / STRIDE)


def _seanet(config: MimiConfig) -> tuple[Conv, nn.ModuleList, Conv]:
    """The convolutional half. Its layers are numbered as in the file, where every ELU counts as one."""
    width = config.num_filters << len(config.upsampling_ratios)
    first = Conv("decoder.layers.0.conv", config.hidden_size, width, config.kernel_size)
    stages, index = nn.ModuleList(), 1
    for ratio in config.upsampling_ratios:
        stages.append(Stage(config, index, width, ratio))
        width //= 2
        index += 2 + config.num_residual_layers
    return first, stages, Conv(f"decoder.layers.{index + 1}.conv", width, 1, config.last_kernel_size)


class _Codebooks(Codebooks):
    """Codes -> latents: the vectors of the first codebooks (semantic) are summed and projected by one matrix, those of
    the others (acoustic) by another, and both results are added.

    All of this is linear. So `prepare` projects the tables, and decoding is one gather and one sum.
    """

    table: Tensor  # [codebooks * codebook_size + 1, hidden]; the last row is zero, for ids that are no codes
    start: Tensor  # int64 [codebooks, 1], where each codebook's rows begin

    def __init__(self, name: str, config: MimiConfig, codebooks: int) -> None:
        super().__init__(name, config, codebooks, "output_proj", (config.hidden_size, config.codebook_dim, 1))
        self.size, self.hidden = config.codebook_size, config.hidden_size

    def prepare(self) -> None:
        table = self.embed_sum.new_zeros(self.codebooks * self.size + 1, self.hidden)
        for k, rows in enumerate(table[:-1].split(self.size)):
            vectors = self.vectors(k)
            if self.projections:
                vectors = vectors @ self.projections[int(k >= self.semantic)].squeeze(2).T
            rows.copy_(vectors)
        del self.embed_sum, self.cluster_usage, self.projections
        self.register_buffer("table", table)
        self.register_buffer("start", torch.arange(self.codebooks, device=table.device)[:, None] * self.size)

    def forward(self, codes: Tensor) -> Tensor:
        """[slots, codebooks, n] -> [slots, n, hidden]."""
        valid = (codes >= 0) & (codes < self.size)
        rows = torch.where(valid, codes + self.start, self.table.shape[0] - 1)
        return F.embedding(rows, self.table).sum(1)


class Stage(nn.Module):
    """One step up in rate: ELU, a transposed convolution that halves the width, residual blocks."""

    def __init__(self, config: MimiConfig, index: int, width: int, ratio: int) -> None:
        super().__init__()
        self.up = TransposedConv(f"decoder.layers.{index + 1}.conv", width, width // 2, ratio)
        self.blocks = nn.ModuleList(
            Residual(f"decoder.layers.{index + 2 + i}", config, width // 2, config.dilation_growth_rate**i)
            for i in range(config.num_residual_layers)
        )

    def forward(self, x: Tensor, carry: dict[str, Tensor]) -> Tensor:
        """[slots, steps, width] -> [slots, steps * ratio, width / 2]."""
        x = self.up(F.elu_(x), carry)
        for block in self.blocks:
            x = block(x, carry)
        return x


class _OverlapAdd(Part):
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


class TransposedConv(_OverlapAdd):
    """A dense transposed convolution: one matrix product gives everything that an input spreads over outputs."""

    def __init__(self, name: str, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(name, outputs, stride)
        self.stride = stride
        self.weight = empty(2 * stride * outputs, inputs)
        self.bias = empty(outputs)

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
        return linear(x, self.weight, self.bias)


class _Upsample(_OverlapAdd):
    """From frames to latent frames: a transposed convolution in groups of channels, of one in the published codec."""

    def __init__(self, name: str, config: MimiConfig) -> None:
        super().__init__(name, config.hidden_size, STRIDE)
        self.groups = config.upsample_groups
        self.weight = empty(2 * STRIDE, config.hidden_size, config.hidden_size // self.groups)  # [tap, in, out]

    def published(self) -> dict[str, Tensor]:
        return {"weight": self.weight.permute(1, 2, 0)}

    def fan_in(self, weight: Tensor) -> int:
        return 2 * weight.shape[1]

    def spread(self, x: Tensor) -> Tensor:
        width = self.weight.shape[2]  # channels in a group
        taps = self.weight.view(-1, self.groups, width, width)  # [tap, group, in, out]
        inputs = x.view(*x.shape[:2], 1, self.groups, width, 1)
        return (inputs * taps).sum(4).flatten(2)
