"""The codec's encoder network: samples -> codes, a frame or many at a time, over a state that is passed in.

It is the decoder's mirror: convolutions turn 24,000 samples a second into 25 vectors, a transformer looks back over
10 s of them, one convolution makes frames of two, and a residual quantizer names the nearest entry of each codebook.
All of it looks back only, so it streams as the decoder does: a caller is heard frame by frame, at the cost of a frame,
and the codes are those of the whole recording, however it was cut.

Tensors are channels-last, [n, time, channels], for n slots of the state.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dia2.codec.config import STRIDE, MimiConfig
from dia2.codec.parts import Codebooks, CodecNetwork, Conv, Layer, Part, Residual, empty, linear
from dia2.codec.ring import Attend, RingView, attend_ring
from dia2.codec.state import CodecState


class MimiEncoder(CodecNetwork):
    """The network, for the first `codebooks` codebooks of the codec."""

    def __init__(self, config: MimiConfig, codebooks: int) -> None:
        super().__init__(config, codebooks)
        with torch.device("meta"):
            self.first, self.stages, self.last = _seanet(config)
            layers = (f"encoder_transformer.layers.{i}" for i in range(config.num_hidden_layers))
            self.layers = nn.ModuleList(Layer(name, config) for name in layers)
            self.downsample = _Downsample("downsample.conv", config)
            self.quantizer = _Quantizer("quantizer", config, codebooks)

    def forward(
        self, sound: Tensor, state: CodecState, rows: Tensor | None = None, attend: Attend = attend_ring
    ) -> Tensor:
        """Sound [n, frames * frame_samples] -> codes int64 [n, codebooks, frames]; moves n slots of `state` on.

        The last frame may be incomplete; nothing may come behind it. rows: int64 [n], the slot of each, none twice;
        without it they are for all slots in order, which copies less. frames: 1..FRAMES_PER_PASS. attend: how the
        transformer attends.
        """
        frames = -(-sound.shape[1] // self.config.frame_samples)
        with self.moving(state, rows, sound.shape[0], frames) as (carry, view):
            x = self.first(sound[:, :, None], carry)
            for stage in self.stages:
                x = stage(x, carry)
            x = self.last(F.elu_(x), carry)
            view = _cut(view, x.shape[1])
            for number, layer in enumerate(self.layers):
                x = layer(x, state.keys[number], state.values[number], view, attend)
            x = self.downsample(x, carry, view.position == 0)
        codes: Tensor = self.quantizer(x)
        return codes


def _cut(view: RingView, steps: int) -> RingView:
    """A view of fewer positions, for a frame that is incomplete."""
    if steps == view.steps:
        return view
    turned = view.rotation[:, :steps]
    return RingView(turned, view.slots, view.read, view.position, view.filled, steps, view.capacity, view.window)


def _seanet(config: MimiConfig) -> tuple[Conv, nn.ModuleList, Conv]:
    """The convolutional half. Its layers are numbered as in the file, where every ELU counts as one."""
    width = config.num_filters
    first = Conv("encoder.layers.0.conv", 1, width, config.kernel_size)
    stages, index = nn.ModuleList(), 1
    for ratio in reversed(config.upsampling_ratios):
        stages.append(_Stage(config, index, width, ratio))
        width *= 2
        index += 2 + config.num_residual_layers
    return first, stages, Conv(f"encoder.layers.{index + 1}.conv", width, config.hidden_size, config.last_kernel_size)


class _Stage(nn.Module):
    """One step down in rate: residual blocks, ELU, a convolution with a stride that doubles the width."""

    def __init__(self, config: MimiConfig, index: int, width: int, ratio: int) -> None:
        super().__init__()
        blocks = config.num_residual_layers
        self.blocks = nn.ModuleList(
            Residual(f"encoder.layers.{index + i}", config, width, config.dilation_growth_rate**i)
            for i in range(blocks)
        )
        self.down = _StridedConv(f"encoder.layers.{index + blocks + 1}.conv", width, 2 * width, ratio)

    def forward(self, x: Tensor, carry: dict[str, Tensor]) -> Tensor:
        """[slots, steps * ratio, width] -> [slots, steps, 2 * width]."""
        for block in self.blocks:
            x = block(x, carry)
        return self.down(F.elu_(x), carry)  # type: ignore[no-any-return]


class _StridedConv(Part):
    """A causal convolution of kernel 2 * stride: each output sees the inputs of its own stride and of the one before.

    An input that ends within a stride is filled up with zeros.
    """

    def __init__(self, name: str, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(name, carry=(1, stride * inputs))
        self.stride = stride
        self.weight = empty(outputs, 2 * stride * inputs)
        self.bias = empty(outputs)

    def published(self) -> dict[str, Tensor]:
        weight = self.weight.view(self.weight.shape[0], 2 * self.stride, -1).transpose(1, 2)  # [out, in, kernel]
        return {"weight": weight, "bias": self.bias}

    def forward(self, x: Tensor, carry: dict[str, Tensor]) -> Tensor:
        """[slots, steps * stride, inputs] -> [slots, steps, outputs]."""
        x = F.pad(x, (0, 0, 0, -x.shape[1] % self.stride))
        return linear(_pairs(x, self.stride, carry[self.name]), self.weight, self.bias)


class _Downsample(Part):
    """From latent frames to frames: a convolution without a bias. The first input stands for all that lies before it,
    and the last one for what an incomplete frame lacks.
    """

    def __init__(self, name: str, config: MimiConfig) -> None:
        super().__init__(name, carry=(1, STRIDE * config.hidden_size))
        self.weight = empty(config.hidden_size, 2 * STRIDE * config.hidden_size)

    def published(self) -> dict[str, Tensor]:
        return {"weight": self.weight.view(self.weight.shape[0], 2 * STRIDE, -1).transpose(1, 2)}

    def forward(self, x: Tensor, carry: dict[str, Tensor], begins: Tensor) -> Tensor:
        """[slots, 2 * frames, hidden] -> [slots, frames, hidden]. begins: bool [slots], nothing came before."""
        if x.shape[1] % STRIDE:
            x = torch.cat([x, x[:, -1:]], dim=1)
        past = carry[self.name]
        past.copy_(torch.where(begins[:, None, None], x[:, :1].repeat(1, 1, STRIDE), past))
        return linear(_pairs(x, STRIDE, past), self.weight)


def _pairs(x: Tensor, stride: int, past: Tensor) -> Tensor:
    """Windows of two strides, one behind the other: [slots, steps * stride, n] -> [slots, steps, 2 * stride * n].

    past: [slots, 1, stride * n], the last stride of the pass before; it is updated.
    """
    strides = x.reshape(x.shape[0], -1, stride * x.shape[2])
    before = torch.cat([past, strides[:, :-1]], dim=1)
    past.copy_(strides[:, -1:])
    return torch.cat([before, strides], dim=2)


class _Quantizer(Codebooks):
    """Latents -> codes: the first codebooks (semantic) and the others (acoustic) each quantize a projection of the
    latents. A codebook names its entry that is nearest to what the entries named before have left over.
    """

    entries: Tensor  # [codebooks, codebook_size, codebook_dim]
    halves: Tensor  # [codebooks, codebook_size], half of each entry's squared length

    def __init__(self, name: str, config: MimiConfig, codebooks: int) -> None:
        super().__init__(name, config, codebooks, "input_proj", (config.codebook_dim, config.hidden_size, 1))

    def prepare(self) -> None:
        entries = torch.stack([self.vectors(k) for k in range(self.codebooks)])
        del self.embed_sum, self.cluster_usage
        self.register_buffer("entries", entries)
        self.register_buffer("halves", entries.square().sum(2) / 2)

    def forward(self, x: Tensor) -> Tensor:
        """[slots, frames, hidden] -> int64 [slots, codebooks, frames]."""
        codes = []
        rest = x
        for k in range(self.codebooks):
            if k in (0, self.semantic):
                rest = linear(x, self.projections[int(k > 0)].squeeze(2)) if self.projections else x
            # |rest - entry|^2 = |rest|^2 - 2 (rest * entry - |entry|^2 / 2): the nearest has the largest bracket.
            code = (linear(rest, self.entries[k]) - self.halves[k]).argmax(2)
            rest = rest - F.embedding(code, self.entries[k])
            codes.append(code)
        return torch.stack(codes, dim=1)
