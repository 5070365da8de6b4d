"""Conversations to drive by hand: over the golden checkpoints, or over a toy model that is quick and misses nothing.

The toy has the stepper's face and no weights: what it says is a hash of every column before, of the text, and of the
draws' place in their table. One token that differs anywhere changes all that follows, so two conversations that sound
alike have been given the same, column by column.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from hypothesis import strategies as st
from models import checkpoint
from numpy.typing import NDArray
from torch import Tensor

from dia2.checkpoint.corrections import Corrections
from dia2.checkpoint.load import Checkpoint, LoadOptions, load_checkpoint
from dia2.codec.frames import FrameCodec, MadeSounds, SlotCodec
from dia2.codec.state import CodecState
from dia2.model.blocks import Blocks
from dia2.model.config import DataConfig, DecoderConfig, DepformerConfig, Dia2Config, ModelConfig, RuntimeConfig
from dia2.model.delays import aligned, blank, delay_frames
from dia2.model.sampling import SlotSettings
from dia2.steps.context import Context
from dia2.steps.pool import FinishedFrames
from dia2.steps.speculation import Tree
from dia2.steps.stepper import Slot, SlotPlace, Stepper, TextColumn
from dia2.text.machine import Mark
from dia2.text.script import TextTokenizer
from dia2.voice.voice import ClipWord, Prefix, load_prefix, make_prefix
from dia2stream.conversation.conversation import Conversation
from dia2stream.conversation.reader import TextReader
from dia2stream.engine.batch import Batch
from dia2stream.items import Frame, Item
from dia2stream.options import SpeechOptions
from dia2stream.protocol.messages import Command, Done, End, Event, FirstAudio, Inject, Pause, Paused, Start
from dia2stream.protocol.messages import WordEvent as Spoken
from dia2stream.text.front_end import TextFrontEnd

HELLO = "[S1] Hello there my friend. [S2] How are you? [S1] One two three four five six seven."
LONG = " ".join(f"word{number} and so on" for number in range(200))

SILENT = Corrections(silence=(9, 8, 63, 63, 63))  # of a toy that is told of silence; no frame has this number
GREEDY = SpeechOptions(text_temperature=0.0, audio_temperature=0.0, cfg_scale=1.0, seed=1)
SAMPLED = SpeechOptions(cfg_scale=1.0, seed=7)
HISTORY = 375  # frames: 30 s

Make = Callable[..., "Rig"]


def _raise(conversation: Conversation, error: Exception) -> None:
    raise error


class RigPool:
    """The pool of conversations that each have a codec of their own."""

    def __init__(self, stepper: Stepper) -> None:
        self.stepper = stepper

    def take_frames(self, contexts: Sequence[Context]) -> FinishedFrames:
        frames = [(context, number) for context in contexts if (number := context.next_frame()) is not None]
        return FinishedFrames([context for context, _ in frames], [number for _, number in frames], torch.zeros(0))

    def decode(self, finished: FinishedFrames) -> MadeSounds:
        sounds = [
            context.playback.decode(number) for context, number in zip(finished.contexts, finished.numbers, strict=True)
        ]
        return MadeSounds(torch.stack([sound.pcm() for sound in sounds]))


# Conversations of one stepper share a batch, as in the engine.
_BATCHES: WeakKeyDictionary[Stepper, Batch] = WeakKeyDictionary()


class Rig:
    """A conversation and its driver, in one thread: makes steps, takes what leaves, and keeps all of it in order."""

    def __init__(
        self, context: Context, tokenizer: TextTokenizer, defaults: SpeechOptions = SAMPLED, **options: Any
    ) -> None:
        self.stepper, self.context = context.stepper, context
        self.conversation = Conversation(context, tokenizer, defaults=defaults, **options)
        self.batch = _BATCHES.setdefault(context.stepper, Batch(RigPool(context.stepper), _raise))
        self.now = 0.0
        self.items: list[Item] = []
        self.steps = 0

    def do(self, *commands: Command) -> "Rig":
        """Hands over commands, as if they came now."""
        for command in commands:
            self.batch.settle()
            self.carry_out(command)
            self.prepare()
        return self

    def carry_out(self, command: Command) -> None:
        self.conversation.handle(command, self.now)

    def prepare(self) -> None:
        """Runs columns that are due, as the engine finds time for it before the next step, and begins drafts."""
        if self.conversation.current is self.conversation:
            self.context.run_due()
        self.conversation.preparation.advance(self.now)
        self.conversation.current.context.run_due()

    def can_step(self) -> bool:
        return self.conversation.current.can_step()

    def step(self) -> bool:
        """One step, if one is wanted."""
        return step_together(self)

    def columns(self, count: int) -> "Rig":
        """Steps until so many columns were run, or no step is wanted; a lead-in's at once where the stepper guesses."""
        while count > 0 and self.can_step():
            current = self.conversation.current
            count -= self.batch.step([current], steps=min(count, max(1, current.context.lead_in_left))).columns
            self.prepare()
        return self

    def take(self, most: int = 10**9) -> list[Item]:
        """Takes up to so many items, as far as they may leave now."""
        taken: list[Item] = []
        while len(taken) < most:
            item = self.conversation.take(self.now)
            if item is None or isinstance(item, float):
                break
            taken.append(item)
        self.items += taken
        return taken

    def run(self, steps: int = 10**9) -> "Rig":
        """Steps, taking all that leaves, until no step is wanted or so many were made."""
        for _ in range(steps):
            if not self.step():
                self.batch.settle()
                self.prepare()
                if not self.can_step():
                    break
            self.take()
        self.take()
        return self

    def say(self, text: str, **fields: Any) -> "Rig":
        """Starts, and runs to the end."""
        return self.do(Start(text, **fields)).run()

    def run_until_sent(self, frames: int) -> "Rig":
        """Steps until so many frames have been taken, and takes no more than that."""
        while self.sent < frames:
            if not self.take(1):
                assert self.step(), f"{self.sent} frames and no more to come"
        return self

    @property
    def sent(self) -> int:
        """Frames taken in this conversation."""
        return self.conversation.outbox.sent

    @property
    def frames(self) -> list[NDArray[np.float32]]:
        return [item.pcm for item in self.items if isinstance(item, Frame)]

    @property
    def audio(self) -> NDArray[np.float32]:
        return np.concatenate([np.zeros(0, np.float32), *self.frames])

    @property
    def events(self) -> list[Event]:
        return [item for item in self.items if isinstance(item, Event)]

    def of(self, *kinds: type[Any]) -> list[Any]:
        """The events of some kinds, in order."""
        return [item for item in self.items if isinstance(item, kinds)]

    @property
    def words(self) -> list[str]:
        return [event.word for event in self.of(Spoken)]

    @property
    def told(self) -> list[Any]:
        """All that a listener gets, comparable: frames as bytes, and events, without the latency that differs."""
        return [_comparable(item) for item in self.items if isinstance(item, Frame | Spoken | Done | FirstAudio)]


