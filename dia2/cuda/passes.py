"""Passes over many columns as captured graphs: one for each of some lengths, and a pass is padded to the next of them.

Text and codes of the columns of a pass are known: those of a voice, of a rebuilt context, of what the caller said.
A pass run operation by operation is bound by its launches, whatever its length. As a graph, a short one takes as long
as reading the weights, and a long one as long as its products.

The columns are the lines of a table like a step's (`fields`), so any slot can have a pass, wherever its context's
blocks lie. Lines behind the last column have no slot and write nothing. A pass that is longer than the longest graph
runs as several, one after the other. Both branches are always run, as in a step; without guidance nobody reads one.

Some of the graphs are there twice: those of trees of columns (dia2/steps/speculation.py), in which each column draws
its action. Several slots may have their trees in one pass, each in tiles of its own.

For the kernels' dtypes. Where a stepper captures the layers' own operations, in float32 above all, a pass stays what
it is in the eager stepper.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dia2.cuda.graphs import Capture
from dia2.cuda.kernels import products as kernels
from dia2.cuda.kernels.columns import MOST_IN_TILES, TILE, ColumnsAttention, add_codes
from dia2.cuda.kernels.launch import STEP_FIELDS, compiling_together
from dia2.cuda.programs import Activations, StepTensors, add_product, library_product
from dia2.model.sampling import ACTION_STREAM, CB0_STREAM
from dia2.model.slots import on_device
from dia2.steps.speculation import MOST_COLUMNS

PASS_SIZES = (16, 32, 64, 128, 256, 384, 512)
"""Columns of the passes that there are graphs for."""


def parts_of(columns: int, sizes: Sequence[int]) -> list[tuple[int, int]]:
    """How a pass of so many columns is run: (columns, size of the graph) of each part. sizes: ascending."""
    largest = sizes[-1]
    whole = [(largest, largest)] * (columns // largest)
    rest = columns % largest
    return [*whole, (rest, next(size for size in sizes if rest <= size))] if rest else whole


class ColumnPasses:
    """The passes of a model, captured at construction. sizes: of the graphs that there are.

    tensors: those of the stepper's steps, for what is there once: weights, codes, cache. unused: the fields of a line
    without a slot. capture: makes graphs; None: run the operations themselves (tests, without a GPU). heads: of
    codebook 0 and of the action in one matrix, where there are to be passes of trees.
    """

    def __init__(
        self, tensors: StepTensors, unused: Sequence[int], capture: Capture | None, heads: Tensor | None = None
    ) -> None:
        enough = [size for size in PASS_SIZES if size >= tensors.capacity][:1]
        self.sizes = (*(size for size in PASS_SIZES if size < tensors.capacity), *enough)
        self._tensors, self._unused = tensors, np.array(unused)
        self._eps = tensors.config.model.normalization_layer_epsilon
        sizes = tensors.config.model.decoder
        shape = sizes.gqa_query_heads, sizes.kv_heads, sizes.gqa_head_dim
        self._attend = ColumnsAttention(*shape)
        lines, device = self.sizes[-1], tensors.fields.device
        self._fields = torch.zeros(lines, STEP_FIELDS, dtype=torch.int64, device=device)
        self._fields[:] = torch.tensor(unused)

        def buffer(width: int) -> Tensor:
            return tensors.hidden.new_zeros(2 * lines, width)

        self._buffers = Activations.of(buffer, sizes.n_hidden, *shape, buffer(sizes.n_embd))
        self._passes: dict[int, Callable[[], None]] = {size: partial(self._run, size) for size in reversed(self.sizes)}
        self._trees: dict[int, Callable[[], None]] = {}
        if heads is not None:
            self._prepare_trees(heads)
        if capture is not None:
            self.compile_kernels()
            self._passes = {size: capture(work) for size, work in self._passes.items()}
            self._trees = {size: capture(work) for size, work in self._trees.items()}

    def compile_kernels(self) -> None:
        """Compiles the kernels of all passes at the same time, as `GraphStepper.compile_kernels` does."""
        with compiling_together():
            for work in (*self._passes.values(), *self._trees.values()):
                work()
            if self._trees:  # by a draw that is in no graph: the first caller would wait for it
                self._each = TILE
                for place in (0, 1):  # a row of logits may begin at a multiple of 16 bytes or not
                    self.draw_code(0, place, self._unused.tolist())

    def _prepare_trees(self, heads: Tensor) -> None:
        """The passes of trees, and what they leave for the host."""
        sizes = [size for size in self.sizes if size <= MOST_IN_TILES]
        device, on_gpu = self._fields.device, self._fields.is_cuda
        self._heads, self._vocabulary = heads, len(self._tensors.backbone.cb0_head)
        self._text = self._tensors.sampler(self._tensors.text_draws)
        self._audio = self._tensors.sampler(self._tensors.audio_draws)
        self._logits = torch.zeros(2 * sizes[-1], len(heads), device=device)
        self._drawn = torch.zeros(sizes[-1], dtype=torch.int64, device=device)
        self._host_drawn = torch.zeros(sizes[-1], dtype=torch.int64, pin_memory=on_gpu)
        self._ready = torch.cuda.Event() if on_gpu else None
        self._trees = {size: partial(self._run_tree, size) for size in reversed(sizes)}

    def run(self, slot: int, column: int, shift: int, texts: Sequence[tuple[int, int]]) -> None:
        """Runs columns of a slot from `column` on, whose blocks it holds. texts: of each; shift: as in `Slot`."""
        lines = self._lines(slot, column, shift, texts)
        begun = 0
        for count, size in parts_of(len(texts), self.sizes):
            # A copy from pinned memory of its own: the last pass may not have been run yet.
            fields = torch.from_numpy(self._padded(lines[begun : begun + count], size))
            if self._fields.is_cuda:
                fields = fields.pin_memory()
            self._fields[:size].copy_(fields, non_blocking=True)
            self._passes[size]()
            begun += count

    def tree_size(self, slots: int) -> int:
        """Columns of each slot's tree where so many slots have theirs in one pass; 0: they do not fit."""
        if not self._trees:
            return 0
        return min(MOST_COLUMNS, max(self._trees) // slots // TILE * TILE)

    def run_trees(self, lines: Sequence[Sequence[Sequence[int]]]) -> list[list[int]]:
        """Runs the tree of each of some slots; the action that each of its columns draws.

        lines: the fields of every column of a tree, `SEEN` among them. Waits until the actions are there.
        """
        longest = max(len(tree) for tree in lines)
        each = -(-longest // TILE) * TILE
        size = next(size for size in sorted(self._trees) if len(lines) * each <= size)
        table = np.tile(self._unused, (size, 1))
        for number, tree in enumerate(lines):
            table[number * each : number * each + len(tree)] = tree
        fields = torch.from_numpy(table)
        self._fields[:size].copy_(fields.pin_memory() if self._fields.is_cuda else fields, non_blocking=True)
        self._trees[size]()
        self._host_drawn[:size].copy_(self._drawn[:size], non_blocking=True)
        if self._ready is not None:
            self._ready.record()
            self._ready.synchronize()
        drawn, self._each = self._host_drawn.tolist(), each
        return [drawn[number * each : number * each + len(tree)] for number, tree in enumerate(lines)]

    def draw_code(self, number: int, place: int, line: Sequence[int]) -> None:
        """Draws codebook 0 of the column behind a column of the last pass of trees.

        number: of the tree. place: of the column. line: its fields as a step has them, with the frames that are known.
        """
        at, data = number * self._each + place, self._tensors.config.data
        fields = on_device([list(line)], self._fields.device)
        self._audio(
            self._logits[2 * at : 2 * at + 2, : self._vocabulary],
            fields,
            CB0_STREAM,
            self._drawn[:1],
            banned=(data.audio_pad_token_id, data.audio_bos_token_id),
            codes=self._tensors.codes,
            codebook=0,
            delay=data.delays[0],
        )

    def _lines(self, slot: int, column: int, shift: int, texts: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
        """The fields of every column."""
        columns = np.arange(column, column + len(texts))
        known, slots = np.zeros_like(columns), np.full_like(columns, slot)
        return np.column_stack([columns, columns + shift, known, np.array(texts, np.int64), slots])

    def _padded(self, lines: NDArray[np.int64], size: int) -> NDArray[np.int64]:
        padded = np.empty((size, STEP_FIELDS), np.int64)
        padded[: len(lines)], padded[len(lines) :] = lines, self._unused
        return padded

    def _run_tree(self, size: int) -> None:
        """A pass of trees, and the draw of every column's action."""
        self._run(size, tree=True)
        buffers, backbone = self._buffers.first(2 * size), self._tensors.backbone
        kernels.normed(buffers.x, backbone.norm.weight, self._eps, buffers.normed)
        logits = self._logits[: 2 * size]
        library_product(buffers.normed, self._heads, logits)
        self._text(logits[:, self._vocabulary :], self._fields[:size], ACTION_STREAM, self._drawn[:size])

    def _run(self, size: int, tree: bool = False) -> None:
        """Runs the columns of the first `size` lines through all layers: what is captured."""
        tensors, fields = self._tensors, self._fields[:size]
        backbone, buffers = tensors.backbone, self._buffers.first(2 * size)
        self._embed(fields, buffers.x)
        tables = backbone.rotary.cos, backbone.rotary.sin
        activations = tensors.config.model.linear.mlp_activations
        layer: Any
        for number, layer in enumerate(backbone.layers):
            attention, cache = layer.attention, (tensors.cache.k[number], tensors.cache.v[number])
            kernels.normed(buffers.x, layer.pre_norm.weight, self._eps, buffers.normed)
            library_product(buffers.normed, attention.qkv, buffers.qkv)
            norms = attention.q_norm.weight, attention.k_norm.weight
            at = fields, tensors.cache.table
            self._attend(buffers.qkv, norms, self._eps, tables, cache, buffers.mixed, *at, tree=tree)
            add_product(buffers.mixed, attention.o_proj, buffers.x)
            kernels.normed(buffers.x, layer.post_norm.weight, self._eps, buffers.normed)
            library_product(buffers.normed, layer.mlp.wi, buffers.both)
            kernels.product(buffers.both, buffers.hidden, activations)
            add_product(buffers.hidden, layer.mlp.wo, buffers.x)

    def _embed(self, fields: Tensor, x: Tensor) -> None:
        """What the first layer reads of every line, with its text and without."""
        tensors, backbone = self._tensors, self._tensors.backbone
        text = fields[:, 3:5]
        rows = torch.stack([text, tensors.blanked_text.expand_as(text)], dim=1).flatten(0, 1)
        x.copy_(backbone.text_embed(rows[:, 0], rows[:, 1]))
        add_codes(fields, tensors.codes, backbone.audio_embeds, x)
