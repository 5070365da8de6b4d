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
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from itertools import islice

import torch
from torch import Tensor

from dia2.codec.frames import SlotCodec, Sound
from dia2.model.delays import delay_frames
from dia2.model.sampling import SlotSettings
from dia2.steps.aside import AsideRoom, DraftRefused
from dia2.steps.speculation import LEAST_DEPTH, Guess, Tree
from dia2.steps.stepper import Stepper, TextColumn
from dia2.steps.voice_cache import Kept, RunVoice, VoiceCache
from dia2.text.machine import Mark, TextMachine, TextState
from dia2.voice.voice import Prefix

ARCHIVE_FRAMES = 7500  # ten minutes: how far back a rewind can go

# A codec that starts from silence in the middle has to hear so many frames before it sounds the same.
_CODEC_WARM_UP = 250


class Context:
    """One slot of a stepper, its text machine, and its slot of the codec, moving together.

    history_frames: how much of the conversation a rebuilt context holds, 30 s by default. voices: those that have been
    run, in whichever slot; without it, a slot knows only its last one. archive: room for its frames (`new_archive`).
    room: for what drafts overwrite, shared by all slots (`draft.py`).

    frames: the conversation's frames before this number are known. decoded: those before it have been decoded.
    base: the step that the slot's column 0 stands for. first_frame: the first one that is spoken, after the voice.
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
        self._voices = VoiceCache(0) if voices is None else voices
        self.machine = TextMachine.of(stepper.config.data)
        self.limit = stepper.config.runtime.max_context_steps
        self.lead_in = max(1, *stepper.delays)  # a step completes one frame, and without delays the first is there
        # The backbone draws codebook 0; the depformer draws the others.
        self._shortest_delay = min(stepper.delays[1:], default=0)
        # Less than a few lead-ins would be no context at all.
        self._history_wanted = max(history_frames, 4 * self.lead_in)
        self._codec = codec
        self.room_aside = AsideRoom() if room is None else room
        self.is_draft = False
        # Complete frames by frame number % ARCHIVE_FRAMES, on the model's device, as small as codes allow.
        self._archive = new_archive(stepper, 1)[0] if archive is None else archive
        self._columns: deque[tuple[TextColumn, Mark]] = deque(maxlen=ARCHIVE_FRAMES)
        self.state: TextState = self.machine.start()
        self.seed = self.base = self.frames = self.first_frame = 0
        self.decoded = 0  # frames before it have been through the codec
        self._due: deque[TextColumn] = deque()  # texts of the columns to run before the next step
        self._voice: RunVoice | None = None
        self._voice_changed = False  # since the conversation began
        self._voice_due: RunVoice | None = None  # a voice whose columns are among those that are due
        self._unplayed: list[range] = []  # frames that were not played and never went through the codec
        # (frame, count): so many frames were decoded before this one and are forgotten, see `cut`.
        self._forgotten: list[tuple[int, int]] = []
        self.rollovers = 0

    def begin(self, settings: SlotSettings, seed: int, prefix: Prefix | None, initial_padding: int) -> None:
        """A new conversation. With a voice, its first frames are the prefix's; none of them is ever played.

        The voice of the slot's last conversation is there already, and one that was run before in any slot is copied.
        The columns of another one are due.
        """
        self._give_back()
        self.stepper.begin(self.slot, settings, seed)
        self.seed, self.base, self.frames, self._voice_changed = seed, 0, 0, False
        self._columns.clear()
        self._unplayed.clear()
        self._forgotten.clear()
        if prefix is None:
            self._voice = None
            self._codec.reset()
        else:
            self._start_voice(prefix, settings.guided)
        self.state = self.machine.start(initial_padding)
        self.first_frame = self.decoded = self.frames
        self.stepper.slots[self.slot].known = self.frames
        self._take_blocks()

    # ---- Drafts: see draft.py ----

    @property
    def codec(self) -> SlotCodec:
        """Its slot of the codec."""
        return self._codec

    @property
    def archive(self) -> Tensor:
        """Its last complete frames, int16 [C, ARCHIVE_FRAMES], by frame number % ARCHIVE_FRAMES."""
        return self._archive

    def draft(self) -> "Context":
        """Another context over the same slot, which knows what this one knows. Only one of the two may be used."""
        draft = copy(self)
        draft.state, draft.is_draft = self.state.copy(), True
        draft._columns, draft._due = self._columns.copy(), self._due.copy()
        draft._unplayed, draft._forgotten = self._unplayed.copy(), self._forgotten.copy()
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
        self._codec.reset()

    def _give_back(self) -> None:
        if self._due or self._voice_due is not None:
            self.distrust()  # a pass was given up half-way
        self.stepper.blocks.trim(self.slot, self._prefix_frames)

    @property
    def voice(self) -> Prefix | None:
        """The clips that the context begins with."""
        return self._voice.prefix if self._voice else None

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
        if self._voice_due is not None:
            self.run_due()  # the codec has to hear the first voice
        kept = self._voices.find(prefix, slot.settings.guided)
        self._voice, self._voice_changed = kept.voice if kept else self._plan_voice(prefix, slot.settings.guided), True
        self._rebuild(self.step, slot.text, None)
        self.stepper.slots[self.slot].known = self.frames - self.base

    def distrust(self) -> None:
        """Something failed in this slot: its next conversation uses nothing of what its caches hold."""
        self._voice = self._voice_due = None
        self._due.clear()
        self.stepper.blocks.trim(self.slot, 0)

    @property
    def due(self) -> int:
        """How many columns have to run before the next step: of a voice, of a rebuilt context, or of the caller."""
        return len(self._due)

    def run_due(self, most: int | None = None) -> None:
        """Runs columns that are due in one pass, at most so many of them."""
        self._adopt_voice()
        count = len(self._due) if most is None else min(most, len(self._due))
        if not count:
            return
        slot = self.stepper.slots[self.slot]
        text = slot.text  # of the column behind all that are due
        self.stepper.prefill(self.slot, [self._due.popleft() for _ in range(count)])
        slot.text = text
        if self._voice_due is not None and slot.column >= self._voice_due.prefix.frames:
            voice, self._voice_due = self._voice_due, None
            self._finish_voice(voice)

    @property
    def step(self) -> int:
        """The next step, behind the columns that are due."""
        return self.base + self._column

    @property
    def guided(self) -> bool:
        """Whether the conversation's steps take two rows, one of them without text."""
        return self.stepper.slots[self.slot].settings.guided

    @property
    def lead_in_left(self) -> int:
        """Steps of the backbone alone before the next whole step."""
        return max(0, self._shortest_delay - (self._column + 1 - self.stepper.slots[self.slot].known))

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
    def _column(self) -> int:
        """The column of the next step."""
        return self.stepper.slots[self.slot].column + len(self._due)

    @property
    def draws_codes(self) -> bool:
        """Whether the next step runs the depformer. In a lead-in it does not: the codes of its columns are known."""
        return self.lead_in_left == 0

    @property
    def reach(self) -> int:
        """How many columns this context can have now: fewer than `limit` where the cache's blocks run out."""
        return min(self.limit, self.stepper.blocks.reach(self.slot))

    @property
    def room(self) -> int:
        """Steps until the context is full, or finds no further block of the cache."""
        return self.reach - self._column

    def prepare(self) -> None:
        """Before a step: rebuilds a context without room, and runs all columns that are due."""
        if self.room <= 0:
            self.rollover()
        # Now, because another conversation of the same step may want the same block.
        self.stepper.blocks.hold(self.slot, self._column + 1)
        self.run_due()

    def advance(self, action: int) -> TextColumn:
        """Processes the action of this step. Returns the text of the next column."""
        self._columns.append((self.stepper.slots[self.slot].text, self.state.mark()))
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
        codes = self.stepper.frames(self.slot, column, column + 1)
        self._archive[:, frame % ARCHIVE_FRAMES] = codes[:, 0]
        self.frames = frame + 1
        return frame

    def decode(self, frame: int) -> Sound:
        """The sound of a frame; frames are decoded in order."""
        self.decoded = frame + 1
        return self._codec.submit(self._archived(frame, frame + 1))

    def oldest_step(self) -> int:
        """The earliest step that `rewind` can go back to."""
        return self.step - len(self._columns)

    def mark_at(self, step: int) -> Mark:
        """Where the text machine stood before a step that was run."""
        return self._columns[step - self.oldest_step()][1]

    def rewind(self, step: int, known: int) -> None:
        """Goes on at `step`, with its text; frames before `known` stay. The machine's state is the caller's to set."""
        if step < self.step:
            text = self._columns[step - self.oldest_step()][0]
            for _ in range(self.step - step):
                self._columns.pop()
            if known < self.frames:
                self._rewind_codec(known)
                self.frames = known
            rebuilt = self.base > 0 or self._voice_changed
            if rebuilt and step - self.base < self._prefix_frames + 1:
                self._rebuild(step, text, None)
            else:
                self._drop_columns(self._column - (step - self.base))
                self.stepper.slots[self.slot].text = text
        self.stepper.slots[self.slot].known = known - self.base

    def go_back(self, step: int) -> None:
        """Goes on at `step`, with the text machine as it stood there; all frames stay."""
        if step < self.step:
            mark = self.mark_at(step)
            self.rewind(step, self.frames)
            self.state.restore(mark)

    def cut(self, step: int, heard: int) -> None:
        """Goes on at `step` as if nothing had been said from there on: its column has no text.

        heard: frames before it were played, `step` or more. The codec goes on behind them, so that the sound does not
        jump. The machine's state is the caller's to set.
        """
        if step < self.frames:
            self._rewind_codec(heard)
            count = self._decoded_between(step, heard)
            self._forgotten = [*(cut for cut in self._forgotten if cut[0] <= step), (step, count)]
            self.decoded = step
        self.rewind(step, step)
        self.stepper.slots[self.slot].text = (self.machine.pad, self.machine.pad)

    def extend(self, texts: Sequence[TextColumn], marks: Sequence[Mark], codes: Tensor) -> None:
        """Goes on with frames that somebody else made, from `frames` on. They are not played; their columns are due.

        texts: of the column after each. marks: of the text machine before each. codes: int64 [C, n].
        """
        slot, begun, count = self.stepper.slots[self.slot], self.frames, codes.shape[1]
        columns = [slot.text, *texts]
        self._archive[:, torch.arange(begun, begun + count) % ARCHIVE_FRAMES] = codes.to(self._archive)
        delay_frames(codes.to(self.stepper.device), self.stepper.delays, self.stepper.codes[self.slot], self._column)
        self._due.extend(columns[:-1])
        self._columns.extend(zip(columns, marks, strict=False))
        self._unplayed.append(range(begun, begun + count))
        self.stepper.blocks.hold(self.slot, self._column)
        self.frames = self.decoded = begun + count
        slot.text, slot.known = columns[-1], self.frames - self.base

    def rollover(self) -> None:
        """Rebuilds the context from the prefix and the last seconds of the conversation; forgets what was before."""
        self._refuse_in_draft("a full context")
        slot, column = self.stepper.slots[self.slot], self._column
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
        self._archive.copy_(other._archive)
        self._columns, self.state, self._unplayed = other._columns, other.state, other._unplayed
        self.seed, self.base, self.frames, self.first_frame = other.seed, other.base, other.frames, other.first_frame
        self.decoded, self._voice_due, self._voice_changed = frame, None, other._voice_changed
        self._forgotten = other._forgotten
        self._due = deque([*ran, *other._due])
        self._take_blocks()
        self._voice = self._adopted_voice(other)
        later = sum(stop - start for start, stop in self._played(frame, self.frames))
        before = heard[: len(heard) - later][-(_CODEC_WARM_UP + self._prefix_frames) :]
        self._codec.reset()
        if before:
            self._codec.hear(torch.cat([*before], dim=1).to(stepper.device))

    def copy(self, other: "Context") -> None:
        """Becomes a copy of another context of the same stepper, between two steps: it goes on exactly as that one.

        The text machine's queue is not copied, because its words belong to a conversation. Raises RuntimeError, and
        then nothing was copied, if the cache has no room for so many columns.
        """
        self.distrust()  # what is here is lost, whatever happens
        self.stepper.copy(other.slot, self.slot)
        self._codec.copy(other._codec)
        self._archive.copy_(other._archive)
        self._columns, self._due = other._columns.copy(), other._due.copy()
        self.state = replace(other.state, queue=deque(), taken=[])
        self.seed, self.base, self.frames, self.first_frame = other.seed, other.base, other.frames, other.first_frame
        self.decoded, self._voice_changed = other.decoded, other._voice_changed
        self._voice, self._voice_due = other._voice, other._voice_due
        self._unplayed, self._forgotten = other._unplayed.copy(), other._forgotten.copy()
        self._take_blocks()

    def sounds_from(self, frame: int) -> Iterator[tuple[int, Sound]]:
        """Decodes once more the frames that were played from `frame` on, each with its number; see `adopt`."""
        for begun, stop in self._played(frame, self.frames):
            for number in range(begun, stop):
                yield number, self.decode(number)
        self.decoded = self.frames

    def _adopted_voice(self, other: "Context") -> RunVoice | None:
        """The other's voice, with the codec's state behind it."""
        voice = other._voice or other._voice_due
        if voice is None:
            return None
        kept = self._voices.find(voice.prefix, voice.guided)
        if kept is not None:
            return kept.voice
        self._codec.reset()
        self._codec.hear(voice.prefix.codes.to(self.stepper.device))
        return replace(voice, codec_state=self._codec.saved())

    @property
    def _prefix_frames(self) -> int:
        return self._voice.prefix.frames if self._voice else 0

    def _start_voice(self, prefix: Prefix, guided: bool) -> None:
        """Goes to where the clips end, as if the model had spoken them. Their words are no text of the conversation."""
        frames, slot = prefix.frames, self.stepper.slots[self.slot]
        delay_frames(prefix.codes, self.stepper.delays, self.stepper.codes[self.slot])
        there = self._voice  # one that conversations were changed to may never have been heard
        if there is None or there.prefix is not prefix or there.guided != guided or there.codec_state is None:
            self._voice = None  # if the next lines fail, the columns of the new voice are not there
            kept = self._voices.find(prefix, guided)
            if kept:
                self.stepper.cache.paste(self.slot, kept.columns)
            self._voice = there = kept.voice if kept else self._plan_voice(prefix, guided)
            if not kept:
                self._due.extend(there.texts[:-1])
                self._voice_due = there
        voice = there
        slot.column, slot.text = frames - len(self._due), voice.texts[-1]
        self._archive[:, torch.arange(frames) % ARCHIVE_FRAMES] = prefix.codes.to(self._archive)
        self._columns.extend((text, mark) for text, mark in zip(voice.texts, voice.marks, strict=False))
        self._hear_voice(voice)
        self.frames = frames

    def _plan_voice(self, prefix: Prefix, guided: bool) -> RunVoice:
        """The clips' columns, which are to be run: words are taken where they are said, and the codes are known."""
        state, starts = self.machine.start(), set(prefix.new_word_steps)
        state.append(prefix.entries)
        texts, marks = [self.stepper.opening], []
        for step in range(prefix.frames):
            marks.append(state.mark())
            texts.append(self.machine.process(state, step, int(step in starts), forced=True))
        return RunVoice(prefix, guided, texts, marks, None)

    def _adopt_voice(self) -> None:
        """Copies a voice whose columns are due, where another slot has run it in the meantime."""
        slot, voice = self.stepper.slots[self.slot], self._voice_due
        kept = self._voices.find(voice.prefix, voice.guided) if voice and not slot.column else None
        if kept is not None:
            self._voice, self._voice_due = kept.voice, None
            for _ in range(kept.voice.prefix.frames):
                self._due.popleft()
            self.stepper.cache.paste(self.slot, kept.columns)
            slot.column = kept.voice.prefix.frames
            self._hear_voice(kept.voice)

    def _hear_voice(self, voice: RunVoice) -> None:
        """Puts the codec where the clips end. While their columns are due that is still to come."""
        if voice.codec_state is None:
            self._codec.reset()
        else:
            self._codec.restore(voice.codec_state)

    def _finish_voice(self, voice: RunVoice) -> None:
        """The voice's columns have been run: hears its sound, and keeps the voice."""
        # A codec that started from silence where the clip ends would click.
        self._codec.reset()
        self._codec.hear(voice.prefix.codes.to(self.stepper.device))
        self._voice = voice = replace(voice, codec_state=self._codec.saved())
        self._keep(voice)

    def _keep(self, voice: RunVoice) -> None:
        """Keeps the voice that has just been run in this slot, where there is room."""
        if self._voices.most_bytes:
            try:
                columns = self.stepper.cache.copied(self.slot, 2 if voice.guided else 1, voice.prefix.frames)
                self._voices.keep(Kept(voice, columns))
            except torch.OutOfMemoryError:
                self._voices.clear()

    def _rebuild(self, step: int, text: TextColumn, ahead: Tensor | None) -> None:
        """Fills the model's context with the prefix and the steps before `step`, and stands at `step`.

        ahead: the codes of the last columns up to `step`, [C, at most lead_in], if not all their frames are complete.
        """
        self._refuse_in_draft("a context that is rebuilt")
        self._due.clear()
        prefix, start = self._prefix_frames, self._history_start(step)
        self.base = start - prefix
        self.stepper.rebase(self.slot, self.seed, self.base)
        codes, length = self.stepper.codes[self.slot], prefix + step - start
        delay_frames(self._archived(start, min(step, self.frames)), self.stepper.delays, codes, start=prefix)
        if self._voice:
            delay_frames(self._voice.prefix.codes, self.stepper.delays, codes)
        if ahead is not None:
            codes[:, length + 1 - ahead.shape[1] : length + 1] = ahead
        *opening, first = self._voice.texts if self._voice else [self.stepper.opening]
        if self._paste_voice():
            opening = []
        # The history may begin inside a word whose first tokens are left out. Its first column therefore reads the text
        # that opens a conversation.
        history = [column[0] for column in islice(self._columns, start - self.step_of_oldest(step), None)]
        self._due.extend([*opening, *([first] if history else []), *history[1:]])
        self.stepper.slots[self.slot].text = text
        self._take_blocks()

    def _take_blocks(self) -> None:
        """Takes the cache's blocks for all columns up to that of the next step, and gives back those behind it."""
        self.stepper.blocks.trim(self.slot, self._column + 1)
        self.stepper.blocks.hold(self.slot, self._column + 1)

    def _drop_columns(self, count: int) -> None:
        """Goes back by so many columns: first those that are due, then those that were run."""
        dropped = min(count, len(self._due))
        for _ in range(dropped):
            self._due.pop()
        self.stepper.slots[self.slot].column -= count - dropped

    def _paste_voice(self) -> bool:
        """Copies the voice's columns into the slot, which then stands behind them, if they are kept."""
        kept = self._voices.find(self._voice.prefix, self._voice.guided) if self._voice else None
        if kept is None:
            return False
        self.stepper.cache.paste(self.slot, kept.columns)
        self.stepper.slots[self.slot].column = self._prefix_frames
        return True

    def step_of_oldest(self, step: int) -> int:
        """The step of the oldest column kept, when the newest is that of `step` - 1."""
        return step - len(self._columns)

    def _history_start(self, step: int) -> int:
        """The first step of the history in a context that is rebuilt at `step`: where a word begins, if one is near."""
        # Where blocks of the cache are short, less history, so that the context has room for longer.
        share = 2 if self.reach == self.limit else 4
        # Even in a very short context the history reaches back to the last complete frame, which is one lead-in ago.
        most = max(self.lead_in, min(self._history_wanted, (self.reach - self._prefix_frames) // share))
        oldest = self.step_of_oldest(step)
        earliest = max(step - most, self.first_frame, oldest)
        columns = list(self._columns)
        for start in range(earliest, min(step - most // 2, self.frames)):
            if not columns[start - oldest][1].pending and not columns[start - oldest][1].lookahead:
                return start
        return earliest

    def _archived(self, start: int, stop: int) -> Tensor:
        """Complete frames start..stop - 1, int64 [C, stop - start]."""
        first, count = start % ARCHIVE_FRAMES, stop - start
        if first + count <= ARCHIVE_FRAMES:
            return self._archive[:, first : first + count].long()
        where = torch.arange(start, stop, device=self._archive.device) % ARCHIVE_FRAMES
        return self._archive[:, where].long()

    def _played(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """The frames start..stop - 1 that were played, as pairs of start and stop."""
        for gap in self._unplayed:
            if start < gap.start < stop:
                yield start, gap.start
            if gap.start < stop:
                start = max(start, gap.stop)
        if start < stop:
            yield start, stop

    def _rewind_codec(self, frame: int) -> None:
        """Puts the codec where it was before `frame`."""
        back = self._decoded_between(frame, self.decoded)
        if back <= self._codec.most_back:
            self._codec.go_back(back)
        else:
            self._hear_again(frame)
        self._unplayed = [gap for gap in self._unplayed if gap.start < frame]
        self._forgotten = [cut for cut in self._forgotten if cut[0] <= frame]
        self.decoded = min(self.decoded, frame)

    def _decoded_between(self, start: int, stop: int) -> int:
        """How many frames went through the codec from where `start` begins up to where `stop` begins."""
        played = sum(stop - start for start, stop in self._played(start, stop))
        return played + sum(count for frame, count in self._forgotten if start < frame <= stop)

    def _hear_again(self, frame: int) -> None:
        """Has the codec hear what was played before `frame`, from the voice on if that is near, else enough of it."""
        self._refuse_in_draft("a codec that goes back so far")
        if self._voice and not self._voice_changed and frame - self.first_frame <= _CODEC_WARM_UP:
            self._hear_voice(self._voice)
            start = self.first_frame
        else:
            self._codec.reset()
            unplayed = sum(len(gap) for gap in self._unplayed if gap.start < frame)
            start = max(0, frame - _CODEC_WARM_UP - unplayed, self.frames - ARCHIVE_FRAMES)
        for begun, stop in self._played(start, frame):
            self._codec.hear(self._archived(begun, stop))


def new_archive(stepper: Stepper, slots: int) -> Tensor:
    """Room for the last complete frames of each slot, int16 [slots, C, ARCHIVE_FRAMES] on the model's device."""
    return torch.zeros(slots, len(stepper.delays), ARCHIVE_FRAMES, dtype=torch.int16, device=stepper.device)
