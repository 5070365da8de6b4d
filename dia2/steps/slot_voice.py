"""The voice that the context of one slot begins with, and its columns in the key/value cache.

    texts = voice.begin(prefix, guided)     # of the columns that are to be run, none if the slot has them already
    ...                                     # they are run
    voice.finish(codec_state)               # when the codec has heard the clips

A voice that was run before, in whichever slot, is copied from the voice cache. While its columns are `due`, another
slot may run the same voice first: `overtake` copies them then.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from dia2.codec.state import CodecState
from dia2.steps.stepper import Stepper, TextColumn
from dia2.steps.voice_cache import Kept, RunVoice, VoiceCache
from dia2.text.machine import TextMachine
from dia2.voice.voice import Prefix


class SlotVoice:
    """The voice of one slot. cache: the voices that have been run, of all slots.

    now: what the context begins with; None for no voice. due: a voice whose columns are still to be run. changed:
    whether the conversation has begun in another voice, or in none.
    """

    def __init__(self, stepper: Stepper, slot: int, machine: TextMachine, cache: VoiceCache) -> None:
        self._stepper, self._slot, self._machine, self._cache = stepper, slot, machine, cache
        self.now: RunVoice | None = None
        self.due: RunVoice | None = None
        self.changed = False

    @property
    def prefix(self) -> Prefix | None:
        """The clips."""
        return self.now.prefix if self.now else None

    @property
    def frames(self) -> int:
        """Of the clips; 0 without a voice."""
        return self.now.prefix.frames if self.now else 0

    @property
    def texts(self) -> list[TextColumn]:
        """Of the columns that a context begins with, and of the one behind them."""
        return self.now.texts if self.now else [self._stepper.opening]

    def copy(self, other: "SlotVoice") -> None:
        """The slot has become a copy of another one's."""
        self.now, self.due, self.changed = other.now, other.due, other.changed

    def distrust(self) -> None:
        """The slot's columns are not to be used again."""
        self.now = self.due = None

    # ---- At the beginning of a conversation ----

    def begin(self, prefix: Prefix | None, guided: bool) -> list[TextColumn]:
        """A new conversation. Returns the texts of the voice's columns, if they are to be run."""
        self.changed = False
        if prefix is None:
            self.now = None
            return []
        there = self.now  # one that conversations were changed to may never have been heard
        if there and there.prefix is prefix and there.guided == guided and there.codec_state is not None:
            return []
        self.now = None  # if the next lines fail, the columns of the new voice are not there
        kept = self._cache.find(prefix, guided)
        if kept is not None:
            self._stepper.cache.paste(self._slot, kept.columns)
            self.now = kept.voice
            return []
        self.now = self.due = self._planned(prefix, guided)
        return self.now.texts[:-1]

    def overtake(self) -> RunVoice | None:
        """Copies the voice that is due, if another slot has run it in the meantime. Returns it then."""
        slot, voice = self._stepper.slots[self._slot], self.due
        kept = self._cache.find(voice.prefix, voice.guided) if voice and not slot.column else None
        if kept is None:
            return None
        self.now, self.due = kept.voice, None
        self._stepper.cache.paste(self._slot, kept.columns)
        slot.column = kept.voice.prefix.frames
        return kept.voice

    @property
    def just_run(self) -> Prefix | None:
        """The clips of the voice that is due, if all their columns were run."""
        ran = self.due is not None and self._stepper.slots[self._slot].column >= self.due.prefix.frames
        return self.due.prefix if self.due is not None and ran else None

    def finish(self, codec_state: CodecState) -> None:
        """The voice that was due has been run and heard: keeps it for later, where there is room."""
        assert self.due is not None
        self.now, self.due = replace(self.due, codec_state=codec_state), None
        if self._cache.most_bytes:
            try:
                rows, frames = 2 if self.now.guided else 1, self.now.prefix.frames
                self._cache.keep(Kept(self.now, self._stepper.cache.copied(self._slot, rows, frames)))
            except torch.OutOfMemoryError:
                self._cache.clear()

    # ---- Later ----

    def change(self, prefix: Prefix, guided: bool) -> None:
        """The context is going to be rebuilt behind other clips."""
        kept = self._cache.find(prefix, guided)
        self.now, self.changed = kept.voice if kept else self._planned(prefix, guided), True

    def paste(self) -> bool:
        """Copies the voice's columns into the slot, which then stands behind them, if they are kept."""
        kept = self._cache.find(self.now.prefix, self.now.guided) if self.now else None
        if kept is None:
            return False
        self._stepper.cache.paste(self._slot, kept.columns)
        self._stepper.slots[self._slot].column = kept.voice.prefix.frames
        return True

    def adopt(self, other: "SlotVoice", hear: Callable[[Tensor], CodecState]) -> None:
        """Has the voice of another slot, of another stepper. hear: lets the codec hear its clips."""
        voice, self.due, self.changed = other.now or other.due, None, other.changed
        if voice is not None:
            kept = self._cache.find(voice.prefix, voice.guided)
            voice = kept.voice if kept else replace(voice, codec_state=hear(voice.prefix.codes))
        self.now = voice

    def _planned(self, prefix: Prefix, guided: bool) -> RunVoice:
        """The clips' columns, which are to be run: words are taken where they are said, and the codes are known."""
        state, starts = self._machine.start(), set(prefix.new_word_steps)
        state.append(prefix.entries)
        texts, marks = [self._stepper.opening], []
        for step in range(prefix.frames):
            marks.append(state.mark())
            texts.append(self._machine.process(state, step, int(step in starts), forced=True))
        return RunVoice(prefix, guided, texts, marks, None)
