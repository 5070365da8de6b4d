"""Utterances -> training sequences: calls as a conversation runs them, column by column.

A call is made of *runs*: text that is queued while the machine takes it, without it ever running dry. Between runs the
text either ended (the machine marked its end, a few frames went by, and new text came) or was interrupted. Words are
taken where they sound, within what the text machine allows; `check_lm.py` holds every column to dia2's TextMachine.

Step s and frame s are the same moment: a word taken at step s shows in the text of column s + 1 and sounds from frame s
on, which stands in the audio of column s + delay.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np

FRAME_RATE = 12.5
MAX_PADDING = 6  # steps that the machine lets a hold last; and frames of sound after the text's end
AHEAD = 2  # words that the second stream looks ahead
PREFIX_OFFSET = 3  # what dia2.voice.voice adds to the steps of speaker 1's words
NO_ACTION = -100  # the machine forces the outcome, or it is unknown when text comes


class Word(NamedTuple):
    """Tokens without tag; start and end in seconds into the utterance. others: the same word in other tokens."""

    tokens: list[int]
    start: float
    end: float
    others: Sequence[list[int]] = ()


class Utterance(NamedTuple):
    """What somebody says: codes uint16 [8, frames]. speaker: 0 and 1 are [S1] and [S2], from 2 on guests.

    is_heard: the codes are those that the product's encoder gives.
    """

    speaker: int
    codes: np.ndarray
    words: list[Word]
    is_heard: bool = False


class Voice(NamedTuple):
    """What somebody says, and what clips of them and their calls sound like to the product."""

    said: list[Utterance]
    heard: list[Utterance]

    def add(self, utterance: Utterance) -> None:
        """One more."""
        (self.heard if utterance.is_heard else self.said).append(utterance)

    @property
    def clips(self) -> list[Utterance]:
        """What the model may hear of them."""
        return self.heard or self.said


@dataclass(frozen=True)
class Ids:
    """Special ids, and what a grid looks like."""

    tags: tuple[int, int]
    bos: int = 1
    new_word: int = 2
    pad: int = 3
    zero: int = 7
    audio_bos: int = 512
    delays: tuple[int, ...] = (8, *[10] * 7)


@dataclass(frozen=True)
class Mix:
    """How often things happen."""

    untexted: float = 0.12  # sequences without text, for guidance
    prefixed: float = 0.15
    guests: float = 0.2  # calls in which a speaker has another voice than their own
    swapped: float = 0.15  # of those voices, the other speaker's
    heard: float = 0.25  # calls with a caller, whom the model hears and does not speak
    answered: float = 0.5  # runs in those calls that the caller speaks before
    split: float = 0.1  # words in other tokens than the tokenizer's, so that pieces of words are learnt too
    joined: float = 0.5  # turns that follow in the same run
    barged: float = 0.25  # runs that are interrupted
    broken: float = 0.07  # utterances after a break
    other: float = 0.75  # turns of the other speaker than the last


class Event(NamedTuple):
    """For checks, at `step`: "text" comes, entries (tokens, padding); a "clip" with its entries begins, whose words are
    taken when they are taken; the machine is "fresh"; or the column has become "blank".
    """

    kind: str
    step: int
    entries: list[tuple[list[int], int]]


class Placed(NamedTuple):
    """An entry (a break has no tokens), the step that takes it, and the first that may take the next."""

    tokens: list[int]
    step: int
    free: int

    @property
    def padding(self) -> int:
        """As dia2.text.script.Entry has it: a break's own step counts, a word's does not."""
        return self.free - self.step - bool(self.tokens)


@dataclass
class Run:
    """Entries so far; where the last utterance's sound ends; the step where its last word has ended."""

    entries: list[Placed]
    sound: int
    ends: int
    must: int = 0  # the machine forces whatever comes next at this step, if it can

    @property
    def free(self) -> int:
        """The first step that may take another entry."""
        return self.entries[-1].free

    @property
    def marker(self) -> int:
        """The step that finds no more text: where the last word has ended, a next one would come."""
        return self.fit(self.ends)

    def fit(self, step: int) -> int:
        """The nearest step at which the machine takes what should come at `step`."""
        return max(self.free, min(step, self.must))

    def said_at(self, frame: int) -> Placed | None:
        """The word that sounds in a frame."""
        ends = [*(entry.step for entry in self.entries[1:]), self.ends + 1]
        found = (entry for entry, end in zip(self.entries, ends, strict=True) if entry.step < frame <= end)
        return next((entry for entry in found if entry.tokens), None)

    def place(self, words: list[Word], at: int, tag: list[int]) -> None:
        """An utterance that sounds from frame `at` on."""
        for tokens, start, *_ in words:
            if tag:
                tokens, tag = tag + tokens, []
            step = at + max(0, round(start * FRAME_RATE) - 1)
            step = self.fit(step) if self.entries else at
            self.entries.append(Placed(tokens, step, step + len(tokens) + 1))
            self.must = step + MAX_PADDING + 1
        self.ends = at + round(words[-1].end * FRAME_RATE) - 1

    def rest(self, frames: int) -> int:
        """A break. Returns the frame where speech goes on."""
        step = self.fit(self.ends)
        self.entries.append(Placed([], step, step + frames))
        return step + frames


