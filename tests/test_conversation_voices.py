"""Voices: a conversation goes on from its clips, and the clips are never played."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conversations import (
    GREEDY,
    HELLO,
    assert_goes_on_from,
    cut,
    frame_numbers,
    golden,
    paused,
    report,
    said_in_pieces,
    toy,
    toy_voice,
    voice,
    words_of,
)
from models import checkpoint

from dia2stream.errors import CommandError
from dia2stream.protocol.messages import Inject, Start, WordEvent


def test_a_voice_is_heard_in_nothing_but_what_follows_it(goldens: Path) -> None:
    rig = golden(goldens, GREEDY, voices={"clips": voice(goldens)}).say("[S1] Hello there.")
    clips = voice(goldens).frames
    assert rig.words == ["Hello", "there."]
    assert rig.of(WordEvent)[0].start_ms == 0
    assert rig.context.frames == clips + len(rig.frames)
    # It goes on from the clips' sound, without a click.
    whole = checkpoint(goldens).codec.decode(rig.context._archived(0, rig.context.frames)[None])[0]
    frame = len(rig.frames[0])
    np.testing.assert_allclose(rig.audio, whole[clips * frame :].clamp(-1, 1).numpy(), atol=1e-5)
    assert golden(goldens, GREEDY).say("[S1] Hello there.").audio.tobytes() != rig.audio.tobytes()


def test_the_first_voice_is_the_default_and_others_go_by_name() -> None:
    voices = {"one": toy_voice(), "two": toy_voice(seed=1)}
    told = {name: toy(voices=voices).say("Hello.", voice=name).told for name in (None, "one", "two")}
    assert told[None] == told["one"] != told["two"]
    rig = toy(voices=voices)
    with pytest.raises(CommandError, match="'three' is not known: one, two") as caught:
        rig.do(Start("Hello.", voice="three", id="a"))
    error = caught.value
    assert (error.code, error.field, error.cmd, error.id) == ("bad_field", "voice", "start", "a")
    assert not rig.conversation.active
    with pytest.raises(CommandError, match="none is loaded"):
        toy().do(Start("Hello.", voice="one"))


def test_in_a_voice_everything_is_the_same_but_the_voice() -> None:
    in_voice = partial(toy, voices={"clips": toy_voice()})
    whole = in_voice().say(HELLO)
    assert whole.words == words_of(HELLO)
    first = in_voice().context.first_frame + toy_voice().frames
    assert frame_numbers(whole) == list(range(first, first + len(whole.frames)))
    assert said_in_pieces(in_voice(), cut(HELLO, range(99)), [1, 2, 0]).told == whole.told
    rig = in_voice().do(Start(HELLO)).run_until_sent(20)
    assert report(paused(rig, 0)) == (0, "", HELLO)
    rig.do(Inject("Anew.")).run()
    assert_goes_on_from(rig, 20, first)
