"""A draft of what a conversation says next: steps that count once it is accepted, and never were if it is undone.

    draft = Draft(context)          # where the slot stands is noted
    draft.context.rewind(...)       # commands that come before its first step: rewind, cut, extend
    draft.begin(frames=25)          # what so many frames will overwrite is kept aside
    ...                             # passes and steps of draft.context; nobody uses `context` meanwhile
    draft.accept()  or  draft.undo()

A draft works in the conversation's own slot, so that accepting it costs nothing. Undoing it copies back, bit for bit,
the columns of the cache that the conversation had run beyond where the draft began, what the codec remembered there,
and the codes. Work that would overwrite more than that raises DraftRefused: a context that is rebuilt, a codec that has
to hear again what was played, more than MOST_COLUMNS. Such work is left for when it counts.

Knows nothing about words or clients.
"""

import torch

from dia2.codec.frames import CodecAside
from dia2.model.kv_cache import Columns
from dia2.steps.aside import DraftRefused
from dia2.steps.context import Context

MOST_COLUMNS = 256  # that a draft may overwrite: 59 MB with the 2B model in 16 bits and guidance


class Draft:
    """A draft over the slot of a context. Raises DraftRefused where the slot still has columns to run.

    context: what the draft is made with.
    """

    def __init__(self, context: Context) -> None:
        if context.due:
            raise DraftRefused("columns are due")
        self._context, self.context = context, context.draft()
        self._stepper, self._room = context.stepper, context.room_aside
        self._place, self._codec_place = self._stepper.place(context.slot), context.playback.codec.place()
        self._archive = context.history.archive.clone()
        self._start = 0
        self._columns: Columns | None = None
        self._codec: CodecAside | None = None
        self._bytes = 0
        self.step = context.step

    def begin(self, frames: int) -> None:
        """Keeps aside what is overwritten from where the draft stands now, by so many frames at most.

        Raises DraftRefused when that is too much, or there is no memory for it. The draft is then to be undone.
        """
        start, stop = self._stepper.slots[self.context.slot].column, self._place.slot.column
        if stop - start > MOST_COLUMNS:
            raise DraftRefused(f"{stop - start} columns are overwritten, of at most {MOST_COLUMNS}")
        try:
            columns = self._stepper.aside(self.context.slot, start, stop)
            codec = self.context.playback.codec.aside(frames)
        except torch.OutOfMemoryError as error:
            raise DraftRefused("there is no memory to keep aside what is overwritten") from error
        size = codec.bytes + (0 if columns is None else columns.bytes)
        self._room.take(size)
        self._start, self._columns, self._codec, self._bytes = start, columns, codec, size

    def accept(self) -> None:
        """The conversation goes on as the draft."""
        self._context.accept(self.context)
        self.forget()

    def undo(self) -> None:
        """The conversation goes on as if the draft had never been."""
        slot = self._context.slot
        self._stepper.put_back(slot, self._place, self._start, self._columns)
        self._context.playback.codec.put_back(self._codec_place, self._codec)
        self._context.history.archive.copy_(self._archive)
        self.forget()

    def forget(self) -> None:
        """Nobody needs the slot as it was."""
        self._room.give_back(self._bytes)
        self._bytes, self._columns, self._codec = 0, None, None