@dataclass
class Call:
    """A sequence in the making. Lists may grow beyond the sequence: the surplus is cut off."""

    main: list[int]
    second: list[int]
    actions: list[int]
    frames: np.ndarray  # uint16 [8, T]
    quiet: np.ndarray  # the same, nobody speaking
    cast: list[Voice]  # of each of the two speakers
    caller: int = -1  # the speaker whom the model hears; nobody
    shown: list[int] = field(default_factory=list)  # tokens that the second stream still has to show
    events: list[Event] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)  # steps whose action is new_word
    speaker: int = -1  # who spoke last; nobody yet
    answers: bool = False  # what comes next is said to the caller, and says whose word it is


class Composer:
    """Draws sequences of `length` columns."""

    def __init__(
        self,
        utterances: Sequence[Utterance],
        silence: np.ndarray,
        ids: Ids,
        length: int = 750,
        seed: int = 0,
        mix: Mix = Mix(),
    ) -> None:
        self.of = [Voice([], []), Voice([], [])]
        self.guests: list[Voice] = []
        self.add(utterances)
        if not all(voice.said for voice in self.of):
            raise ValueError("both speakers must have utterances")
        self.silence, self.ids, self.length, self.mix = silence, ids, length, mix
        self.dice = random.Random(seed)

    def add(self, utterances: Iterable[Utterance]) -> None:
        """More to draw from; all of a guest's at once."""
        visiting: dict[int, Voice] = {}
        for utterance in utterances:
            who = utterance.speaker
            (visiting.setdefault(who, Voice([], [])) if who > 1 else self.of[who]).add(utterance)
        # A clip, and something else that is said in its voice.
        self.guests += [voice for voice in visiting.values() if len(voice.said) > 1]

    def compose(self) -> tuple[np.ndarray, np.ndarray]:
        """Columns int16 [length + 1, 10] and actions int8 [length] (NO_ACTION: none to learn)."""
        return self.columns(self.call())

    def columns(self, call: Call) -> tuple[np.ndarray, np.ndarray]:
        """A call as arrays; sometimes without its text."""
        ids, size = self.ids, self.length + 1
        columns = np.full((size, 2 + len(ids.delays)), ids.audio_bos, np.int16)
        actions = np.array(call.actions[: self.length], np.int8)
        if self.dice.random() < self.mix.untexted:
            columns[:, 0], columns[:, 1] = ids.zero, ids.pad
            actions[:] = NO_ACTION
        else:
            columns[:, 0], columns[:, 1] = call.main[:size], call.second[:size]
        for book, delay in enumerate(ids.delays):
            columns[delay:, 2 + book] = call.frames[book, : size - delay]
        return columns, actions

    def call(self) -> Call:
        """A new call."""
        dice, ids, size = self.dice, self.ids, self.length + 1
        begin = dice.randrange(self.silence.shape[1])
        quiet = self.silence.take(np.arange(begin, begin + size), axis=1, mode="wrap")
        call = Call([ids.pad] * size, [ids.pad] * size, [NO_ACTION] * size, quiet.copy(), quiet, list(self.of))
        call.main[0] = ids.bos
        step = self._open(call)
        while step < self.length:
            if call.caller >= 0 and dice.random() < self.mix.answered:
                step = self._hear(call, step)
                continue
            run = self._run(call, step)
            call.events.append(Event("text", step, [(entry.tokens, entry.padding) for entry in run.entries]))
            step = self._interrupt(call, run, step) if dice.random() < self.mix.barged else self._end(call, run)
        return call

    def _open(self, call: Call) -> int:
        """Who is in the call, and the clips that it begins with. Returns the first step of the call itself."""
        dice, mix = self.dice, self.mix
        if dice.random() < mix.heard:
            call.caller = dice.randrange(2)
        guests = {}
        if self.guests and dice.random() < mix.guests:
            who = call.caller if call.caller >= 0 and dice.random() < 0.6 else dice.randrange(2)
            guests[who] = self._another(who)
            if dice.random() < 0.3:
                guests[1 - who] = self._another(1 - who)
        # Nobody knows how a guest sounds before they were heard: from a clip, or as the caller who speaks first.
        clips = max(guests, default=-1) + 1 if set(guests) - {call.caller} else 0
        if dice.random() < mix.prefixed:
            clips = max(clips, dice.randint(1, 2))
        for speaker, voice in guests.items():
            call.cast[speaker] = voice
        step = self._prefix(call, clips) if clips else 0
        if clips and not step:
            call.cast[:] = self.of
        if call.caller in guests and clips <= call.caller and call.cast[call.caller] is not self.of[call.caller]:
            return self._hear(call, step)
        return step

    def _another(self, speaker: int) -> Voice:
        """A voice that is not this speaker's own."""
        return self.of[1 - speaker] if self.dice.random() < self.mix.swapped else self.dice.choice(self.guests)

    def _run(self, call: Call, step: int) -> Run:
        """Turns whose first word is taken at `step`: sound and plan, no text yet."""
        dice, run, at = self.dice, Run([], step, step), step
        while True:
            tag = self._next_speaker(call)
            for _ in range(dice.randint(1, 3)):
                utterance = dice.choice(call.cast[call.speaker].said)
                run.sound = self._sound(call, utterance, at)
                run.place(self._split(utterance.words), at, tag)
                tag = []
                if run.sound >= self.length:
                    return run
                if dice.random() < self.mix.broken:
                    at = run.rest(dice.randint(2, 25))
                else:
                    at = max(run.free, run.sound + dice.randint(2, 5))
            if dice.random() >= self.mix.joined:
                return run

    def _next_speaker(self, call: Call) -> list[int]:
        """Whose turn it is, and what tag its first word has: none only where the speaker stays the same."""
        dice, tags, last = self.dice, self.ids.tags, call.speaker
        if last < 0:
            call.speaker = dice.randrange(2)
            return list(tags[: call.speaker + 1])  # a conversation's line is [S1]'s, whoever speaks first
        call.speaker ^= dice.random() < self.mix.other
        answers, call.answers = call.answers, False
        return [] if not answers and call.speaker == last and dice.random() < 0.5 else [tags[call.speaker]]

    def _split(self, words: list[Word]) -> list[Word]:
        """Some of the words in other tokens, where there is time for more of them."""
        found = []
        for number, word in enumerate(words):
            if word.others and self.dice.random() < self.mix.split:
                until = words[number + 1].start if number + 1 < len(words) else word.end + 1
                tokens = self.dice.choice(word.others)
                if len(tokens) + 1 <= (until - word.start) * FRAME_RATE:
                    word = word._replace(tokens=tokens)
            found.append(word)
        return found

    def _sound(self, call: Call, utterance: Utterance, at: int) -> int:
        """Lets an utterance sound from frame `at` on; what sounded there is gone. Returns its end."""
        end = at + utterance.codes.shape[1]
        call.frames[:, at:] = call.quiet[:, at:]
        call.frames[:, at:end] = utterance.codes[:, : max(0, self.length + 1 - at)]
        return end

    # ---- How runs end ----

    def _end(self, call: Call, run: Run) -> int:
        """The text ends and goes on later. Returns the step of the next run's first word."""
        chance = self.dice.random()
        quiet = self.dice.randint(20, 150) if chance < 0.05 else 0
        # Most often the sound has come to its end, MAX_PADDING frames on; or new text comes in the midst of that.
        after = self.dice.randint(1, MAX_PADDING) if chance > 0.75 else MAX_PADDING + 1
        step = run.marker + after + quiet
        self._write_run(call, run, step)
        call.frames[:, step:] = call.quiet[:, step:]
        return step

    def _interrupt(self, call: Call, run: Run, begun: int) -> int:
        """Somebody interrupts the run. Returns the step of the next run's first word, which comes at once.

        As the product does: a word that was cut is forgotten, all but its first frame, and the column behind has no
        text. Between words, what was heard stays as it is. The machine begins anew.
        """
        heard = self.dice.randrange(begun + 2, max(run.sound, begun + 3))
        cut = run.said_at(heard)
        step = heard if cut is None else cut.step + 1
        self._write_run(call, run, step if cut is None else cut.step)
        self._forget(call, step)
        if cut is not None:
            call.starts.append(cut.step)  # it was taken, and then forgotten
            call.main[step : step + 1] = call.second[step : step + 1] = [self.ids.pad]
            call.events.append(Event("blank", step, []))
        call.actions[step:] = [NO_ACTION] * (len(call.actions) - step)
        call.events.append(Event("fresh", step, []))
        call.frames[:, step:] = call.quiet[:, step:]
        return step

    # ---- Text ----

    def _write_run(self, call: Call, run: Run, stop: int) -> None:
        """A run's text until `stop`, with the marker of its end if that comes before."""
        marker = run.marker
        self._write(call, run.entries, min(marker, stop))
        if marker < stop:
            call.starts.append(marker)
            call.second[marker + 1 : marker + 2] = [self.ids.new_word]
            self._show(call, marker + 2, stop + 1)

    def _write(self, call: Call, entries: list[Placed], stop: int) -> None:
        """The text of the entries taken before `stop`, where the next action (a marker) would be taken.

        Actions are learnt from the first word on: nobody can know when text comes.
        """
        words = [entry.tokens for entry in entries if entry.tokens]
        ahead, must = AHEAD, 0
        for number, entry in enumerate(entries):
            step, tokens, free = entry.step, entry.tokens, entry.free
            if step >= stop:
                break
            following = min(stop, entries[number + 1].step) if number + 1 < len(entries) else stop
            call.starts.append(step)
            if tokens:
                call.main[step + 1 : step + 1 + len(tokens)] = tokens
                call.second[step + 1 : step + 2] = [self.ids.new_word]
                if ahead < len(words):
                    call.shown += words[ahead]
                ahead += 1
                must = step + MAX_PADDING + 1
                self._show(call, step + 2, following + 1)
            else:
                self._show(call, step + 1, following + 1)
            if free < must:
                waits = min(following, must)
                call.actions[free:waits] = [0] * (waits - free)
                if following < must:
                    call.actions[following : following + 1] = [1]

    def _show(self, call: Call, begin: int, end: int) -> None:
        """The second stream shows what it has to in columns begin .. end - 1, where no word begins."""
        if call.shown and end > begin:
            now = call.shown[: end - begin]
            call.second[begin : begin + len(now)] = now
            call.shown = call.shown[end - begin :]

    # ---- What the model does not speak itself ----

    def _prefix(self, call: Call, clips: int) -> int:
        """One clip of each speaker, or of the first alone, laid out as dia2.voice.voice does. Returns its frames."""
        entries, at = list[Placed](), 0
        for speaker in range(clips):
            clip = self.dice.choice(call.cast[speaker].clips)
            entries += self._planned(clip, speaker, at or PREFIX_OFFSET)
            at = self._sound(call, clip, at)
        if late(entries) or at > self.length // 2:  # too long, or the machine would take a word later: no good prefix
            call.frames[:] = call.quiet
            return 0
        self._clip(call, entries, 0, at)
        return at

    def _hear(self, call: Call, step: int) -> int:
        """The caller speaks from frame `step` on, laid out as `listen` does. Returns the step behind."""
        for _ in range(20):
            speech = self.dice.choice(call.cast[call.caller].clips)
            entries = self._planned(speech, call.caller, step)
            if not late(entries):
                break
        else:  # nothing that this voice says fits
            call.cast[call.caller] = self.of[call.caller]
            return step
        end = self._sound(call, speech, step)
        self._clip(call, entries, step, end)
        call.speaker, call.answers = call.caller, True
        return end

    def _planned(self, clip: Utterance, speaker: int, offset: int) -> list[Placed]:
        """The words of a clip at the steps where they sound, as `plan_words` has them."""
        found, current = [], 0
        for number, word in enumerate(clip.words):
            tokens = word.tokens if number else [self.ids.tags[speaker], *word.tokens]
            start = max(current + 1, round(word.start * FRAME_RATE))
            current = start + len(tokens)
            found.append(Placed(tokens, start - 1 + offset, start + offset + len(tokens)))
        return found

    def _clip(self, call: Call, entries: list[Placed], begin: int, end: int) -> None:
        """Writes the text of a clip in frames begin .. end - 1. No action of it is learnt."""
        call.shown = []
        self._write(call, entries, end)
        # The engine starts what comes then with a machine of its own.
        self._forget(call, end)
        call.actions[begin:] = [NO_ACTION] * (len(call.actions) - begin)
        call.events.append(Event("clip", begin, [(entry.tokens, 0) for entry in entries]))
        call.events.append(Event("fresh", end, []))

    def _forget(self, call: Call, step: int) -> None:
        """Nothing of the text so far shows after column `step`."""
        nothing = [self.ids.pad] * (self.length + 1)
        call.main[step + 1 :], call.second[step + 1 :] = nothing, nothing
        call.shown = []


def late(entries: list[Placed]) -> bool:
    """Whether the machine would take a word of a clip later than it sounds."""
    return any(entry.free > following.step for entry, following in pairwise(entries))
