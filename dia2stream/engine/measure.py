"""What the model's work costs on this machine: timed at warm-up, before there is any conversation.

Every batch size is run a few times as a step of the backbone alone, as a whole step, and through the codec. So are
passes of columns and of trees. One context also goes back, and is rebuilt: a GPU loads an operation when it is used for
the first time, which would else be in the middle of somebody's call. The slots are left as they are after a
conversation: the next one begins them anew.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch

from dia2.cuda.graphs import batch_sizes
from dia2.model.sampling import SlotSettings
from dia2.steps.pool import ContextPool
from dia2.steps.speculation import Guess
from dia2.text.machine import TextMachine
from dia2.text.script import Entry
from dia2stream.engine.admission import LEAD_IN_STEPS
from dia2stream.engine.costs import CostCurve, padded_passes

_RUNS = 5
# Columns of the passes that are timed, where none is padded.
_PASSES = (16, 125, 500)
_FRAMES = 8  # of a rehearsal
_MOST_SECONDS = 20.0  # a machine so slow that this is not enough keeps the figures of fewer runs


@torch.inference_mode()
def measured(pool: ContextPool, name: str) -> CostCurve:
    """The cost curve of this machine. No conversation may be open; contexts trust their slots no more afterwards."""
    timer = _Timer(time.monotonic() + _MOST_SECONDS)
    slots = len(pool.contexts)
    for slot in range(slots):
        pool.stepper.begin(slot, SlotSettings(), 0)
    passes = _passes(pool, timer)
    backbone, depformer, codec = {}, {}, {}
    for size in batch_sizes(slots):
        rows = range(min(size, slots))
        backbone[size] = timer.median(partial(_step, pool, rows, pool.stepper.capacity))
        depformer[size] = max(0.0, timer.median(partial(_step, pool, rows, 0)) - backbone[size])
        codec[size] = timer.median(partial(_decode, pool, rows))
    trees = _trees(pool, timer)
    _rehearse(pool)
    for context in pool.contexts:
        context.distrust()
    return CostCurve.measured(name, backbone=backbone, depformer=depformer, codec=codec, passes=passes, trees=trees)


def _rehearse(pool: ContextPool) -> None:
    """Speaks some frames with one context, goes back as an interruption does, and rebuilds the context."""
    context = pool.contexts[0]
    context.begin(SlotSettings(), 0, None, 0)
    _speak(pool, _FRAMES)
    context.rewind(context.frames - _FRAMES // 2, context.frames - _FRAMES // 2)
    context.run_due()
    _speak(pool, _FRAMES // 2)
    context.rollover()
    context.run_due()
    context.playback.codec.reset()
    context.playback.codec.hear(context.history.frames(0, context.frames))
    context.playback.restore(None)
    context.rollovers = 0
    _wait(pool)


def _speak(pool: ContextPool, frames: int) -> None:
    """Has the first context say frames of silence."""
    context, until = pool.contexts[0], pool.contexts[0].frames + frames
    while context.frames < until and context.room > 0:
        context.prepare()
        (action,) = pool.stepper.act([0])
        pool.stepper.complete([context.advance(action)])
        finished = pool.take_frames([context])
        if len(finished):
            pool.decode(finished).pcm()


class _Timer:
    """Times work, with fewer runs once time is short."""

    def __init__(self, until: float) -> None:
        self._until = until

    def median(self, work: Callable[[], None]) -> float:
        """Seconds that the work takes: the median of some runs after one to warm up."""
        work()
        taken: list[float] = []
        while len(taken) < _RUNS and not (taken and time.monotonic() > self._until):
            began = time.perf_counter()
            work()
            taken.append(time.perf_counter() - began)
        return statistics.median(taken)


def _passes(pool: ContextPool, timer: _Timer) -> dict[int, float]:
    """Seconds of passes by their columns."""
    sizes = pool.stepper.pass_sizes
    taken = {size: timer.median(partial(_pass, pool, size)) for size in sizes or _PASSES if size < _room(pool)}
    return padded_passes(taken) if sizes else taken


def _trees(pool: ContextPool, timer: _Timer) -> dict[int, float]:
    """Seconds of passes of trees by how many slots have one."""
    slots = len(pool.contexts)
    counts = [count for count in batch_sizes(slots) if count <= slots and pool.stepper.tree_size(count)]
    return {count: timer.median(partial(_tree, pool, range(count))) for count in counts}


def _tree(pool: ContextPool, rows: Sequence[int]) -> None:
    """Guesses the trees of a lead-in and runs them; the way through each leads to the column that was added last."""
    stepper = pool.stepper
    machine, words = TextMachine.of(stepper.config.data), [Entry((0,), "word", 0)] * LEAD_IN_STEPS
    trees = []
    for slot in rows:
        stepper.slots[slot].column, stepper.slots[slot].known = 0, stepper.capacity
        state = machine.start()
        state.append(words)
        uniforms = stepper.action_uniforms(slot, LEAD_IN_STEPS - 1)
        trees.append(Guess(machine, state, 0, stepper.opening, uniforms, True).tree(stepper.tree_size(len(rows))))
    stepper.verify(list(rows), trees)
    for slot, tree in zip(rows, trees, strict=True):
        way = tree.way(len(tree) - 1)
        for place, text in zip(way, [*(tree.texts[place] for place in way[1:]), stepper.opening], strict=True):
            stepper.confirm(slot, place, text)
    stepper.keep()


def _room(pool: ContextPool) -> int:
    return pool.stepper.config.runtime.max_context_steps


def _step(pool: ContextPool, rows: Sequence[int], known: int) -> None:
    """A step in the middle of the context. known: frames before this number are not drawn."""
    for slot in rows:
        state = pool.stepper.slots[slot]
        state.column, state.known = min(400, _room(pool) // 2), known
    pool.stepper.act(list(rows))
    pool.stepper.complete([pool.stepper.opening] * len(rows))
    _wait(pool)


def _decode(pool: ContextPool, rows: Sequence[int]) -> None:
    codes = torch.zeros(len(rows), len(pool.stepper.delays), 1, dtype=torch.int64, device=pool.stepper.device)
    pool.codec.submit(list(rows), codes).pcm()


def _pass(pool: ContextPool, columns: int) -> None:
    pool.stepper.slots[0].column = 0
    pool.stepper.prefill(0, [pool.stepper.opening] * columns)
    _wait(pool)


def _wait(pool: ContextPool) -> None:
    if pool.stepper.device.type == "cuda":
        torch.cuda.synchronize(pool.stepper.device)
