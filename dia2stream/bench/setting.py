"""The setting of a measurement, for the report: the machine, the model, and when it was loaded and warm."""

import os
import platform
import resource
import sys
import time
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from dia2stream import __version__
from dia2stream.bench.report import SCHEMA, Report
from dia2stream.engine.engine import Engine
from dia2stream.protocol.messages import Ready

_MODEL = ("name", "device", "dtype", "parameters", "stepper", "notes")
_ONCE = ("load_s", "warm_up_s", "peak_rss_bytes", "peak_cuda_bytes", "read_bytes_per_s")


class TimedEngine(Engine):
    """An engine that remembers when its load began, when the model was loaded, and when it was warm."""

    began = loaded = warm = 0.0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.loaded = time.perf_counter()
        super().__init__(*arguments, **options)

    @classmethod
    def load(cls, *arguments: Any, **options: Any) -> "TimedEngine":
        began = time.perf_counter()
        engine = super().load(*arguments, **options)
        assert isinstance(engine, TimedEngine)  # `load` makes an engine of the class that it is called on
        engine.began = began
        return engine

    def warm_up(self) -> None:
        super().warm_up()
        self.warm = time.perf_counter()


def head(target: str, settings: dict[str, Any]) -> Report:
    """The first keys of every report. target: "engine", or the URL of a server."""
    return {
        "schema": SCHEMA,
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "dia2stream": __version__,
        "target": target.partition("?")[0],  # the query may hold a token
        "settings": settings,
    }


def engine_setting(engine: TimedEngine, read_bytes_per_s: float | None = None) -> Report:
    """The keys machine, model and once of an engine in this process."""
    device = engine.checkpoint.device
    once = (engine.loaded - engine.began, engine.warm - engine.loaded, *_peak_memory(device), read_bytes_per_s)
    return {"machine": _machine(device), "model": _model(engine), "once": dict(zip(_ONCE, once, strict=True))}


def simulated_setting(name: str) -> Report:
    """The same keys of a simulation. name: of the cost curve, which says what machine and model it is of."""
    model = {**dict.fromkeys(_MODEL), "name": name}
    return {"machine": _machine(None), "model": model, "once": dict.fromkeys(_ONCE)}


def server_setting(ready: Ready) -> Report:
    """The same keys of a server: `machine` is the one that measures."""
    model = {**dict.fromkeys(_MODEL), "name": ready.model, "device": ready.device}
    return {"machine": _machine(None), "model": model, "once": dict.fromkeys(_ONCE)}


def _model(engine: Engine) -> Report:
    checkpoint = engine.checkpoint
    weights = (*checkpoint.backbone.parameters(), *checkpoint.depformer.parameters())
    dtype = str(checkpoint.dtype).removeprefix("torch.") + (", fp8 weights" if checkpoint.weights == "fp8" else "")
    count = sum(weight.numel() for weight in weights)
    seen = (checkpoint.name, str(checkpoint.device), dtype, count, type(engine.stepper).__name__, checkpoint.notes)
    return dict(zip(_MODEL, seen, strict=True))


def _peak_memory(device: torch.device) -> tuple[int, int | None]:
    """The most memory that this process has taken, in bytes: here, and on the GPU."""
    unit = 1 if sys.platform == "darwin" else 1024
    cuda = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, cuda


def _machine(device: torch.device | None) -> Report:
    """What measures. device: where the model is; None if it is in another process."""
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
