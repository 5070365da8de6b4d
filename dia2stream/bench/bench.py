"""`bench`: how soon it speaks and what a frame costs, on the warm engine that pipe and serve use.

Every run is one call, see caller.py. After each call nobody speaks, and the parts are timed one at a time: a backbone
step, a whole frame, the codec. Next to them stands what they could cost at best: the bytes of weights that have to be
read, over the speed at which this machine reads memory, measured in this process too.

A server is measured by the same calls, without what only the engine can tell.
"""

import os
import platform
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from dia2stream import __version__
from dia2stream.bench.calls import Caller, EngineLine, ServerLine, Steps
from dia2stream.bench.report import (
    FIGURES,
    LEAD_INS,
    SCHEMA,
    Report,
    compare,
    distribution,
    dump,
    gates,
    plot,
    rate,
    read,
    show,
)
from dia2stream.engine.engine import Engine, Session
from dia2stream.errors import Dia2StreamError
from dia2stream.options import BenchOptions, ModelOptions, SpeechOptions
from dia2stream.terminal import load_progress, note

_PARTS_PER_RUN = 5  # how often each part is timed
_EARLY = 10  # columns from the beginning of the context, and for the late figures from its end
_PUBLISHED_AHEAD = 2  # of a server's model: the words it must know beyond the next one


def run(model: ModelOptions, speech: SpeechOptions, options: BenchOptions) -> None:
    """Measures, and tells. Raises SystemExit(1) when a gate fails, Dia2Error when the model cannot be had."""
    old = read(options.compare) if options.compare else None
    _check_outputs(options)
    report = _server_report(speech, options) if options.url else _engine_report(model, speech, options)
    rate(report)
    report["compared"] = compare(report, old) if old else None
    report["gates"] = gates(report, options)
    report["passed"] = all(gate["passed"] for gate in report["gates"])
    show(report, to_stderr=options.json == "-")
    for gate in report["gates"]:
        note(gate["line"])
    if options.plot:
        plot(report, old, options.plot)
    if options.json == "-":
        print(dump(report))
    elif options.json:
        Path(options.json).write_text(dump(report) + "\n", encoding="utf-8")
    if not report["passed"]:
        raise SystemExit(1)


def _check_outputs(options: BenchOptions) -> None:
    """What would fail after minutes of measuring fails now."""
    if options.plot:
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            raise Dia2StreamError("--plot needs matplotlib: pip install 'dia2stream[plot]'") from None
    for path in (options.plot, options.json):
        if path and path != "-" and not os.access(Path(path).absolute().parent, os.W_OK):
            raise Dia2StreamError(f"{path}: its folder is not there or cannot be written")


def _engine_report(model: ModelOptions, speech: SpeechOptions, options: BenchOptions) -> Report:
    steps = Steps()
    began = time.perf_counter()
    with load_progress() as progress:
        engine = TimedEngine.load(model, progress=progress, speech=speech, on_step=steps.stepped)
    assert isinstance(engine, TimedEngine)  # `load` makes what it is called on
    device = engine.checkpoint.device
    try:
        steps.watch(engine.stepper)
        with engine.conversation() as session:
            caller = Caller(EngineLine(session), speech, steps, engine.stepper.config.data.second_stream_ahead)
            parts = Parts(engine, session)
            _repeat(options, caller, parts)
    finally:
        engine.close()
    memory, speed = _peak_memory(device), read_bandwidth(device)  # in this order: reading takes memory for itself
    return {
        **_head("engine", speech, options),
        "machine": _machine(device),
        "model": _model(engine),
        "once": {
            "load_s": engine.loaded - began,
            "warm_up_s": engine.warm - engine.loaded,
            **memory,
            "read_bytes_per_s": speed,
        },
        "figures": _figures(caller.taken | parts.taken),
        "counts": {"expected": steps.expected, **{name: caller.counts[name] for name in LEAD_INS}},
        "floors": _floors(engine, speed),
    }


def _server_report(speech: SpeechOptions, options: BenchOptions) -> Report:
    assert options.url is not None
    with ServerLine(options.url, options.token) as line:
        caller = Caller(line, speech, None, _PUBLISHED_AHEAD)
        _repeat(options, caller)
    return {
        **_head(options.url.partition("?")[0], speech, options),  # the query may hold a token
        "machine": _machine(None),
        "model": {**dict.fromkeys(_MODEL), "name": line.ready.model, "device": line.ready.device},
        "once": dict.fromkeys(("load_s", "warm_up_s", "peak_rss_bytes", "peak_cuda_bytes", "read_bytes_per_s")),
        "figures": _figures(caller.taken),
        "counts": None,
        "floors": None,
    }


def _head(target: str, speech: SpeechOptions, options: BenchOptions) -> Report:
    return {
        "schema": SCHEMA,
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "dia2stream": __version__,
        "target": target,
        "settings": {"runs": options.runs, "warmup": options.warmup, **asdict(speech), "seed": speech.seed or 0},
    }


def _figures(times: dict[str, list[float]]) -> Report:
    return {name: distribution(name, times.get(name, [])) for name in FIGURES}


