"""Passes over many columns as captured graphs: one for each of some lengths, and a pass is padded to the next of them.

Text and codes of the columns of a pass are known: those of a voice, of a rebuilt context, of what the caller said.
A pass run operation by operation is bound by its launches, whatever its length. As a graph, a short one takes as long
as reading the weights, and a long one as long as its products.

The columns are the lines of a table like a step's (`fields`), so any slot can have a pass, wherever its context's
blocks lie. Lines behind the last column have no slot and write nothing. A pass that is longer than the longest graph
runs as several, one after the other. Both branches are always run, as in a step; without guidance nobody reads one.

For the kernels' dtypes. Where a stepper captures the layers' own operations, in float32 above all, a pass stays what
it is in the eager stepper.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dia2.cuda.graphs import Capture
from dia2.cuda.kernels import products as kernels
from dia2.cuda.kernels.columns import ColumnsAttention, add_codes
from dia2.cuda.kernels.launch import STEP_FIELDS
from dia2.cuda.programs import Activations, StepTensors, add_product, library_product

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
    without a slot. capture: makes graphs; None: run the operations themselves (tests, without a GPU).
    """

    def __init__(self, tensors: StepTensors, unused: Sequence[int], capture: Capture | None) -> None:
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
        works = {size: partial(self._run, size) for size in reversed(self.sizes)}
        self._passes = {size: capture(work) if capture else work for size, work in works.items()}

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

    def _lines(self, slot: int, column: int, shift: int, texts: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
        """The fields of every column."""
        columns = np.arange(column, column + len(texts))
        known, slots = np.zeros_like(columns), np.full_like(columns, slot)
        return np.column_stack([columns, columns + shift, known, np.array(texts, np.int64), slots])

    def _padded(self, lines: NDArray[np.int64], size: int) -> NDArray[np.int64]:
        padded = np.empty((size, STEP_FIELDS), np.int64)
        padded[: len(lines)], padded[len(lines) :] = lines, self._unused
        return padded

    def _run(self, size: int) -> None:
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
            self._attend(buffers.qkv, norms, self._eps, tables, cache, buffers.mixed, *at)
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
