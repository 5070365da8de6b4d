"""`bench --calls`, `--calls-per-second` and `--crowd`: how many calls an engine or a server holds, and how well.

Each load is held for a while. A load holds if first audio comes in time and no call has a gap that can be heard:
`--find` searches the highest one that does. The engine in this process shares its interpreter with the callers, as it
does with the server's connections in `serve`.
"""

import asyncio
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import cast

import torch

from dia2stream.bench.calls import start_fields
from dia2stream.bench.load.clients import engine_calls, server_calls
from dia2stream.bench.load.driver import Kind, Load, Target, measure
from dia2stream.bench.load.report import LABELS, compare_loads, load_gates, plot_loads, show_loads
from dia2stream.bench.load.results import holds
from dia2stream.bench.load.search import highest_load
from dia2stream.bench.load.usage import UsageMeter
from dia2stream.bench.outputs import check_outputs, publish
from dia2stream.bench.report import Report, read
from dia2stream.bench.setting import TimedEngine, engine_setting, head, server_setting
from dia2stream.client import connect
from dia2stream.errors import Dia2StreamError
from dia2stream.options import BenchOptions, CallOptions, Device, ModelOptions, SpeechOptions
from dia2stream.protocol.messages import Ready, Start
from dia2stream.terminal import load_progress, note

_GPU_SLOTS, _CPU_SLOTS = 64, 16  # of an engine, where the loads do not say how many are needed
_MOST = 10_000.0  # the highest load that is tried on a server
_MAX_FIRST_MS = 100.0  # of --find
_KINDS: dict[str, Kind] = {"calls": "phone", "calls_per_second": "rate", "crowd": "crowd"}


@dataclass(frozen=True)
class Plan:
    """What is to be measured, read from the options."""

    kind: Kind
    amounts: tuple[float, ...]
    slots: int
    max_first_ms: float | None

    @classmethod
    def of(cls, load: CallOptions, device: Device) -> "Plan":
        """Raises Dia2StreamError for loads that are none."""
        name = next(name for name in _KINDS if getattr(load, name) is not None)
        amounts = parse_amounts(f"--{name.replace('_', '-')}", getattr(load, name), whole=name != "calls_per_second")
        on_gpu = device == "cuda" or (device == "auto" and torch.cuda.is_available())
        usual = _GPU_SLOTS if on_gpu else _CPU_SLOTS
        if not load.find and name != "calls_per_second":
            usual = round(max(amounts))
        limit = _MAX_FIRST_MS if load.find and load.max_first_ms is None else load.max_first_ms
        return cls(_KINDS[name], amounts, load.slots or usual, limit)


def parse_amounts(flag: str, given: str, whole: bool) -> tuple[float, ...]:
    """Loads as 16,32,64. Raises Dia2StreamError."""
    try:
        amounts = tuple(float(int(part) if whole else float(part)) for part in given.split(","))
    except ValueError:
        amounts = ()
    least = 1.0 if whole else 0.1
    if not amounts or not all(least <= amount <= _MOST for amount in amounts):
        takes = "whole numbers from 1 to 10000, as 16,32,64" if whole else "numbers from 0.1 to 10000, as 1,2.5,4"
        raise Dia2StreamError(f"{flag} takes {takes}, not {given!r}")
    return amounts


def run(model: ModelOptions, speech: SpeechOptions, options: BenchOptions, load: CallOptions) -> None:
    """Measures and reports. Raises SystemExit(1) when a gate fails, Dia2Error when the model cannot be loaded."""
    plan = Plan.of(load, model.device)
    old = read(options.compare) if options.compare else None
    check_outputs(options)
    if options.url is not None:
        report = _server_report(options.url, speech, options, load, plan)
    else:
        report = _engine_report(model, speech, load, plan)
    report["compared"] = compare_loads(report, old) if old else None
    report["gates"] = load_gates(report, plan.max_first_ms, load.find)
    publish(report, options, show_loads, lambda report, path: plot_loads(report, old, path))


def _engine_report(model: ModelOptions, speech: SpeechOptions, load: CallOptions, plan: Plan) -> Report:
    usage = UsageMeter()
    with load_progress() as progress:
        engine = TimedEngine.load(model, progress=progress, speech=speech, slots=plan.slots, observers=[usage])
    try:
        target = Target(engine_calls(engine, load.max_lead_ms), Start, usage.take)
        calls = _measure_all(target, speech, load, plan, most=float(plan.slots) if plan.kind != "rate" else _MOST)
        return report_of("engine", engine.speech, engine_setting(engine), calls)
    finally:
        engine.close()


def _server_report(url: str, speech: SpeechOptions, options: BenchOptions, load: CallOptions, plan: Plan) -> Report:
    ready = asyncio.run(_ready(url, options.token))
    target = Target(server_calls(url, options.token), partial(Start, **start_fields(speech)))
    return report_of(url, speech, server_setting(ready), _measure_all(target, speech, load, plan, most=_MOST))


async def _ready(url: str, token: str | None) -> Ready:
    async with connect(url, token=token) as client:
        return client.ready


def report_of(target: str, speech: SpeechOptions, setting: Report, calls: Report) -> Report:
    """A report of many calls. setting: the keys machine, model and once."""
    unmeasured = dict.fromkeys(("figures", "counts", "floors", "lead_in_ms", "ratios"))
    settings = {"runs": None, "warmup": None, **asdict(speech), "seed": speech.seed or 0}
    return {**head(target, settings), **setting, **unmeasured, "calls": calls}


def _measure_all(target: Target, speech: SpeechOptions, load: CallOptions, plan: Plan, most: float) -> Report:
    """The report's key `calls`, measured."""

    def measured(amount: float) -> Report:
        held = Load(plan.kind, amount, load.seconds, speech.seed or 0, load.start_lead_ms / 1000)
        return asyncio.run(measure(held, target))

    slots = plan.slots if target.take_usage is not None else None  # a server has its own
    return hold_all(measured, load, plan, most, slots)


def hold_all(hold: Callable[[float], Report], load: CallOptions, plan: Plan, most: float, slots: int | None) -> Report:
    """The report's key `calls`: every load that was asked for, or those of the search.

    hold: holds a load and returns its point. most: the highest load that the search tries. slots: of the engine, where
    that is known.
    """
    points: list[Report] = []

    def held(amount: float) -> Report:
        points.append(hold(amount))
        _note(plan.kind, points[-1])
        return points[-1]

    highest = None
    if load.find:
        limit = cast(float, plan.max_first_ms)
        highest = highest_load(lambda amount: holds(held(amount), limit), plan.amounts[0], most, plan.kind != "rate")
    else:
        for amount in plan.amounts:
            held(amount)
    settings = {**asdict(load), "slots": slots, "max_first_ms": plan.max_first_ms}
    return {"kind": plan.kind, "settings": settings, "points": points, "highest": highest}


def _note(kind: Kind, point: Report) -> None:
    first = point["first_audio_ms"]
    p95 = f"first audio {first['p95']:.1f} ms at p95" if first else "no first audio"
    note(f"{point['load']:g} {LABELS[kind]}: {p95}, longest gap {point['worst_underrun_ms']:.0f} ms")
