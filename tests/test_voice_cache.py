"""Kept voices: starting in one again is a copy, sounds the same to the bit, and memory stays within its bound."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from conversations import Rig

from dia2.checkpoint.load import Checkpoint, LoadOptions, load_checkpoint
from dia2.codec.frames import FrameCodec
from dia2.codec.state import CodecState, StateShape
from dia2.model.kv_cache import Columns, KVCache
from dia2.steps.context import Context
from dia2.steps.stepper import Stepper
from dia2.steps.voice_cache import Kept, RunVoice, VoiceCache
from dia2.voice.voice import Clip, ClipWord, Prefix, Voice
from dia2stream.engine.engine import Engine
from dia2stream.items import Frame
from dia2stream.options import SpeechOptions
from dia2stream.protocol.messages import Start
from dia2stream.protocol.messages import WordEvent as Spoken

ROOM = 10**9
SPEECH = SpeechOptions(seed=7)


@pytest.fixture(scope="module")
def tiny() -> Checkpoint:
    return load_checkpoint("random:tiny", LoadOptions(device="cpu", dtype="float32"))


def prefix(loaded: Checkpoint, number: int, frames: int = 40) -> Prefix:
    """A voice of random codes, the same for the same number; its words are "clip0", "clip1", ..."""
    shape, generator = (loaded.codec.codebooks, frames // 2), torch.Generator().manual_seed(number)
    codes = [torch.randint(loaded.codec.config.codebook_size, shape, generator=generator) for _ in range(2)]
    words = tuple(ClipWord(f"clip{n}", n * 0.5, n * 0.5 + 0.4) for n in range(frames // 16))
    return Voice(str(number), tuple(Clip(c.short(), words) for c in codes)).prefix(loaded.tokenizer)


class Counted(Stepper):
    """Counts the columns that are run in passes, and the steps."""

    def __init__(self, loaded: Checkpoint, slots: int = 1) -> None:
        super().__init__(loaded, slots)
        self.prefilled = self.acted = 0

    def prefill(self, slot: int, texts: Any) -> None:
        self.prefilled += len(texts)
        super().prefill(slot, texts)

    def act(self, active: Any) -> list[int]:
        self.acted += 1
        return super().act(active)


def rig(
    loaded: Checkpoint,
    voices: dict[str, Prefix],
    room: int = ROOM,
    *,
    stepper: Stepper | None = None,
    slot: int = 0,
    kept: VoiceCache | None = None,
) -> Rig:
    kept = VoiceCache(room) if kept is None else kept
    context = Context(stepper or Counted(loaded), slot, FrameCodec(loaded.codec).slot(0), 375, kept)
    return Rig(context, loaded.tokenizer, SPEECH, voices=voices)


def spoken(talk: Rig, **fields: Any) -> list[Any]:
    """All that a listener gets of a short conversation."""
    talk.items.clear()
    return list(talk.say("Hello there, my old friend.", **fields).told)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_voice_that_was_run_before_is_copied_and_sounds_the_same(tiny: Checkpoint, scale: float) -> None:
    voices = {name: prefix(tiny, number) for number, name in enumerate("ab")}
    talk = rig(tiny, voices)
    first = spoken(talk, voice="a", cfg_scale=scale)
    assert talk.stepper.prefilled == 40
    assert spoken(talk, voice="b", cfg_scale=scale) != first
    assert talk.stepper.prefilled == 80
    assert spoken(talk, voice="a", cfg_scale=scale) == first
    assert spoken(talk, voice="b", cfg_scale=scale) == spoken(rig(tiny, voices), voice="b", cfg_scale=scale)
    assert talk.stepper.prefilled == 80
    # With guidance and without are different passes.
    spoken(talk, voice="a", cfg_scale=4.0 - scale)
    assert talk.stepper.prefilled == 120


def test_a_voice_that_ran_in_one_slot_is_copied_into_another(tiny: Checkpoint) -> None:
    voices, kept, stepper = {"a": prefix(tiny, 0)}, VoiceCache(ROOM), Counted(tiny, slots=2)
    one, two = (rig(tiny, voices, stepper=stepper, slot=slot, kept=kept) for slot in range(2))
    assert spoken(one) == spoken(two)
    assert stepper.prefilled == 40


def test_a_conversation_that_filled_the_context_leaves_the_voice_as_it_was(tiny: Checkpoint) -> None:
    talk = rig(tiny, {"a": prefix(tiny, 0)})
    talk.context.columns.limit = 150
    first = spoken(talk)
    talk.say("one two three four five six seven eight nine ten " * 3, cfg_scale=1.0)
    assert talk.context.rollovers >= 1
    assert spoken(talk) == first


def test_a_ten_second_voice_costs_the_first_sample_no_step(tiny: Checkpoint) -> None:
    """Issue 6: the same as without a voice, plus one copy."""

    def to_first_frame(talk: Rig, **fields: Any) -> tuple[int, int]:
        talk.items.clear()
        talk.stepper.acted = talk.stepper.prefilled = 0
        talk.do(Start("Hello there.", **fields)).run_until_sent(1)
        return talk.stepper.acted, talk.stepper.prefilled

    lead_in_and_one = max(Counted(tiny).delays)
    assert to_first_frame(rig(tiny, {})) == (lead_in_and_one, 0)
    voices = {name: prefix(tiny, number, frames=250) for number, name in enumerate("ab")}  # 10 s for each speaker
    talk = rig(tiny, voices)
    assert to_first_frame(talk, voice="a") == (lead_in_and_one, 250)
    assert to_first_frame(talk, voice="b") == (lead_in_and_one, 250)
    assert to_first_frame(talk, voice="a") == (lead_in_and_one, 0)


def test_nothing_of_the_prefix_reaches_the_listener(tiny: Checkpoint) -> None:
    """Neither its words nor its frames, and the first word that is heard is the text's."""
    talk = rig(tiny, {"a": prefix(tiny, 0)})
    talk.say("Hello there, my old friend.")
    words = [event for event in talk.events if isinstance(event, Spoken)]
    assert [event.word for event in words] == ["Hello", "there,", "my", "old", "friend."]
    assert words[0].start_ms == 0
    clips = tiny.codec.decode(prefix(tiny, 0).codes[None])[0].numpy().reshape(40, -1)
    assert not any(np.allclose(frame, clip, atol=1e-3) for frame in talk.frames for clip in clips)
    # Every code that is played was drawn in this conversation: those of the frames before belong to the clips.
    assert talk.context.first_frame == 40
    assert talk.context.frames - 40 == len(talk.frames)


