"""What the captured graphs of a step run: plain tensor operations, or the Triton kernels.

A program is for one batch size. All sizes share the tensors: a batch of n takes their first n lines, or 2 n rows, so
what `column` left is there for `codes`, which may be the program of a smaller size. The slots that have codes to draw
come first in a step for that reason.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dia2.cuda.kernels import products as kernels
from dia2.cuda.kernels.attention import Attention
from dia2.cuda.kernels.draws import Sampler
from dia2.cuda.kernels.launch import COLUMN, INDEX, MAIN, SECOND, SLOT
from dia2.cuda.kernels.products import MOST_ROWS
from dia2.model.backbone import Backbone
from dia2.model.config import Dia2Config
from dia2.model.delays import column_of_each, token_rows
from dia2.model.depformer import Depformer
from dia2.model.fp8 import Fp8Matrix, Matrix, linear
from dia2.model.kv_cache import CacheView, KVCache
from dia2.model.sampling import ACTION_STREAM, CB0_STREAM, Draws, Guidance
from dia2.model.slots import SlotIndex

# An attention cuts the columns before the new one into at most so many parts, as long as there are not that many
# programs without. One conversation's 2 x 8 heads so fill a large GPU; those of 128 conversations do by themselves.
MOST_SPLITS = 16
ENOUGH_PROGRAMS = 2048


@dataclass(frozen=True)
class StepTensors:
    """The model, and the device tensors that the graphs of a step read and write. A stepper makes them once.

    Of the n slots that step, in lines of:
    fields: int64 [n, STEP_FIELDS], what the host says about this step (launch.py names the fields).
    drawn: int64 [n, C + 1], what this step drew: the code of every codebook, then the action.
    next_text: int64 [n, 2], the next column's text, which a depformer with a text embedding reads.
    hidden: [2 n, D], what the backbone leaves for the depformer; row 2 i is line i's, row 2 i + 1 without its text.

    Of all slots:
    codes: int64 [slots, C, capacity], the delayed codes of every column.
    blanked_text: int64 [2], the text of the unconditional branch.
    depformer_cache: keys and values of one column's stages, [layers, 2 n, ...] each.
    uniforms: float32 [slots, capacity, streams], the random number of every draw.
    """

    config: Dia2Config
    backbone: Backbone
    depformer: Depformer
    fields: Tensor
    drawn: Tensor
    next_text: Tensor
    hidden: Tensor
    codes: Tensor
    blanked_text: Tensor
    cache: KVCache
    depformer_cache: tuple[Tensor, Tensor]
    uniforms: Tensor
    guidance: Guidance
    text_draws: Draws
    audio_draws: Draws

    @property
    def lines(self) -> int:
        """How many slots can step at once, n."""
        return len(self.fields)

    @property
    def capacity(self) -> int:
        """Columns that the cache holds."""
        return self.codes.shape[2]

    def first(self, lines: int) -> "StepTensors":
        """The same for a batch of fewer lines, over the same memory."""
        return replace(
            self,
            fields=self.fields[:lines],
            drawn=self.drawn[:lines],
            next_text=self.next_text[:lines],
            hidden=self.hidden[: 2 * lines],
            depformer_cache=(self.depformer_cache[0][:, : 2 * lines], self.depformer_cache[1][:, : 2 * lines]),
        )

    def sampler(self, draws: Draws) -> Sampler:
        """The kernel that draws with every slot's settings, of one kind of draw."""
        guidance = self.guidance
        return Sampler(guidance.scale, guidance.filter_k, draws.temperature, draws.top_k, self.uniforms)

    def slots(self) -> Tensor:
        """The slot of each line, int64 [n]; slot 0 for lines that only fill up the batch."""
        return self.fields[:, SLOT].clamp(min=0)

    def tokens(self) -> Tensor:
        """What the backbone reads in this step, int64 [2 n, 1, 2 + C]: each line with its text, then without."""
        codes = column_of_each(self.codes, self.slots(), self.fields[:, COLUMN])
        text = self.fields[:, None, MAIN : SECOND + 1]
        return token_rows(text, codes[:, None], self.blanked_text).flatten(0, 1)


