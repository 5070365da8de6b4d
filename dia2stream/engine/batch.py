"""One step of many conversations: the only place that knows in which order the parts of a step follow each other.

    contexts that are full are rebuilt -> backbone, actions -> frames of the step before are delivered
    -> texts of the next columns -> depformer -> one gather of the finished frames -> one pass of the codec

The codec works while the next step's backbone runs. So the frames of a step wait for their sound until then, unless a
listener has nothing left to play, or a conversation cannot go on before its frame is delivered.

A failure in one conversation's own work (its text, its events, its context) takes only that conversation out of the
step. A failure of the model, which works for all of them at once, is raised to the caller.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from dia2.codec.frames import Sounds
from dia2.model.delays import column_of_each
from dia2.model.slots import on_device
from dia2.steps.context import Context
from dia2.steps.pool import FinishedFrames
from dia2.steps.speculation import LEAST_DEPTH, Tree
from dia2.steps.stepper import Stepper, TextColumn
from dia2stream.conversation.conversation import Conversation
from dia2stream.conversation.events import MadeFrame
from dia2stream.conversation.level import amplified_together
from dia2stream.conversation.word_times import levels_together
from dia2stream.engine.observer import StepReport
from dia2stream.journal.prepared_tape import StepTape

_T = TypeVar("_T")
_LOST = MadeFrame(-1, (), False)  # stands for the frame of a conversation that failed; nobody delivers it


class Pool(Protocol):
    """What a step needs of the contexts' pool: see `ContextPool`."""

    @property
    def stepper(self) -> Stepper:
        """The stepper whose slots the contexts are."""

    def take_frames(self, contexts: Sequence[Context]) -> FinishedFrames:
        """The frames that a step of these contexts has completed."""

    def decode(self, finished: FinishedFrames) -> Sounds:
        """Starts decoding them."""


@dataclass(frozen=True)
class _Frames:
    """The frames of one step, whose sound is on its way: of each conversation one, in the order of the sounds."""

    made: list[tuple[Conversation, MadeFrame]]
    sounds: Sounds


class _Step(NamedTuple):
    """A step of one conversation: its number, and the action that was drawn."""

    conversation: Conversation
    number: int
    action: int


@dataclass(frozen=True)
class _Drawn:
    """What a step drew for conversations that are written down: each with its tape, the step's number, its action.

    codes: int16 [n, C], of the columns behind the step.
    """

    notes: list[tuple[Conversation, StepTape, int, int]]
    codes: Tensor