def _comparable(item: Item) -> Any:
    if isinstance(item, Frame):
        return item.pcm.tobytes()
    return replace(item, latency_ms=0, words_ms=None) if isinstance(item, FirstAudio) else item


def step_together(*rigs: Rig) -> bool:
    """One step of every conversation of one stepper that wants one, as the engine makes it."""
    active = [rig for rig in rigs if rig.can_step()]
    if not active:
        return False
    for rig in active:
        rig.steps += 1
    active[0].batch.step([rig.conversation.current for rig in active])
    for rig in active:
        rig.prepare()
    return True


def in_pieces(rig: Rig, text: str, cuts: Sequence[int], between: Callable[[Rig], None]) -> Rig:
    """Starts with `text` cut at `cuts`, and does something between the pieces."""
    ends = [*sorted(cuts), len(text)]
    rig.do(Start(text[: ends[0]], final=False))
    for start, end in pairwise(ends):
        between(rig)
        rig.do(Inject(text[start:end], final=False))
    between(rig)
    return rig.do(End()).run()


def assert_goes_on_from(rig: Rig, sent: int, frame: int) -> None:
    """What was sent after so many frames goes on from a frame, with none lost or said twice."""
    assert frame_numbers(rig)[sent:] == list(range(frame, frame + len(rig.frames) - sent))


