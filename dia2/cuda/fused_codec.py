"""A frame of the codec's decoder for few rows, in 53 kernels where the plain way takes 180.

At one row, a frame's 160 MB of weights are read in 0.05 ms and its 0.17 billion products take less, but each of the
plain way's operations is a kernel that waits for the one before: ELU, concatenation, norm, residual sum. Here each
kernel also does what comes before and behind its product, and finds the slots' memory by itself (dia2/cuda/kernels,
`codec_*` and `ring_splits`). The memory is the same `CodecState`, so frames of one slot may be decoded either way.

What reads rows as one batch of a matrix product is better left to a library when rows are many: see `MOST_ROWS`.
"""

from typing import cast

import torch
from torch import Tensor

from dia2.codec.config import STRIDE, MimiConfig
from dia2.codec.decoder import MimiDecoder, Stage, TransposedConv
from dia2.codec.parts import Conv, Layer, Residual
from dia2.codec.state import CodecState
from dia2.cuda.kernels import codec_layers, codec_residual
from dia2.cuda.kernels.codec_conv import conv
from dia2.cuda.kernels.codec_front import Memory, front
from dia2.cuda.kernels.codec_layers import added_product, normed_product
from dia2.cuda.kernels.codec_residual import last, residual
from dia2.cuda.kernels.codec_transposed import transposed_conv
from dia2.cuda.kernels.ring_splits import attend_ring_in_splits

MOST_ROWS = 4
"""Rows of a pass that kernels have in registers."""
_MOST_WINDOW = 1024  # positions; the product behind attention has all splits of a window
_MOST_CHANNELS = 2048


def obstacle_to_fusing(config: MimiConfig, state: CodecState) -> str | None:
    """Why a codec's frames cannot be decoded by these kernels; None where they can."""
    if config.upsample_groups != config.hidden_size:
        return f"upsample_groups is {config.upsample_groups}, the kernels need {config.hidden_size}, the hidden_size"
    widest = max(
        config.hidden_size,
        config.intermediate_size,
        config.num_attention_heads * config.head_dim,
        config.num_filters << len(config.upsampling_ratios),
    )
    if widest > min(_MOST_CHANNELS, codec_layers.WIDEST):
        return f"a layer has {widest} channels, the kernels take up to {_MOST_CHANNELS}"
    if config.sliding_window > _MOST_WINDOW:
        return f"sliding_window is {config.sliding_window}, the kernels take up to {_MOST_WINDOW}"
    if config.last_kernel_size > config.frame_samples:
        return f"last_kernel_size is {config.last_kernel_size}, a frame has {config.frame_samples} samples"
    if state.back < 1:
        return "the state keeps one carry of each slot, the kernels read one and write the next"
    return None


class FusedDecoder:
    """Decodes one frame of each of up to MOST_ROWS rows. What `MimiDecoder` does is its plain twin.

    precision: of the products in tiles, "ieee" (float32) or "tf32x3" (three products on the matrix units, nearly as
    exact).
    """

    def __init__(self, decoder: MimiDecoder, state: CodecState, precision: str = "ieee") -> None:
        obstacle = obstacle_to_fusing(decoder.config, state)
        if obstacle is not None:
            raise ValueError(obstacle)
        self.decoder, self.state, self.precision = decoder, state, precision

    def __call__(self, codes: Tensor, slots: Tensor, sound: Tensor) -> None:
        """Codes int64 [n, codebooks, 1] of the rows' slots -> sound [n, frame_samples]; moves the slots on.

        slots: int64 [n], none twice. An id that is no code adds nothing.
        """
        memory = Memory(self.state, slots, torch.empty_like(slots))
        x, turns = self._latents(codes, memory)
        for number, layer in enumerate(cast("list[Layer]", self.decoder.layers)):
            self._layer(layer, number, x.flatten(0, 1), turns, memory)
        x = self._conv(self.decoder.first, x, memory, elu_behind=True)
        for stage in cast("list[Stage]", self.decoder.stages):
            x = self._up(stage.up, x, memory)
            blocks = cast("list[Residual]", stage.blocks)
            for block in blocks:
                x = self._residual(block, x, memory, elu_behind=block is blocks[-1])
        end = self.decoder.last
        last(x, end.weight, end.bias, end.kernel, memory, end.name, sound)

    def _latents(self, codes: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        codebooks, upsample = self.decoder.codes, self.decoder.upsample
        x = torch.empty(len(codes), STRIDE, self.decoder.config.hidden_size, device=codes.device)
        taps, turned = upsample.weight.view(2 * STRIDE, -1), self.decoder.frequencies
        return x, front(codes, codebooks.table, codebooks.size, taps, turned, memory, upsample.name, x)

    def _layer(self, layer: Layer, number: int, x: Tensor, turns: Tensor, memory: Memory) -> None:
        """A transformer layer, in place: x [2 n, hidden]."""
        norm, window = layer.attention_norm, self.decoder.config.sliding_window
        qkv = x.new_empty(len(x), len(layer.qkv))
        normed_product(x, norm.weight, norm.bias, norm.eps, layer.qkv, qkv)
        keys, values = self.state.keys[number], self.state.values[number]
        added_product(attend_ring_in_splits(qkv, turns, keys, values, memory, window, layer.heads), layer.out, x)
        norm, inner = layer.mlp_norm, x.new_empty(len(x), len(layer.up))
        normed_product(x, norm.weight, norm.bias, norm.eps, layer.up, inner, gelu=True)
        added_product(inner, layer.down, x)

    def _conv(
        self,
        layer: Conv,
        x: Tensor,
        memory: Memory,
        *,
        elu_before: bool = False,
        add: Tensor | None = None,
        elu_behind: bool = False,
    ) -> Tensor:
        out = x.new_empty(*x.shape[:2], len(layer.weight))
        conv(
            x,
            layer.weight,
            layer.bias,
            layer.kernel,
            layer.dilation,
            memory,
            layer.name,
            out,
            elu_before=elu_before,
            add=add,
            elu_behind=elu_behind,
            precision=self.precision,
        )
        return out

    def _up(self, layer: TransposedConv, x: Tensor, memory: Memory) -> Tensor:
        out = x.new_empty(len(x), x.shape[1] * layer.stride, layer.outputs)
        transposed_conv(x, layer.weight, layer.bias, memory, layer.name, out, precision=self.precision)
        return out

    def _residual(self, block: Residual, x: Tensor, memory: Memory, elu_behind: bool) -> Tensor:
        squeeze, expand = block.squeeze, block.expand
        if x.shape[2] > codec_residual.WIDEST:
            inner = self._conv(squeeze, x, memory, elu_before=True, elu_behind=True)
            return self._conv(expand, inner, memory, add=x, elu_behind=elu_behind)
        out = torch.empty_like(x)
        residual(
            x,
            (squeeze.weight, squeeze.bias),
            (expand.weight, expand.bias),
            squeeze.kernel,
            squeeze.dilation,
            memory,
            squeeze.name,
            out,
            elu_behind=elu_behind,
            precision=self.precision,
        )
        return out
