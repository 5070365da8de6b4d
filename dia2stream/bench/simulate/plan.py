"""`plan`: a day of calls on as many GPUs as they need, what it costs, and which part is the first to be full.

The slots of a replica are what the admission's code lets in. First audio comes from `SimulatedMachine`, which runs the
scheduler's code at eight numbers of conversations; each counts for as long as replicas had about as many. The shared
parts (proxy, journal, registry) are not simulated: their use at the peak is worked out from what one message, one
operation or one image takes.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from dia2stream.bench.outputs import check_files
from dia2stream.bench.simulate.day import HOUR, Day
from dia2stream.bench.simulate.fleet import ColdStart, DayOutcome, Fleet, Operations
from dia2stream.bench.simulate.loads import PhoneCalls
from dia2stream.bench.simulate.machine import Settings, SimulatedMachine
from dia2stream.bench.simulate.plan_report import Report, publish
from dia2stream.bench.simulate.run import read_curve
from dia2stream.engine.admission import FRAME_SECONDS, Load, slots_for
from dia2stream.engine.costs import CostCurve
from dia2stream.options import PlanOptions
from dia2stream.terminal import note

_LEVELS = 8  # numbers of conversations at which first audio is simulated
_PER_DAY_SECONDS = 20.0  # of each such simulation
_LEASE_EACH = 0.3  # seconds between two renewals of a conversation's lease, see the journal


def run(calls: Sequence[int], options: PlanOptions) -> None:
    """Simulates a day for each number of calls, and tells."""
    check_files(options.plot, options.json)
    costs = read_curve(options.costs)
    load = Load(options.speaking, options.turn_seconds)
    fits = slots_for(costs, options.memory_gb * 1e9, options.slot_mb * 1e6, load)
    slots = options.slots or fits.slots
    note(fits.reason)
    waits = first_audio_by_calls(costs, load, slots, options.seed)
    days = [_day_report(number, options, load, slots, waits) for number in calls]
    report = {"costs": costs.name, "slots": slots, "settings": asdict(options), "days": days}
    publish(report, options)


# ---- First audio ----


def first_audio_by_calls(costs: CostCurve, load: Load, slots: int, seed: int) -> dict[int, list[float]]:
    """Seconds of first audio on one replica, by how many conversations it has."""
    levels = sorted({max(1, slots * part // _LEVELS) for part in range(1, _LEVELS + 1)})
    settings = Settings(slots=slots)
    waits = {}
    for level in levels:
        calls = PhoneCalls(level, turn=load.turn, pause=load.turn * (1 / load.speaking - 1))
        # Few conversations start few turns: they are watched for longer.
        seconds = _PER_DAY_SECONDS * max(1.0, 32 / level)
        outcome = SimulatedMachine(calls, costs, settings=settings, seed=seed).run(seconds)
        waits[level] = [wait for record in outcome.records for wait in record.first]
    return waits


def first_audio(held: Mapping[int, float], waits: Mapping[int, list[float]]) -> Report | None:
    """Percentiles of all turns, ms. held: seconds of conversations, by how many were on the same replica."""
    levels = sorted(waits)
    weights = dict.fromkeys(levels, 0.0)
    for calls, seconds in held.items():
        weights[levels[min(bisect_left(levels, calls), len(levels) - 1)]] += seconds
    values = np.concatenate([waits[level] for level in weights])
    shares = np.concatenate([np.full(len(waits[n]), weight / max(1, len(waits[n]))) for n, weight in weights.items()])
    if not shares.sum():
        return None
    return {f"p{share}": round(1000 * _percentile(values, shares, share / 100), 1) for share in (50, 95, 99)}


def _percentile(values: NDArray[np.float64], weights: NDArray[np.float64], share: float) -> float:
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, share * reached[-1])])


# ---- A day ----


def _day_report(calls: int, options: PlanOptions, load: Load, slots: int, waits: Mapping[int, list[float]]) -> Report:
    operations = _operations(options, slots)
    day = Day(calls, options.call_seconds)
    outcome = Fleet(day, operations, options.seed).run()
    cost = outcome.gpu_seconds / HOUR * options.gpu_price
    busy = sum(outcome.held.values())
    return {
        "calls": calls,
        "served": outcome.served,
        "refused": dict(outcome.refused),
        "lost": outcome.lost,
        "deaths": outcome.deaths,
        "handed_over": outcome.handed_over,
        "longest_gap_s": round(max(outcome.gaps, default=0.0), 2),
        "first_audio_ms": first_audio(outcome.held, waits),
        "peak_calls": outcome.peak_calls,
        "peak_gpus": outcome.peak_replicas,
        "peak_starting": outcome.peak_starting,
        "gpu_hours": round(outcome.gpu_seconds / HOUR, 1),
        "slots_used": round(busy / (outcome.gpu_seconds * slots), 4),
        "cost": round(cost, 2),
        "cost_per_call": round(cost / max(1, outcome.served), 5),
        "cold_start_s": _rounded(operations.cold_start.stages(1)),
        "cold_start_in_a_rollout_s": _rounded(operations.cold_start.stages(ceil(outcome.peak_replicas / 4))),
        "parts": [asdict(part) for part in parts(day, operations, load, options)],
        "hours": _hours(outcome, waits),
    }


def _hours(outcome: DayOutcome, waits: Mapping[int, list[float]]) -> list[Report]:
    """The same by hour of the day. calls_at_once, gpus: on average."""
    return [
        {
            "served": hour.served,
            "refused": sum(hour.refused.values()),
            "lost": hour.lost,
            "calls_at_once": round(sum(hour.held.values()) / HOUR, 2),
            "gpus": round(hour.gpu_seconds / HOUR, 2),
            "first_audio_ms": first_audio(hour.held, waits),
        }
        for hour in outcome.hours
    ]


def _rounded(stages: Mapping[str, float]) -> dict[str, float]:
    return {name: round(seconds, 1) for name, seconds in stages.items()}


def _operations(options: PlanOptions, slots: int) -> Operations:
    cold_start = ColdStart(
        options.node_seconds,
        options.image_gb,
        options.model_gb,
        options.node_gbps,
        options.registry_gbps,
        options.load_seconds,
        options.warm_up_seconds,
    )
    return Operations(
        slots,
        min_replicas=options.min_gpus,
        max_replicas=options.max_gpus,
        target=options.target,
        cold_start=cold_start,
        days_between_deaths=options.days_between_deaths,
        loss_hour=None if options.calm else 10.5,
        rollout_hour=None if options.calm else 14.0,
    )


@dataclass(frozen=True)
class Part:
    """A part that all calls share.

    use: of what the part can do, at the day's peak; more than 1: it is too small. full_at: calls a day of which the
    peak would fill it.
    """

    name: str
    use: float
    full_at: float
    mend: str


def parts(day: Day, operations: Operations, load: Load, options: PlanOptions) -> list[Part]:
    """The shared parts, the one first that is full first."""
    frames = day.peak * load.speaking / FRAME_SECONDS  # a second
    gpus = day.peak / (operations.target * operations.slots)
    cold = operations.cold_start
    uses = {
        # A rollout starts a quarter of all GPUs at a time.
        "registry, when a rollout starts GPUs": gpus / 4 * cold.node_gbps / cold.registry_gbps,
        "proxy, if one core has to pass everything on": frames * options.message_us / 1e6,
        "journal, if it is one store": (day.peak / _LEASE_EACH + frames) / options.store_ops,
        "number of GPUs": gpus / operations.max_replicas,
    }
    found = [
        Part(name, round(use, 6), round(day.calls / use), _MENDS[name.partition(",")[0]])
        for name, use in uses.items()
        if use > 0
    ]
    return sorted(found, key=lambda part: part.full_at)


_MENDS = {
    "registry": "a mirror, images kept on the machines, the model on a volume (--model-gb 0)",
    "proxy": "a proxy at each GPU, as Ray Serve has it, or clients connect to the servers",
    "journal": "several stores, or the frames of a second in one entry",
    "number of GPUs": "more of them (--max-gpus)",
}
