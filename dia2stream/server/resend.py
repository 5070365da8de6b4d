"""The last seconds of what was sent, for a client that comes back."""

from collections import deque

import numpy as np

from dia2stream.items import FRAME_MS, FRAME_SAMPLES, Frame, Item

KEPT_FRAMES = 125  # more than is ever ahead of the listener by default: 10 s, 1 MB
SILENCE = Frame(np.zeros(FRAME_SAMPLES, np.float32))


class Sent:
    """The last seconds of what was sent, for a client that comes back and did not get all of it."""

    def __init__(self) -> None:
        self._frames = 0  # on the conversation's audio clock
        self._items: deque[tuple[int, Item]] = deque()  # with the frames that were sent before

    def add(self, item: Item) -> None:
        """A frame, or an event that has its place among them."""
        self._items.append((self._frames, item))
        self._frames += isinstance(item, Frame)
        while self._items[0][0] < self._frames - KEPT_FRAMES:
            self._items.popleft()

    def cut(self) -> None:
        """What was sent is not going on; the clock is. To who has not got all of it the rest is silence."""
        self._items = deque((frames, SILENCE) for frames, item in self._items if isinstance(item, Frame))

    @property
    def kept_from_ms(self) -> int:
        """From where on the audio clock all of it is there."""
        return max(0, self._frames - KEPT_FRAMES) * FRAME_MS

    def since(self, received_ms: float) -> list[Item]:
        """What follows what the client has. An event just ahead of the first missing frame may be told twice."""
        received = round(received_ms / FRAME_MS)
        return [item for frames, item in self._items if frames >= received]
