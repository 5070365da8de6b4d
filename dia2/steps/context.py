"""What the model remembers of one conversation, and the ways back.

Steps are numbered from the conversation's first column on and never restart; the model's own columns do, each time the
context fills up and is rebuilt (`rollover`). `base` is the step that the model's column 0 stands for.

Frame f is the sound of the text at step f. A conversation's frames are known up to `frames`; the last column that was
run is ahead of that by the longest delay. Going back is `rewind(step, known)`: frames before `known` are kept as they
are, the model goes on at `step`, and the columns from there on are written anew. Within the model's context that costs
nothing; further back, and at a rollover, the context is rebuilt from the voice prefix and the columns of the last
seconds in one batched pass. `cut` goes back further than the listener did: to the beginning of a word that was not said
to its end. The codec then goes on behind what was played.

A pass takes as long as many steps, and other conversations want to step meanwhile. So nothing here runs a pass at once:
its columns become `due`, and whoever owns the model runs them by `run_due`, in as many parts as suit, before the next
step.

Knows nothing about words, clients or clocks.
"""

from collections import deque
from collections.abc import Sequence
from copy import copy
from dataclasses import replace

import torch
from torch import Tensor

from dia2.codec.frames import SlotCodec
from dia2.model.delays import delay_frames
from dia2.model.sampling import SlotSettings
from dia2.steps.aside import AsideRoom, DraftRefused
from dia2.steps.history import ARCHIVE_FRAMES, History, new_archive
from dia2.steps.playback import Opening, Playback
from dia2.steps.slot_columns import SlotColumns
from dia2.steps.slot_voice import SlotVoice
from dia2.steps.speculation import LEAST_DEPTH, Guess, Tree
from dia2.steps.stepper import Stepper, TextColumn
from dia2.steps.voice_cache import VoiceCache
from dia2.text.machine import Mark, TextMachine, TextState
from dia2.voice.voice import Prefix


