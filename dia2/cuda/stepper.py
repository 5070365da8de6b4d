"""The stepper on a GPU: a step is one or two captured CUDA graphs, with the same tokens as the eager one.

A pass over many columns is a graph, too (passes.py).

Graph A reads the columns, runs the backbone, draws the actions and codebook 0. Graph B runs the depformer: every other
codebook, drawn and written. There is one of each for every batch size. A step takes the smallest A that its slots fit
in, and the smallest B that those of them with codes to draw fit in; a step that is only lead-ins takes no B.

What changes from step to step travels in one small table, `fields`: a line for each slot that steps, with the slot,
its column, cache index, known frames and text, written by the host into pinned memory and copied by graph A itself.
Settings and uniforms are device tensors too, and kernels find a line's slot in its fields. So nothing is ever captured
again, and nothing is allocated after construction. Slots with codes to draw come first, and B takes the first lines.

With `ahead`, a conversation that is alone in its lead-in has its next step begun before the host knows the action of
this one: the host says which text follows either action, and the device chooses. So the device works without a gap.

The only thing the host waits for is the actions, copied into pinned memory at the end of A. In the published models
the depformer does not read the text that an action leads to, so B is launched right behind A, before the actions are
known: the GPU works on the codes while the host works on the text, and the next step's A can be queued without a gap.

What is captured comes in three kinds. `KernelProgram` (programs.py) uses our kernels, which beat the layers' own
operations for 16-bit and 8-bit weights. `ClusterProgram` (clusters/program.py) is the same for a batch of one, with one
kernel for all layers of the backbone and one for the whole depformer, where the model and the GPU fit them.
`LayerProgram` captures the layers as they are, with only the draws fused: for float32, where the published code
computes in TF32 and so does the library, and for a depformer with a text embedding, which no published model has.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dia2.cuda.choice import Candidate, Chooser
from dia2.cuda.clusters.backbone import ClusterBackbone
from dia2.cuda.clusters.depformer import ClusterDepformer
from dia2.cuda.clusters.program import ClusterProgram
from dia2.cuda.forms import COLUMN as TRIAL_COLUMN
from dia2.cuda.forms import FORMS, TOLERANCE, TOO_LARGE, Form, farthest, forms_for
from dia2.cuda.graphs import Capture, batch_sizes, size_for
from dia2.cuda.kernels.choose import choose
from dia2.cuda.kernels.launch import STEP_FIELDS, UNUSED, compiling_together
from dia2.cuda.kernels.products import TILE_SETS
from dia2.cuda.passes import ColumnPasses
from dia2.cuda.programs import KernelBuffers, KernelProgram, LayerProgram, StepProgram, StepTensors
from dia2.model.sampling import SlotSettings
from dia2.steps.speculation import Tree
from dia2.steps.stepper import Ahead, Slot, Stepper, TextColumn

if TYPE_CHECKING:
    from dia2.checkpoint.load import Checkpoint

Run = Callable[[], None]


@dataclass(frozen=True)
class _Begun:
    """A step that the device is at. ready: is recorded behind it; None without a GPU.

    lines: of one that was begun ahead: its fields if the action before is to hold, and if it is to start a word.
    buffer: which of the two buffers it leaves its action in; the next one ahead takes the other.
    """

    buffer: int
    ready: torch.cuda.Event | None
    lines: list[list[int]] | None


class GraphStepper(Stepper):
    """A Stepper whose steps are CUDA graphs; construction compiles, captures and warms up everything.

    plain: capture the layers' own ops even where kernels could be used (for comparing them).
    clusters: use the kernels that are all layers of the backbone, and a whole depformer, where they can be used.
    ahead: begin the next lead-in step of a conversation that is alone before the host knows the action of this one.
    speculate: as in `Stepper`; where passes are no graphs, there is none.
    chooser: chooses how the steps of one conversation are captured, by their time; None: by the rule, without timing.
    """

    def __init__(
        self,
        checkpoint: "Checkpoint",
        slots: int = 1,
        plain: bool | None = None,
        *,
        clusters: bool = True,
        blocks: int | None = None,
        block_columns: int | None = None,
        ahead: bool = False,
        speculate: bool = False,
        chooser: Chooser | None = None,
    ) -> None:
        super().__init__(checkpoint, slots, blocks, block_columns, speculate=speculate)
        self.sizes = batch_sizes(slots)
        lines = self.sizes[-1]
        self.reads_text = self.depformer.text_embed is not None
        slow = checkpoint.dtype == torch.float32 or self.reads_text
        self.kind = "plain ops" if (slow if plain is None else plain) else "kernels"
        self.backbone_kind = self.depformer_kind = "the layers' own operations"
        self._use_clusters, self._chooser = clusters, chooser
        self.form, self.form_reason = FORMS[0], "by the rule, not timed"
        self._whole_backbone: ClusterBackbone | None = None
        self._whole_depformer: ClusterDepformer | None = None
        self._host = self._shared(lines, STEP_FIELDS)
        self._host_actions, self._host_text = self._shared(lines), self._shared(lines, 2)
        # The same memory for NumPy, which reads and writes a few numbers in less time.
        self._host_lines, self._host_drawn = self._host.numpy(), self._host_actions.numpy()
        # Of steps that are begun ahead, in turns: the host may be late to read the one while the next one ends.
        self._ahead_actions = [self._shared(1), self._shared(1)]
        self._ahead_drawn = [actions.numpy() for actions in self._ahead_actions]
        self._choices = torch.zeros(2, STEP_FIELDS, dtype=torch.int64, device=self.device)
        self._new_word, self._action = self.config.data.text_new_word_token_id, 0
        self._ahead = ahead
        self._begun: _Begun | None = None
        self._due_codes: Run | None = None  # graph B of the step that is going on
        self.tensors = self._step_tensors(lines)
        # A line that fills up a batch: every frame is known, so nothing is drawn into codes. The last column of the
        # cache is never read.
        self._unused = [0, self.capacity - 1, self.capacity, *self.opening, UNUSED]
        self._host[:] = self._choices[:] = torch.tensor(self._unused)
        # By batch size: what is captured, graphs A and graphs B.
        self.programs: dict[int, StepProgram] = {}
        self.columns: dict[int, Run] = {}
        self.depformers: dict[int, Run] = {}
        self._passes: ColumnPasses | None = None
        self._tree_numbers: dict[int, int] = {}  # by slot: of its tree in the last pass of trees
        with torch.inference_mode():
            self._capture()
        if self.device.type == "cuda" and self._passes is None:
            self._meet_lengths()

    def batch_size(self, count: int) -> int:
        return size_for(count, self.sizes)

    @property
    def pass_sizes(self) -> tuple[int, ...]:
        return self._passes.sizes if self._passes else super().pass_sizes

    @torch.inference_mode()
    def prefill(self, slot: int, texts: Sequence[TextColumn]) -> None:
        """As the eager stepper does; where there are graphs for it, by those."""
        if self._passes is None:
            super().prefill(slot, texts)
        elif texts:
            state = self.slots[slot]
            self.blocks.hold(slot, state.column + state.shift + len(texts))
            self._passes.run(slot, state.column, state.shift, texts)
            state.column += len(texts)

    def tree_size(self, slots: int) -> int:
        return self._passes.tree_size(slots) if self._passes and self.speculates else 0

    def _run_trees(self, slots: Sequence[int], trees: Sequence[Tree]) -> list[list[int]]:
        """As in the eager stepper, but with the trees of all slots in one graph."""
        assert self._passes is not None
        self._tree_numbers = {slot: number for number, slot in enumerate(slots)}
        return self._passes.run_trees([self._tree_lines(slot, tree) for slot, tree in zip(slots, trees, strict=True)])

    def _tree_lines(self, slot: int, tree: Tree) -> list[list[int]]:
        """What the device is told of every column of a slot's tree. They get blocks of the cache."""
        state = self.slots[slot]
        column, index = state.column, state.column + state.shift
        self.blocks.hold(slot, index + len(tree))
        self._need_uniforms(slot, column + tree.depth - 1)
        columns = zip(tree.depths, tree.signed(), tree.texts, strict=True)
        return [[column + depth, index + i, seen, *text, slot] for i, (depth, seen, text) in enumerate(columns)]

    def _draw_behind(self, slot: int, place: int) -> None:
        assert self._passes is not None
        state = self.slots[slot]
        line = [state.column - 1, state.column - 1 + state.shift, state.known, *state.text, slot]
        self._passes.draw_code(self._tree_numbers[slot], place, line)

    @property
    def looks_ahead(self) -> bool:
        return self._ahead

    def stop_ahead(self) -> None:
        self._begun = None

    @torch.inference_mode()
    def act(self, slots: Sequence[int], ahead: Ahead | None = None) -> list[int]:
        """Runs the current column of each of the slots and draws: their actions, in the same order.

        slots: at most MOST_SLOTS of them, in any order, none twice. ahead: see `Stepper.act`.
        """
        begun, self._begun = self._begun, None
        if begun is None or not self._goes_on(begun, slots):
            begun = self._begin_step(slots)
        if ahead is not None and self._ahead and len(slots) == 1 and self._due_codes is None:
            self._begun = self._begin_ahead(slots[0], ahead, 1 - begun.buffer)
        if begun.ready is not None:
            begun.ready.synchronize()
        drawn = self._host_drawn if begun.lines is None else self._ahead_drawn[begun.buffer]
        actions = dict(zip(self._lines, drawn[: len(self._lines)].tolist(), strict=True))
        self._action = actions[slots[0]]
        return [actions[slot] for slot in slots]

    def _begin_step(self, slots: Sequence[int]) -> "_Begun":
        column, codes = self.prepare(slots)
        column()
        ready = self._mark(self._actions_ready)
        if codes is not None and not self.reads_text:
            codes()
        return _Begun(0, ready, None)

    # ---- The next step, before the action of this one is known on the host ----

    def _begin_ahead(self, slot: int, ahead: Ahead, buffer: int) -> "_Begun":
        """Queues the slot's next step. The device chooses its text, by the action that it has drawn."""
        state = self.slots[slot]
        index = state.column + state.shift + 1
        self.blocks.hold(slot, index + 1)
        self._need_uniforms(slot, state.column + 1)
        lines = [[state.column + 1, index, state.known, *text, slot] for text in ahead]
        choices = torch.tensor(lines, pin_memory=self.device.type == "cuda")
        self._choices.copy_(choices, non_blocking=True)
        self._run_ahead()
        self._ahead_actions[buffer].copy_(self.tensors.drawn[:1, -1], non_blocking=True)
        return _Begun(buffer, self._mark(self._ahead_ready[buffer]), lines)

    def _goes_on(self, begun: "_Begun", slots: Sequence[int]) -> bool:
        """Whether a step that was begun ahead is the one that is asked for now."""
        assert begun.lines is not None
        starts_word = self._action == 1 or (self._action == self._new_word and self._action != 0)
        if len(slots) != 1 or self._line(slots[0]) != begun.lines[starts_word]:
            return False
        self._active = self._lines = list(slots)
        self._due_codes = None
        return True

    def run_ahead(self, program: StepProgram) -> None:
        """Graph A of a step that was begun ahead, as it is captured."""
        choose(self._choices, program.tensors.drawn[0, -1:], self._new_word, program.tensors.fields[0])
        program.column()

    def prepare(self, slots: Sequence[int]) -> tuple[Run, Run | None]:
        """Writes down what the step of these slots is to do. Returns its graphs: A, and B if there is a code to draw.

        The copy of the step before is done by then: its actions have been waited for.
        """
        if not slots or len(set(slots)) < len(slots):
            raise ValueError(f"slots are {list(slots)}, there must be at least one and none twice")
        size = size_for(len(slots), self.sizes)
        drawing = [slot for slot in slots if self._codebooks_due(slot) > 1]
        others = set(slots).difference(drawing)
        self._active, self._lines = list(slots), [*drawing, *(slot for slot in slots if slot in others)]
        lines = [self._line(slot) for slot in self._lines] + [self._unused] * (size - len(slots))
        self._host_lines[:size] = lines
        self._due_codes = self.depformers[size_for(len(drawing), self.sizes)] if drawing else None
        return self.columns[size], self._due_codes

    @torch.inference_mode()
    def complete(self, texts: Sequence[TextColumn]) -> None:
        """Moves the slots of `act` on to the next column, whose texts are given, in that order."""
        for slot, text in zip(self._active, texts, strict=True):
            self.slots[slot].text = text
        if self._due_codes is not None and self.reads_text:
            self._host_text[: len(self._lines)] = torch.tensor([self.slots[slot].text for slot in self._lines])
            self._due_codes()
        for slot in self._active:
            self.slots[slot].column += 1

    def _line(self, slot: int) -> list[int]:
        """What the device is told of a slot's step. Its column gets a block of the cache."""
        state = self.slots[slot]
        index = state.column + state.shift
        self.blocks.hold(slot, index + 1)
        self._need_uniforms(slot, state.column)
        return [state.column, index, state.known, *state.text, slot]

    def _step_tensors(self, lines: int) -> StepTensors:
        data, device = self.config.data, self.device
        return StepTensors(
            self.config,
            self.backbone,
            self.depformer,
            fields=torch.zeros_like(self._host, device=device),
            drawn=torch.zeros(lines, data.codebooks + 1, dtype=torch.int64, device=device),
            next_text=torch.zeros(lines, 2, dtype=torch.int64, device=device),
            hidden=self.backbone.cb0_head.new_zeros(2 * lines, self.config.model.decoder.n_embd),
            codes=self.codes,
            blanked_text=self.blanked_text,
            cache=self.cache,
            depformer_cache=self.depformer.new_cache(2 * lines),
            uniforms=self.uniforms,
            guidance=self.guidance,
            text_draws=self.text_draws,
            audio_draws=self.audio_draws,
        )

    def _shared(self, *shape: int) -> Tensor:
        """Host memory that the device's copies can run beside the host with."""
        return torch.zeros(*shape, dtype=torch.int64, pin_memory=self.device.type == "cuda")

    def _mark(self, event: torch.cuda.Event | None) -> torch.cuda.Event | None:
        """Records an event on the device, behind all that it has been given."""
        if event is not None:
            event.record()
        return event

    def _meet_lengths(self) -> None:
        """Runs passes of many columns, for which libraries load other kernels than for few; what they write is void."""
        for settings in (SlotSettings(cfg_scale=1.0), SlotSettings()):
            for count in (1, 8, 33, 64, 125, 250, 500, 1000):
                self.slots[0] = Slot(0, self.opening, settings=settings)
                self.prefill(0, [self.opening] * min(count, self.capacity - 2))
        self.slots[0] = Slot(0, self.opening)
        self.blocks.trim(0, 0)

    def _capture(self) -> None:
        """Makes what runs a column and its codes, for every batch size."""
        on_gpu = self.device.type == "cuda"  # else: tests, with the kernels interpreted
        capture = Capture(self.device) if on_gpu else None
        self._actions_ready, *self._ahead_ready = (torch.cuda.Event() if on_gpu else None for _ in range(3))
        buffers = None
        if self.kind == "kernels":
            buffers = KernelBuffers(self.tensors)
            self._settle_form(buffers, capture)
        self.programs = {size: self._program(self.tensors.first(size), buffers) for size in reversed(self.sizes)}
        if capture is not None and self.kind == "kernels":
            self.compile_kernels()
        for size, program in self.programs.items():
            column, codes = partial(self.run_column, program), partial(self.run_codes, program)
            self.columns[size] = capture(column) if capture else column
            self.depformers[size] = capture(codes) if capture else codes
        if self._ahead:
            next_step = partial(self.run_ahead, self.programs[1])
            self._run_ahead = capture(next_step) if capture else next_step
        if buffers is not None:
            heads = buffers.heads if self.speculates else None
            self._passes = ColumnPasses(self.tensors, self._unused, capture, heads)

    def compile_kernels(self) -> None:
        """Compiles the kernels of all steps at the same time; nothing of ours is run, and what libraries do is void."""
        with compiling_together():
            for program in self.programs.values():
                self.run_column(program)
                self.run_codes(program)

    # ---- The form of one conversation's steps ----

    def _settle_form(self, buffers: KernelBuffers, capture: Capture | None) -> None:
        """Takes the form of the rule, or the one that was timed to be the fastest, now or in another process."""
        forms = {form.name: form for form in forms_for(self.sizes)}
        if self._chooser is None:
            self._take(FORMS[0])
            return
        candidates = [Candidate(name, partial(self._try, form, buffers, capture)) for name, form in forms.items()]
        name, self.form_reason = self._chooser.choose(candidates)
        self._take(forms[name])
        self.slots[0] = Slot(0, self.opening)  # what a trial has left there is void
        self.blocks.trim(0, 0)

    def _take(self, form: Form) -> None:
        self.form = form
        self._whole_backbone = self._whole_depformer = None
        self.backbone_kind = self.depformer_kind = "a kernel a product" if form.tiles else "the layers' own operations"
        if form.clusters:
            self._make_clusters()

    def _try(self, form: Form, buffers: KernelBuffers, capture: Capture | None) -> Run | str:
        """A whole step in this form, or why the form cannot be taken."""
        self._take(form)
        if form.clusters and self._whole_backbone is None and self._whole_depformer is None:
            return self.backbone_kind
        tensors = self.tensors.first(1)
        program = self._program(tensors, buffers)
        self._stand_in_noise()
        given = torch.arange(self.config.data.codebooks, device=self.device) * 37 % self.depformer.codes  # any codes
        try:
            off = farthest(program, LayerProgram(tensors), given)
        except TOO_LARGE as error:
            return str(error).splitlines()[0]
        if not off <= TOLERANCE:
            return f"its logits are {off:.2g} from those of the layers, {TOLERANCE} is the most"
        column, codes = (partial(run, program) for run in (self.run_column, self.run_codes))
        if capture is not None:
            column, codes = capture(column), capture(codes)  # type: ignore[assignment]

        def step() -> None:
            column()
            codes()

        return step

    def _stand_in_noise(self) -> None:
        """Puts slot 0 late into a context whose keys and values are noise, and says so to the device."""
        column = min(TRIAL_COLUMN, self.capacity - 2)
        self.begin(0, SlotSettings(), seed=0)
        self.slots[0].column, self.slots[0].known = column, -self.capacity
        self._host_lines[:1] = [self._line(0)]
        self.tensors.fields[:1].copy_(self._host[:1])
        blocks = -(-(column + 1) // self.blocks.columns)
        dice = torch.Generator(self.device).manual_seed(0)
        for block in self.cache.table[0, :blocks].tolist():
            for part in (self.cache.k, self.cache.v):
                part[:, block].normal_(generator=dice)

    def _program(self, tensors: StepTensors, buffers: KernelBuffers | None) -> StepProgram:
        if buffers is None or (self.form.tiles is None and tensors.lines == 1):
            return LayerProgram(tensors)
        if tensors.lines == 1 and (self._whole_backbone or self._whole_depformer):
            return ClusterProgram(tensors, buffers, self._whole_backbone, self._whole_depformer)
        return KernelProgram(tensors, buffers, TILE_SETS[self.form.tiles or "h100"])

    def _make_clusters(self) -> None:
        """The kernels that are a whole part of a step each, where they can be used; the parts' kinds say why not."""
        if not self._use_clusters or self.device.type != "cuda":
            return
        untried = self._chooser is not None  # which compares them with the layers first
        self._whole_backbone, reason = ClusterBackbone.make(self.backbone, self.config, self.cache, untried=untried)
        self.backbone_kind = _kind(self._whole_backbone, reason)
        self._whole_depformer, reason = ClusterDepformer.make(self.depformer, self.config, untried=untried)
        self.depformer_kind = _kind(self._whole_depformer, reason)

    def run_column(self, program: StepProgram) -> None:
        """Graph A, as it is captured."""
        tensors, lines = program.tensors, program.tensors.lines
        tensors.fields.copy_(self._host[:lines], non_blocking=True)
        program.column()
        self._host_actions[:lines].copy_(tensors.drawn[:, -1], non_blocking=True)

    def run_codes(self, program: StepProgram) -> None:
        """Graph B, as it is captured."""
        if self.reads_text:
            program.tensors.next_text.copy_(self._host_text[: program.tensors.lines], non_blocking=True)
        program.codes()


def _kind(whole: object | None, reason: str) -> str:
    """How a part of a step runs, for the log."""
    return f"a kernel a product ({reason})" if whole is None else f"one kernel ({reason})"
