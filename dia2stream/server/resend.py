"""The last seconds of what was sent, for a client that comes back and did not get all of it.

Also what an encoder has to have heard before it goes on: a resampler looks at some milliseconds of sound on either side
of a sample, so one that began with silence in mid-speech would click. Given the frame before, it gives the same bytes
as one that was never interrupted.
"""

from collections import deque

import numpy as np

from dia2stream.items import FRAME_MS, FRAME_SAMPLES, Cut, Frame, Item

KEPT_FRAMES = 125  # more than is ever ahead of the listener by default: 10 s, 1 MB
LEAD_IN_FRAMES = 1  # longer than any resampler looks back
SILENCE = Frame(np.zeros(FRAME_SAMPLES, np.float32))


class Sent:
    """What was sent of one conversation, from its start."""

    def __init__(self, frames: int = 0, last: Frame | None = None) -> None:
        """frames: that another server has sent. last: the last one of them, if it is known."""
        self._frames = frames  # on the conversation's audio clock
        self._items: deque[tuple[int, Item]] = deque()  # each with the number of frames that were sent before it
        if last is not None:
            self._items.append((frames - 1, last))

    def add(self, item: Item) -> None:
        """A frame, or an event that has its place among the frames."""
        self._items.append((self._frames, item))
        self._frames += isinstance(item, Frame)
        while self._items[0][0] < self._frames - KEPT_FRAMES - LEAD_IN_FRAMES:
            self._items.popleft()

    def copy(self, frames: int) -> "Sent":
        """The same up to so many frames, for a conversation that was copied when these had been sent."""
        other = Sent()
        other._frames = frames
        other._items.extend((at, item) for at, item in self._items if at + isinstance(item, Frame) <= frames)
        return other

    def cut(self) -> None:
        """An interruption. What was sent before is silence to a client that did not get it; the clock goes on."""
        self._items = deque((frames, SILENCE) for frames, item in self._items if isinstance(item, Frame))
        self._items.append((self._frames, Cut()))

    @property
    def clock_ms(self) -> int:
        """How much was sent."""
        return self._frames * FRAME_MS

    @property
    def kept_from_ms(self) -> int:
        """From where on the audio clock everything is kept."""
        return max(0, self._frames - KEPT_FRAMES) * FRAME_MS

    def since(self, received_ms: float) -> list[Item]:
        """What follows what the client has. An event just ahead of the first missing frame may be told twice."""
        received = max(round(received_ms / FRAME_MS), self._frames - KEPT_FRAMES)
        return [item for frames, item in self._items if frames >= received]

    def lead_in(self, received_ms: float) -> list[Frame]:
        """The frames before what follows, for an encoder to go on from; none where the sound began or was cut."""
        received = max(round(received_ms / FRAME_MS), self._frames - KEPT_FRAMES)
        before: list[Frame] = []
        for frames, item in self._items:
            if isinstance(item, Cut) and frames <= received:
                before.clear()
            elif isinstance(item, Frame) and frames < received:
                before.append(item)
        return before[-LEAD_IN_FRAMES:]
