"""The voice of a slot: run once, copied from then on, and never taken for there when it may not be."""

from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import torch
from conversations import ToyStepper, toy_voice

from dia2.codec.state import CodecState
from dia2.steps.slot_voice import SlotVoice
from dia2.steps.voice_cache import VoiceCache
from dia2.text.machine import TextMachine
from dia2.voice.voice import Prefix


@dataclass(frozen=True)
class Copied:
    """Columns that were copied out of a slot."""

    slot: int
    rows: int
    frames: int
    bytes: int = 10


@dataclass
class ToyCache:
    """Stands for the key/value cache: notes what is copied into which slot. fails: the next copy does."""

    pasted: list[tuple[int, Copied]] = field(default_factory=list)
    fails: type[Exception] | None = None

    def copied(self, slot: int, rows: int, frames: int) -> Copied:
        self._may_fail()
        return Copied(slot, rows, frames)

    def paste(self, slot: int, columns: Copied) -> None:
        self._may_fail()
        self.pasted.append((slot, columns))

    def _may_fail(self) -> None:
        fails, self.fails = self.fails, None
        if fails is not None:
            raise fails("no copy")


@dataclass(frozen=True)
class State:
    """Stands for the codec's state behind a voice's clips."""

    name: str = "heard"
    bytes: int = 1


HEARD = cast(CodecState, State())


class Voices:
    """The voices of two slots of one stepper."""

    def __init__(self, most_bytes: int = 1000) -> None:
        self.stepper, self.copies, self.kept = ToyStepper(slots=2), ToyCache(), VoiceCache(most_bytes)
        cast(Any, self.stepper).cache = self.copies
        self.machine = TextMachine.of(self.stepper.config.data)
        self.slots = [SlotVoice(cast(Any, self.stepper), slot, self.machine, self.kept) for slot in range(2)]

    def run(self, slot: int, prefix: Prefix, guided: bool = False) -> SlotVoice:
        """Begins in a voice that has to be run, and runs it."""
        voice = self.slots[slot]
        assert len(voice.begin(prefix, guided)) == prefix.frames
        self.stepper.slots[slot].column = prefix.frames
        voice.finish(HEARD)
        return voice


CLIPS, OTHER = toy_voice(), toy_voice(seed=1)


def test_without_a_voice_nothing_is_run_and_the_context_begins_with_the_opening() -> None:
    voices = Voices()
    voice = voices.slots[0]
    assert voice.begin(None, guided=True) == []
    assert (voice.prefix, voice.frames, voice.due, voice.just_run) == (None, 0, None, None)
    assert voice.texts == [voices.stepper.opening]


def test_a_new_voice_has_a_column_for_each_frame_and_its_words_where_they_are_said() -> None:
    voices = Voices()
    voice = voices.slots[0]
    texts = voice.begin(CLIPS, guided=False)
    assert texts[0] == voices.stepper.opening
    assert voice.texts[:-1] == texts
    # The text of a step's action is read by the column behind it; the second stream shows where a word begins.
    begun = [step for step, text in enumerate(voice.texts[1:]) if text[1] == voices.machine.new_word]
    assert begun == list(CLIPS.new_word_steps)


def test_a_voice_was_run_once_all_of_its_columns_were() -> None:
    voices = Voices()
    voice, slot = voices.slots[0], voices.stepper.slots[0]
    voice.begin(CLIPS, guided=False)
    for slot.column in range(CLIPS.frames):
        assert voice.just_run is None
    slot.column = CLIPS.frames
    assert voice.just_run is CLIPS
    voice.finish(HEARD)
    assert (voice.due, voice.just_run) == (None, None)
    assert voice.now is not None
    assert voice.now.codec_state is HEARD


def test_a_slot_that_has_the_voice_neither_runs_nor_copies_it_again() -> None:
    voices = Voices()
    voice = voices.run(0, CLIPS)
    assert voice.begin(CLIPS, guided=False) == []
    assert voices.copies.pasted == []


@pytest.mark.parametrize(("prefix", "guided", "rows"), [(OTHER, False, 1), (CLIPS, True, 2)], ids=["other", "guided"])
def test_another_voice_and_another_number_of_rows_are_run_for_themselves(
    prefix: Prefix, guided: bool, rows: int
) -> None:
    voices = Voices()
    voices.run(0, CLIPS)
    voices.run(0, prefix, guided)
    kept = voices.kept.find(prefix, guided)
    assert kept is not None
    assert cast(Any, kept.columns) == Copied(0, rows, prefix.frames)
    assert len(voices.kept) == 2


