"""One step of any of the conversations: a column in, an action and the next column's codes out.

A step is cut where the text machine sits:

    actions = stepper.act(slots)     # the backbone reads the column of each slot, and its action is drawn
    texts = [...]                    # the caller turns every action into the text of the next column
    stepper.complete(texts)          # the depformer draws the next column's codes; the slots move on to it

`slots` are any of the stepper's, in any order: the others are not computed and do not change.

**Known frames.** Whenever speech starts, for a while the columns hold audio that is known already: BOS at the start,
the clip's codes after a voice prefix, what was heard after an interruption. A slot says which frames are known
(`known`, all before it); then codebook k of column t + 1, which belongs to frame t + 1 - delay_k, is drawn only if that
frame is not. Until the newest column has a code to draw, a slot so costs a backbone step and no more: `complete` runs
the depformer for the other slots alone. Example: a conversation starts while seven others speak. All eight are in one
backbone pass; for its first 16 steps the depformer runs for seven.

**Columns in one pass.** In a lead-in, several columns may be run at once before their text is known (speculation.py):

    actions = stepper.verify(slots, trees)       # the columns of each slot's tree, and the action that each draws
    stepper.confirm(slot, place, text)           # the slot's column was the one at this place; the next one's text
    ...
    stepper.keep()                               # what the slots' later columns need of the pass

Rows = slots x branches: branch 0 is conditional, branch 1 has the text blanked out and runs only if some slot in the
step is guided. Knows nothing about words, voices or when to stop.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dia2.model.blocks import BLOCK_COLUMNS
from dia2.model.delays import aligned, blank, column_of_each, frame_of_each, token_rows
from dia2.model.kv_cache import Columns, KVCache, context_columns
from dia2.model.sampling import ACTION_STREAM, CB0_STREAM, Draws, Guidance, SlotSettings, uniform_table
from dia2.model.slots import SlotIndex, on_device
from dia2.steps.speculation import TextColumn as TextColumn
from dia2.steps.speculation import Tree

if TYPE_CHECKING:
    from dia2.checkpoint.load import Checkpoint


def block_columns_for(device: torch.device, slots: int) -> int | None:
    """Columns of the cache's blocks; None: a context is one block.

    So it is for a single slot, which is read faster then, and on a CPU, where memory is taken as it is written.
    """
    return None if slots == 1 or device.type == "cpu" else BLOCK_COLUMNS


Ahead = tuple[TextColumn, TextColumn]
"""The text of a slot's next column if the action is to hold, and if it is to start a word."""

# Uniforms are drawn for so many columns at a time: those of a whole context would take half a millisecond, in which a
# conversation that begins stands still.
_UNIFORM_COLUMNS = 128
# Of a tree, on a CPU: a pass of so many columns takes as long as two steps. Each slot's is a pass of its own, so that
# steps in a batch are faster for more than two.
_TREE_COLUMNS, _MOST_TREES = 24, 2


@dataclass
class Slot:
    """Where one conversation stands.

    column: the next column to run. text: its two text tokens. known: frames with a lower number are not drawn.
    shift: a column's index in the cache minus its number: 1 after the published voice prefix, else 0.
    """

    column: int
    text: TextColumn
    known: int = 0
    shift: int = 0
    settings: SlotSettings = SlotSettings()


@dataclass(frozen=True)
class SlotPlace:
    """Where a slot stands. codes: a copy of its columns' codes. held: columns that its blocks of the cache have."""

    slot: Slot
    codes: Tensor
    held: int