def test_twenty_voices_under_load_stay_within_the_bound(tiny: Checkpoint) -> None:
    voices = {f"v{number}": prefix(tiny, number, frames=48) for number in range(20)}
    kept = VoiceCache(ROOM)
    spoken(rig(tiny, {"v": voices["v0"]}, kept=kept), cfg_scale=1.0)
    size = kept.bytes
    engine = Engine(tiny, slots=2, speech=SPEECH, voices=voices)
    engine.kept_voices.most_bytes = 8 * size
    most, runs = 0, Counter[str]()
    heard: dict[str, np.ndarray] = {}
    with engine.conversation() as first, engine.conversation() as second:
        for number in range(24):
            name = f"v{number * 7 % 20}"
            for session in (first, second):
                session.submit(Start("Hi.", voice=name, cfg_scale=1.0))
            for session in (first, second):
                frames = []
                for item in iter(session.next, None):
                    most = max(most, engine.kept_voices.bytes)
                    if isinstance(item, Frame):
                        frames.append(item.pcm)
                    elif type(item).__name__ == "Done":
                        break
                # The codec's sums come out otherwise in the last bit when it decodes frames of both at once.
                pcm = np.concatenate(frames)
                np.testing.assert_allclose(pcm, heard.setdefault(name, pcm), rtol=0, atol=1 / 32768)
                runs[name] += 1
    engine.close()
    assert len(runs) == 20
    assert most == 8 * size
    assert len(engine.kept_voices) == 8


def kept(number: int, columns: int = 4) -> Kept:
    """A voice of 64 bytes a column."""
    empty = torch.zeros(1, 1, 1, columns, 8)
    state = CodecState(StateShape({}, 0, 1, 1, 1), 1, torch.device("cpu"))
    voice = RunVoice(Prefix(torch.zeros(1, columns), (), ()), bool(number % 2), [], [], state)
    return Kept(voice, Columns(empty, empty.clone()))


def test_the_least_recently_used_voice_goes_first() -> None:
    cache, (a, b, c) = VoiceCache(600), [kept(number) for number in range(3)]
    assert a.bytes == 256
    for voice in (a, b):
        cache.keep(voice)
    assert cache.find(a.voice.prefix, a.voice.guided) is a
    cache.keep(c)
    assert cache.find(b.voice.prefix, b.voice.guided) is None
    assert cache.find(a.voice.prefix, a.voice.guided) is a
    assert cache.find(c.voice.prefix, not c.voice.guided) is None
    assert (len(cache), cache.bytes) == (2, 512)
    cache.keep(kept(9, columns=10))  # 640 bytes: it would not fit if all the others went
    assert (len(cache), cache.bytes) == (2, 512)
    cache.clear()
    assert (len(cache), cache.bytes) == (0, 0)


def test_without_room_every_other_voice_is_run_anew(tiny: Checkpoint) -> None:
    voices = {name: prefix(tiny, number) for number, name in enumerate("ab")}
    talk, copied = rig(tiny, voices, room=0), rig(tiny, voices)
    for name in "aba":
        assert spoken(talk, voice=name) == spoken(copied, voice=name)
    assert talk.stepper.prefilled == 120
    assert copied.stepper.prefilled == 80


def test_a_device_without_memory_keeps_no_voices(tiny: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    voices, kept = {name: prefix(tiny, number) for number, name in enumerate("ab")}, VoiceCache(ROOM)
    talk = rig(tiny, voices, kept=kept)
    first = spoken(talk, voice="a")

    def full(*args: Any) -> Columns:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(KVCache, "copied", full)
    spoken(talk, voice="b")
    assert len(kept) == 0
    assert spoken(talk, voice="a") == first
