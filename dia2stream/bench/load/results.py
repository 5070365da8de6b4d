"""What became of calls, and what a load comes to: pure.

A point of the report, one for each load that was held. Times are distributions (count, p50, p95, p99, max, mean) in ms,
or null where there were none; percentiles are measured values (nearest rank).

    load             requests a second, or calls at the same time
    seconds          for how long it was measured: without the time in which calls began or ended
    calls            how many there were, refused ones included
    most_at_once     calls that were let in and not over yet
    refused          by reason: calls that were not let in
    failed           by reason: calls that ended with an error; "broken" is a lost connection or 30 s without progress
    first_audio_ms   from the last words that a turn's first sample needs to that sample; of a crowd the starter's only
    first_heard_ms   from the turn's first words, so it depends on how fast the text comes
    connect_ms       from asking for a conversation to having one
    pause_ms         from a barge-in's pause command to `paused`
    continuity       share of the calls whose worst underrun is at most 100 ms; a call that failed is not among them
    worst_underrun_ms, late_frames
                     an underrun is the time for which the next sample was due and had not come
    frames, frames_per_s
                     received in these seconds
    engine           of an engine in this process: device_share and host_share of the time, see StepReport; steps_per_s;
                     rows_per_step: conversations in a backbone's batch; host_us_per_row, host_us_per_frame
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

CONTINUOUS = 0.1  # seconds: a call whose worst underrun is no longer counts as continuous


@dataclass
class CallRecord:
    """What was measured of one call.

    first: seconds to a turn's first sample from the last words that it needs, one for each turn; heard: the same from
    the turn's first words. pauses: seconds from a barge-in's command to `paused`. connect: seconds until the
    connection was ready. problem: the code of the error that ended the call; refused: it was not let in.
    """

    first: list[float] = field(default_factory=list)
    heard: list[float] = field(default_factory=list)
    pauses: list[float] = field(default_factory=list)
    connect: float | None = None
    frames: int = 0
    late: int = 0
    worst_underrun: float = 0.0
    problem: str | None = None
    refused: bool = False


@dataclass(frozen=True)
class Usage:
    """What the engine did in a stretch of time, in seconds: see StepReport. rows: of all backbone batches, added up."""

    steps: int
    rows: int
    frames: int
    step_seconds: float
    device_seconds: float


def summarize(records: Sequence[CallRecord], seconds: float, frames: int, usage: Usage | None) -> dict[str, Any]:
    """All of a point but load and most_at_once. frames, usage: of the `seconds` in which the load was held."""
    served = [record for record in records if not record.refused]
    return {
        "seconds": round(seconds, 3),
        "calls": len(records),
        "refused": dict(Counter(record.problem for record in records if record.refused)),
        "failed": dict(Counter(record.problem for record in served if record.problem is not None)),
        "first_audio_ms": milliseconds(value for record in served for value in record.first),
        "first_heard_ms": milliseconds(value for record in served for value in record.heard),
        "connect_ms": milliseconds(record.connect for record in served if record.connect is not None),
        "pause_ms": milliseconds(value for record in served for value in record.pauses),
        "continuity": _continuity(served),
        "worst_underrun_ms": round(1000 * max((record.worst_underrun for record in served), default=0.0), 3),
        "late_frames": sum(record.late for record in served),
        "frames": frames,
        "frames_per_s": round(frames / seconds, 3),
        "engine": None if usage is None else _shares(usage, seconds),
    }


def _continuity(served: Sequence[CallRecord]) -> float | None:
    """The share of calls that were heard without a gap; a call that failed had one."""
    heard = [record for record in served if record.frames or record.problem is not None]
    whole = [record for record in heard if record.worst_underrun <= CONTINUOUS and record.problem is None]
    return round(len(whole) / len(heard), 6) if heard else None


def _shares(usage: Usage, seconds: float) -> dict[str, Any]:
    host = max(0.0, usage.step_seconds - usage.device_seconds)
    return {
        "device_share": round(usage.device_seconds / seconds, 4),
        "host_share": round(host / seconds, 4),
        "steps_per_s": round(usage.steps / seconds, 2),
        "rows_per_step": round(usage.rows / usage.steps, 2) if usage.steps else None,
        "host_us_per_row": round(1e6 * host / usage.rows, 2) if usage.rows else None,
        "host_us_per_frame": round(1e6 * host / usage.frames, 2) if usage.frames else None,
    }


def milliseconds(seconds: Iterable[float]) -> dict[str, Any] | None:
    """The distribution of some times, given in seconds."""
    ordered = sorted(1000 * value for value in seconds)
    if not ordered:
        return None
    ranks = {f"p{share}": ordered[math.ceil(len(ordered) * share / 100) - 1] for share in (50, 95, 99)}
    figures = {**ranks, "max": ordered[-1], "mean": fmean(ordered)}
    return {"count": len(ordered), **{name: round(value, 3) for name, value in figures.items()}}


def holds(point: dict[str, Any], max_first_ms: float) -> bool:
    """Whether a load is served well: first audio in time at p95, nobody refused, no failure, no gap in any call."""
    first = point["first_audio_ms"]
    return bool(
        first
        and first["p95"] <= max_first_ms
        and point["continuity"] == 1.0
        and not point["refused"]
        and not point["failed"]
    )
