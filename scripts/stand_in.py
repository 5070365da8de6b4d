"""A GPU that is not there: a stepper and a codec that take the time of a cost curve and compute nothing.

    stand_in.install(H100)          # before Engine.load("random:tiny", device="cpu"): its engine gets these

All else is real: conversations, scheduler, the engine's thread, its event loop, the garbage collector. So a run shows
what the host costs, and what waits for what, on any machine. The device works off a queue, as a GPU does: the backbone
is waited for, depformer, passes and codec run on while the host goes on.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import dia2stream.engine.engine as engine_module
from dia2.checkpoint.load import Checkpoint
from dia2.codec.frames import FrameCodec, Sounds
from dia2.codec.mimi import Mimi
from dia2.cuda.graphs import batch_sizes, size_for
from dia2.steps.speculation import Tree
from dia2.steps.stepper import Ahead, Stepper, TextColumn
from dia2stream.engine.costs import CostCurve
from dia2stream.items import FRAME_SAMPLES

TREES = ((1, 0.0026), (2, 0.0026), (4, 0.0029), (8, 0.0029))
"""An H100's passes of trees, as predicted in gpu-notes.md, section 11: seconds by slots."""
NEW_WORD = 0.8  # a uniform of at least this begins a word: a fifth of all


class Device:
    """When the work is done that was handed to it, on the clock of time.perf_counter."""

    def __init__(self) -> None:
        self._done = 0.0

    def add(self, seconds: float) -> float:
        """Queues work; when it will be done."""
        self._done = max(time.perf_counter(), self._done) + seconds
        return self._done


def wait(until: float) -> None:
    """Sleeps as a thread does that waits for a GPU: without the interpreter's lock."""
    if (left := until - time.perf_counter()) > 0:
        time.sleep(left)


class WaitingStepper(Stepper):
    """Begins words by the uniforms of a conversation, and leaves all codes as they are."""

    def __init__(self, costs: CostCurve, device: Device, checkpoint: Checkpoint, slots: int, trees: bool) -> None:
        super().__init__(checkpoint, slots, speculate=trees)
        self._costs, self._queue, self._trees_take = costs, device, dict(costs.trees)
        self.sizes = batch_sizes(slots)

    def batch_size(self, count: int) -> int:
        return size_for(count, self.sizes)

    @property
    def pass_sizes(self) -> tuple[int, ...]:
        return 16, 32, 64, 128, 256, 384, 512

    def act(self, slots: Sequence[int], ahead: Ahead | None = None) -> list[int]:
        self._active = list(slots)
        for slot in slots:
            state = self.slots[slot]
            self.blocks.hold(slot, state.column + state.shift + 1)
            self._need_uniforms(slot, state.column)
        costs = self._costs
        acted = self._queue.add(costs.lead_in(len(slots), len(slots)) - len(slots) * costs.host - costs.turn)
        drawing = sum(self._codebooks_due(slot) > 1 for slot in slots)
        if drawing:
            self._queue.add(costs.depformer[costs.sizes.index(costs.padded(drawing))])
        wait(acted)
        return [self._action(slot, self.slots[slot].column) for slot in slots]

    def complete(self, texts: Sequence[TextColumn]) -> None:
        for slot, text in zip(self._active, texts, strict=True):
            self.slots[slot].text = text
            self.slots[slot].column += 1

    def prefill(self, slot: int, texts: Sequence[TextColumn]) -> None:
        state = self.slots[slot]
        self.blocks.hold(slot, state.column + state.shift + len(texts))
        state.column += len(texts)
        self._queue.add(self._costs.one_pass(len(texts)))

    def tree_size(self, slots: int) -> int:
        return min(64, 128 // slots // 16 * 16) if self.speculates else 0

    def _run_trees(self, slots: Sequence[int], trees: Sequence[Tree]) -> list[list[int]]:
        for slot, tree in zip(slots, trees, strict=True):
            self.blocks.hold(slot, self.slots[slot].column + self.slots[slot].shift + len(tree))
            self._need_uniforms(slot, self.slots[slot].column + tree.depth - 1)
        wait(self._queue.add(self._costs.tree(len(slots))))
        return [
            [self._action(slot, self.slots[slot].column + depth) for depth in tree.depths]
            for slot, tree in zip(slots, trees, strict=True)
        ]

    def keep(self) -> None:
        self._ways = {}

    def _action(self, slot: int, column: int) -> int:
        return int(self._tables[slot].actions[column] >= NEW_WORD)


@dataclass(frozen=True)
class _Waiting:
    """Silence that is there at a moment."""

    sound: Tensor
    done: float

    def pcm(self) -> Tensor:
        wait(self.done)
        return self.sound


class WaitingCodec(FrameCodec):
    """Decodes silence."""

    def __init__(self, costs: CostCurve, device: Device, mimi: Mimi, slots: int) -> None:
        super().__init__(mimi, slots)
        self._costs, self._queue = costs, device
        self._sound = torch.zeros(slots, FRAME_SAMPLES)

    def _decode(self, slots: Sequence[int], codes: Tensor) -> Sounds:
        costs = self._costs
        done = self._queue.add(costs.codec[costs.sizes.index(costs.padded(len(slots)))])
        return _Waiting(self._sound[: len(slots)], done)

    def _hear(self, slot: int, codes: Tensor) -> None:
        self._queue.add(self._costs.codec[0])


def install(costs: CostCurve) -> None:
    """The next engine of this process gets these instead of a model."""
    device = Device()

    def make_stepper(checkpoint: Checkpoint, slots: int, *_: Any, speculate: bool | None, **__: Any) -> Any:
        stepper = WaitingStepper(costs, device, checkpoint, slots, bool(speculate) and bool(costs.trees))
        return stepper, f"steps only take the time of {costs.name}"

    engine_module.make_stepper = make_stepper
    engine_module.make_codec = lambda mimi, slots, **_: WaitingCodec(costs, device, mimi, slots)
