"""What the captured graphs of a step run: plain tensor operations, or the Triton kernels."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dia2.cuda.kernels import products as kernels
from dia2.cuda.kernels.attention import Attention
from dia2.cuda.kernels.draws import Sampler
from dia2.cuda.kernels.launch import COLUMN, INDEX, MAIN, SECOND
from dia2.cuda.kernels.products import MOST_ROWS
from dia2.cuda.stepper import GraphStepper
from dia2.model.fp8 import Fp8Matrix, Matrix, linear
from dia2.model.sampling import ACTION_STREAM, CB0_STREAM, Draws

_SPLITS = 16  # at most, of the columns an attention reads: one conversation's 2 x 8 heads then fill a large GPU


class Program:
    """What the graphs of a stepper hold: `column` up to codebook 0, `codes` from there. Draws are fused kernels."""

    def __init__(self, stepper: GraphStepper) -> None:
        self.stepper = stepper
        data = stepper.config.data
        self.banned = data.audio_pad_token_id, data.audio_bos_token_id
        self.text, self.audio = (self._sampler(draws) for draws in (stepper._text_draws, stepper._audio_draws))

    def column(self) -> None:
        raise NotImplementedError

    def codes(self) -> None:
        raise NotImplementedError

    def _sampler(self, draws: Draws) -> Sampler:
        stepper = self.stepper
        guidance = stepper._guidance
        return Sampler(guidance.scale, guidance.filter_k, draws.temperature, draws.top_k, stepper._uniforms)

    def _draw_action(self, logits: Tensor) -> None:
        stepper = self.stepper
        self.text(logits, stepper.fields, ACTION_STREAM, stepper.drawn[:, -1])

    def _draw_code(self, logits: Tensor, codebook: int) -> None:
        stepper = self.stepper
        self.audio(
            logits,
            stepper.fields,
            CB0_STREAM + codebook,
            stepper.drawn[:, codebook],
            banned=self.banned if codebook == 0 else (-1, -1),
            codes=stepper.codes,
            codebook=codebook,
            delay=stepper.delays[codebook],
        )


class Plain(Program):
    """The layers' own ops. Attention reads the whole cache, as a graph cannot change its shapes."""

    def column(self) -> None:
        stepper, fields = self.stepper, self.stepper.fields
        codes = stepper._at(stepper.codes, fields[:, COLUMN])
        text = fields[:, MAIN : SECOND + 1]
        rows = stepper._rows(text[:, None], codes[:, None], 2).flatten(0, 1)
        position, index = (_twice(fields[:, field])[:, None] for field in (COLUMN, INDEX))
        hidden = stepper.backbone(rows, index, position, stepper.cache, stepper.capacity)
        self.hidden = hidden.squeeze(1)
        self._draw_action(stepper.backbone.action_logits(self.hidden))
        self._draw_code(stepper.backbone.cb0_logits(self.hidden), 0)

    def codes(self) -> None:
        stepper = self.stepper
        text = None
        if stepper.reads_text:
            text = stepper.depformer.embed_text(_twice(stepper.next_text[:, 0]), _twice(stepper.next_text[:, 1]))
        for stage in range(stepper.depformer.stages):
            previous = _twice(stepper.drawn[:, stage])
            logits = stepper.depformer.stage(stage, self.hidden, previous, text, stepper._depformer_cache)
            self._draw_code(logits, stage + 1)


def _twice(x: Tensor) -> Tensor:
    """[slots] -> [rows]: each slot's value for both of its rows."""
    return x[:, None].expand(-1, 2).flatten()


