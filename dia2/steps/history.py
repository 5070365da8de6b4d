"""What was said at each step of a conversation, for as long as it can be gone back to.

Steps are counted from the last one backwards: the text of the column that was run 3 steps ago is `back(3)`. Frames are
counted from the conversation's first one on.

The garbage collector visits every object that may refer to others, and meanwhile all threads stand still. Named tuples
are such objects, plain tuples of numbers are not. So columns are kept as plain tuples of numbers: a server remembers
hundreds of thousands of them, and would stand still for 0.1 s and more.
"""

from collections import deque
from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor

from dia2.steps.stepper import Stepper, TextColumn
from dia2.text.machine import Mark, Tokens

ARCHIVE_FRAMES = 7500  # ten minutes: how far back a rewind can go


class Column(NamedTuple):
    """A column that was run: its text, and where the text machine stood before its step."""

    text: TextColumn
    mark: Mark


_Flat = tuple[int, int, int, int, int, tuple[int, ...], int, tuple[int, ...], int, int | None]
"""A column without an object in it that the garbage collector would visit: the text, then the mark's fields."""


def _flat(text: TextColumn, mark: Mark) -> _Flat:
    *budgets, pending, lookahead, end_step = mark
    return (*text, *budgets, *pending, *lookahead, end_step)  # type: ignore[return-value]  # the lengths are known


def _column(flat: _Flat) -> Column:
    main, second, padding, pause, forced, pending, pending_at, lookahead, lookahead_at, end_step = flat
    tokens = Tokens(pending, pending_at), Tokens(lookahead, lookahead_at)
    return Column((main, second), Mark(padding, pause, forced, *tokens, end_step))


class History:
    """The last columns and complete frames of one conversation.

    archive: frames by frame number % ARCHIVE_FRAMES, int16 [C, ARCHIVE_FRAMES] on the model's device.
    """

    def __init__(self, archive: Tensor) -> None:
        self.archive = archive
        self._columns: deque[_Flat] = deque(maxlen=ARCHIVE_FRAMES)

    def __len__(self) -> int:
        return len(self._columns)

    def draft(self) -> "History":
        """Another one with the same columns, over the same archive."""
        other = History(self.archive)
        other._columns = self._columns.copy()
        return other

    def copy(self, other: "History") -> None:
        """Becomes a copy of another one."""
        self.archive.copy_(other.archive)
        self._columns = other._columns.copy()

    # ---- Columns ----

    def clear(self) -> None:
        """A new conversation: no column was run."""
        self._columns.clear()

    def add(self, text: TextColumn, mark: Mark) -> None:
        """The column of the next step."""
        self._columns.append(_flat(text, mark))

    def extend(self, texts: Iterable[TextColumn], marks: Iterable[Mark]) -> None:
        """The columns of the next steps, as many as there are marks."""
        self._columns.extend(map(_flat, texts, marks))

    def back(self, steps: int) -> Column:
        """The column of so many steps ago, 1 to len(self)."""
        return _column(self._columns[-steps])

    @property
    def columns(self) -> list[Column]:
        """All columns, oldest first."""
        return [_column(flat) for flat in self._columns]

    def last(self, steps: int) -> list[TextColumn]:
        """The texts of so many last columns, oldest first."""
        return [flat[:2] for flat in islice(self._columns, len(self) - steps, None)]

    def drop(self, steps: int) -> None:
        """Goes back by so many steps."""
        for _ in range(steps):
            self._columns.pop()

    def retell(self, steps: int, text: TextColumn) -> None:
        """Gives so many last columns another text."""
        for at in range(len(self) - steps, len(self)):
            self._columns[at] = (*text, *self._columns[at][2:])

    def word_start(self, first: int, last: int) -> int | None:
        """How many steps ago no word was under way: the first such place of `first`, first - 1, ... last + 1."""
        for steps in range(first, last, -1):
            mark = self.back(steps).mark
            if not mark.pending and not mark.lookahead:
                return steps
        return None

    # ---- Frames ----

    def keep(self, start: int, codes: Tensor) -> None:
        """Writes down complete frames from `start` on: integers [C, n] on any device."""
        self.archive[:, self._places(start, codes.shape[1])] = codes.to(self.archive)

    def frames(self, start: int, stop: int) -> Tensor:
        """Complete frames start..stop - 1, int64 [C, stop - start]."""
        return self.archive[:, self._places(start, stop - start)].long()

    def _places(self, start: int, count: int) -> slice | Tensor:
        first = start % ARCHIVE_FRAMES
        if first + count <= ARCHIVE_FRAMES:
            return slice(first, first + count)
        return torch.arange(start, start + count, device=self.archive.device) % ARCHIVE_FRAMES


def new_archive(stepper: Stepper, slots: int) -> Tensor:
    """Room for the last complete frames of each slot, int16 [slots, C, ARCHIVE_FRAMES] on the model's device."""
    return torch.zeros(slots, len(stepper.delays), ARCHIVE_FRAMES, dtype=torch.int16, device=stepper.device)