def test_a_voice_that_ran_in_one_slot_is_copied_into_another() -> None:
    voices = Voices()
    ran = voices.run(0, CLIPS)
    assert voices.slots[1].begin(CLIPS, guided=False) == []
    assert voices.copies.pasted == [(1, Copied(0, 1, CLIPS.frames))]
    assert voices.slots[1].now is ran.now
    assert voices.slots[1].due is None


def test_a_voice_that_another_slot_has_run_meanwhile_is_copied_unless_its_own_pass_has_begun() -> None:
    voices = Voices()
    waiting, slot = voices.slots[1], voices.stepper.slots[1]
    waiting.begin(CLIPS, guided=False)
    assert waiting.overtake() is None
    ran = voices.run(0, CLIPS)
    slot.column = 1
    assert waiting.overtake() is None
    slot.column = 0
    assert waiting.overtake() is ran.now
    assert (slot.column, waiting.due) == (CLIPS.frames, None)
    assert voices.copies.pasted == [(1, Copied(0, 1, CLIPS.frames))]
    assert waiting.overtake() is None


def test_a_voice_whose_copy_failed_is_not_taken_for_there() -> None:
    voices = Voices()
    voices.run(0, CLIPS)
    voice = voices.slots[1]
    voices.copies.fails = RuntimeError
    with pytest.raises(RuntimeError, match="no copy"):
        voice.begin(CLIPS, guided=False)
    assert (voice.now, voice.frames) == (None, 0)
    assert voice.begin(CLIPS, guided=False) == []
    assert voices.copies.pasted == [(1, Copied(0, 1, CLIPS.frames))]


def test_a_device_without_memory_keeps_no_voice_and_the_conversation_has_it_all_the_same() -> None:
    voices = Voices()
    voices.run(0, CLIPS)
    voice = voices.slots[1]
    assert voice.begin(OTHER, guided=False)
    voices.copies.fails = torch.OutOfMemoryError
    voice.finish(HEARD)
    assert len(voices.kept) == 0
    assert voice.prefix is OTHER
    assert voice.begin(OTHER, guided=False) == []


def test_without_room_for_voices_none_is_copied() -> None:
    voices = Voices(most_bytes=0)
    voices.copies.fails = AssertionError  # whoever asks for a copy
    voices.run(0, CLIPS)
    assert len(voices.slots[1].begin(CLIPS, guided=False)) == CLIPS.frames


def test_a_slot_that_is_distrusted_has_no_voice_and_uses_a_kept_one() -> None:
    voices = Voices()
    voice = voices.run(0, CLIPS)
    voice.distrust()
    assert (voice.prefix, voice.frames) == (None, 0)
    assert voice.begin(CLIPS, guided=False) == []
    assert voices.copies.pasted == [(0, Copied(0, 1, CLIPS.frames))]


def test_a_voice_that_a_conversation_was_changed_to_was_never_heard_and_is_run_for_the_next_one() -> None:
    voices = Voices()
    voice = voices.run(0, CLIPS)
    voice.change(OTHER, guided=False)
    assert (voice.prefix, voice.changed) == (OTHER, True)
    assert voice.paste() is False  # its columns are not kept: the context has to run them
    assert len(voice.begin(OTHER, guided=False)) == OTHER.frames
    assert voice.changed is False


def test_a_change_to_a_kept_voice_copies_its_columns() -> None:
    voices = Voices()
    voices.run(1, OTHER)
    voice = voices.run(0, CLIPS)
    voices.stepper.slots[0].column = 0  # the context is being rebuilt
    voice.change(OTHER, guided=False)
    assert voice.paste() is True
    assert voices.stepper.slots[0].column == OTHER.frames
    assert voices.copies.pasted == [(0, Copied(1, 1, OTHER.frames))]


def test_a_voice_from_another_stepper_is_heard_unless_it_is_kept() -> None:
    elsewhere, here = Voices(), Voices()
    other = elsewhere.run(0, CLIPS)
    heard: list[torch.Tensor] = []

    def hear(codes: torch.Tensor) -> CodecState:
        heard.append(codes)
        return cast(CodecState, State("here"))

    here.slots[0].adopt(other, hear)
    now = here.slots[0].now
    assert now is not None
    assert (now.prefix, now.codec_state) == (CLIPS, State("here"))
    assert [codes is CLIPS.codes for codes in heard] == [True]
    kept = here.run(1, CLIPS)
    here.slots[0].adopt(other, hear)
    assert here.slots[0].now is kept.now
    assert len(heard) == 1


def test_a_copy_stands_where_the_other_slot_does() -> None:
    voices = Voices()
    voice = voices.run(0, CLIPS)
    voice.change(OTHER, guided=True)
    voices.slots[1].copy(voice)
    copy = voices.slots[1]
    assert (copy.now, copy.due, copy.changed) == (voice.now, None, True)
