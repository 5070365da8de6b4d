"""The columns of one slot: those that the model has run, and behind them those that are due.

A column is due when its text and codes are known and the model has not read it yet. Whoever owns the model runs what is
due in passes, and a pass takes many columns. The slot's blocks of the key/value cache are taken as columns need them.
"""

from collections import deque
from copy import copy

from dia2.steps.stepper import Stepper, TextColumn


class SlotColumns:
    """Where one slot of a stepper stands.

    due: the texts of the columns to run before the next step. limit: columns of a full context.
    """

    def __init__(self, stepper: Stepper, slot: int) -> None:
        self._stepper, self._slot = stepper, slot
        self.limit = stepper.config.runtime.max_context_steps
        self.due: deque[TextColumn] = deque()

    def draft(self) -> "SlotColumns":
        """Another view of the same slot, with the same columns due."""
        other = copy(self)
        other.due = self.due.copy()
        return other

    @property
    def next(self) -> int:
        """The column of the next step."""
        return self._stepper.slots[self._slot].column + len(self.due)

    @property
    def is_ready(self) -> bool:
        """Whether the next step can be made as things are: no column is due, and the next one has its block."""
        column = self._stepper.slots[self._slot].column
        return not self.due and column < self.limit and column < self._stepper.blocks.held(self._slot)

    @property
    def reach(self) -> int:
        """How many columns the slot can have now: fewer than the model can where the cache's blocks run out."""
        return min(self.limit, self._stepper.blocks.reach(self._slot))

    @property
    def is_short(self) -> bool:
        """Whether blocks of the cache are missing for a whole context."""
        return self.reach < self.limit

    def run(self, most: int) -> None:
        """Runs so many of the columns that are due in one pass."""
        slot = self._stepper.slots[self._slot]
        text = slot.text  # of the column behind all that are due
        self._stepper.prefill(self._slot, [self.due.popleft() for _ in range(most)])
        slot.text = text

    def skip(self, count: int) -> None:
        """The first of the columns that are due need not be run: the cache has them."""
        for _ in range(count):
            self.due.popleft()

    def drop(self, count: int) -> None:
        """Goes back by so many columns: first those that are due, then those that were run."""
        dropped = min(count, len(self.due))
        for _ in range(dropped):
            self.due.pop()
        self._stepper.slots[self._slot].column -= count - dropped

    def hold(self) -> None:
        """Takes the cache's blocks for all columns up to that of the next step."""
        self._stepper.blocks.hold(self._slot, self.next + 1)

    def fit(self) -> None:
        """Takes the blocks as `hold` does, and gives back those behind."""
        self._stepper.blocks.trim(self._slot, self.next + 1)
        self.hold()