class Stepper:
    """Steps up to `slots` conversations side by side; each has its own column, settings and draws.

    blocks, block_columns: of the key/value cache, see `KVCache`. By default there are as many as all slots' full
    contexts take. speculate: whether lead-ins may be run as trees of columns.
    """

    def __init__(
        self,
        checkpoint: "Checkpoint",
        slots: int = 1,
        blocks: int | None = None,
        block_columns: int | None = None,
        *,
        speculate: bool = False,
    ) -> None:
        config, backbone, depformer = checkpoint.config, checkpoint.backbone, checkpoint.depformer
        data, device = config.data, backbone.cb0_head.device
        self.config, self.backbone, self.depformer = config, backbone, depformer
        self.device = device
        self.capacity = context_columns(config)
        self.delays = data.delays
        # By the number of frames that are not known up to the next column: how many of its codebooks are to be drawn.
        self._due_by_newest = [
            max((k + 1 for k, delay in enumerate(self.delays) if newest >= delay), default=0)
            for newest in range(max(self.delays) + 1)
        ]
        self.opening: TextColumn = (checkpoint.tokenizer.bos, data.text_pad_token_id)
        self.slots = [Slot(0, self.opening) for _ in range(slots)]
        block_columns = block_columns or block_columns_for(device, slots)
        dtype = backbone.cb0_head.dtype
        self.cache = KVCache(config, slots, 2, self.capacity, device, dtype, block_columns, blocks)
        self.blocks = self.cache.blocks
        # Delayed codes of every column, [slots, C, capacity].
        self.codes = blank(slots, self.capacity, self.delays, data.audio_bos_token_id, device)
        self._streams = CB0_STREAM + data.codebooks
        self.uniforms = torch.zeros(slots, self.capacity, self._streams, device=device)
        self._tables = [_Table(0, 0, np.zeros(0, np.float32))] * slots
        self.speculates = speculate
        # Of the slots of the last pass of trees: places of the columns that were right, and what the pass left.
        self._ways: dict[int, list[int]] = {}
        self._tree_steps: dict[int, _Step] = {}
        self.guidance = Guidance(slots, device)
        self.text_draws, self.audio_draws = Draws(slots, device), Draws(slots, device)
        self.depformer_cache = depformer.new_cache(2 * slots)
        self._delays = torch.tensor(self.delays, device=device)
        self.blanked_text = torch.tensor([data.text_zero_token_id, data.text_pad_token_id], device=device)
        self._never_drawn = torch.tensor([data.audio_pad_token_id, data.audio_bos_token_id], device=device)

    def begin(self, slot: int, settings: SlotSettings, seed: int) -> None:
        """Puts `slot` at column 0 of a new conversation."""
        self.guidance.set(slot, settings)
        self.text_draws.set(slot, settings.text)
        self.audio_draws.set(slot, settings.audio)
        self.slots[slot].settings = settings
        self.rebase(slot, seed, 0)

    def rebase(self, slot: int, seed: int, first_step: int) -> None:
        """Puts `slot` at column 0, where every code reads BOS; column 0 is step `first_step` in the table of draws."""
        self.slots[slot] = Slot(0, self.opening, settings=self.slots[slot].settings)
        self.codes[slot].fill_(self.config.data.audio_bos_token_id)
        self._tables[slot] = _Table(seed, first_step, np.zeros(0, np.float32))

    def copy(self, source: int, target: int) -> None:
        """Makes `target` a copy of `source`, which stands between two steps: it draws the same from there on.

        Raises RuntimeError where the cache has no room for so many columns; `target` is then at none.
        """
        state = self.slots[source]
        self.begin(target, state.settings, 0)
        self.cache.copy(source, target, state.column + state.shift)
        self.codes[target], self.uniforms[target] = self.codes[source], self.uniforms[source]
        self.slots[target], self._tables[target] = replace(state), replace(self._tables[source])

    def place(self, slot: int) -> SlotPlace:
        """Where a slot stands, to be put back there."""
        return SlotPlace(replace(self.slots[slot]), self.codes[slot].clone(), self.blocks.held(slot))

    def aside(self, slot: int, start: int, stop: int) -> Columns | None:
        """A copy of what the cache has in columns start..stop - 1 of a slot; None where there are none."""
        state = self.slots[slot]
        if stop <= start:
            return None
        return self.cache.copied(slot, 2 if state.settings.guided else 1, stop + state.shift, start + state.shift)

    def put_back(self, slot: int, place: SlotPlace, start: int, aside: Columns | None) -> None:
        """A slot stands at a place again. aside: its columns from `start` on, where any were overwritten."""
        self.stop_ahead()
        self.slots[slot] = replace(place.slot)
        self.codes[slot].copy_(place.codes)
        if aside is not None:
            self.cache.paste(slot, aside, start + place.slot.shift)
        self.blocks.trim(slot, place.held)

    @torch.inference_mode()
    def prefill(self, slot: int, texts: Sequence[TextColumn]) -> None:
        """Runs len(texts) columns from the slot's current one in a single pass: their text is given, codes are known.

        Draws nothing. The caller sets the text of the column after them.
        """
        if not texts:
            return
        state = self.slots[slot]
        stop = state.column + len(texts)
        text = on_device(texts, self.device)
        codes = self.codes[slot, :, state.column : stop].T
        rows = self._token_rows(text[None], codes[None], 2 if state.settings.guided else 1)  # [1, branches, n, 2 + C]
        positions = torch.arange(state.column, stop, device=self.device).expand(rows.shape[1], -1)
        live = stop + state.shift
        self.blocks.hold(slot, live)
        cache = self.cache.view(SlotIndex.of([slot], self.device), rows.shape[1])
        self.backbone(rows[0], positions + state.shift, positions, cache, live)
        state.column = stop

    def batch_size(self, count: int) -> int:
        """How many slots a step of `count` slots works for, unused ones included."""
        return count

    @property
    def pass_sizes(self) -> tuple[int, ...]:
        """Columns that a pass is padded to, ascending: all up to one of these take the same time. Empty: none is."""
        return ()

    @property
    def looks_ahead(self) -> bool:
        """Whether `act` can begin a slot's next step before it tells the action of this one."""
        return False

    def stop_ahead(self) -> None:
        """Forgets a step that was begun ahead: the slot goes on otherwise than was foreseen."""

    @torch.inference_mode()
    def act(self, slots: Sequence[int], ahead: Ahead | None = None) -> list[int]:
        """Runs the backbone on the current column of each of the slots and draws: their actions, in the same order.

        slots: in any order, none twice. Until `complete` follows, nothing is moved on.
        ahead: of a single slot, the text of the next column for either action. Then the next `act` is of that slot
        again, with nothing but `complete` in between, or `stop_ahead` is called.
        """
        chosen = SlotIndex.of(slots, self.device)
        states = [self.slots[slot] for slot in chosen.numbers]
        for slot, state in zip(chosen.numbers, states, strict=True):
            self.blocks.hold(slot, state.column + state.shift + 1)
            self._need_uniforms(slot, state.column)
        columns = self._numbers(s.column for s in states)
        branches = 2 if any(s.settings.guided for s in states) else 1
        text = on_device([s.text for s in states], self.device)
        codes = column_of_each(self.codes, chosen.rows, columns)
        rows = self._token_rows(text[:, None], codes[:, None], branches).flatten(0, 1)
        position = columns.repeat_interleave(branches)[:, None]
        index = self._numbers(s.column + s.shift for s in states).repeat_interleave(branches)[:, None]
        live = max(s.column + s.shift for s in states) + 1
        hidden = self.backbone(rows, index, position, self.cache.view(chosen, branches), live).squeeze(1)
        uniforms = self.uniforms[chosen.rows, columns]
        self._step = _Step(chosen, columns, hidden, uniforms, branches)
        logits = self.backbone.action_logits(hidden)
        return [int(action) for action in self._draw(self._step, self.text_draws, logits, ACTION_STREAM).tolist()]

    @torch.inference_mode()
    def complete(self, texts: Sequence[TextColumn]) -> None:
        """Draws the next column's codes, as far as they are not known, and moves the slots of `act` on to it.

        texts: the two tokens of the next column, one pair for each slot that was given to `act`, in that order.
        """
        step = self._step
        for slot, text in zip(step.slots.numbers, texts, strict=True):
            self.slots[slot].text = text
        due = [self._codebooks_due(slot) for slot in step.slots.numbers]
        if any(due):
            drawing = step.part([row for row, count in enumerate(due) if count], self.device)
            self._write(drawing, torch.stack(self._draw_codes(drawing, max(due)), dim=1))  # [n, drawn]
        for slot in step.slots.numbers:
            self.slots[slot].column += 1

    # ---- Several columns of a lead-in in one pass: see speculation.py ----

    def tree_size(self, slots: int) -> int:
        """Columns that a tree may have where so many slots have one in the same pass; 0: there is no such pass."""
        return _TREE_COLUMNS if self.speculates and slots <= _MOST_TREES else 0

    def action_uniforms(self, slot: int, columns: int) -> list[float]:
        """The uniforms of the actions of a slot's next columns."""
        first = self.slots[slot].column
        self._need_uniforms(slot, first + columns - 1)
        return [float(uniform) for uniform in self._tables[slot].actions[first : first + columns]]

    @torch.inference_mode()
    def verify(self, slots: Sequence[int], trees: Sequence[Tree]) -> list[list[int]]:
        """Runs a tree of columns of each of the slots, whose codes are known; the action that each column draws.

        A tree begins with the slot's current column. Nothing is moved on: `confirm` says which columns were right, and
        the others never were.
        """
        self.stop_ahead()
        self._ways = {slot: [] for slot in slots}
        return self._run_trees(slots, trees)

    def confirm(self, slot: int, place: int, text: TextColumn) -> None:
        """The slot's column was the one at this place of its tree: moves on to the next one, which has this text."""
        self._ways[slot].append(place)
        self.slots[slot].text = text
        self.slots[slot].column += 1

    @torch.inference_mode()
    def keep(self) -> None:
        """Behind the last `confirm`: moves the columns that were right to where they belong, and draws codes due."""
        for slot, way in self._ways.items():
            state = self.slots[slot]
            first = state.column - len(way) + state.shift
            if way != list(range(len(way))):
                self.cache.move(slot, [first + place for place in way], first)
            if way and self._codebooks_due(slot, state.column):
                self._draw_behind(slot, way[-1])
        self._ways = {}

    def _run_trees(self, slots: Sequence[int], trees: Sequence[Tree]) -> list[list[int]]:
        self._tree_steps = {slot: self._run_tree(slot, tree) for slot, tree in zip(slots, trees, strict=True)}
        logits = {slot: self.backbone.action_logits(step.hidden) for slot, step in self._tree_steps.items()}
        return [
            self._draw(self._tree_steps[slot], self.text_draws, logits[slot], ACTION_STREAM).tolist() for slot in slots
        ]

    def _run_tree(self, slot: int, tree: Tree) -> "_Step":
        """Runs a tree: its columns, as if they were as many slots of a step."""
        state, count = self.slots[slot], len(tree)
        first = state.column + state.shift
        self.blocks.hold(slot, first + count)
        self._need_uniforms(slot, state.column + tree.depth - 1)
        branches = 2 if state.settings.guided else 1
        columns = state.column + on_device(tree.depths, self.device)
        text, codes = on_device(tree.texts, self.device), self.codes[slot, :, columns].T
        rows = self._token_rows(text[None], codes[None], branches)[0]  # [branches, n, 2 + C]
        index = torch.arange(first, first + count, device=self.device).expand(branches, -1)
        view = self.cache.view(SlotIndex.of([slot], self.device), branches)
        hidden = self.backbone(rows, index, columns.expand(branches, -1), view, first + count, self._seen(first, tree))
        lines = on_device([slot] * count, self.device)
        slots = SlotIndex((slot,) * count, lines, lines)
        return _Step(slots, columns, hidden.transpose(0, 1).flatten(0, 1), self.uniforms[slot, columns], branches)

    def _seen(self, first: int, tree: Tree) -> Tensor:
        """What each column of a tree sees of the cache, bool [n, first + n]; the tree lies at `first`."""
        count = len(tree)
        back = torch.arange(count)[:, None] - torch.arange(count)
        within = (torch.tensor(tree.signed())[:, None] >> back.clamp(min=0) & 1).bool() & (back >= 0)
        return torch.cat([torch.ones(count, first, dtype=torch.bool), within], dim=1).to(self.device)

    def _draw_behind(self, slot: int, place: int) -> None:
        """Draws codebook 0 behind a column of the slot's tree, which the slot has just left."""
        step = self._tree_steps[slot].part([place], self.device)
        self._write(step, torch.stack(self._draw_codes(step, 1), dim=1))

    @property
    def hidden(self) -> Tensor:
        """What the backbone left in the last `act`, [n * branches, D]; the depformer and the heads read it."""
        return self._step.hidden

    def frames(self, slot: int, start: int, stop: int) -> Tensor:
        """Aligned frames start..stop - 1 of a slot, int64 [C, stop - start]; they must be complete."""
        return aligned(self.codes[slot], self._delays, start, stop)

    def frame_of_each(self, slots: Sequence[int], frames: Sequence[int]) -> Tensor:
        """One complete frame of each of n slots, by its number in the slot's context: int64 [n, C], in one gather."""
        where = on_device([slots, frames], self.device)
        return frame_of_each(self.codes, self._delays, where[0], where[1])

    def _need_uniforms(self, slot: int, column: int) -> None:
        """Makes sure that the uniforms of a column are on the device, and those before it."""
        table = self._tables[slot]
        start = len(table.actions)
        if column >= start:
            stop = min(self.capacity, column + _UNIFORM_COLUMNS)
            drawn = uniform_table(table.seed, table.first_step + start, stop - start, self._streams)
            actions = drawn[:, ACTION_STREAM].numpy()
            if self.uniforms.is_cuda:
                drawn = drawn.pin_memory()  # a copy from ordinary memory would wait for all that the device has to do
            self.uniforms[slot, start:stop].copy_(drawn, non_blocking=True)
            self._tables[slot] = replace(table, actions=np.concatenate([table.actions, actions]))

    def _codebooks_due(self, slot: int, column: int | None = None) -> int:
        """How many leading codebooks of a column must be drawn, by default of the slot's next one.

        That is up to the last one whose frame is new.

        Known codebooks before it are drawn too, because each stage reads the code that the stage before it drew.
        """
        newest = (self.slots[slot].column + 1 if column is None else column) - self.slots[slot].known
        return self._due_by_newest[min(newest, len(self._due_by_newest) - 1)] if newest >= 0 else 0

    def _draw_codes(self, step: "_Step", count: int) -> list[Tensor]:
        """The first `count` codebooks of the next column, each int64 [n]."""
        logits = self.backbone.cb0_logits(step.hidden)
        codes = [self._draw(step, self.audio_draws, logits, CB0_STREAM, banned=self._never_drawn)]
        text = self._next_text(step) if self.depformer.text_embed is not None and count > 1 else None
        cache = (self.depformer_cache[0][:, : len(step.hidden)], self.depformer_cache[1][:, : len(step.hidden)])
        for stage in range(count - 1):
            previous = codes[-1].repeat_interleave(step.branches)
            logits = self.depformer.stage(stage, step.hidden, previous, text, cache)
            codes.append(self._draw(step, self.audio_draws, logits, CB0_STREAM + 1 + stage))
        return codes

    def _next_text(self, step: "_Step") -> Tensor | None:
        """What the next column's text adds to the first stage, [rows, d]."""
        text = on_device([self.slots[slot].text for slot in step.slots.numbers], self.device)
        rows = text.repeat_interleave(step.branches, dim=0)  # the depformer shows the text to both branches
        return self.depformer.embed_text(rows[:, 0], rows[:, 1])

    def _draw(self, step: "_Step", draws: Draws, logits: Tensor, stream: int, banned: Tensor | None = None) -> Tensor:
        """logits float32 [rows, V] -> a draw for every slot of the step, int64 [n]."""
        candidates = self.guidance(logits.unflatten(0, (-1, step.branches)), step.slots)
        if banned is not None:
            candidates = candidates.index_fill(1, banned, -torch.inf)
            # A narrow filter may have kept only banned tokens. Then all others are candidates.
            others = logits[:: step.branches].index_fill(1, banned, -torch.inf)
            candidates = torch.where(candidates.isneginf().all(dim=1, keepdim=True), others, candidates)
        return draws(candidates, step.uniforms[:, stream], step.slots)

    def _write(self, step: "_Step", drawn: Tensor) -> None:
        """Stores drawn [n, count] in column t + 1 of every slot of the step, where its frame is not known."""
        count = drawn.shape[1]
        known = self._numbers(self.slots[slot].known for slot in step.slots.numbers)
        frame = step.columns[:, None] + 1 - self._delays[:count]  # [n, count]
        codebooks = torch.arange(count, device=self.device)
        where = step.slots.rows[:, None], codebooks, step.columns[:, None] + 1
        self.codes[where] = torch.where(frame >= known[:, None], drawn, self.codes[where])

    def _token_rows(self, text: Tensor, codes: Tensor, branches: int) -> Tensor:
        return token_rows(text, codes, self.blanked_text if branches == 2 else None)

    def _numbers(self, numbers: Iterable[int]) -> Tensor:
        return on_device(list(numbers), self.device)


@dataclass(frozen=True)
class _Table:
    """A slot's uniforms: column 0 has those of step first_step.

    actions: those of the actions, float32 [columns], of all columns whose uniforms are on the device.
    """

    seed: int
    first_step: int
    actions: NDArray[np.float32]


@dataclass(frozen=True)
class _Step:
    """What `act` leaves for `complete`, of n slots."""

    slots: SlotIndex
    columns: Tensor  # int64 [n]
    hidden: Tensor  # [n * branches, D]
    uniforms: Tensor  # [n, streams]
    branches: int

    def part(self, rows: list[int], device: torch.device) -> "_Step":
        """The step of some of its slots, by their places in it."""
        if len(rows) == len(self.slots):
            return self
        slots = SlotIndex.of([self.slots.numbers[row] for row in rows], device)
        chosen = on_device(rows, device)
        hidden = self.hidden.unflatten(0, (-1, self.branches))[chosen].flatten(0, 1)
        return _Step(slots, self.columns[chosen], hidden, self.uniforms[chosen], self.branches)
