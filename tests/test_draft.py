"""A draft that is undone leaves every bit of its slot, and of its neighbours, as it was."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from conversations import SAMPLED, Rig, tiny
from torch import Tensor

from dia2.codec.frames import FrameCodec
from dia2.steps.aside import AsideRoom, DraftRefused
from dia2.steps.context import Context
from dia2.steps.draft import MOST_COLUMNS, Draft
from dia2.steps.stepper import Stepper
from dia2stream.protocol.messages import Commit, Discard, Inject, Pause, Prepare, Start


def rig(room: AsideRoom | None = None, limit: int = 300) -> tuple[Rig, Stepper, FrameCodec]:
    """A conversation in slot 1 of a cache of small blocks, beside two others."""
    runtime = replace(tiny().config.runtime, max_context_steps=limit)
    loaded = replace(tiny(), config=replace(tiny().config, runtime=runtime))
    stepper, codec = Stepper(loaded, 3, block_columns=16), FrameCodec(loaded.codec, 3)
    context = Context(stepper, 1, codec.slot(1), 100, room=room)
    return Rig(context, loaded.tokenizer, SAMPLED), stepper, codec


def bits(stepper: Stepper, codec: FrameCodec, columns: int, context: Context) -> list[Tensor]:
    """All that is kept of the slot: its columns so far, its codes, its archive, and the whole state of the codec."""
    kept = stepper.cache.copied(1, 1, columns)
    state = codec.state
    tensors = [kept.k, kept.v, stepper.codes[1], context.history.archive, state.keys, state.values, state.log]
    return [tensor.clone() for tensor in (*tensors, state.position, state.filled)]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("is_paused", [False, True])
def test_undone_it_leaves_every_bit_as_it_was(is_paused: bool):
    talk, stepper, codec = rig()
    talk.do(Start("Hello there, how are you?"))
    if is_paused:
        talk.run_until_sent(12).do(Pause(played_ms=560))
    else:
        talk.run()
    slot = replace(stepper.slots[1])
    held, back = stepper.blocks.held(1), codec.most_back(1)
    before = bits(stepper, codec, slot.column, talk.context)
    talk.do(Prepare("Fine, thanks, and what about the others?", "b")).run()
    assert talk.conversation.preparation.draft is not None
    assert not same(before, bits(stepper, codec, slot.column, talk.context))
    talk.do(Discard("b"))
    assert same(before, bits(stepper, codec, slot.column, talk.context))
    assert (stepper.slots[1], stepper.blocks.held(1), codec.most_back(1)) == (slot, held, back)


def test_what_it_keeps_aside_is_bounded_and_given_back():
    room = AsideRoom(most_bytes=50_000_000)
    talk, _, _ = rig(room)
    talk.say("Hello.").do(Prepare("Yes.", "b")).run()
    assert 0 < room.taken <= room.most_bytes
    talk.do(Commit("b")).run()
    assert room.taken == 0
    talk.do(Prepare("Yes.", "b")).run()
    assert room.taken
    talk.conversation.preparation.forget()
    assert room.taken == 0


def test_without_room_the_reply_is_made_when_it_is_committed():
    (talk, _, _), (plain, _, _) = rig(AsideRoom(most_bytes=100)), rig()
    talk.say("Hello.").do(Prepare("Yes.", "b")).run()
    assert talk.conversation.preparation.draft is None
    talk.do(Commit("b")).run()
    assert talk.told == plain.say("Hello.").do(Inject("Yes.", id="b")).run().told


def test_it_overwrites_no_more_columns_than_are_kept(monkeypatch: Any):
    talk, stepper, _ = rig(limit=2 * MOST_COLUMNS + 100)
    talk.say("Hello.")
    draft = Draft(talk.context)
    stepper.slots[1].column += MOST_COLUMNS + 1
    talk.context.columns.due.append((0, 0))
    with pytest.raises(DraftRefused, match="columns are due"):
        Draft(talk.context)
    talk.context.columns.due.clear()
    wide = Draft(talk.context)
    stepper.slots[1].column -= MOST_COLUMNS + 1
    with pytest.raises(DraftRefused, match="257 columns are overwritten, of at most 256"):
        wide.begin(5)
    draft.undo()