def memory_at(rig: Rig, heard: int) -> int:
    """Where the model goes on when the listener has heard so many frames, in the midst of a word of the first text.

    It forgets that word, all but its first frame.
    """
    begun = [word.start_ms // 80 for word in rig.of(Spoken) if word.start_ms < heard * 80]
    return rig.context.first_frame + (begun[-1] + 1 if begun else heard)


def stopped_at(rig: Rig, frame: int) -> Rig:
    """Pauses where so many frames have been sent, none of them beyond."""
    rig.run_until_sent(frame).do(Pause()).take()
    return rig


def paused(rig: Rig, played_ms: float | None = None) -> Paused:
    """Pauses; the answer."""
    rig.do(Pause(played_ms)).take()
    return cast(Paused, rig.of(Paused)[-1])


def report(told: Paused) -> tuple[int, str, str]:
    """How much was heard, and the text that was and was not."""
    return told.heard_ms, told.spoken, told.pending


@dataclass
class Memory:
    """All that goes on from here depends on: two conversations with the same memory go on alike."""

    step: int
    frames: int
    column: int
    known: int
    text: TextColumn
    mark: Mark
    columns: list[tuple[TextColumn, Mark]]
    codes: Tensor  # [C, columns and the lead-in behind them], as far as their frames are known
    codec: Any
    cache: Any  # keys and values of the columns, or what a toy has for them

    def __init__(self, rig: Rig) -> None:
        context, slot = rig.context, rig.stepper.slots[rig.conversation.slot]
        self.step, self.frames, self.column, self.known = context.step, context.frames, slot.column, slot.known
        self.text, self.mark, self.columns = slot.text, context.state.mark(), list(context.history.columns)
        codes = rig.stepper.codes[rig.conversation.slot, :, : slot.column + context.lead_in].clone()
        places = torch.arange(codes.shape[1]) - torch.tensor(rig.stepper.delays)[:, None]
        self.codes = codes.masked_fill(places >= slot.known, -1)
        codec = cast(Any, context.playback.codec)
        self.codec = heard_by(codec.codec.state, codec.number) if isinstance(codec, SlotCodec) else list(codec.state)
        if isinstance(rig.stepper, Stepper):
            branches = 2 if slot.settings.guided else 1
            columns = rig.stepper.cache.copied(rig.conversation.slot, branches, slot.column)
            self.cache = torch.stack([columns.k, columns.v])
        else:
            self.cache = rig.stepper.remembered(rig.conversation.slot, slot.column)


def heard_by(state: CodecState, slot: int) -> list[Tensor]:
    """What a slot's decoder goes on from: its carry, and the keys and values that the next position sees."""
    position, filled = int(state.position[slot]), int(state.filled[slot])
    seen = torch.arange(position - min(filled, state.shape.window - 1), position) % state.capacity
    rings = [ring[:, slot, :, seen].clone() for ring in (state.keys, state.values)]
    return [state.log[slot, int(state.entry(slice(None))[slot])].clone(), *rings, torch.tensor(position)]


def assert_same_memory(one: Memory, other: Memory) -> None:
    """Equal in all, and what the codec and the backbone compute as near as floats come."""
    plain = ("step", "frames", "column", "known", "text", "mark", "columns")
    assert {name: getattr(one, name) for name in plain} == {name: getattr(other, name) for name in plain}
    _assert_same_contents(one, other)


def _assert_same_contents(one: Memory, other: Memory) -> None:
    assert torch.equal(one.codes, other.codes)
    if isinstance(one.cache, Tensor):
        torch.testing.assert_close(one.codec, other.codec, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(one.cache, other.cache, atol=1e-5, rtol=1e-4)
    else:
        assert (one.codec, one.cache) == (other.codec, other.cache)


def assert_holds_what_was_heard(rig: Rig, blank: Rig, played: Tensor) -> None:
    """As a model does that was given the columns of what was heard in one pass. blank: of the same kind, unused.

    played: the codes that the listener heard, int64 [C, frames], those of a word that was cut included.
    """
    heard, other = rig.context, blank.stepper
    codes = heard.history.frames(0, heard.frames)
    other.begin(0, rig.stepper.slots[0].settings, seed=0)
    delay_frames(codes, other.delays, other.codes[0])
    other.prefill(0, [text for text, _ in heard.history.columns])
    other.slots[0].known = blank.context.frames = heard.frames
    blank.context.playback.codec.hear(played)
    assert heard.step == heard.frames
    _assert_same_contents(Memory(rig), Memory(blank))


def assert_sound_alike(one: Sequence[NDArray[np.float32]], other: Sequence[NDArray[np.float32]]) -> None:
    """As near as a codec comes that has heard the same frames, in one pass or one by one."""
    assert len(one) == len(other)
    np.testing.assert_allclose(np.array(one), np.array(other), atol=1e-5)


# ---- Texts, whole and in pieces ----


def words_of(text: str) -> list[str]:
    """The words of a text as events spell them."""
    reader = TextReader(ToyTokenizer(), TextFrontEnd("clean"))
    return [read.written.text for read in reader.read(text, True) if read.begins and read.entry.tokens]


def cut(text: str, cuts: Sequence[int]) -> list[str]:
    ends = [0, *sorted({c for c in cuts if 0 < c < len(text)}), len(text)]
    return [text[a:b] for a, b in pairwise(ends)]


def said_in_pieces(rig: Rig, pieces: Sequence[str], between: Sequence[int], last: str = "end") -> Rig:
    """Starts with the first piece; so many steps after each one; the last piece is closed by `last`."""
    for number, piece in enumerate(pieces):
        closed = last == "final" and number == len(pieces) - 1
        rig.do(Inject(piece, final=closed) if number else Start(piece, final=closed))
        rig.run(between[number % len(between)])
    if last == "end":
        rig.do(End())
    return rig.run()


vocabulary = st.sampled_from(
    [
        "[S1]",
        "[S2]",
        "Hi",
        "there,",
        "supercalifragilistic",
        '<break time="0.3s"/>',
        "a<b",
        "4:30",
        "it\u2019s",
        "<break",
        "ok",
    ]
)
scripts = st.lists(st.tuples(vocabulary, st.sampled_from([" ", "  ", "\n", ""])), min_size=1, max_size=14).map(
    lambda parts: "".join(word + space for word, space in parts)
)


# ---- The golden checkpoints ----


def golden(
    goldens: Path, defaults: SpeechOptions = SAMPLED, *, stepper: Stepper | None = None, slot: int = 0, **options: Any
) -> Rig:
    """A conversation with a golden checkpoint, in a stepper of its own unless one is given."""
    return real(checkpoint(goldens), defaults, stepper=stepper, slot=slot, **options)


def real(
    loaded: Checkpoint,
    defaults: SpeechOptions = SAMPLED,
    *,
    stepper: Stepper | None = None,
    slot: int = 0,
    limit: int | None = None,
    history: int = HISTORY,
    **options: Any,
) -> Rig:
    """A conversation with any checkpoint; limit: another length of its context."""
    if limit is not None:
        runtime = replace(loaded.config.runtime, max_context_steps=limit)
        loaded = replace(loaded, config=replace(loaded.config, runtime=runtime))
    context = Context(stepper or Stepper(loaded), slot, FrameCodec(loaded.codec).slot(0), history)
    return Rig(context, loaded.tokenizer, defaults, **options)


@cache
def voice(goldens: Path) -> Prefix:
    """The goldens' clips, both speakers."""
    loaded = checkpoint(goldens)
    return load_prefix([goldens / "prefix" / name for name in ("s1.wav", "s2.wav")], loaded.codec, loaded.tokenizer)


@cache
def tiny() -> Checkpoint:
    """random:tiny: the published delays."""
    return load_checkpoint("random:tiny", LoadOptions(device="cpu"))


class Counted:
    """A transformer that counts the calls of its forward pass and of its stages, and how many columns they had."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self.columns: list[int] = []
        self.stages = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def __call__(self, tokens: Tensor, *rest: Any) -> Any:
        self.columns.append(tokens.shape[1])
        return self._module(tokens, *rest)

    def stage(self, *arguments: Any) -> Any:
        self.stages += 1
        return self._module.stage(*arguments)


class Counts:
    """What a stepper's transformers do from here on."""

    def __init__(self, stepper: Stepper) -> None:
        self._backbone, self._depformer = Counted(stepper.backbone), Counted(stepper.depformer)
        stepper.backbone, stepper.depformer = cast(Any, self._backbone), cast(Any, self._depformer)

    @property
    def steps(self) -> int:
        """Backbone calls of one column."""
        return sum(columns == 1 for columns in self._backbone.columns)

    @property
    def prefilled(self) -> int:
        """Columns in calls of several."""
        return sum(columns for columns in self._backbone.columns if columns > 1)

    @property
    def stages(self) -> int:
        """Stages of the depformer."""
        return self._depformer.stages


# ---- The toy ----

_MASK = (1 << 61) - 1
_SIZES = (1, 4, 4, 1, 1, 2)
_DIGITS = 3
_HEARS = 100  # frames that the toy codec remembers
_TOY_BACK = 30  # frames that it goes back without hearing them again
_SAMPLES = 1920  # of a frame, for the toy ear


def _mix(*values: int) -> int:
    """A hash of small integers that is the same in every process."""
    mixed = 0x9E3779B97F4A7C15
    for value in values:
        mixed = ((mixed ^ (value & _MASK)) * 0xD6E8FEB86659FD93) & ((1 << 64) - 1)
        mixed ^= mixed >> 32
    return mixed


class ToyTokenizer:
    """A word is a token for every third letter; a tag is one."""

    speakers = (152, 153)
    bos = 1

    def encode(self, text: str) -> list[int]:
        tokens = []
        for word in text.split():
            at = ("[S1]", "[S2]").index(word) if word in ("[S1]", "[S2]") else None
            letters = [word[n : n + 3] for n in range(0, len(word), 3)]
            tokens += [8 + _mix(*map(ord, part)) % 140 for part in letters] if at is None else [152 + at]
        return tokens


def toy_config(limit: int, delays: tuple[int, ...], ahead: int) -> Dia2Config:
    data = DataConfig(len(delays) + 2, 160, 66, 2, 3, 2, 0, 1, delay_pattern=delays, second_stream_ahead=ahead)
    return Dia2Config(data, ModelConfig(DecoderConfig(*_SIZES), DepformerConfig(*_SIZES)), RuntimeConfig((), limit))


class ToyStepper:
    """A stepper whose model is a hash chain. Fields and methods are those of Stepper.

    delays: of the codebooks that it draws; the last three of all spell the frame's number. block_columns, blocks: of
    its cache.
    """

    looks_ahead = False
    guesses = 0  # columns of the trees that it is given

    def __init__(
        self,
        limit: int = 160,
        delays: tuple[int, ...] = (4, 6),
        ahead: int = 2,
        slots: int = 1,
        block_columns: int = 16,
        blocks: int | None = None,
    ) -> None:
        self.delays = (*delays, *[max(delays)] * _DIGITS)
        self.config = toy_config(limit, self.delays, ahead)
        self.device, self.capacity, self.opening = torch.device("cpu"), limit + 2, (ToyTokenizer.bos, 3)
        self.slots = [Slot(0, self.opening) for _ in range(slots)]
        self.codes = blank(slots, self.capacity, self.delays, 64, self.device)
        self.blocks = Blocks(slots, self.capacity, block_columns, blocks)
        # What a column leaves behind, by block and place in it: as in a cache, it stays until it is written again.
        self._memory = [[0] * self.blocks.columns for _ in range(self.blocks.total)]
        self._given: list[dict[int, list[int]]] = [{} for _ in range(slots)]  # by slot and column: what it was given
        self._first = [(0, 0)] * slots
        self.prefilled = 0

    def begin(self, slot: int, settings: SlotSettings, seed: int) -> None:
        self.slots[slot].settings = settings
        self.rebase(slot, seed, 0)

    def rebase(self, slot: int, seed: int, first_step: int) -> None:
        self.slots[slot] = Slot(0, self.opening, settings=self.slots[slot].settings)
        self.codes[slot].fill_(64)
        self._first[slot] = (seed, first_step)

    def prefill(self, slot: int, texts: Sequence[TextColumn]) -> None:
        for text in texts:
            self.slots[slot].text = text
            self._see(slot)
            self.slots[slot].column += 1
        self.prefilled += len(texts)

    def batch_size(self, count: int) -> int:
        return count

    def act(self, active: Sequence[int]) -> list[int]:
        self._active = list(active)
        return [int(self._drawn(slot, self._see(slot), 0) % 3 == 0) for slot in active]

    def tree_size(self, slots: int) -> int:
        return self.guesses

    def action_uniforms(self, slot: int, columns: int) -> list[float]:
        """They say nothing of what a toy draws."""
        first = self.slots[slot].column
        return [_mix(column, *self._first[slot]) % 1000 / 1000 for column in range(first, first + columns)]

    def verify(self, slots: Sequence[int], trees: Sequence[Tree]) -> list[list[int]]:
        self._ways: dict[int, list[_ToyWay]] = {slot: [] for slot in slots}
        self._runs = {slot: self._run_tree(slot, tree) for slot, tree in zip(slots, trees, strict=True)}
        return [[run.action for run in self._runs[slot]] for slot in slots]

    def _run_tree(self, slot: int, tree: Tree) -> "list[_ToyWay]":
        """What each column of a tree leaves behind, and draws. As a model's, their places in the cache are written."""
        first, runs = self.slots[slot].column, list[_ToyWay]()
        before = self.remembered(slot, first)[-1] if first else 0
        self.blocks.hold(slot, first + len(tree))
        for place, (text, depth) in enumerate(zip(tree.texts, tree.depths, strict=True)):
            back = [j for j in range(1, place + 1) if tree.seen[place] >> j & 1]
            assert len(back) == depth
            given = [*text, *self.codes[slot, :, first + depth].tolist()]
            seen = _mix(runs[place - back[0]].seen if back else before, *given)
            action = int(self._drawn(slot, seen, 0, depth) % 3 == 0)
            runs.append(_ToyWay(seen, given, action))
            self._remember(slot, first + place, seen)
        return runs

    def confirm(self, slot: int, place: int, text: TextColumn) -> None:
        way = self._runs[slot][place]
        self._ways[slot].append(way)
        self._given[slot][self.slots[slot].column] = way.given
        self.slots[slot].column += 1
        self.slots[slot].text = text

    def keep(self) -> None:
        for slot, ways in self._ways.items():
            first = self.slots[slot].column - len(ways)
            for number, way in enumerate(ways):
                self._remember(slot, first + number, way.seen)
            self.slots[slot].column -= 1
            self._active = [slot]
            self.complete([self.slots[slot].text])

    def _remember(self, slot: int, column: int, seen: int) -> None:
        *_, (block, columns) = self.blocks.pieces(slot, column + 1)
        self._memory[block][column - columns.start] = seen

    def complete(self, texts: Sequence[TextColumn]) -> None:
        for slot, text in zip(self._active, texts, strict=True):
            state = self.slots[slot]
            column, state.text = state.column + 1, text
            seen = self.remembered(slot, state.column + 1)[-1]
            for codebook, late in enumerate(self.delays):
                if column - late >= state.known:
                    frame = self._first[slot][1] + column - late
                    place = codebook - len(self.delays) + _DIGITS
                    code = frame // 64**place if place >= 0 else self._drawn(slot, seen, 1 + codebook)
                    self.codes[slot, codebook, column] = code % 64
            state.column = column

    def frames(self, slot: int, start: int, stop: int) -> Tensor:
        return aligned(self.codes[slot], self.delays, start, stop)

    def place(self, slot: int) -> SlotPlace:
        return SlotPlace(replace(self.slots[slot]), self.codes[slot].clone(), self.blocks.held(slot))

    def aside(self, slot: int, start: int, stop: int) -> Any:
        return _ToyColumns(self.remembered(slot, stop)[start:], {**self._given[slot]}) if stop > start else None

    def put_back(self, slot: int, place: SlotPlace, start: int, aside: Any) -> None:
        self.slots[slot] = replace(place.slot)
        self.codes[slot].copy_(place.codes)
        if aside is not None:
            stop = start + len(aside.seen)
            for block, at in self.blocks.pieces(slot, stop, start):
                begin = at.start % self.blocks.columns
                seen = aside.seen[at.start - start : at.stop - start]
                self._memory[block][begin : begin + len(seen)] = seen
            self._given[slot] = aside.given
        self.blocks.trim(slot, place.held)

    def _see(self, slot: int) -> int:
        """Runs the current column of a slot."""
        state = self.slots[slot]
        before = self.remembered(slot, state.column)[-1] if state.column else 0
        self.blocks.hold(slot, state.column + 1)
        self._given[slot][state.column] = [*state.text, *self.codes[slot, :, state.column].tolist()]
        seen = _mix(before, *self._given[slot][state.column])
        self._remember(slot, state.column, seen)
        return seen

    def remembered(self, slot: int, columns: int) -> list[int]:
        """What the slot's first columns left behind."""
        pieces = self.blocks.pieces(slot, columns)
        return [seen for block, at in pieces for seen in self._memory[block][: at.stop - at.start]]

    def relived(self, slot: int, columns: int) -> list[int]:
        """What the slot's first columns must have left behind, if nobody else wrote into its blocks."""
        seen = [0]
        for column in range(columns):
            seen.append(_mix(seen[-1], *self._given[slot][column]))
        return seen[1:]

    def _drawn(self, slot: int, seen: int, stream: int, later: int = 0) -> int:
        seed, first_step = self._first[slot]
        return _mix(seen, seed, first_step + self.slots[slot].column + later, stream)


class _ToyWay(NamedTuple):
    """A column of a tree: what it leaves behind, of what, and what it draws."""

    seen: int
    given: list[int]
    action: int


@dataclass
class _ToyColumns:
    """What a draft overwrites of a toy's columns."""

    seen: list[int]
    given: dict[int, list[int]]
    nbytes: int = 0

    @property
    def bytes(self) -> int:
        return self.nbytes


class ToyCodec:
    """Three samples a frame: its number as its codes spell it, a hash of what was heard lately, its first code."""

    def __init__(self) -> None:
        self.state: list[int] = []
        self._before: list[list[int]] = []

    warm_up = 250

    @property
    def most_back(self) -> int:
        return min(len(self._before), _TOY_BACK)

    def submit(self, codes: Tensor) -> Any:
        before = [*self._before, self.state][-_TOY_BACK:]
        self.hear(codes)
        self._before = before
        *_, low, middle, high = codes[:, 0].tolist()
        number = low + 64 * (middle + 64 * high)
        return _ToySound(torch.tensor([number / 2**20, (_mix(*self.state) % 2**20) / 2**20, codes[0, 0] / 64]))

    def submit_run(self, codes: Tensor) -> Any:
        sounds = torch.stack([self.submit(frame).pcm() for frame in codes.split(1, dim=1)])
        self._before = []
        return _ToySound(sounds)

    def hear(self, codes: Tensor) -> None:
        self._before = []
        for frame in codes.T.tolist():
            assert max(frame) < 64, "ids that are no codes never reach the codec"
            self.state = [*self.state[1 - _HEARS :], _mix(*frame)]

    def go_back(self, frames: int) -> None:
        assert frames <= self.most_back
        if frames:
            self.state = self._before[-frames]
            del self._before[-frames:]

    def place(self) -> Any:
        return list(self.state), list(self._before)

    def aside(self, frames: int) -> Any:
        return _ToyColumns([], {})

    def put_back(self, place: Any, aside: Any) -> None:
        self.state, self._before = place

    def saved(self) -> list[int]:
        return list(self.state)

    def restore(self, state: list[int]) -> None:
        self.state, self._before = list(state), []

    def reset(self) -> None:
        self.state, self._before = [], []


class ToyEar:
    """Codes of a frame are a hash of its samples: whatever is cut or shifted gives others."""

    sample_rate, frame_samples = 24000, _SAMPLES

    def begin(self) -> None:
        """A new recording."""

    def encode(self, pcm: Tensor) -> Tensor:
        frames = (pcm.view(-1, _SAMPLES) * 32768).long()
        sums = (frames * torch.arange(1, _SAMPLES + 1)).sum(1)
        return torch.stack([(sums * (k + 3) // 7) % 64 for k in range(5)])

    def take(self, codes: Tensor) -> None:
        """Codes that were encoded elsewhere."""

    @property
    def bare(self) -> "ToyEar":
        return self

    def go_on_from(self, other: Any) -> None:
        """It remembers nothing."""


class _ToySound:
    def __init__(self, pcm: Tensor) -> None:
        self._pcm = pcm

    def pcm(self) -> Tensor:
        return self._pcm.clone()


def toy(
    defaults: SpeechOptions = SAMPLED,
    *,
    stepper: ToyStepper | None = None,
    slot: int = 0,
    history: int = HISTORY,
    **options: Any,
) -> Rig:
    """A conversation with a toy; what is no field of a rig is one of its stepper."""
    about_stepper = {
        name: options.pop(name) for name in ("limit", "delays", "ahead", "slots", "blocks") if name in options
    }
    stepper = stepper or ToyStepper(**about_stepper)
    context = Context(cast(Any, stepper), slot, cast(Any, ToyCodec()), history)
    return Rig(context, ToyTokenizer(), defaults, **options)


@cache
def toy_voice(frames: int = 14, seed: int = 0) -> Prefix:
    """A clip of two words for each speaker."""
    clips = []
    for speaker in (1, 2):
        codes = [[_mix(seed, speaker, k, f) % 64 for f in range(frames)] for k in range(2 + _DIGITS)]
        words = [ClipWord(f"clip{speaker}", 0.1, 0.4), ClipWord("word", 0.5, 0.9)]
        clips.append((torch.tensor(codes), words))
    return make_prefix(clips, ToyTokenizer())


def frame_number(frame: Frame) -> int:
    """Which frame of its conversation a frame that a toy made is."""
    return round(float(frame.pcm[0]) * 2**20)


def frame_numbers(rig: Rig) -> list[int]:
    """The numbers of all frames that were sent."""
    return [frame_number(item) for item in rig.items if isinstance(item, Frame)]
