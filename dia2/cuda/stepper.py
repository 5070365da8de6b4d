"""The stepper on a GPU: a step is one or two captured CUDA graphs, with the same tokens as the eager one.

Graph A reads the columns, runs the backbone, draws the actions and codebook 0. Graph B runs the depformer: every other
codebook, drawn and written. A step that is only the lead-in launches A alone.

What changes from step to step travels in one small table, `fields`: a row a slot with its column, cache index, known
frames and text, written by the host into pinned memory and copied by graph A itself. Settings and uniforms are device
tensors too. So nothing is ever captured again, and nothing is allocated after construction.

The only thing the host waits for is the actions, copied into pinned memory at the end of A. In the published models
the depformer does not read the text that an action leads to, so B is launched right behind A, before the actions are
known: the GPU works on the codes while the host works on the text, and the next step's A can be queued without a gap.

What is captured comes in two kinds (programs.py). `KernelProgram` uses our kernels, which beat the layers' own
operations for 16-bit and 8-bit weights. `LayerProgram` captures the layers as they are, with only the draws fused: for
float32, where the published code computes in TF32 and so does the library, and for a depformer with a text embedding,
which no published model has.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dia2.cuda.kernels.launch import KNOWN, STEP_FIELDS
from dia2.cuda.programs import KernelProgram, LayerProgram, StepProgram, StepTensors
from dia2.model.sampling import SlotSettings
from dia2.steps.stepper import Slot, Stepper, TextColumn

if TYPE_CHECKING:
    from dia2.checkpoint.load import Checkpoint


class GraphStepper(Stepper):
    """A Stepper whose steps are CUDA graphs; construction compiles, captures and warms up everything.

    plain: capture the layers' own ops even where kernels could be used (for comparing them).
    """

    def __init__(self, checkpoint: "Checkpoint", slots: int = 1, plain: bool | None = None) -> None:
        super().__init__(checkpoint, slots)
        config, device = self.config, self.device
        self._host = self._shared(slots, STEP_FIELDS)
        self._host_actions = self._shared(slots)
        self.fields = torch.zeros_like(self._host, device=device)
        # What was drawn in this step: the codes of every codebook, then the action.
        self.drawn = torch.zeros(slots, config.data.codebooks + 1, dtype=torch.int64, device=device)
        self.reads_text = self.depformer.text_embed is not None
        self.next_text = torch.zeros(slots, 2, dtype=torch.int64, device=device)
        self._host_text = self._shared(slots, 2)
        slow = checkpoint.dtype == torch.float32 or self.reads_text
        self.kind = "plain ops" if (slow if plain is None else plain) else "kernels"
        self._host[:] = torch.tensor([0, 0, self.capacity, *self.opening])  # every frame is known: nothing is kept
        with torch.inference_mode():
            self.program = self._program()
            self._run_column, self._run_codes = self._capture()
        if device.type == "cuda":
            self._meet_lengths()

    @torch.inference_mode()
    def act(self, active: Sequence[int]) -> list[int]:
        """Runs the current column of each active slot and draws; returns their actions.

        The others are computed too and ignored: they know every frame, so nothing of them is kept.
        """
        self._tell(active)
        self._run_column()
        ready = self._mark()
        self._active = list(active)
        self._due = max(self._codebooks_due(slot) for slot in active) > 1
        if self._due and not self.reads_text:
            self._run_codes()
        if ready is not None:
            ready.synchronize()
        return [int(self._host_actions[slot]) for slot in active]

    @torch.inference_mode()
    def complete(self, texts: Sequence[TextColumn]) -> None:
        """Moves the slots of `act` on to the next column, whose texts are given, in that order."""
        for slot, text in zip(self._active, texts, strict=True):
            self.slots[slot].text = text
        if self._due and self.reads_text:
            self._host_text.copy_(torch.tensor([slot.text for slot in self.slots]))
            self._run_codes()
        for slot in self._active:
            self.slots[slot].column += 1

    def _tell(self, active: Sequence[int]) -> None:
        """Writes the step's fields. The copy of the step before is done: its actions have been waited for."""
        rows = [[s.column, s.column + s.shift, self.capacity, *s.text] for s in self.slots]
        for slot in active:
            rows[slot][KNOWN] = self.slots[slot].known
        self._host.copy_(torch.tensor(rows))

    def _program(self) -> StepProgram:
        tensors = StepTensors(
            self.config,
            self.backbone,
            self.depformer,
            self.fields,
            self.drawn,
            self.next_text,
            self.codes,
            self.blanked_text,
            self.cache,
            self.depformer_cache,
            self.uniforms,
            self.guidance,
            self.text_draws,
            self.audio_draws,
        )
        return LayerProgram(tensors) if self.kind == "plain ops" else KernelProgram(tensors)

    def _shared(self, *shape: int) -> Tensor:
        """Host memory that the device's copies can run beside the host with."""
        return torch.zeros(*shape, dtype=torch.int64, pin_memory=self.device.type == "cuda")

    def _mark(self) -> torch.cuda.Event | None:
        if self.device.type != "cuda":
            return None
        self._actions_ready.record()
        return self._actions_ready

    def _meet_lengths(self) -> None:
        """Runs passes of many columns, for which libraries load other kernels than for few; what they write is void."""
        for settings in (SlotSettings(cfg_scale=1.0), SlotSettings()):
            for count in (1, 8, 33, 64, 125, 250, 500, 1000):
                self.slots[0] = Slot(0, self.opening, settings=settings)
                self.prefill(0, [self.opening] * min(count, self.capacity - 2))
        self.slots[0] = Slot(0, self.opening)

    def _capture(self) -> tuple[Callable[[], None], Callable[[], None]]:
        """What runs a column and its codes."""
        if self.device.type != "cuda":  # tests, with the kernels interpreted
            return self._column, self._codes
        self._actions_ready = torch.cuda.Event()
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):  # compiles the kernels, and lets the libraries choose theirs
                self._column()
                self._codes()
        torch.cuda.current_stream().wait_stream(stream)
        self._graphs = captured(self._column), captured(self._codes)
        return self._graphs[0].replay, self._graphs[1].replay

    def _column(self) -> None:
        self.fields.copy_(self._host, non_blocking=True)
        self.program.column()
        self._host_actions.copy_(self.drawn[:, -1], non_blocking=True)

    def _codes(self) -> None:
        if self.reads_text:
            self.next_text.copy_(self._host_text, non_blocking=True)
        self.program.codes()


def captured(work: Callable[[], None]) -> torch.cuda.CUDAGraph:
    """`work`, which has run before, as a graph."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph
