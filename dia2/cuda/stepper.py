"""The stepper on a GPU: a step is one or two captured CUDA graphs, with the same tokens as the eager one.

Graph A reads the columns, runs the backbone, draws the actions and codebook 0. Graph B runs the depformer: every other
codebook, drawn and written. A step that is only the lead-in launches A alone.

What changes from step to step travels in one small table, `fields`: a row a slot with its column, cache index, known
frames and text, written by the host into pinned memory and copied by graph A itself. Settings and uniforms are device
tensors too. So nothing is ever captured again, and nothing is allocated after construction.

The only thing the host waits for is the actions, copied into pinned memory at the end of A. In the published models
the depformer does not read the text that an action leads to, so B is launched right behind A, before the actions are
known: the GPU works on the codes while the host works on the text, and the next step's A can be queued without a gap.

What is captured comes in two kinds. `_Fast` uses the kernels of kernels.py, where they beat plain ops: 16-bit weights,
and 8-bit ones. `_Plain` captures the layers as they are, with only the draws fused: float32, whose arithmetic upstream
is the library's TF32, and the depformer with a text embedding, which no published model has.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dia2.cuda.kernels import products as kernels
from dia2.cuda.kernels.products import COLUMN, INDEX, KNOWN, MAIN, MOST_ROWS, SECOND, STEP_FIELDS
from dia2.model.fp8 import Fp8Matrix, Matrix, linear
from dia2.model.sampling import ACTION_STREAM, CB0_STREAM, Draws, SlotSettings
from dia2.steps.stepper import Slot, Stepper, Text

if TYPE_CHECKING:
    from dia2.checkpoint.load import Checkpoint

_SPLITS = 16  # at most, of the columns an attention reads: one conversation's 2 x 8 heads then fill a large GPU


class GraphStepper(Stepper):
    """A Stepper whose steps are CUDA graphs; construction compiles, captures and warms up everything.

    plain: capture the layers' own ops even where kernels could be used (for comparing them).
    """

    def __init__(self, checkpoint: "Checkpoint", slots: int = 1, plain: bool | None = None) -> None:
        super().__init__(checkpoint, slots)
        config, device = self.config, self.device
        self._host = self._shared(slots, STEP_FIELDS)
        self._host_actions = self._shared(slots)
        self.fields = torch.zeros_like(self._host, device=device)
        # What was drawn in this step: the codes of every codebook, then the action.
        self.drawn = torch.zeros(slots, config.data.codebooks + 1, dtype=torch.int64, device=device)
        self.reads_text = self.depformer.text_embed is not None
        self.next_text = torch.zeros(slots, 2, dtype=torch.int64, device=device)
        self._host_text = self._shared(slots, 2)
        slow = checkpoint.dtype == torch.float32 or self.reads_text
        self.kind = "plain ops" if (slow if plain is None else plain) else "kernels"
        self._host[:] = torch.tensor([0, 0, self.capacity, *self.opening])  # every frame is known: nothing is kept
        with torch.inference_mode():
            self.program: _Program = _Plain(self) if self.kind == "plain ops" else _Fast(self)
            self._run_column, self._run_codes = self._capture()
        if device.type == "cuda":
            self._meet_lengths()

    @torch.inference_mode()
    def act(self, active: Sequence[int]) -> list[int]:
        """Runs the current column of each active slot and draws; returns their actions.

        The others are computed too and ignored: they know every frame, so nothing of them is kept.
        """
        self._tell(active)
        self._run_column()
        ready = self._mark()
        self._active = list(active)
        self._due = max(self._codebooks_due(slot) for slot in active) > 1
        if self._due and not self.reads_text:
            self._run_codes()
        if ready is not None:
            ready.synchronize()
        return [int(self._host_actions[slot]) for slot in active]

    @torch.inference_mode()
    def complete(self, texts: Sequence[Text]) -> None:
        """Moves the slots of `act` on to the next column, whose texts are given, in that order."""
        for slot, text in zip(self._active, texts, strict=True):
            self.slots[slot].text = text
        if self._due and self.reads_text:
            self._host_text.copy_(torch.tensor([slot.text for slot in self.slots]))
            self._run_codes()
        for slot in self._active:
            self.slots[slot].column += 1

    def _tell(self, active: Sequence[int]) -> None:
        """Writes the step's fields. The copy of the step before is done: its actions have been waited for."""
        rows = [[s.column, s.column + s.shift, self.capacity, *s.text] for s in self.slots]
        for slot in active:
            rows[slot][KNOWN] = self.slots[slot].known
        self._host.copy_(torch.tensor(rows))

    def _shared(self, *shape: int) -> Tensor:
        """Host memory that the device's copies can run beside the host with."""
        return torch.zeros(*shape, dtype=torch.int64, pin_memory=self.device.type == "cuda")

    def _mark(self) -> torch.cuda.Event | None:
        if self.device.type != "cuda":
            return None
        self._actions_ready.record()
        return self._actions_ready

    def _meet_lengths(self) -> None:
        """Runs passes of many columns, for which libraries load other kernels than for few; what they write is void."""
        for settings in (SlotSettings(cfg_scale=1.0), SlotSettings()):
            for count in (1, 8, 33, 64, 125, 250, 500, 1000):
                self.slots[0] = Slot(0, self.opening, settings=settings)
                self.prefill(0, [self.opening] * min(count, self.capacity - 2))
        self.slots[0] = Slot(0, self.opening)

    def _capture(self) -> tuple[Callable[[], None], Callable[[], None]]:
        """What runs a column and its codes."""
        if self.device.type != "cuda":  # tests, with the kernels interpreted
            return self._column, self._codes
        self._actions_ready = torch.cuda.Event()
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):  # compiles the kernels, and lets the libraries choose theirs
                self._column()
                self._codes()
        torch.cuda.current_stream().wait_stream(stream)
        self._graphs = captured(self._column), captured(self._codes)
        return self._graphs[0].replay, self._graphs[1].replay

    def _column(self) -> None:
        self.fields.copy_(self._host, non_blocking=True)
        self.program.column()
        self._host_actions.copy_(self.drawn[:, -1], non_blocking=True)

    def _codes(self) -> None:
        if self.reads_text:
            self.next_text.copy_(self._host_text, non_blocking=True)
        self.program.codes()


def captured(work: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """`work`, which has run before, as a graph."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph


class _Program:
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

    def _sampler(self, draws: Draws) -> kernels.Sampler:
        stepper = self.stepper
        guidance = stepper._guidance
        return kernels.Sampler(guidance.scale, guidance.filter_k, draws.temperature, draws.top_k, stepper._uniforms)

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


class _Plain(_Program):
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


class _Fast(_Program):
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
        self.attend = kernels.Attention(
            rows, big.gqa_query_heads, big.kv_heads, big.gqa_head_dim, _SPLITS, stepper.device
        )
        heads = small.gqa_query_heads
        self.attend_stages = kernels.Attention(rows, heads, heads, small.gqa_head_dim, 1, stepper.device)
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