class Batch:
    """Steps conversations of one pool, and holds the frames whose sound is on its way.

    tapes: of the conversations that are written down.

    on_failure: is told of a conversation whose own work failed, and of the exception. The conversation must not be
    stepped again.
    """

    def __init__(
        self,
        pool: Pool,
        on_failure: Callable[[Conversation, Exception], None],
        tapes: Mapping[Conversation, StepTape] | None = None,
    ) -> None:
        self._tapes = {} if tapes is None else tapes
        self._drawn: _Drawn | None = None
        self._pool, self._stepper, self._on_failure = pool, pool.stepper, on_failure
        self._frames: _Frames | None = None
        self._failed: set[Conversation] = set()
        self._device_seconds = 0.0

    def step(self, conversations: Sequence[Conversation], margin: float | None = None, steps: int = 1) -> StepReport:
        """One step of conversations that all `can_step`. Raises whatever the model's own calls raise.

        margin: for the report. steps: so many lead-in steps of the same conversations may follow each other, this one
        included. They may be made at once, see `_leap`.
        """
        started, self._device_seconds = time.perf_counter(), 0.0
        self._failed.clear()
        for conversation in conversations:
            self._try(conversation, conversation.prepare)
        stepped = [conversation for conversation in conversations if conversation not in self._failed]
        drawing = sum(conversation.context.draws_codes for conversation in stepped)
        trees = self._trees(stepped, steps)
        columns = 1 if trees is None else self._leap(stepped, trees)
        frames = self._step(stepped, again=steps > 1) if stepped and trees is None else 0
        return StepReport(
            started=started,
            seconds=time.perf_counter() - started,
            device_seconds=self._device_seconds,
            backbone_rows=len(stepped),
            depformer_rows=drawing,
            codec_rows=frames,
            batch_size=self._stepper.batch_size(len(stepped)),
            frames=frames,
            margin=margin,
            columns=columns,
        )

    def lead_in(
        self,
        conversations: Sequence[Conversation],
        steps: int,
        interrupted: Callable[[], bool],
        margin: float | None = None,
    ) -> list[StepReport]:
        """Lead-in steps of the same conversations, one right behind the other, at most `steps` of them. Their reports.

        Stops when `interrupted()`, and when one of them cannot step: it waits for words, or it has failed.
        """
        reports: list[StepReport] = []
        try:
            while not reports or (not (interrupted() or self._failed) and all(c.can_step() for c in conversations)):
                reports.append(self.step(conversations, margin, steps))
                steps -= 1 if reports[-1].columns == 1 else max(LEAST_DEPTH, reports[-1].columns)
                if steps <= 0:
                    break
        finally:
            if self._stepper.looks_ahead:
                self._stepper.stop_ahead()
        return reports

    def run_pass(self, conversation: Conversation, columns: int) -> None:
        """Runs columns that are due in a conversation's context, at most so many."""
        self.settle()  # a pass may take long, and the frames of the last step are ready
        self._failed.clear()
        self._try(conversation, conversation.context.run_due, columns)

    def settle(self) -> None:
        """Delivers every frame that waits for its sound. Commands may be handled behind this."""
        frames, self._frames = self._frames, None
        if frames is not None:
            self._deliver(frames)
        self.write_down()

    def write_down(self) -> None:
        """Hands the tapes what the last step drew. On a GPU the codes have long been there when the next one begins."""
        drawn, self._drawn = self._drawn, None
        if drawn is not None:
            codes = self._timed(drawn.codes.cpu).numpy()
            for row, (conversation, tape, step, action) in enumerate(drawn.notes):
                self._try(conversation, tape.step, conversation, step, action, codes[row])

    def forget(self) -> None:
        """The model failed: the sound of frames that wait for it may never come."""
        self._frames = self._drawn = None

    def _deliver(self, frames: _Frames) -> None:
        unclipped, gains = self._timed(frames.sounds.pcm).numpy(), [made.gain for _, made in frames.made]
        pcm = amplified_together(unclipped, gains)
        listens = any(conversation.times.listens for conversation, _ in frames.made)
        levels = levels_together(np.clip(unclipped, -1.0, 1.0), gains) if listens else [b""] * len(gains)
        for row, (conversation, made) in enumerate(frames.made):
            if made is not _LOST:
                # A copy, because one slow reader would keep the sound of all conversations in memory.
                self._try(conversation, conversation.deliver, made, pcm[row].copy(), levels[row])

    def _note(self, made: Sequence["_Step"]) -> None:
        """Keeps what steps drew for conversations that are written down; a frame that ends a turn comes first."""
        taped = [step for step in made if step.conversation in self._tapes and step.conversation not in self._failed]
        if taped:
            slots = [step.conversation.slot for step in taped]
            columns = [step.number + 1 - step.conversation.context.base for step in taped]
            where = on_device([slots, columns], self._stepper.codes.device)
            codes = column_of_each(self._stepper.codes, where[0], where[1]).to(torch.int16)
            self._drawn = _Drawn(
                [(step.conversation, self._tapes[step.conversation], *step[1:]) for step in taped], codes
            )

    def _step(self, conversations: Sequence[Conversation], again: bool) -> int:
        """The step itself. Returns how many frames it completed."""
        slots = [conversation.slot for conversation in conversations]
        # One alone: the device goes on with the next step while the host works on this one.
        ahead = conversations[0].foresee() if again and self._stepper.looks_ahead and len(slots) == 1 else None
        actions = self._timed(self._stepper.act, slots, *([] if ahead is None else [ahead]))
        self.settle()
        taped = [(c, action) for c, action in zip(conversations, actions, strict=True) if c in self._tapes]
        made = [_Step(conversation, conversation.context.step, action) for conversation, action in taped]
        texts = [self._advance(c, action) for c, action in zip(conversations, actions, strict=True)]
        self._timed(self._stepper.complete, texts)
        self._note(made)
        return self._complete([c for c in conversations if c not in self._failed])

    # ---- Many columns of a lead-in at once: see dia2/steps/speculation.py ----

    def _trees(self, conversations: Sequence[Conversation], steps: int) -> list[Tree] | None:
        """What the next steps probably run; None where they are better made one by one."""
        size = self._stepper.tree_size(len(conversations)) if steps >= LEAST_DEPTH and conversations else 0
        trees = [self._try(conversation, conversation.guess, size, steps) for conversation in conversations if size]
        found = [tree for tree in trees if tree is not None]
        return found if found and len(found) == len(conversations) else None

    def _leap(self, conversations: Sequence[Conversation], trees: Sequence[Tree]) -> int:
        """Runs the trees in one pass, and moves on as far as the draws say they were right: so many columns at most."""
        actions = self._timed(self._stepper.verify, [conversation.slot for conversation in conversations], trees)
        self.settle()
        made: list[_Step] = []
        for conversation, tree, drawn in zip(conversations, trees, actions, strict=True):
            if conversation not in self._failed:
                self._try(conversation, self._follow, conversation, tree, drawn, made)
        self._timed(self._stepper.keep)
        self._note(made)
        return max((sum(step.conversation is c for step in made) for c in conversations), default=1)

    def _follow(self, conversation: Conversation, tree: Tree, actions: Sequence[int], made: list["_Step"]) -> None:
        """Makes the steps of a tree whose columns were right; the last one leads to a text that the tree has not."""
        place: int | None = 0
        while place is not None:
            made.append(_Step(conversation, conversation.context.step, actions[place]))
            text = conversation.advance(actions[place])
            self._stepper.confirm(conversation.slot, place, text)
            place = tree.follow(place, text)

    def _advance(self, conversation: Conversation, action: int) -> TextColumn:
        text = None if conversation in self._failed else self._try(conversation, conversation.advance, action)
        # The model has to complete the row of a conversation that failed, but nobody will read it.
        return self._stepper.opening if text is None else text

    def _complete(self, conversations: Sequence[Conversation]) -> int:
        """Takes the frames that the step has completed, and has them decoded. Returns how many there are."""
        finished = self._pool.take_frames([conversation.context for conversation in conversations])
        if not len(finished):
            return 0
        sounds = self._timed(self._pool.decode, finished)
        owners = {conversation.context: conversation for conversation in conversations}
        frames = _Frames([], sounds)
        for context, number in zip(finished.contexts, finished.numbers, strict=True):
            conversation = owners[context]
            made = self._try(conversation, conversation.complete, number)
            frames.made.append((conversation, made or _LOST))  # each keeps its row of the sounds
        self._frames = frames
        if any(self._is_urgent(conversation, made) for conversation, made in frames.made):
            self.settle()
        return len(finished)

    def _is_urgent(self, conversation: Conversation, made: MadeFrame) -> bool:
        """Whether the frame cannot wait for the next step."""
        return made.ends_turn or not conversation.outbox.waiting or not conversation.can_step()

    def _try(self, conversation: Conversation, work: Callable[..., _T], *arguments: object) -> _T | None:
        """Does a conversation's own work. When that fails, the conversation is out of the step and the rest goes on."""
        try:
            return work(*arguments)
        except Exception as error:
            self._failed.add(conversation)
            if self._frames is not None:
                self._frames.made[:] = [(c, _LOST if c is conversation else made) for c, made in self._frames.made]
            self._on_failure(conversation, error)
            return None

    def _timed(self, work: Callable[..., _T], *arguments: object) -> _T:
        """Does work that runs on the device, or waits for it."""
        began = time.perf_counter()
        try:
            return work(*arguments)
        finally:
            self._device_seconds += time.perf_counter() - began
