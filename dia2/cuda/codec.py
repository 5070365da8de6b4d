"""The codec on a GPU: a frame of codes of any of the slots in, 80 ms of sound of each out, as one captured graph.

The codec works on a stream of its own, beside the next step of the model: `submit` returns at once, and what it returns
becomes sound when it is asked. There is a graph for each batch size. It reads which slots its rows stand for from a
tensor, updates their memory in place, and its sound reaches the host by one copy and one event, however many slots
there are. Rows of a graph that a batch does not need work on a spare slot that nobody has.

A few rows may be decoded by fused kernels (fused_codec.py). When the codec is built, each batch size tries them, and
takes them only if they make the same sound as the plain operations in less time.

Frames of one slot that follow each other and are there already are taken many at once, by graphs for runs of a few
lengths, with sound or without: whatever a conversation goes back to, the GPU meets no shape for the first time.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from dia2.codec.frames import FrameCodec, Sounds
from dia2.codec.mimi import Mimi
from dia2.codec.ring import Attend, attend_ring
from dia2.cuda.graphs import BatchRows, Capture

_RUNS = (16, 4, 1)  # frames of one slot that a graph takes at once; 16 take about the time of two alone
_TRIED_FRAMES, _TIMED_PASSES = 8, 20
TOLERANCE = 2e-5
"""The most that a sample may differ: two thirds of a step of PCM16. So a conversation that is decoded now by the one
and now by the other form is at most one step away from itself. Measured with random weights: 0.5e-6."""
Pass = Callable[[], None]


@dataclass(frozen=True)
class Trial:
    """Fused kernels beside plain operations, when a pass of so many rows was tried.

    difference: the largest of all samples. plain_ms, fused_ms: of a pass on the device.
    """

    size: int
    difference: float
    plain_ms: float
    fused_ms: float

    @property
    def passed(self) -> bool:
        """Whether the fused kernels are taken. A difference that is no number fails."""
        return self.difference <= TOLERANCE and self.fused_ms < self.plain_ms

    def __str__(self) -> str:
        times = f"{self.size}: {self.fused_ms:.2f} ms, plain {self.plain_ms:.2f}"
        return times if self.difference <= TOLERANCE else f"{times}, samples differ by {self.difference:.1e}"


class GraphCodec(FrameCodec):
    """A FrameCodec whose passes are CUDA graphs; construction warms up and captures all of them.

    attend: how the transformer attends in passes of one frame, by one kernel where Triton is there (backend.py).
    fuse: try fused kernels, which need Triton. passes: by batch size, the graph that decodes a frame of so many rows.
    """

    _spare = 1

    def __init__(self, mimi: Mimi, slots: int = 1, attend: Attend = attend_ring, fuse: bool = False) -> None:
        super().__init__(mimi, slots)
        self.device = mimi.device
        # In front of the model's own work: a frame of sound is short, and somebody is waiting for it.
        self.stream = torch.cuda.Stream(self.device, priority=-1)
        with torch.inference_mode():
            self._capture = capture = Capture(self.device, self.stream)
            self._rows = BatchRows(slots, self.device)
            most = self._rows.sizes[-1]
            self._codes = torch.zeros(most, mimi.codebooks, 1, dtype=torch.int64, device=self.device)
            self._sound = torch.zeros(most, mimi.frame_samples, device=self.device)
            self._run_codes = torch.zeros(1, mimi.codebooks, _RUNS[0], dtype=torch.int64, device=self.device)
            self._run_sound = torch.zeros(_RUNS[0], mimi.frame_samples, device=self.device)
            self.passes = {size: capture(partial(self._pass, size, attend)) for size in reversed(self._rows.sizes)}
            self._sound_runs = {length: capture(partial(self._sound_run, length)) for length in _RUNS}
            self._silent_runs = {length: capture(partial(self._silent_run, length)) for length in _RUNS}
            self.kind = self._take_faster() if fuse else "CUDA graphs of plain operations"
            self.state.reset()
        self.stream.synchronize()

    def fused_passes(self, precision: str = "tf32x3") -> dict[int, Pass]:
        """By batch size, as far as fused kernels take rows, a graph of them. precision: see `FusedDecoder`.

        Raises ValueError for a codec whose shape the kernels do not take, and TritonError where the
        card has too little for them.
        """
        from dia2.cuda.fused_codec import MOST_ROWS, FusedDecoder  # imports triton
        from dia2.cuda.kernels.launch import compiling_together

        decoder = FusedDecoder(self.mimi.decoder, self.state, precision)

        def work(size: int) -> None:
            decoder(self._codes[:size], self._rows.first(size), self._sound[:size])

        with torch.inference_mode():
            sizes = [size for size in self._rows.sizes if size <= MOST_ROWS]
            with compiling_together():
                for size in sizes:
                    work(size)
            return {size: self._capture(partial(work, size)) for size in reversed(sizes)}

    def tried(self, size: int, plain: Pass, fused: Pass) -> Trial:
        """Decodes the same noise both ways, from silence, and times both. The slots are at silence no longer then."""
        with self._behind():
            count = min(size, self.slots)
            self._rows.fill(range(count))
            codes = torch.randint(
                self.mimi.config.codebook_size, (_TRIED_FRAMES, *self._codes.shape), device=self.device
            )
            sounds = []
            for work in (plain, fused):
                self.state.reset()
                sounds.append(torch.stack([self._sound_of(work, frame)[:count] for frame in codes]))
            difference = float((sounds[0] - sounds[1]).abs().max())
            return Trial(size, difference, *(_device_ms(work) for work in (plain, fused)))

    def _sound_of(self, work: Pass, codes: Tensor) -> Tensor:
        self._codes.copy_(codes)
        work()
        return self._sound.clone()

    def _take_faster(self) -> str:
        """Puts fused passes in the place of plain ones that are slower. Returns which, and why."""
        from triton.errors import TritonError  # what a kernel raises that this card has too little for

        try:
            fused = self.fused_passes()
        except (ValueError, TritonError, torch.OutOfMemoryError) as obstacle:
            return f"CUDA graphs of plain operations: {str(obstacle).splitlines()[0]}"
        trials = [self.tried(size, self.passes[size], work) for size, work in sorted(fused.items())]
        self.passes |= {trial.size: fused[trial.size] for trial in trials if trial.passed}
        taken = ", ".join(str(trial.size) for trial in trials if trial.passed) or "no"
        return f"CUDA graphs, of fused kernels for {taken} rows ({'; '.join(map(str, trials))})"

    def _decode(self, slots: Sequence[int], codes: Tensor) -> Sounds:
        count = len(slots)
        with self._behind():
            codes.record_stream(self.stream)
            size = self._rows.fill(slots)
            self._codes[:count].copy_(codes)
            self.passes[size]()
            pcm = torch.empty(count, self._sound.shape[1], pin_memory=True)
            pcm.copy_(self._sound[:count], non_blocking=True)
            ready = torch.cuda.Event()
            ready.record()
        return PinnedSounds(pcm, ready)

    def _decode_run(self, slot: int, codes: Tensor) -> Sounds:
        codes.record_stream(self.stream)
        self._rows.fill([slot])
        pcm = torch.empty(codes.shape[1], self._sound.shape[1], pin_memory=True)
        for start, length in self._runs(codes, self._sound_runs):
            pcm[start : start + length].copy_(self._run_sound[:length], non_blocking=True)
        ready = torch.cuda.Event()
        ready.record()
        return PinnedSounds(pcm, ready)

    def _hear(self, slot: int, codes: Tensor) -> None:
        codes.record_stream(self.stream)
        self._rows.fill([slot])
        before = max(0, codes.shape[1] - self.mimi.decoder.lead_in)
        for part, graphs in ((codes[:, :before], self._silent_runs), (codes[:, before:], self._sound_runs)):
            for _ in self._runs(part, graphs):
                pass

    def _runs(self, codes: Tensor, graphs: dict[int, Pass]) -> Iterator[tuple[int, int]]:
        """Runs a graph for some frames after the other, int64 [codebooks, n]; yields where each began, and its length.

        What is done with the graph's sound is in order with the next graph, which overwrites the sound.
        """
        start = 0
        while start < codes.shape[1]:
            length = next(length for length in _RUNS if start + length <= codes.shape[1])
            self._run_codes[0, :, :length].copy_(codes[:, start : start + length])
            graphs[length]()
            yield start, length
            start += length

    def _sound_run(self, length: int) -> None:
        """Decodes frames of the first row that follow each other."""
        self._run_sound[:length] = self._run(self._run_codes[:, :, :length], 1, attend_ring).view(length, -1)

    def _silent_run(self, length: int) -> None:
        """Moves the first row on by such frames, without sound."""
        self.mimi.listen(self._run_codes[:, :, :length], self.state, self._rows.first(1))

    def _pass(self, size: int, attend: Attend) -> None:
        """Decodes a frame of the first `size` rows."""
        self._sound[:size] = self._run(self._codes[:size], size, attend)

    def _run(self, codes: Tensor, size: int, attend: Attend) -> Tensor:
        return self.mimi.decode(codes, self.state, check=False, rows=self._rows.first(size), attend=attend)

    @contextmanager
    def _behind(self) -> Iterator[None]:
        """Work on the codec's stream, after what the current stream has been given."""
        self.stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.inference_mode(), torch.cuda.stream(self.stream):
            yield


def _device_ms(work: Pass) -> float:
    """Milliseconds of one of many passes on the current stream."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    work()
    begin.record()
    for _ in range(_TIMED_PASSES):
        work()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / _TIMED_PASSES


class PinnedSounds:
    """Frames on their way to the host."""

    def __init__(self, pcm: Tensor, ready: torch.cuda.Event) -> None:
        self._pcm, self._ready = pcm, ready
        self._waited = False

    def pcm(self) -> Tensor:
        """float32 [n, frame_samples]; the first call waits for the device."""
        if not self._waited:
            self._ready.synchronize()
            self._waited = True
        return self._pcm
