"""The parts of a frame, timed alone, and the time that reading their weights takes at least."""

import time
from collections import defaultdict
from collections.abc import Callable
from itertools import cycle
from typing import Any

import torch

from dia2stream.bench.report import Report
from dia2stream.engine.engine import Engine
from dia2stream.engine.session import Session

_PARTS_PER_RUN = 5  # how often each part is timed
_EARLY = 10  # columns from the beginning of the context, and for the late figures from its end


# ---- The parts ----


class Parts:
    """Times a step, a frame and the codec, each until the device has finished; `taken`: milliseconds, by figure.

    Drives the engine's own stepper and codec from the calling thread. The engine's thread must rest meanwhile.
    """

    def __init__(self, engine: Engine, session: Session) -> None:
        self.taken: dict[str, list[float]] = defaultdict(list)
        self._stepper, self._context = engine.stepper, session.conversation.context
        self._device = engine.checkpoint.device

    def measure(self) -> None:
        """Times each part a few times."""
        first, late = self._context.first_frame, self._context.columns.limit - _EARLY
        frames, early = (
            cycle(range(first, self._context.frames)),
            first + _EARLY,
        )  # after the voice, which stays in the cache
        # The codec's time ends when the samples are in main memory.
        self._time("codec_frame", lambda: self._context.playback.decode(next(frames)).pcm())
        self._time("backbone_step", lambda: self._step(early, whole=False))
        self._time("backbone_step_late", lambda: self._step(late, whole=False))
        self._time("whole_frame", lambda: self._step(early, whole=True))
        self._time("whole_frame_late", lambda: self._step(late, whole=True))

    def _step(self, column: int, whole: bool) -> None:
        """One step of the first slot. If all its codes are known, the depformer does not run."""
        stepper = self._stepper
        slot = stepper.slots[0]
        slot.column, slot.known = column, column - max(stepper.delays) if whole else stepper.capacity
        stepper.act([0])
        stepper.complete([stepper.opening])

    def _time(self, name: str, work: Callable[[], object]) -> None:
        work()  # fills the machine's caches with this part's data
        for _ in range(_PARTS_PER_RUN):
            _finish(self._device)
            began = time.perf_counter()
            work()
            _finish(self._device)
            self.taken[name].append(1000 * (time.perf_counter() - began))


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def floors(engine: Engine, speed: float) -> Report:
    """By part: the bytes of weights it reads, and how long that takes at `speed` bytes a second."""
    backbone = backbone_bytes(engine.checkpoint.backbone)
    depformer = depformer_bytes(engine.checkpoint.depformer)
    parts = {"backbone": backbone, "depformer": depformer, "frame": backbone + depformer}
    return {part: {"bytes": size, "ms": 1000 * size / speed} for part, size in parts.items()}


def backbone_bytes(backbone: Any) -> int:
    """Bytes of weights that a backbone step reads: all but the embedding tables, of which it reads a row or two."""
    return sum(p.nbytes for name, p in backbone.named_parameters() if "embed" not in name or name.endswith("_proj"))


def depformer_bytes(depformer: Any) -> int:
    """Bytes of weights that all stages of one column read, each stage its group's projections and its own head."""
    groups, stages, total = len(depformer.groups), depformer.stages, 0
    for full_name, weight in depformer.named_parameters():
        name = full_name.removesuffix(".values").removesuffix(".scale")  # of 8-bit matrices
        if name == "heads":
            total += weight.nbytes
        elif name == "project_in" or name.endswith(("attention.in_proj", "attention.out_proj")):
            total += stages * weight.nbytes // groups
        elif "embed" not in name:
            total += stages * weight.nbytes
    return total


def read_bandwidth(device: torch.device) -> float:
    """Bytes per second of a long read from the device's memory: the fastest of three ways to read."""
    size = min(4 << 30, torch.cuda.mem_get_info(device)[0] // 4) if device.type == "cuda" else 256 << 20
    x = torch.ones(size // 4, device=device)
    rows = x[: x.numel() // 4096 * 4096].view(-1, 4096)
    half, vector = x.numel() // 2, x[:4096]
    ways: tuple[Callable[[], object], ...] = (x.sum, lambda: rows @ vector, lambda: x[:half].copy_(x[half : 2 * half]))
    return max(size / _device_seconds(way, device) for way in ways)


def _device_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that a call keeps the device busy: the least of eight."""
    best = float("inf")
    for _ in range(8):
        if device.type == "cuda":
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record(torch.cuda.current_stream(device))
            work()
            stop.record(torch.cuda.current_stream(device))
            stop.synchronize()
            best = min(best, start.elapsed_time(stop) / 1000)
        else:
            began = time.perf_counter()
            work()
            best = min(best, time.perf_counter() - began)
    return best
