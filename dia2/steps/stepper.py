"""One step of one or more conversations: a column in, an action and the next column's codes out.

A step is cut where the text machine sits. `act` runs the backbone on each slot's current column and draws its action;
the caller turns that into text; `complete` draws the codes of the next column and moves on to it.

**Known frames.** Whenever speech starts, for a while the columns hold audio that is known already: BOS at the start,
the clip's codes after a voice prefix, what was heard after an interruption. A slot says which frames are known
(`known`, all before it); then codebook k of column t + 1, which belongs to frame t + 1 - delay_k, is drawn only if that
frame is not. So the first max(delay) - 1 steps of a lead-in need the backbone alone, without anyone having to count.

Rows = slots x branches: branch 0 is conditional, branch 1 has the text blanked out and runs only if some slot in the
step is guided. Knows nothing about words, voices or when to stop.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dia2.model.delays import aligned, blank, column_of, token_rows
from dia2.model.kv_cache import KVCache
from dia2.model.sampling import ACTION_STREAM, CB0_STREAM, Draws, Guidance, SlotSettings, uniform_table

if TYPE_CHECKING:
    from dia2.checkpoint.load import Checkpoint

TextColumn = tuple[int, int]  # main and second token of a column


@dataclass
class Slot:
    """Where one conversation stands.

    column: the next column to run. text: its two tokens. known: frames before it are not drawn.
    shift: cache index of a column minus its number (1 after a published voice prefix, else 0).
    """

    column: int
    text: TextColumn
    known: int = 0
    shift: int = 0
    settings: SlotSettings = SlotSettings()


class Stepper:
    """Steps up to `slots` conversations side by side; each has its own column, settings and draws."""

    def __init__(self, checkpoint: "Checkpoint", slots: int = 1) -> None:
        config, backbone, depformer = checkpoint.config, checkpoint.backbone, checkpoint.depformer
        data, device = config.data, backbone.cb0_head.device
        self.config, self.backbone, self.depformer = config, backbone, depformer
        self.device = device
        # One column more than the context for the codes of the last step, one for a published prefix's repeat.
        self.capacity = config.runtime.max_context_steps + 2
        self.delays = data.delays
        self.opening: TextColumn = (checkpoint.tokenizer.bos, data.text_pad_token_id)
        self.slots = [Slot(0, self.opening) for _ in range(slots)]
        self.cache = KVCache.allocate(config, slots, 2, self.capacity, device, backbone.cb0_head.dtype)
        # Delayed codes of every column, [slots, C, capacity].
        self.codes = blank(slots, self.capacity, self.delays, data.audio_bos_token_id, device)
        self._streams = CB0_STREAM + data.codebooks
        self.uniforms = torch.zeros(slots, self.capacity, self._streams, device=device)
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
        self.uniforms[slot] = uniform_table(seed, first_step, self.capacity, self._streams)

    @torch.inference_mode()
    def prefill(self, slot: int, texts: Sequence[TextColumn]) -> None:
        """Runs len(texts) columns from the slot's current one in a single pass: their text is given, codes are known.

        Draws nothing. The caller sets the text of the column after them.
        """
        if not texts:
            return
        state = self.slots[slot]
        stop = state.column + len(texts)
        text = torch.tensor(texts, device=self.device)
        codes = self.codes[slot, :, state.column : stop].T
        rows = self._token_rows(text[None], codes[None], 2 if state.settings.guided else 1)  # [1, branches, n, 2 + C]
        positions = torch.arange(state.column, stop, device=self.device).expand(rows.shape[1], -1)
        cache = self.cache.view(slice(slot, slot + 1), rows.shape[1])
        live = stop + state.shift
        self.backbone(rows[0], positions + state.shift, positions, cache, live)
        state.column = stop

    @torch.inference_mode()
    def act(self, active: Sequence[int]) -> list[int]:
        """Runs the backbone on the current column of each active slot. Returns their actions, drawn.

        Slots between two active ones are computed and ignored: what that writes is overwritten before it is read.
        """
        span = slice(min(active), max(active) + 1)
        states = self.slots[span]
        columns = torch.tensor([s.column for s in states], device=self.device)
        text = torch.tensor([s.text for s in states], device=self.device)
        codes = column_of(self.codes[span], columns)
        branches = 2 if any(self.slots[i].settings.guided for i in active) else 1
        rows = self._token_rows(text[:, None], codes[:, None], branches).flatten(0, 1)
        position = columns.repeat_interleave(branches)[:, None]
        shift = torch.tensor([s.shift for s in states], device=self.device).repeat_interleave(branches)[:, None]
        live = max(s.column + s.shift for s in states) + 1
        hidden = self.backbone(rows, position + shift, position, self.cache.view(span, branches), live).squeeze(1)
        uniforms = self.uniforms[span].gather(1, columns[:, None, None].expand(-1, 1, self._streams)).squeeze(1)
        self._step = _Step(list(active), span, columns, hidden, uniforms, branches)
        actions = self._draw(self.text_draws, self.backbone.action_logits(hidden), ACTION_STREAM).tolist()
        return [int(actions[i - span.start]) for i in active]

    @torch.inference_mode()
    def complete(self, texts: Sequence[TextColumn]) -> None:
        """Draws the next column's codes, as far as they are not known, and moves the slots of `act` on to it.

        texts: the two tokens of the next column, one pair for each slot that was given to `act`, in that order.
        """
        step = self._step
        for slot, text in zip(step.active, texts, strict=True):
            self.slots[slot].text = text
        drawn = max(self._codebooks_due(slot) for slot in step.active)
        if drawn:
            self._write(torch.stack(self._draw_codes(drawn), dim=1))  # [n, drawn]
        for slot in step.active:
            self.slots[slot].column += 1

    def frames(self, slot: int, start: int, stop: int) -> Tensor:
        """Aligned frames start..stop - 1 of a slot, int64 [C, stop - start]; they must be complete."""
        return aligned(self.codes[slot], self.delays, start, stop)

    def _codebooks_due(self, slot: int) -> int:
        """How many leading codebooks of the slot's next column must be drawn: up to the last whose frame is new.

        Those before it are drawn too, even if known: each stage goes on from the code of the one before.
        """
        newest = self.slots[slot].column + 1 - self.slots[slot].known
        return max((k + 1 for k, delay in enumerate(self.delays) if newest >= delay), default=0)

    def _draw_codes(self, count: int) -> list[Tensor]:
        """The first `count` codebooks of the next column, each int64 [n]."""
        step = self._step
        logits = self.backbone.cb0_logits(step.hidden)
        codes = [self._draw(self.audio_draws, logits, CB0_STREAM, banned=self._never_drawn)]
        text = self._next_text() if self.depformer.text_embed is not None and count > 1 else None
        cache = (self.depformer_cache[0][:, : len(step.hidden)], self.depformer_cache[1][:, : len(step.hidden)])
        for stage in range(count - 1):
            previous = codes[-1].repeat_interleave(step.branches)
            logits = self.depformer.stage(stage, step.hidden, previous, text, cache)
            codes.append(self._draw(self.audio_draws, logits, CB0_STREAM + 1 + stage))
        return codes

    def _next_text(self) -> Tensor | None:
        """What the next column's text adds to the first stage, [rows, d]."""
        step = self._step
        text = torch.tensor([s.text for s in self.slots[step.span]], device=self.device)
        rows = text.repeat_interleave(step.branches, dim=0)  # here the unconditional branch sees the text too
        return self.depformer.embed_text(rows[:, 0], rows[:, 1])

    def _draw(self, draws: Draws, logits: Tensor, stream: int, banned: Tensor | None = None) -> Tensor:
        """logits float32 [rows, V] -> a draw for every slot of the span, int64 [n]."""
        step = self._step
        candidates = self.guidance(logits.unflatten(0, (-1, step.branches)), step.span)
        if banned is not None:
            candidates = candidates.index_fill(1, banned, -torch.inf)
            # Guidance with a narrow filter may have kept nothing else: then all the others are candidates.
            others = logits[:: step.branches].index_fill(1, banned, -torch.inf)
            candidates = torch.where(candidates.isneginf().all(dim=1, keepdim=True), others, candidates)
        return draws(candidates, step.uniforms[:, stream], step.span)

    def _write(self, drawn: Tensor) -> None:
        """Stores drawn [n, count] in column t + 1 of every active slot, where its frame is not known."""
        step, count = self._step, drawn.shape[1]
        states = self.slots[step.span]
        # A slot that is not active knows everything.
        known = [s.known if i in step.active else self.capacity for i, s in enumerate(states, step.span.start)]
        frame = step.columns[:, None] + 1 - self._delays[:count]  # [n, count]
        new = frame >= torch.tensor(known, device=self.device)[:, None]
        codes = self.codes[step.span, :count]
        old = column_of(codes, step.columns + 1)
        where = (step.columns + 1)[:, None, None].expand(-1, count, 1)
        codes.scatter_(2, where, torch.where(new, drawn, old)[:, :, None])

    def _token_rows(self, text: Tensor, codes: Tensor, branches: int) -> Tensor:
        return token_rows(text, codes, self.blanked_text if branches == 2 else None)


@dataclass
class _Step:
    """What `act` leaves for `complete`: n slots from span.start on, of which some are active."""

    active: list[int]
    span: slice
    columns: Tensor  # [n]
    hidden: Tensor  # [n * branches, D]
    uniforms: Tensor  # [n, streams]
    branches: int
