"""The costs that an engine times at its warm-up."""

from pathlib import Path

import pytest
from models import checkpoint

from dia2.codec.frames import FrameCodec, SlotCodec
from dia2.model.kv_cache import KVCache
from dia2.steps.context import Context
from dia2.steps.pool import ContextPool
from dia2.steps.stepper import Stepper
from dia2.steps.voice_cache import VoiceCache
from dia2stream.engine.costs import CostCurve
from dia2stream.engine.measure import measured


@pytest.fixture(scope="module")
def curves(goldens: Path) -> dict[bool, CostCurve]:
    loaded = checkpoint(goldens)

    def curve(speculates: bool) -> CostCurve:
        stepper = Stepper(loaded, 3, speculate=speculates)
        return measured(ContextPool(stepper, FrameCodec(loaded.codec, 3), 375, VoiceCache(0)), "a machine")

    return {speculates: curve(speculates) for speculates in (False, True)}


def test_every_batch_size_and_several_lengths_of_a_pass_are_timed(curves):
    for curve in curves.values():
        assert (curve.name, curve.sizes) == ("a machine", (1, 2, 4))
        assert all(seconds > 0 for seconds in (*curve.backbone, *curve.codec))
        assert [columns for columns, _ in curve.passes] == sorted({columns for columns, _ in curve.passes})


def test_trees_are_timed_for_as_many_slots_as_a_pass_takes_where_there_are_trees(curves):
    assert curves[False].trees == ()
    assert [slots for slots, _ in curves[True].trees] == [1, 2]
    assert all(seconds > 0 for _, seconds in curves[True].trees)


def test_going_back_and_rebuilding_a_context_are_rehearsed_and_leave_nothing(goldens, monkeypatch):
    loaded, done = checkpoint(goldens), []
    pool = ContextPool(Stepper(loaded, 2, speculate=True), FrameCodec(loaded.codec, 2), 375, VoiceCache(0))
    for owner, name in ((Context, "rollover"), (SlotCodec, "go_back"), (SlotCodec, "hear"), (KVCache, "move")):
        work = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *given, name=name, work=work: done.append(name) or work(*given))
    measured(pool, "a machine")
    assert {*done} == {"rollover", "go_back", "hear", "move"}
    assert [(context.rollovers, context.due) for context in pool.contexts] == [(0, 0)] * 2
    assert [pool.stepper.blocks.held(slot) for slot in range(2)] == [pool.stepper.blocks.held(1)] * 2