class Fast(Program):
    """The kernels: five a layer, each reading its weights once for all rows."""

    def __init__(self, stepper: GraphStepper) -> None:
        super().__init__(stepper)
        config = stepper.config
        backbone, depformer = stepper.backbone, stepper.depformer
        big, small = config.model.decoder, config.model.depformer
        rows = 2 * len(stepper.slots)
        self.few = rows <= MOST_ROWS
        self.eps = config.model.normalization_layer_epsilon

        def buffer(width: int, dtype: torch.dtype | None = None) -> Tensor:
            return backbone.cb0_head.new_zeros(rows, width, dtype=dtype)

        self.heads = torch.cat([backbone.cb0_head, backbone.action_head])
        self.logits = buffer(len(self.heads), torch.float32)
        self.big = _Buffers(buffer, big.n_embd, big.n_hidden, big.gqa_query_heads, big.kv_heads, big.gqa_head_dim)
        self.small = _Buffers(
            buffer, small.n_embd, small.n_hidden, small.gqa_query_heads, small.gqa_query_heads, small.gqa_head_dim
        )
        self.attend = Attention(rows, big.gqa_query_heads, big.kv_heads, big.gqa_head_dim, _SPLITS, stepper.device)
        heads = small.gqa_query_heads
        self.attend_stages = Attention(rows, heads, heads, small.gqa_head_dim, 1, stepper.device)
        groups = len(depformer.groups)
        self.projected = buffer(groups * small.n_embd)  # the hidden state, as every weight group reads it
        self.stage_logits = buffer(depformer.codes, torch.float32)

    def column(self) -> None:
        stepper = self.stepper
        backbone = stepper.backbone
        self._embed()
        tables = backbone.rotary.cos, backbone.rotary.sin
        layer: Any
        for number, layer in enumerate(backbone.layers):
            cache = stepper.cache._k_rows[number], stepper.cache._v_rows[number]
            attention = layer.attention
            self._linear(self.big, self.big.x, attention.qkv, self.big.qkv, layer.pre_norm.weight)
            norms = attention.q_norm.weight, attention.k_norm.weight
            self.attend(self.big.qkv, norms, self.eps, tables, cache, self.big.mixed, stepper.fields)
            self._add(self.big.mixed, attention.o_proj, self.big.x)
            self._mlp(self.big, layer, stepper.config.model.linear.mlp_activations)
        self._linear(self.big, self.big.x, self.heads, self.logits, backbone.norm.weight)
        self._draw_action(self.logits[:, len(backbone.cb0_head) :])
        self._draw_code(self.logits[:, : len(backbone.cb0_head)], 0)

    def codes(self) -> None:
        """All stages. Every group's view of the hidden state is one product, before the first stage."""
        stepper = self.stepper
        depformer = stepper.depformer
        project = depformer.project_in.flatten(0, 1)
        self._linear(self.big, self.big.x, project, self.projected, stepper.backbone.norm.weight)
        for stage in range(depformer.stages):
            self._stage(stage)
            self._draw_code(self.stage_logits, stage + 1)

    def _stage(self, stage: int) -> None:
        stepper, buffers = self.stepper, self.small
        depformer = stepper.depformer
        group = depformer.group_of_stage[stage]
        width = buffers.x.shape[1]
        came = self.projected[:, group * width : (group + 1) * width]
        embedding = kernels.Embedding(depformer.audio_embeds[stage], stepper.drawn[:, stage], buffers.x)
        tables = None if depformer.rotary is None else (depformer.rotary.cos, depformer.rotary.sin)
        layer: Any
        for number, layer in enumerate(depformer.layers):
            attention = layer.attention
            into = attention.in_proj[group], buffers.qkv, layer.pre_norm.weight
            if number == 0:
                self._linear(buffers, came, *into, embedding)
            else:
                self._linear(buffers, buffers.x, *into)
            cache = stepper._depformer_cache[0][number], stepper._depformer_cache[1][number]
            norms = attention.q_norm.weight, attention.k_norm.weight
            self.attend_stages(buffers.qkv, norms, self.eps, tables, cache, buffers.mixed, stage)
            self._add(buffers.mixed, attention.out_proj[group], buffers.x)
            self._mlp(buffers, layer, stepper.config.model.depformer.mlp_activations)
        head = depformer.heads[stage, : depformer.codes]
        self._linear(buffers, buffers.x, head, self.stage_logits, depformer.norm.weight)

    def _embed(self) -> None:
        stepper, data = self.stepper, self.stepper.config.data
        backbone, text = stepper.backbone, stepper.backbone.text_embed
        if self.few:
            kernels.embed(
                stepper.fields,
                stepper.codes,
                text.embedding,
                text.main_proj,
                text.second_proj,
                backbone.audio_embeds,
                self.big.x,
                data.text_zero_token_id,
                data.text_pad_token_id,
            )
        else:
            codes = stepper._at(stepper.codes, stepper.fields[:, COLUMN])
            rows = stepper._rows(stepper.fields[:, None, MAIN : SECOND + 1], codes[:, None], 2)
            self.big.x.copy_(backbone.embed(rows.flatten(0, 1)).squeeze(1))

    # Few rows: one kernel. Many: the norm and the activation are kernels, and the product is the library's.

    def _linear(
        self,
        buffers: "_Buffers",
        x: Tensor,
        matrix: Matrix,
        out: Tensor,
        norm: Tensor,
        embedding: kernels.Embedding | None = None,
    ) -> None:
        """out = norm(x + embedding) @ matrix.T."""
        if self.few:
            kernels.linear(x, matrix, out, norm=norm, eps=self.eps, embedding=embedding)
            return
        kernels.normed(x, norm, self.eps, buffers.normed, embedding)
        _library_product(buffers.normed, matrix, out)

    def _add(self, x: Tensor, matrix: Matrix, total: Tensor, again: bool = False) -> None:
        """total += x @ matrix.T; again: the next stage reads the matrix too."""
        if self.few:
            kernels.linear(x, matrix, total, add=True, again=again)
        elif isinstance(matrix, Fp8Matrix):
            total += linear(x, matrix)
        else:
            torch.addmm(total, x, matrix.T, out=total)

    def _mlp(self, buffers: "_Buffers", layer: Any, activations: tuple[str, ...]) -> None:
        if self.few:
            kernels.gated(buffers.x, layer.post_norm.weight, self.eps, layer.mlp.wi, buffers.hidden, activations)
        else:
            kernels.normed(buffers.x, layer.post_norm.weight, self.eps, buffers.normed)
            _library_product(buffers.normed, layer.mlp.wi, buffers.both)
            kernels.product(buffers.both, buffers.hidden, activations)
        self._add(buffers.hidden, layer.mlp.wo, buffers.x, again=buffers is self.small)


def _library_product(x: Tensor, matrix: Matrix, out: Tensor) -> None:
    """out = x @ matrix.T."""
    if isinstance(matrix, Fp8Matrix) or out.dtype != matrix.dtype:
        out.copy_(linear(x, matrix))
    else:
        torch.mm(x, matrix.T, out=out)


class _Buffers:
    """The activations of one transformer, [rows, ...] each."""

    def __init__(
        self, buffer: Callable[[int], Tensor], width: int, hidden: int, heads: int, kv_heads: int, head_dim: int
    ) -> None:
        self.x, self.normed = buffer(width), buffer(width)
        self.qkv, self.mixed = buffer((heads + 2 * kv_heads) * head_dim), buffer(heads * head_dim)
        self.both, self.hidden = buffer(2 * hidden), buffer(hidden)