class StepProgram(ABC):
    """The device work of a step, in the two parts that are captured: `column`, then `codes`."""

    def __init__(self, tensors: StepTensors) -> None:
        self.tensors = tensors
        data = tensors.config.data
        self.banned = data.audio_pad_token_id, data.audio_bos_token_id
        self.text, self.audio = tensors.sampler(tensors.text_draws), tensors.sampler(tensors.audio_draws)

    @abstractmethod
    def column(self) -> None:
        """Runs the backbone on every line's column; draws the action and codebook 0."""

    @abstractmethod
    def codes(self) -> None:
        """Runs the depformer on what `column` left; draws all other codebooks."""

    @abstractmethod
    def column_logits(self) -> Tensor:
        """`column` without its draws: the logits of codebook 0, then of the action, float32 [2 n, V + actions]."""

    @abstractmethod
    def codes_after(self, given: Tensor) -> Tensor:
        """For checks: `codes`, where each stage reads the code before it from given, int64 [C].

        Returns its logits, float32 [stages, 2 n, V].
        """

    def draw_action(self, logits: Tensor) -> None:
        """logits float32 [2 n, actions] -> the last entry of `drawn`."""
        tensors = self.tensors
        self.text(logits, tensors.fields, ACTION_STREAM, tensors.drawn[:, -1])

    def draw_code(self, logits: Tensor, codebook: int) -> None:
        """logits float32 [2 n, V] -> `drawn`, and the next column's codes where the frame is not known."""
        tensors = self.tensors
        self.audio(
            logits,
            tensors.fields,
            CB0_STREAM + codebook,
            tensors.drawn[:, codebook],
            banned=self.banned if codebook == 0 else (-1, -1),
            codes=tensors.codes,
            codebook=codebook,
            delay=tensors.config.data.delays[codebook],
        )


class LayerProgram(StepProgram):
    """The layers' own operations, with the draws fused. Attention reads the whole cache: a graph's shapes are fixed.

    A line that only fills up the batch writes to slot 0's last column, which no step ever reads, or to no slot's block.
    """

    def column(self) -> None:
        self._hidden()
        self.draw_action(self.tensors.backbone.action_logits(self.tensors.hidden))
        self.draw_code(self.tensors.backbone.cb0_logits(self.tensors.hidden), 0)

    def column_logits(self) -> Tensor:
        self._hidden()
        backbone, hidden = self.tensors.backbone, self.tensors.hidden
        return torch.cat([backbone.cb0_logits(hidden), backbone.action_logits(hidden)], dim=1)

    def _hidden(self) -> None:
        tensors = self.tensors
        position, index = (_twice(tensors.fields[:, field])[:, None] for field in (COLUMN, INDEX))
        tensors.hidden.copy_(
            tensors.backbone(tensors.tokens(), index, position, self._cache(), tensors.capacity).squeeze(1)
        )

    def _cache(self) -> CacheView:
        slots = self.tensors.slots()
        alone = len(self.tensors.codes) == 1  # then every line is that slot's, and nothing has to be gathered
        return self.tensors.cache.view(SlotIndex((), slots, slice(0, 1) if alone else slots), branches=2)

    def codes_after(self, given: Tensor) -> Tensor:
        tensors, depformer = self.tensors, self.tensors.depformer
        rows, text = 2 * tensors.lines, self._text()
        return torch.stack(
            [
                depformer.stage(stage, tensors.hidden, given[stage].expand(rows), text, tensors.depformer_cache)
                for stage in range(depformer.stages)
            ]
        )

    def _text(self) -> Tensor | None:
        """The embedding of the next column's text, in a model whose depformer has one."""
        tensors, depformer = self.tensors, self.tensors.depformer
        main, second = tensors.next_text[:, 0], tensors.next_text[:, 1]
        return depformer.embed_text(_twice(main), _twice(second))

    def codes(self) -> None:
        tensors, depformer, text = self.tensors, self.tensors.depformer, self._text()
        for stage in range(depformer.stages):
            previous = _twice(tensors.drawn[:, stage])
            logits = depformer.stage(stage, tensors.hidden, previous, text, tensors.depformer_cache)
            self.draw_code(logits, stage + 1)


def _twice(x: Tensor) -> Tensor:
    """[n] -> [2 n]: each line's value for both of its rows."""
    return x[:, None].expand(-1, 2).flatten()


