"""Voices that have been run, kept on the model's device: starting in one of them again is a copy.

Running a voice means a pass of the backbone over its clips, which leaves their columns in the key/value cache (230 kB a
frame with the 2B model and guidance), and a pass of the codec, which leaves its state. Both are kept, so starting again
in that voice copies them. When there is no room, the voice that was not used for longest goes.

Knows nothing about what the clips say.
"""

from collections import OrderedDict
from dataclasses import dataclass

from dia2.codec.state import CodecState
from dia2.model.kv_cache import Columns
from dia2.steps.stepper import TextColumn
from dia2.text.machine import Mark
from dia2.voice.voice import Prefix


@dataclass(frozen=True, eq=False)
class RunVoice:
    """A prefix that has been run, with guidance or without: what a conversation in this voice starts from.

    texts: the text of columns 0..frames. marks: the text machine before each of these columns but the last.
    codec_state: of one slot, after the last frame; None while the columns are still to be run.
    """

    prefix: Prefix
    guided: bool
    texts: list[TextColumn]
    marks: list[Mark]
    codec_state: CodecState | None


@dataclass(frozen=True, eq=False)
class Kept:
    """A voice and its columns of the key/value cache."""

    voice: RunVoice
    columns: Columns

    @property
    def bytes(self) -> int:
        """Device memory that it takes."""
        return self.columns.bytes + (self.voice.codec_state.bytes if self.voice.codec_state else 0)


class VoiceCache:
    """Kept voices, of at most `most_bytes` of device memory together; 0 keeps none."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes, self.bytes = most_bytes, 0
        self._kept: OrderedDict[tuple[Prefix, bool], Kept] = OrderedDict()  # the least recently used first

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, prefix: Prefix, guided: bool) -> Kept | None:
        """The voice if it is kept, which makes it the most recently used one."""
        kept = self._kept.get((prefix, guided))
        if kept is not None:
            self._kept.move_to_end((prefix, guided))
        return kept

    def keep(self, kept: Kept) -> None:
        """Keeps a voice, and lets others go to make room. A voice that is larger than `most_bytes` is not kept."""
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
