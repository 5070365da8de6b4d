"""The audio clock of a conversation: how much was sent, how much was heard, and which steps of the model that was.

The clock counts the frames that were sent. An interruption takes the model back to what was heard, but the clock goes
on. So the clock is a row of segments: each begins at a frame of the clock, and sounds the model's steps from one step
on. Steps that nobody hears may lie between what was heard and that step.

Example: 100 frames were sent when the caller interrupts, and 60 of them were heard. The word that was cut began at step
57. So the model goes back to step 58 and the clock goes on at frame 100: the segments begin at (0, 0) and (100, 58). A
listener at frame 110 has heard everything before step 68.

Pure: knows nothing of words, the model or threads.
"""

from collections import deque
from copy import copy
from itertools import islice
from typing import NamedTuple

from dia2stream.items import FRAME_MS

# Interruptions that the clock remembers. A listener who is further behind can no longer be placed.
_MOST_SEGMENTS = 64


class Segment(NamedTuple):
    """From frame `clock` of the audio clock on, the listener hears the model's steps from `step` on.

    end: the step where what was heard before it ends.
    """

    clock: int
    step: int
    end: int


class AudioClock:
    """Segments, and the turns in them. `first_frame`: the model's first frame that can be heard."""

    def __init__(self, first_frame: int = 0) -> None:
        self._segments = deque([Segment(0, first_frame, first_frame)], maxlen=_MOST_SEGMENTS)
        self._unplayed: Segment | None = None  # the segment that begins behind the caller's latest words
        self._turns: deque[int] = deque()  # the frame that each turn began with

    def copy(self) -> "AudioClock":
        """Another one that stands where this one does."""
        other = copy(self)
        other._segments, other._turns = self._segments.copy(), self._turns.copy()
        return other

    @property
    def turn(self) -> int | None:
        """The frame that the current turn began with; None before the first turn."""
        return self._turns[-1] if self._turns else None

    @property
    def latest(self) -> Segment:
        """The segment that the clock is in."""
        return self._segments[-1]

    @property
    def segments(self) -> tuple[Segment, ...]:
        """All that are remembered, oldest first."""
        return tuple(self._segments)

    def begin_turn(self, frame: int) -> None:
        """A turn begins with this frame of the model."""
        if self.turn != frame:  # an interruption may have begun it
            self._turns.append(frame)

    def turn_at(self, position: float) -> int:
        """The frame that the turn around a position began with; 0 when no turn began before."""
        return max((turn for turn in self._turns if turn <= position), default=0)

    def speaks_since(self, position: float) -> int:
        """The step from which on the model has spoken, up to a position, with no interruption and no caller between."""
        turn = self.turn_at(position)
        return max(turn, next((s.step for s in reversed(self._segments) if s.step <= position), turn))

    def position(self, heard_ms: float) -> float:
        """The point of the model's time, in steps, before which the listener has heard everything.

        heard_ms: on the audio clock. -1 when that is longer ago than the clock remembers.
        """
        heard = heard_ms / FRAME_MS
        number = max((n for n, segment in enumerate(self._segments) if segment.clock <= heard), default=None)
        if number is None:
            return -1.0
        segment = self._segments[number]
        position = segment.step + heard - segment.clock
        # A later segment may have begun further back: what lies behind its beginning is no longer part of the call.
        for later in islice(self._segments, number + 1, None):
            if position >= later.end:
                position = later.step
        return position

    def step_at(self, heard_ms: float) -> int:
        """The step that the listener is in."""
        return int(self.position(heard_ms))

    def go_back(self, end: int, step: int, sent_frames: int) -> None:
        """An interruption: what was heard ends at `end`, the model goes on at `step`, the clock behind what was sent.

        What is said from there on is another turn, also as long as nothing of it has begun.
        """
        while self._turns and self._turns[-1] >= end:
            self._turns.pop()
        self._turns.append(step)
        self._segments.append(Segment(sent_frames, step, end))

    def pass_over(self, clock: int, step: int) -> None:
        """Frames that nobody plays, the caller's, end before `step`; the clock is at frame `clock`."""
        if self._segments[-1] == self._unplayed:
            self._segments.pop()  # the caller goes on speaking
        self._unplayed = Segment(clock, step, step)
        self._segments.append(self._unplayed)

    def forget_before(self, step: int) -> None:
        """The model can no longer go back beyond `step`: forgets older turns, except the one that `step` is in."""
        while len(self._turns) > 1 and self._turns[1] <= step:
            self._turns.popleft()