class KernelProgram(StepProgram):
    """The kernels: five a layer, each reading its weights once for all rows."""

    def __init__(
        self, tensors: StepTensors, buffers: "KernelBuffers", tiles: kernels.Tiles = kernels.H100_TILES
    ) -> None:
        super().__init__(tensors)
        self.tiles = tiles
        config, device = tensors.config, tensors.fields.device
        rows = 2 * tensors.lines
        self.few = rows <= MOST_ROWS
        self.eps = config.model.normalization_layer_epsilon
        self.heads = buffers.heads
        self.big, self.small = buffers.big.first(rows), buffers.small.first(rows)
        self.logits, self.projected = buffers.logits[:rows], buffers.projected[:rows]
        self.stage_logits = buffers.stage_logits[:rows]
        big, small = config.model.decoder, config.model.depformer
        splits = max(1, min(MOST_SPLITS, ENOUGH_PROGRAMS // (rows * big.kv_heads)))
        self.attend = Attention(rows, big.gqa_query_heads, big.kv_heads, big.gqa_head_dim, splits, device)
        heads = small.gqa_query_heads
        self.attend_stages = Attention(rows, heads, heads, small.gqa_head_dim, 1, device, long=False)

    def column(self) -> None:
        logits, codes = self.column_logits(), len(self.tensors.backbone.cb0_head)
        self.draw_action(logits[:, codes:])
        self.draw_code(logits[:, :codes], 0)

    def column_logits(self) -> Tensor:
        self._embed()
        self.layers()
        self._linear(self.big, self.big.x, self.heads, self.logits, self.tensors.backbone.norm.weight)
        return self.logits

    def layers(self) -> None:
        """All layers of the backbone: `big.x`, the embedded column, becomes what the last of them gives."""
        tensors = self.tensors
        tables = tensors.backbone.rotary.cos, tensors.backbone.rotary.sin
        at = tensors.fields, tensors.cache.table
        layer: Any
        for number, layer in enumerate(tensors.backbone.layers):
            cache = tensors.cache.k[number], tensors.cache.v[number]
            attention = layer.attention
            self._linear(self.big, self.big.x, attention.qkv, self.big.qkv, layer.pre_norm.weight)
            norms = attention.q_norm.weight, attention.k_norm.weight
            self.attend(self.big.qkv, norms, self.eps, tables, cache, self.big.mixed, at)
            self._add(self.big.mixed, attention.o_proj, self.big.x)
            self._mlp(self.big, layer, tensors.config.model.linear.mlp_activations)

    def codes(self) -> None:
        """All stages, one after the other."""
        self.project()
        for stage in range(self.tensors.depformer.stages):
            self._stage(stage)
            self.draw_code(self.stage_logits, stage + 1)

    def codes_after(self, given: Tensor) -> Tensor:
        self.project()
        seen = []
        for stage in range(self.tensors.depformer.stages):
            self.tensors.drawn[:, stage] = given[stage]
            self._stage(stage)
            seen.append(self.stage_logits.clone())
        return torch.stack(seen)

    def project(self) -> None:
        """The hidden state as every weight group reads it, in one product, before the first stage."""
        project = self.tensors.depformer.project_in.flatten(0, 1)
        self._linear(self.big, self.big.x, project, self.projected, self.tensors.backbone.norm.weight)

    def _stage(self, stage: int) -> None:
        tensors, buffers = self.tensors, self.small
        depformer = tensors.depformer
        group = depformer.group_of_stage[stage]
        width = buffers.x.shape[1]
        came = self.projected[:, group * width : (group + 1) * width]
        embedding = kernels.Embedding(depformer.audio_embeds[stage], tensors.drawn[:, stage], buffers.x)
        tables = None if depformer.rotary is None else (depformer.rotary.cos, depformer.rotary.sin)
        layer: Any
        for number, layer in enumerate(depformer.layers):
            attention = layer.attention
            into = attention.in_proj[group], buffers.qkv, layer.pre_norm.weight
            if number == 0:
                self._linear(buffers, came, *into, embedding)
            else:
                self._linear(buffers, buffers.x, *into)
            cache = tensors.depformer_cache[0][number], tensors.depformer_cache[1][number]
            norms = attention.q_norm.weight, attention.k_norm.weight
            self.attend_stages(buffers.qkv, norms, self.eps, tables, cache, buffers.mixed, stage)
            self._add(buffers.mixed, attention.out_proj[group], buffers.x)
            self._mlp(buffers, layer, tensors.config.model.depformer.mlp_activations)
        head = depformer.heads[stage, : depformer.codes]
        self._linear(buffers, buffers.x, head, self.stage_logits, depformer.norm.weight)

    def _embed(self) -> None:
        tensors, data = self.tensors, self.tensors.config.data
        backbone, text = tensors.backbone, tensors.backbone.text_embed
        if self.few:
            kernels.embed(
                tensors.fields,
                tensors.codes,
                text.embedding,
                text.main_proj,
                text.second_proj,
                backbone.audio_embeds,
                self.big.x,
                data.text_zero_token_id,
                data.text_pad_token_id,
                self.tiles,
            )
        else:
            self.big.x.copy_(backbone.embed(tensors.tokens()).squeeze(1))

    # Few rows: one kernel. Many: the norm and the activation are kernels, and the product is the library's.

    def _linear(
        self,
        buffers: "Activations",
        x: Tensor,
        matrix: Matrix,
        out: Tensor,
        norm: Tensor,
        embedding: kernels.Embedding | None = None,
    ) -> None:
        """out = norm(x + embedding) @ matrix.T."""
        if self.few:
            kernels.linear(x, matrix, out, norm=norm, eps=self.eps, embedding=embedding, tiles=self.tiles)
            return
        kernels.normed(x, norm, self.eps, buffers.normed, embedding)
        library_product(buffers.normed, matrix, out)

    def _add(self, x: Tensor, matrix: Matrix, total: Tensor, again: bool = False) -> None:
        """total += x @ matrix.T; again: the next stage reads the matrix too."""
        if self.few:
            kernels.linear(x, matrix, total, add=True, again=again, tiles=self.tiles)
        else:
            add_product(x, matrix, total)

    def _mlp(self, buffers: "Activations", layer: Any, activations: tuple[str, ...]) -> None:
        if self.few:
            norm = layer.post_norm.weight
            kernels.gated(buffers.x, norm, self.eps, layer.mlp.wi, buffers.hidden, activations, self.tiles)
        else:
            kernels.normed(buffers.x, layer.post_norm.weight, self.eps, buffers.normed)
            library_product(buffers.normed, layer.mlp.wi, buffers.both)
            kernels.product(buffers.both, buffers.hidden, activations)
        self._add(buffers.hidden, layer.mlp.wo, buffers.x, again=buffers is self.small)


def library_product(x: Tensor, matrix: Matrix, out: Tensor) -> None:
    """out = x @ matrix.T; summed up in float32, and rounded to out's dtype once."""
    if isinstance(matrix, Fp8Matrix):
        out.copy_(linear(x, matrix))
    elif out.dtype == matrix.dtype:
        torch.mm(x, matrix.T, out=out)
    elif x.is_cuda and "dtype_out" in torch.ops.aten.mm.overloads():  # torch 2.8 and later
        torch.mm(x, matrix.T, out_dtype=out.dtype, out=out)
    else:
        torch.mm(x.to(out.dtype), matrix.T.to(out.dtype), out=out)


def add_product(x: Tensor, matrix: Matrix, total: Tensor) -> None:
    """total += x @ matrix.T."""
    if isinstance(matrix, Fp8Matrix):
        total += linear(x, matrix)
    else:
        torch.addmm(total, x, matrix.T, out=total)


class KernelBuffers:
    """Where the kernels leave what the next ones read: for the largest batch; smaller ones take the first rows."""

    def __init__(self, tensors: StepTensors) -> None:
        config, backbone, depformer = tensors.config, tensors.backbone, tensors.depformer
        big, small = config.model.decoder, config.model.depformer
        rows = 2 * tensors.lines

        def buffer(width: int, dtype: torch.dtype | None = None) -> Tensor:
            return backbone.cb0_head.new_zeros(rows, width, dtype=dtype)

        self.heads = torch.cat([backbone.cb0_head, backbone.action_head])
        self.logits = buffer(len(self.heads), torch.float32)
        self.big = Activations.of(
            buffer, big.n_hidden, big.gqa_query_heads, big.kv_heads, big.gqa_head_dim, tensors.hidden
        )
        own = buffer(small.n_embd)
        heads = small.gqa_query_heads
        self.small = Activations.of(buffer, small.n_hidden, heads, heads, small.gqa_head_dim, own)
        self.projected = buffer(
            len(depformer.groups) * small.n_embd
        )  # the hidden state, as every weight group reads it
        self.stage_logits = buffer(depformer.codes, torch.float32)


@dataclass(frozen=True)
class Activations:
    """The activations of one transformer, [rows, ...] each."""

    x: Tensor  # the residual stream
    normed: Tensor
    qkv: Tensor
    mixed: Tensor  # what attention gives, before its projection
    both: Tensor  # gate and up
    hidden: Tensor  # their product

    @classmethod
    def of(
        cls, buffer: Callable[[int], Tensor], hidden: int, heads: int, kv_heads: int, head_dim: int, x: Tensor
    ) -> "Activations":
        """Those of a transformer of these sizes whose residual stream is x."""
        qkv, mixed = buffer((heads + 2 * kv_heads) * head_dim), buffer(heads * head_dim)
        return cls(x, buffer(x.shape[1]), qkv, mixed, buffer(2 * hidden), buffer(hidden))

    def first(self, rows: int) -> "Activations":
        """Those of the first rows."""
        every = (self.x, self.normed, self.qkv, self.mixed, self.both, self.hidden)
        return Activations(*(each[:rows] for each in every))
