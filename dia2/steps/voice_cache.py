"""Voices that have been run, kept on the model's device: starting in one of them again is a copy.

What is kept of a voice is what its clips leave behind in the backbone's cache, 230 kB a frame with the 2B model and
guidance, and the state of the codec after them. The least recently used voice goes when there is no room.

Knows nothing of what the prefixes say.
"""

from collections import OrderedDict
from dataclasses import dataclass

from dia2.codec.state import DecoderState
from dia2.model.kv_cache import KVCache
from dia2.steps.stepper import TextColumn
from dia2.text.machine import Mark
from dia2.voice.voice import Prefix


@dataclass(frozen=True, eq=False)
class RunVoice:
    """A prefix that has been run, with guidance or without.

    texts: of columns 0..frames. marks: of the machine before each. codec_state: after its last frame, None
    while the columns are still to be run.
    """

    prefix: Prefix
    guided: bool
    texts: list[TextColumn]
    marks: list[Mark]
    codec_state: DecoderState | None


@dataclass(frozen=True, eq=False)
class Kept:
    """A voice and its columns."""

    voice: RunVoice
    columns: KVCache

    @property
    def bytes(self) -> int:
        """Device memory that it takes."""
        return self.columns.bytes + (self.voice.codec_state.bytes if self.voice.codec_state else 0)


class VoiceCache:
    """Kept voices, at most `most_bytes` of them."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes, self.bytes = most_bytes, 0
        self._kept: OrderedDict[tuple[Prefix, bool], Kept] = OrderedDict()  # the least recently used first

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, prefix: Prefix, guided: bool) -> Kept | None:
        """The voice, if it is here."""
        kept = self._kept.get((prefix, guided))
        if kept is not None:
            self._kept.move_to_end((prefix, guided))
        return kept

    def keep(self, kept: Kept) -> None:
        """Keeps a voice, and lets others go to make room; one that is larger than all the room is not kept."""
        if kept.bytes > self.most_bytes:
            return
        older = self._kept.pop((kept.voice.prefix, kept.voice.guided), None)
        self.bytes -= older.bytes if older else 0
        while self.bytes + kept.bytes > self.most_bytes:
            _, gone = self._kept.popitem(last=False)
            self.bytes -= gone.bytes
        self._kept[kept.voice.prefix, kept.voice.guided] = kept
        self.bytes += kept.bytes

    def clear(self) -> None:
        """Lets all of them go."""
        self._kept.clear()
        self.bytes = 0
