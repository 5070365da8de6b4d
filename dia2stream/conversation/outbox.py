"""What waits to leave a conversation, in order, and how far the listener may be ahead of it.

Two queues. `urgent` has the answers to commands and always goes first. `stream` has the audio and the events that
belong to a place in it (a word before its first frame, `done` after the last). Only what has been taken counts as sent;
all the rest can still be held back (a pause) or taken back (an interruption).

Times are the caller's: seconds on any clock that only goes forward. One thread fills it and another takes from it, so
every operation is atomic.
"""

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import takewhile

from dia2stream.conversation.pace import Pace
from dia2stream.items import FRAME_MS, Cut, FirstFrame, Frame, Item
from dia2stream.protocol.messages import Done, Event
from dia2stream.protocol.sizes import size_of

# Answers that nobody reads are dropped from here on: a client that sends nonsense and never listens costs no memory.
MAX_ANSWER_BYTES = 2**20


class Outbox:
    """The two queues of one conversation. `capacity` is in frames."""

    def __init__(self, capacity: int, max_lead_ms: float | None) -> None:
        if capacity < 1 or (max_lead_ms is not None and max_lead_ms < FRAME_MS):
            raise ValueError(f"{capacity} frames and a lead of {max_lead_ms} ms: at least 1 and {FRAME_MS} are needed")
        self.capacity = capacity
        self.dropped = 0  # answers that found no room
        self.waiting = 0  # frames in the stream
        self.sent = 0  # frames taken from it
        self._held = False
        self._pace = Pace(max_lead_ms)
        self._urgent: deque[tuple[Event, int]] = deque()  # each with its bytes
        self.answer_bytes = 0  # of memory, in answers to commands that wait to be read
        self._stream: deque[Item] = deque()
        self._lock = threading.Lock()

    @property
    def answers(self) -> int:
        """How many answers to commands wait to be read."""
        return len(self._urgent)

    @property
    def events(self) -> int:
        """How many events wait among the frames."""
        return max(0, len(self._stream) - self.waiting)

    @property
    def empty(self) -> bool:
        """Whether nothing waits at all."""
        return not self._urgent and not self._stream

    @property
    def ready(self) -> bool:
        """Whether `take` has something, now or when the pace lets it."""
        with self._lock:
            return bool(self._urgent) or bool(self._stream and not self._held)

    @property
    def clock_ms(self) -> int:
        """Where the next frame that is put will stand on the audio clock."""
        with self._lock:  # a frame that leaves in between would be counted twice, or not at all
            return (self.sent + self.waiting) * FRAME_MS

    def dry_at(self) -> float | None:
        """When the listener will have played all frames, those that wait included; None before the first was taken."""
        with self._lock:
            return self._pace.dry_at((self.sent + self.waiting) * FRAME_MS)

    def lead_ms(self, now: float) -> float:
        """How much of what was sent the listener has not played yet."""
        return self._pace.lead_ms(self.sent * FRAME_MS, now)

    def restart(self) -> None:
        """A new conversation: its audio clock is at 0 and nothing waits but answers."""
        with self._lock:
            self._stream.clear()
            self._held, self.waiting, self.sent = False, 0, 0
            self._pace.restart(0.0)

    def answer(self, event: Event) -> None:
        """Queues an event that has no place in the stream."""
        size = size_of(event)
        with self._lock:
            if self.answer_bytes < MAX_ANSWER_BYTES:
                self._urgent.append((event, size))
                self.answer_bytes += size
            else:
                self.dropped += 1

    def has_answer(self, kind: type[Event]) -> bool:
        """Whether an answer of that kind waits to be taken."""
        with self._lock:
            return any(isinstance(event, kind) for event, _ in self._urgent)

    def put(self, *items: Item) -> None:
        """Queues frames and the events that have their place among them."""
        frames = sum(type(item) is Frame for item in items)
        with self._lock:
            self._stream.extend(items)
            self.waiting += frames

    def put_frame(self, frame: Frame, before: Sequence[Item]) -> None:
        """Queues a frame, and the events that leave before it."""
        with self._lock:
            self._stream.extend(before)
            self._stream.append(frame)
            self.waiting += 1

    def take(self, now: float, answers_only: bool = False) -> Item | float | None:
        """The next item; seconds to wait where the pace asks for it; None when nothing may leave.

        now: infinite for a listener who has played everything, whatever the clock says. answers_only: leave the stream
        alone, as one who cannot send audio just now does.
        """
        with self._lock:
            if self._urgent:
                event, size = self._urgent.popleft()
                self.answer_bytes -= size
                return event
            if self._held or answers_only or not self._stream:
                return None
            kind = type(self._stream[0])
            if now < math.inf and (kind is Frame or kind is FirstFrame):  # a latency is told when its frame can leave
                wait = self._pace.wait(self.sent * FRAME_MS, now)
                if wait > 0:
                    return wait
            item = self._stream.popleft()
            if kind is Frame:
                self.sent += 1
                self.waiting -= 1
            return item

    def hold(self, now: float) -> None:
        """A pause: nothing of the stream leaves until `release`."""
        with self._lock:
            self._pace.restart(self._pace.played_ms(self.sent * FRAME_MS, now))
            self._held = True

    def release(self) -> None:
        """Goes on exactly where it was held."""
        with self._lock:
            self._held = False

    def go_on_from(self, sent: int, before: Iterable[Item]) -> None:
        """Holds, so that so many frames count as sent. before: what was taken from there on, to be taken once more."""
        items = list(before)
        with self._lock:
            self._urgent.clear()
            self.answer_bytes = 0
            self._stream.extendleft(reversed(items))
            self.waiting += sum(type(item) is Frame for item in items)
            self._held, self.sent = True, sent
            self._pace.restart(sent * FRAME_MS)

    def stream(self) -> list[Item]:
        """What waits in the stream."""
        with self._lock:
            return list(self._stream)

    def change(self, changed: Callable[[Item], Item]) -> None:
        """Puts something else in the place of each thing that waits in the stream."""
        with self._lock:
            self._stream = deque(map(changed, self._stream))

    def copy(self) -> "Outbox":
        """Another one with the same stream, from which as much was sent. Answers are for whoever has asked."""
        other = Outbox(self.capacity, None)
        with self._lock:
            other._pace, other._held, other._stream = self._pace.copy(), self._held, self._stream.copy()
            other.waiting, other.sent = self.waiting, self.sent
        return other

    def accept(self, draft: "DraftOutbox", changed: Callable[[Item], Item]) -> None:
        """What was drafted may leave: behind what waits, or instead of it. changed: is asked of each thing."""
        if draft.was_cut:
            self.cut()
        with self._lock:
            self._urgent.extend(draft._urgent)
            self.answer_bytes += draft.answer_bytes
            self._stream.extend(map(changed, draft._stream))
            self.waiting += draft.waiting

    def cut(self) -> None:
        """The rest is not going to be heard: forgets it, and goes on after what was sent."""
        with self._lock:
            # A `done` with no frame before it is for what was sent to its last sample.
            due = takewhile(lambda item: not isinstance(item, Frame), self._stream)
            ended = [item for item in due if isinstance(item, Done)]
            self._stream.clear()
            self._stream.extend([*ended, Cut()])
            self._held, self.waiting = False, 0
            self._pace.restart(self.sent * FRAME_MS)


class DraftOutbox(Outbox):
    """What would leave if a draft counted; nothing is taken from it. `sent` has all frames of the outbox before.

    was_cut: whether it goes instead of what waits there.
    """

    def __init__(self, before: Outbox, capacity: int) -> None:
        super().__init__(min(capacity, before.capacity), None)
        self.was_cut, self._before = False, before
        self.sent = before.clock_ms // FRAME_MS

    def cut(self) -> None:
        """What waits is not going to be heard, if the draft counts. Nothing of the draft waits yet."""
        self.was_cut, self.sent = True, self._before.sent
