"""`bench`: how soon it speaks and what a frame costs, on the warm engine that pipe and serve use.

Every run is one call, see calls.py. After each call, while nobody speaks, the parts are timed one at a time: a backbone
step, a whole frame, the codec. Beside them stands the least they could cost: the bytes of weights that must be read,
over the speed at which this machine reads memory, which is measured in this process too.

A server is measured by the same calls. Counts of steps and times of parts are known of the engine only.
"""

import os
import time
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from dia2stream import __version__
from dia2stream.bench.calls import BenchCall
from dia2stream.bench.clients import EngineClient, ServerClient
from dia2stream.bench.parts import Parts, floors, machine, peak_memory, read_bandwidth
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
from dia2stream.bench.steps import EngineWatch, expected_steps
from dia2stream.engine.engine import Engine
from dia2stream.errors import Dia2StreamError
from dia2stream.options import BenchOptions, ModelOptions, SpeechOptions
from dia2stream.terminal import load_progress, note

_PUBLISHED_AHEAD = 2  # words that the published model must know beyond the next one: what a server is taken to need


def run(model: ModelOptions, speech: SpeechOptions, options: BenchOptions) -> None:
    """Measures and reports. Raises SystemExit(1) when a gate fails, Dia2Error when the model cannot be loaded."""
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
    """Checks what would else fail only after minutes of measuring."""
    if options.plot:
        try:
            import matplotlib  # noqa: F401
        except ImportError:
            raise Dia2StreamError("--plot needs matplotlib: pip install 'dia2stream[plot]'") from None
    for path in (options.plot, options.json):
        if path and path != "-" and not os.access(Path(path).absolute().parent, os.W_OK):
            raise Dia2StreamError(f"{path}: its folder is not there or cannot be written")


def _engine_report(model: ModelOptions, speech: SpeechOptions, options: BenchOptions) -> Report:
    watch = EngineWatch()
    began = time.perf_counter()
    with load_progress() as progress:
        engine = TimedEngine.load(model, progress=progress, speech=speech, observers=[watch])
    assert isinstance(engine, TimedEngine)  # `load` is called on this class
    device = engine.checkpoint.device
    try:
        expected, ahead = expected_steps(engine.stepper.delays), engine.stepper.config.data.second_stream_ahead
        with engine.conversation() as session:
            call = BenchCall(EngineClient(engine, session, watch), speech, ahead, watch, expected)
            parts = Parts(engine, session)
            _repeat(options, call, parts)
    finally:
        engine.close()
    memory, speed = peak_memory(device), read_bandwidth(device)  # in this order: measuring the bandwidth takes memory
    return {
        **_head("engine", speech, options),
        "machine": machine(device),
        "model": _model(engine),
        "once": {
            "load_s": engine.loaded - began,
            "warm_up_s": engine.warm - engine.loaded,
            **memory,
            "read_bytes_per_s": speed,
        },
        "figures": _figures(call.taken | parts.taken),
        "counts": {"expected": expected, **{name: call.counts[name] for name in LEAD_INS}},
        "floors": floors(engine, speed),
    }


def _server_report(speech: SpeechOptions, options: BenchOptions) -> Report:
    assert options.url is not None
    with ServerClient(options.url, options.token) as client:
        call = BenchCall(client, speech, _PUBLISHED_AHEAD, None, {})
        _repeat(options, call)
    return {
        **_head(options.url.partition("?")[0], speech, options),  # the query may hold a token
        "machine": machine(None),
        "model": {**dict.fromkeys(_MODEL), "name": client.ready.model, "device": client.ready.device},
        "once": dict.fromkeys(("load_s", "warm_up_s", "peak_rss_bytes", "peak_cuda_bytes", "read_bytes_per_s")),
        "figures": _figures(call.taken),
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


def _repeat(options: BenchOptions, call: BenchCall, parts: Parts | None = None) -> None:
    """Makes all runs. The parts are timed between the calls, so that other work of the machine slows both alike."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    # Without a refreshing thread, which would take time from what is being measured.
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as bar:
        for number in bar.track(range(options.warmup + options.runs), description="measuring"):
            if number == options.warmup:
                call.taken.clear()
                if parts is not None:
                    parts.taken.clear()
            call.run(number)
            if parts is not None:
                parts.measure()


class TimedEngine(Engine):
    """An engine that remembers when the model was loaded and when it was warm."""

    loaded = warm = 0.0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.loaded = time.perf_counter()
        super().__init__(*arguments, **options)

    def warm_up(self) -> None:
        super().warm_up()
        self.warm = time.perf_counter()


_MODEL = ("name", "device", "dtype", "parameters", "stepper", "notes")


def _model(engine: Engine) -> Report:
    checkpoint = engine.checkpoint
    weights = (*checkpoint.backbone.parameters(), *checkpoint.depformer.parameters())
    dtype = str(checkpoint.dtype).removeprefix("torch.") + (", fp8 weights" if checkpoint.weights == "fp8" else "")
    count = sum(weight.numel() for weight in weights)
    seen = (checkpoint.name, str(checkpoint.device), dtype, count, type(engine.stepper).__name__, checkpoint.notes)
    return dict(zip(_MODEL, seen, strict=True))
