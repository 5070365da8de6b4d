"""The costs that an engine times at its warm-up."""

from pathlib import Path

import pytest
from models import checkpoint

from dia2.codec.frames import FrameCodec
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