class Context:
    """One slot of a stepper, its text machine, and its slot of the codec, moving together.

    history_frames: how much of the conversation a rebuilt context holds, 30 s by default. voices: those that have been
    run, in whichever slot; without it, a slot knows only its last one. archive: room for its frames (`new_archive`).
    room: for what drafts overwrite, shared by all slots (`draft.py`).

    history: what was said at each step. playback: what the codec has heard.
    frames: the conversation's frames before this number are known. base: the step that the slot's column 0 stands for.
    first_frame: the first one that is spoken, after the voice.
    """

    def __init__(
        self,
        stepper: Stepper,
        slot: int,
        codec: SlotCodec,
        history_frames: int,
        voices: VoiceCache | None = None,
        archive: Tensor | None = None,
        room: "AsideRoom | None" = None,
    ) -> None:
        self.stepper, self.slot = stepper, slot
        self.machine = TextMachine.of(stepper.config.data)
        self.lead_in = max(1, *stepper.delays)  # a step completes one frame, and without delays the first is there
        # The backbone draws codebook 0; the depformer draws the others.
        self._shortest_delay = min(stepper.delays[1:], default=0)
        # Less than a few lead-ins would be no context at all.
        self.history_frames = max(history_frames, 4 * self.lead_in)
        self.room_aside = AsideRoom() if room is None else room
        self.is_draft = False
        self.history = History(new_archive(stepper, 1)[0] if archive is None else archive)
        self.playback = Playback(codec, self.history)
        self.columns = SlotColumns(stepper, slot)
        self._voice = SlotVoice(stepper, slot, self.machine, VoiceCache(0) if voices is None else voices)
        self.state: TextState = self.machine.start()
        self.seed = self.base = self.frames = self.first_frame = 0
        self.rollovers = 0

    def begin(self, settings: SlotSettings, seed: int, prefix: Prefix | None, initial_padding: int) -> None:
        """A new conversation. With a voice, its first frames are the prefix's; none of them is ever played.

        The voice of the slot's last conversation is there already, and one that was run before in any slot is copied.
        The columns of another one are due.
        """
        self._give_back()
        self.stepper.begin(self.slot, settings, seed)
        self.seed, self.base = seed, 0
        self.history.clear()
        self.columns.due.extend(self._voice.begin(prefix, settings.guided))
        self._go_behind_clips()
        self.state = self.machine.start(initial_padding)
        self.stepper.slots[self.slot].known = self.frames
        self.columns.fit()

    def _go_behind_clips(self) -> None:
        """Stands where the clips end, as if the model had spoken them. Their words are no text of the conversation."""
        voice, slot = self._voice.now, self.stepper.slots[self.slot]
        self.frames = self.first_frame = self._voice.frames
        self.playback.begin(Opening(self.frames, voice.codec_state if voice else None))
        if voice is not None:
            delay_frames(voice.prefix.codes, self.stepper.delays, self.stepper.codes[self.slot])
            self.history.keep(0, voice.prefix.codes)
            self.history.extend(voice.texts, voice.marks)
            slot.column, slot.text = self.frames - len(self.columns.due), voice.texts[-1]

    # ---- Drafts: see draft.py ----

    def draft(self) -> "Context":
        """Another context over the same slot, which knows what this one knows. Only one of the two may be used."""
        draft = copy(self)
        draft.state, draft.is_draft, draft._voice = self.state.copy(), True, copy(self._voice)
        draft.columns, draft.history = self.columns.draft(), self.history.draft()
        draft.playback = self.playback.draft(draft.history)
        return draft

    def accept(self, draft: "Context") -> None:
        """Goes on as its draft."""
        self.__dict__.update(draft.__dict__)
        self.is_draft = False

    def _refuse_in_draft(self, what: str) -> None:
        if self.is_draft:
            raise DraftRefused(f"{what} overwrites more than is kept aside")

    # ---- From start to end ----

    def release(self) -> None:
        """The conversation is over: gives back the cache's blocks, but for the voice's, which the next may have too.

        The codec is reset now, because who begins the next conversation waits for it.
        """
        self._give_back()
        self.playback.restore(None)

    def _give_back(self) -> None:
        if self.columns.due or self._voice.due is not None:
            self.distrust()  # a pass was given up half-way
        self.stepper.blocks.trim(self.slot, self._voice.frames)

    @property
    def voice(self) -> Prefix | None:
        """The clips that the context begins with."""
        return self._voice.prefix

    def change_voice(self, prefix: Prefix) -> None:
        """Goes on in another voice: the context is rebuilt behind its clips, and its history stays.

        The next step must be that of the first unknown frame. The codec goes on from what it has played. Where nothing
        was said yet, the conversation begins in that voice.
        """
        self._refuse_in_draft("another voice")
        slot = self.stepper.slots[self.slot]
        if self.frames == self.first_frame:
            self.begin(slot.settings, self.seed, prefix, self.state.forced_padding)
            return
        if self._voice.due is not None:
            self.run_due()  # the codec has to hear the first voice
        self._voice.change(prefix, slot.settings.guided)
        self._rebuild(self.step, slot.text, None)
        self.stepper.slots[self.slot].known = self.frames - self.base

    def distrust(self) -> None:
        """Something failed in this slot: its next conversation uses nothing of what its caches hold."""
        self._voice.distrust()
        self.columns.due.clear()
        self.stepper.blocks.trim(self.slot, 0)

    @property
    def due(self) -> int:
        """How many columns have to run before the next step: of a voice, of a rebuilt context, or of the caller."""
        return len(self.columns.due)

    def run_due(self, most: int | None = None) -> None:
        """Runs columns that are due in one pass, at most so many of them."""
        if (voice := self._voice.overtake()) is not None:
            self.columns.skip(voice.prefix.frames)
            self.playback.restore(voice.codec_state)
        count = self.due if most is None else min(most, self.due)
        if not count:
            return
        self.columns.run(count)
        if (prefix := self._voice.just_run) is not None:
            self._voice.finish(self.playback.hear_clips(prefix.codes))

    @property
    def step(self) -> int:
        """The next step, behind the columns that are due."""
        return self.base + self.columns.next

    @property
    def guided(self) -> bool:
        """Whether the conversation's steps take two rows, one of them without text."""
        return self.stepper.slots[self.slot].settings.guided

    @property
    def lead_in_left(self) -> int:
        """Steps of the backbone alone before the next whole step."""
        slot = self.stepper.slots[self.slot]
        return max(0, self._shortest_delay + slot.known - slot.column - len(self.columns.due) - 1)

    def guess(self, most: int, steps: int, closed: bool) -> Tree | None:
        """What the next steps of a lead-in probably run, at most so many; None where a few steps are all.

        most: columns of the tree. closed: as in `TextMachine.may_step`. No column is due.
        """
        slot = self.stepper.slots[self.slot]
        # Columns whose codes are known, and behind which only codebook 0 may have to be drawn.
        known = slot.known + min(self.stepper.delays) - slot.column
        depth = min(steps, known, self.lead_in_left, self.room)
        if depth < LEAST_DEPTH:
            return None
        uniforms = self.stepper.action_uniforms(self.slot, depth)
        guess = Guess(self.machine, self.state, self.step, slot.text, uniforms, closed)
        tree = guess.tree(min(most, self.room))
        if tree.depth < LEAST_DEPTH:
            return None
        # Now, because another conversation of the same pass may want the same block. The next columns will need it.
        self.stepper.blocks.hold(self.slot, slot.column + len(tree))
        return tree

    @property
    def draws_codes(self) -> bool:
        """Whether the next step runs the depformer. In a lead-in it does not: the codes of its columns are known."""
        return self.lead_in_left == 0

    @property
    def reach(self) -> int:
        """How many columns this context can have now: fewer than `columns.limit` where the cache's blocks run out."""
        return self.columns.reach

    @property
    def room(self) -> int:
        """Steps until the context is full, or finds no further block of the cache."""
        return self.reach - self.columns.next

    @property
    def columns_to_rebuild(self) -> int:
        """How many columns the next step runs first, because the context is full: at most; 0 if it has room."""
        return self._voice.frames + self._most_history() if self.room <= 0 else 0

    def prepare(self) -> None:
        """Before a step: rebuilds a context without room, and runs all columns that are due."""
        if self.columns.is_ready:
            return
        if self.room <= 0:
            self.rollover()
        # Now, because another conversation of the same step may want the same block.
        self.columns.hold()
        self.run_due()

    def advance(self, action: int) -> TextColumn:
        """Processes the action of this step. Returns the text of the next column."""
        self.history.add(self.stepper.slots[self.slot].text, self.state.mark())
        return self.machine.process(self.state, self.step, action)

    @property
    def completed(self) -> int | None:
        """After a step: the number of the frame that it completed, or None in the lead-in."""
        frame = self.step - self.lead_in
        return frame if frame >= self.frames else None

    def next_frame(self) -> int | None:
        """After a step: takes the frame that it completed, if it did, and returns its number. `decode` it next."""
        frame = self.completed
        if frame is None:
            return None
        column = frame - self.base
        self.history.keep(frame, self.stepper.frames(self.slot, column, column + 1))
        self.frames = frame + 1
        return frame

    def oldest_step(self) -> int:
        """The earliest step that `rewind` can go back to."""
        return self.step - len(self.history)

    def mark_at(self, step: int) -> Mark:
        """Where the text machine stood before a step that was run."""
        return self.history.back(self.step - step).mark

    def rewind(self, step: int, known: int) -> None:
        """Goes on at `step`, with its text; frames before `known` stay. The machine's state is the caller's to set."""
        if step < self.step:
            text = self.history.back(self.step - step).text
            self.history.drop(self.step - step)
            if known < self.frames:
                self._rewind_playback(known)
                self.frames = known
            rebuilt = self.base > 0 or self._voice.changed
            if rebuilt and step - self.base < self._voice.frames + 1:
                self._rebuild(step, text, None)
            else:
                self.columns.drop(self.columns.next - (step - self.base))
                self.stepper.slots[self.slot].text = text
        self.stepper.slots[self.slot].known = known - self.base

    def go_back(self, step: int) -> None:
        """Goes on at `step`, with the text machine as it stood there; all frames stay."""
        if step < self.step:
            mark = self.mark_at(step)
            self.rewind(step, self.frames)
            self.state.restore(mark)

    def cut(self, step: int, heard: int, since: int | None = None) -> None:
        """Goes on at `step` as if nothing had been said from there on: its column has no text.

        heard: frames before it were played, `step` or more. The codec goes on behind them, so that the sound does not
        jump. since: the columns from this step on have no text either; they are due. The machine's state is the
        caller's to set.
        """
        if step < self.frames:
            self._rewind_playback(heard)
            self.playback.cut(step, heard)
        self.rewind(step, step)
        self.stepper.slots[self.slot].text = blank = (self.machine.pad, self.machine.pad)
        # The first column behind a voice, and the first of all, reads what stood before it.
        count = 0 if since is None else min(step - since, self.columns.next - self._voice.frames - 1)
        if count > 0:
            self.history.retell(count, blank)
            self.columns.drop(count)
            self.columns.due.extend([blank] * count)

    def extend(self, texts: Sequence[TextColumn], marks: Sequence[Mark], codes: Tensor) -> None:
        """Goes on with frames that somebody else made, from `frames` on. They are not played; their columns are due.

        texts: of the column after each. marks: of the text machine before each. codes: int64 [C, n].
        """
        slot, begun, count = self.stepper.slots[self.slot], self.frames, codes.shape[1]
        columns = [slot.text, *texts]
        self.history.keep(begun, codes)
        delay_frames(
            codes.to(self.stepper.device), self.stepper.delays, self.stepper.codes[self.slot], self.columns.next
        )
        self.columns.due.extend(columns[:-1])
        self.history.extend(columns, marks)
        self.playback.skip(range(begun, begun + count))
        self.stepper.blocks.hold(self.slot, self.columns.next)
        self.frames = begun + count
        slot.text, slot.known = columns[-1], self.frames - self.base

    def be_silent(self, codes: Sequence[int], frames: int) -> None:
        """Goes on with so many silent frames that nobody hears, and no text. codes: of such a frame, [C]."""
        blank, mark = (self.machine.pad, self.machine.pad), self.machine.start().mark()
        self.extend([blank] * frames, [mark] * frames, torch.tensor(codes)[:, None].expand(-1, frames))

    def rollover(self) -> None:
        """Rebuilds the context from the prefix and the last seconds of the conversation; forgets what was before."""
        self._refuse_in_draft("a full context")
        slot, column = self.stepper.slots[self.slot], self.columns.next
        # The archive has complete frames alone, so the codes of the last columns are taken from the stepper.
        first = max(0, column + 1 - self.lead_in)
        ahead = self.stepper.codes[self.slot, :, first : column + 1].clone()
        known = slot.known + self.base
        self._rebuild(self.step, slot.text, ahead)
        self.stepper.slots[self.slot].known = known - self.base
        self.rollovers += 1

    def adopt(self, other: "Context", ran: Sequence[TextColumn], heard: Sequence[Tensor], frame: int) -> None:
        """Takes over the conversation of another context, which has no model (`replay.py`) and is not used afterwards.

        ran: the text of the columns that the other's cache would hold; they become due here. heard: the codes of the
        frames that its codec would have heard, each int64 [C, 1]. frame: the one that is to be decoded next; the codec
        hears those before it again.
        """
        stepper, theirs = self.stepper, other.stepper.slots[other.slot]
        stepper.begin(self.slot, theirs.settings, other.seed)
        stepper.rebase(self.slot, other.seed, other.base)
        stepper.codes[self.slot].copy_(other.stepper.codes[other.slot])
        stepper.slots[self.slot].text, stepper.slots[self.slot].known = theirs.text, theirs.known
        self.history.copy(other.history)
        self.state = other.state
        self.seed, self.base, self.frames, self.first_frame = other.seed, other.base, other.frames, other.first_frame
        self.columns.due = deque([*ran, *other.columns.due])
        self.columns.fit()
        self._voice.adopt(other._voice, self.playback.hear_clips)
        self.playback.adopt(other.playback, heard, frame, self.frames, self._voice.frames)

    def copy(self, other: "Context") -> None:
        """Becomes a copy of another context of the same stepper, between two steps: it goes on exactly as that one.

        The text machine's queue is not copied, because its words belong to a conversation. Raises RuntimeError, and
        then nothing was copied, if the cache has no room for so many columns.
        """
        self.distrust()  # what is here is lost, whatever happens
        self.stepper.copy(other.slot, self.slot)
        self.history.copy(other.history)
        self.playback.copy(other.playback)
        self._voice.copy(other._voice)
        self.columns.due, self.state = other.columns.due.copy(), replace(other.state, queue=deque(), taken=[])
        self.seed, self.base, self.frames, self.first_frame = other.seed, other.base, other.frames, other.first_frame
        self.columns.fit()

    def _rebuild(self, step: int, text: TextColumn, ahead: Tensor | None) -> None:
        """Fills the model's context with the prefix and the steps before `step`, and stands at `step`.

        ahead: the codes of the last columns up to `step`, [C, at most lead_in], if not all their frames are complete.
        """
        self._refuse_in_draft("a context that is rebuilt")
        self.columns.due.clear()
        clips, prefix, start = self._voice.prefix, self._voice.frames, self._history_start(step)
        self.base = start - prefix
        self.stepper.rebase(self.slot, self.seed, self.base)
        codes, length = self.stepper.codes[self.slot], prefix + step - start
        delay_frames(self.history.frames(start, min(step, self.frames)), self.stepper.delays, codes, start=prefix)
        if clips is not None:
            delay_frames(clips.codes, self.stepper.delays, codes)
        if ahead is not None:
            codes[:, length + 1 - ahead.shape[1] : length + 1] = ahead
        *opening, first = self._voice.texts
        if self._voice.paste():
            opening = []
        # The history may begin inside a word whose first tokens are left out. Its first column therefore reads the text
        # that opens a conversation.
        history = self.history.last(step - start)
        self.columns.due.extend([*opening, *([first] if history else []), *history[1:]])
        self.stepper.slots[self.slot].text = text
        self.columns.fit()

    def _history_start(self, step: int) -> int:
        """The first step of the history in a context that is rebuilt at `step`: where a word begins, if one is near."""
        most = self._most_history()
        earliest = max(step - most, self.first_frame, step - len(self.history))
        latest = min(step - most // 2, self.frames)
        steps_ago = self.history.word_start(step - earliest, step - latest)
        return earliest if steps_ago is None else step - steps_ago

    def _most_history(self) -> int:
        """How many steps of the history a context that is rebuilt begins with, at most."""
        # Where blocks of the cache are short, less history, so that the context has room for longer.
        share = 4 if self.columns.is_short else 2
        # Even in a very short context the history reaches back to the last complete frame, which is one lead-in ago.
        return max(self.lead_in, min(self.history_frames, (self.reach - self._voice.frames) // share))

    def _rewind_playback(self, frame: int) -> None:
        """Puts the codec where it was before `frame`."""
        if not self.playback.remembers(frame):
            self._refuse_in_draft("a codec that goes back so far")
        voice = self._voice.now
        opening = None if self._voice.changed else Opening(self.first_frame, voice.codec_state if voice else None)
        self.playback.go_back(frame, max(0, self.frames - ARCHIVE_FRAMES), opening)