def _repeat(options: BenchOptions, caller: Caller, parts: "Parts | None" = None) -> None:
    """All runs. The parts are timed between the calls, so that whatever else the machine does hits both alike."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    # No refreshing thread: it would take its time from what is being measured.
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as bar:
        for number in bar.track(range(options.warmup + options.runs), description="measuring"):
            if number == options.warmup:
                caller.taken.clear()
                if parts is not None:
                    parts.taken.clear()
            caller.call(number)
            if parts is not None:
                parts.measure()


class TimedEngine(Engine):
    """An engine that remembers when the model was loaded and when all was warm."""

    loaded = warm = 0.0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.loaded = time.perf_counter()
        super().__init__(*arguments, **options)

    def warm_up(self) -> None:
        super().warm_up()
        self.warm = time.perf_counter()


# ---- The parts ----


class Parts:
    """Times a step, a frame and the codec, each call up to the end of what the device does for it; `taken` in ms.

    Drives the engine's own stepper and codec from the caller's thread, while nobody speaks and the engine's waits.
    """

    def __init__(self, engine: Engine, session: Session) -> None:
        self.taken: dict[str, list[float]] = defaultdict(list)
        self._stepper, self._context = engine.stepper, session.conversation.context
        self._device = engine.checkpoint.device

    def measure(self) -> None:
        """Some calls of each."""
        first, late = self._context.first_frame, self._context.limit - _EARLY
        frames, early = cycle(range(first, self._context.frames)), first + _EARLY  # behind the voice, which stays
        # Down to samples in main memory.
        self._time("codec_frame", lambda: self._context.decode(next(frames)).pcm())
        self._time("backbone_step", lambda: self._step(early, whole=False))
        self._time("backbone_step_late", lambda: self._step(late, whole=False))
        self._time("whole_frame", lambda: self._step(early, whole=True))
        self._time("whole_frame_late", lambda: self._step(late, whole=True))

    def _step(self, column: int, whole: bool) -> None:
        """A step of the first slot, whose codes are all known already unless a whole frame is wanted."""
        stepper = self._stepper
        slot = stepper.slots[0]
        slot.column, slot.known = column, column - max(stepper.delays) if whole else stepper.capacity
        stepper.act([0])
        stepper.complete([stepper.opening])

    def _time(self, name: str, work: Callable[[], object]) -> None:
        work()  # what was last in the machine's caches is of no interest
        for _ in range(_PARTS_PER_RUN):
            _finish(self._device)
            began = time.perf_counter()
            work()
            _finish(self._device)
            self.taken[name].append(1000 * (time.perf_counter() - began))


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _floors(engine: Engine, speed: float) -> Report:
    """What reading the weights takes, at that many bytes a second."""
    backbone = backbone_bytes(engine.checkpoint.backbone)
    depformer = depformer_bytes(engine.checkpoint.depformer)
    parts = {"backbone": backbone, "depformer": depformer, "frame": backbone + depformer}
    return {part: {"bytes": size, "ms": 1000 * size / speed} for part, size in parts.items()}


def backbone_bytes(backbone: Any) -> int:
    """Bytes of weights that a backbone step reads: all but the tables of embeddings, of which it reads a row or two."""
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
    """Bytes per second that a long read from the device's memory gives: the best of some ways to read."""
    size = min(4 << 30, torch.cuda.mem_get_info(device)[0] // 4) if device.type == "cuda" else 256 << 20
    x = torch.ones(size // 4, device=device)
    rows = x[: x.numel() // 4096 * 4096].view(-1, 4096)
    half, vector = x.numel() // 2, x[:4096]
    ways: tuple[Callable[[], object], ...] = (x.sum, lambda: rows @ vector, lambda: x[:half].copy_(x[half : 2 * half]))
    return max(size / _device_seconds(way, device) for way in ways)


def _device_seconds(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that a call keeps the device busy, the best of some."""
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


# ---- What it was measured on ----


def _peak_memory(device: torch.device) -> Report:
    unit = 1 if sys.platform == "darwin" else 1024
    cuda = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return {"peak_rss_bytes": unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, "peak_cuda_bytes": cuda}


def _machine(device: torch.device | None) -> Report:
    cuda = device is not None and device.type == "cuda"
    return {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if cuda else None,
        "gpu_memory_bytes": torch.cuda.get_device_properties(device).total_memory if cuda else None,
        "cuda": torch.version.cuda if cuda else None,
        "triton": _version("triton"),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


_MODEL = ("name", "device", "dtype", "parameters", "stepper", "notes")


def _model(engine: Engine) -> Report:
    checkpoint = engine.checkpoint
    weights = (*checkpoint.backbone.parameters(), *checkpoint.depformer.parameters())
    dtype = str(checkpoint.dtype).removeprefix("torch.") + (", fp8 weights" if checkpoint.weights == "fp8" else "")
    count = sum(weight.numel() for weight in weights)
    seen = (checkpoint.name, str(checkpoint.device), dtype, count, type(engine.stepper).__name__, checkpoint.notes)
    return dict(zip(_MODEL, seen, strict=True))
