"""What the codec of one slot has heard, and the ways back.

A codec goes on from the frames before. So it has to hear a conversation's frames in order, all those that were played
and no others: those of the caller were not, and what was played of a word that was cut stays heard although the
conversation has forgotten it.
"""

from collections.abc import Iterator, Sequence
from copy import copy
from typing import NamedTuple

import torch
from torch import Tensor

from dia2.codec.frames import SlotCodec, Sound, Sounds
from dia2.codec.state import CodecState
from dia2.steps.history import History


class Opening(NamedTuple):
    """Where a conversation begins: at which frame, and the codec's state behind a voice's clips; None for silence."""

    frame: int
    state: CodecState | None


class Playback:
    """A slot's codec, and how far it is in a conversation. decoded: frames before it have been through the codec."""

    def __init__(self, codec: SlotCodec, history: History) -> None:
        self.codec, self._history = codec, history
        self.decoded = 0
        self._unplayed: list[range] = []  # frames that were not played and never went through the codec
        # (frame, count): so many frames were decoded before this one and are forgotten, see `cut`.
        self._forgotten: list[tuple[int, int]] = []

    def draft(self, history: History) -> "Playback":
        """Another one over the same codec, which knows what this one knows."""
        other = copy(self)
        other._history = history
        other._unplayed, other._forgotten = self._unplayed.copy(), self._forgotten.copy()
        return other

    def copy(self, other: "Playback") -> None:
        """Becomes a copy of another one, of the same codec."""
        self.codec.copy(other.codec)
        self.decoded, self._unplayed, self._forgotten = other.decoded, other._unplayed.copy(), other._forgotten.copy()

    def adopt(self, other: "Playback", heard: Sequence[Tensor], frame: int, stop: int, before: int) -> None:
        """Goes on as another one, of another codec, but for frames `frame`..`stop` - 1, which are decoded again.

        heard: the codes of all frames that the other codec has heard, each int64 [C, 1]. before: how many frames that
        this codec has to hear may be older than its warm-up.
        """
        self.decoded, self._unplayed, self._forgotten = frame, other._unplayed, other._forgotten
        later = sum(stop - start for start, stop in self._played(frame, stop))
        known = heard[: len(heard) - later][-(self.codec.warm_up + before) :]
        self.codec.reset()
        if known:
            self.codec.hear(torch.cat([*known], dim=1).to(self._history.archive.device))

    # ---- Forwards ----

    def begin(self, opening: Opening) -> None:
        """A new conversation, whose first frame is the opening's."""
        self.decoded = opening.frame
        self._unplayed.clear()
        self._forgotten.clear()
        self.restore(opening.state)

    def restore(self, state: CodecState | None) -> None:
        """Puts the codec where it stood with that state; None: back to silence."""
        if state is None:
            self.codec.reset()
        else:
            self.codec.restore(state)

    def hear_clips(self, codes: Tensor) -> CodecState:
        """Hears a voice's clips, int64 [C, n], from silence on. Returns the codec's state behind them."""
        # A codec that started from silence where the clips end would click.
        self.codec.reset()
        self.codec.hear(codes.to(self._history.archive.device))
        return self.codec.saved()

    def decode(self, frame: int) -> Sound:
        """The sound of a frame; frames are decoded in order."""
        self.decoded = frame + 1
        return self.codec.submit(self._history.frames(frame, frame + 1))

    def decode_again(self, start: int, stop: int) -> list[tuple[range, Sounds]]:
        """Decodes those of the frames start..stop - 1 that were played, as runs with their numbers; see `adopt`."""
        self.decoded = stop
        runs = [range(*run) for run in self._played(start, stop)]
        return [(run, self.codec.submit_run(self._history.frames(run.start, run.stop))) for run in runs]

    def skip(self, frames: range) -> None:
        """The next frames are not played."""
        self._unplayed.append(frames)
        self.decoded = frames.stop

    # ---- Back ----

    def remembers(self, frame: int) -> bool:
        """Whether going back to before a frame costs nothing."""
        return self._decoded_between(frame, self.decoded) <= self.codec.most_back

    def go_back(self, frame: int, oldest: int, opening: Opening | None) -> None:
        """Puts the codec where it was before `frame`.

        oldest: the first frame that the history still has. opening: where the conversation began, unless its voice has
        changed since.
        """
        if self.remembers(frame):
            self.codec.go_back(self._decoded_between(frame, self.decoded))
        else:
            self._hear_again(frame, oldest, opening)
        self._unplayed = [range(gap.start, min(gap.stop, frame)) for gap in self._unplayed if gap.start < frame]
        self._forgotten = [cut for cut in self._forgotten if cut[0] <= frame]
        self.decoded = min(self.decoded, frame)

    def cut(self, frame: int, heard: int) -> None:
        """Forgets the frames from `frame` on. Those before `heard` were played, and the codec stays behind them."""
        count = self._decoded_between(frame, heard)
        self._forgotten = [*(cut for cut in self._forgotten if cut[0] <= frame), (frame, count)]
        self.decoded = frame

    def _hear_again(self, frame: int, oldest: int, opening: Opening | None) -> None:
        """Hears what was played before `frame`: from the opening on if that is near, else enough of it."""
        if opening is not None and opening.frame >= oldest and frame - opening.frame <= self.codec.warm_up:
            self.restore(opening.state)
            start = opening.frame
        else:
            self.codec.reset()
            unplayed = sum(len(gap) for gap in self._unplayed if gap.start < frame)
            start = max(0, frame - self.codec.warm_up - unplayed, oldest)
        for begun, ended in self._played(start, frame):
            self.codec.hear(self._history.frames(begun, ended))

    def _played(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """The frames start..stop - 1 that were played, as pairs of start and stop."""
        for gap in self._unplayed:
            if start < gap.start < stop:
                yield start, gap.start
            if gap.start < stop:
                start = max(start, gap.stop)
        if start < stop:
            yield start, stop

    def _decoded_between(self, start: int, stop: int) -> int:
        """How many frames went through the codec from where `start` begins up to where `stop` begins."""
        played = sum(stop - start for start, stop in self._played(start, stop))
        return played + sum(count for frame, count in self._forgotten if start < frame <= stop)
