"""What `bench` measured: one JSON object, and what is made of it (a table, gates, a comparison, a picture).

The object has the schema "dia2stream-bench/1". While this number stays the same, keys may be added and none goes away.
What could not be measured is null: a client cannot time the steps of a server, and a CPU has no CUDA memory.

    schema       "dia2stream-bench/1"
    made         when, ISO 8601, UTC
    dia2stream   the version that measured
    target       "engine" in this process, "simulation", or the URL of a server
    machine      system, python, cpu, cores, torch, threads, gpu, gpu_memory_bytes, cuda, triton
    model        name, device, dtype, parameters, stepper; notes: what was chosen automatically, and why
    settings     runs, warmup, and every speech option
    once         load_s, warm_up_s, peak_rss_bytes, peak_cuda_bytes, read_bytes_per_s
    figures      by name, see FIGURES: unit, count, p50, p95, p99, max, mean, values
    counts       expected, and by figure: backbone_steps and frames (whole steps) from the command to its first sample;
                 if a run took other steps than expected, those of that run
    floors       by part (backbone, depformer, frame): bytes of weights it must read, ms they take at read_bytes_per_s
    lead_in_ms   the parts of one first audio, added up: its backbone steps, its frame and its codec frame, by median
    ratios       by figure: the median over its floor, or over lead_in_ms; depformer: the difference of a whole frame
                 and a backbone step, over its floor; *_late_over_early: the context's end over its beginning
    calls        with --calls, --calls-per-second or --crowd; all of the keys above from figures on are then null:
                 kind, settings, points (one for each load, see load/results.py), highest (with --find: the highest load
                 that held, or null), costs (with --simulate: the cost curve)
    compared     with --compare: made and machine of the old report, p50 (new over old, by figure), verdict
    gates        flag, limit, value, passed, line
    passed       whether all gates did

Percentiles are values that were measured (nearest rank): with 20 runs p95 is the second worst and p99 the worst.
"""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from dia2stream.errors import Dia2StreamError
from dia2stream.options import BenchOptions

SCHEMA = "dia2stream-bench/1"
Report = dict[str, Any]

# Name -> (label, unit). A latency ends when the sample, or the event, is in the hands of whoever sent the command.
FIGURES = {
    "cold_start": ("cold start", "ms"),
    "inject_after_silence": ("inject after silence", "ms"),
    "inject_after_barge_in": ("inject after barge-in", "ms"),
    "pieces": ("text in pieces", "ms"),
    "commit": ("commit of a prepared reply", "ms"),
    "inject_during_speech": ("inject in speech, added", "ms"),
    "pause": ("pause", "ms"),
    "frame_interval": ("frame to frame", "ms"),
    "real_time_factor": ("work for 1 s of audio", "s"),
    "backbone_step": ("backbone step", "ms"),
    "backbone_step_late": ("backbone step, late", "ms"),
    "whole_frame": ("whole frame", "ms"),
    "whole_frame_late": ("whole frame, late", "ms"),
    "codec_frame": ("codec frame", "ms"),
}
# First audio in four ways: each is one lead-in.
LEAD_INS = ("cold_start", "inject_after_silence", "inject_after_barge_in", "pieces")

# The figures that decide the verdict of a comparison, and the change below which it is noise.
_VERDICT = (*LEAD_INS, "backbone_step", "whole_frame", "codec_frame", "real_time_factor")
_NOISE = 0.10
# A ratio of two added delays means nothing, since both are about 0.
_COMPARED = [name for name in FIGURES if name != "inject_during_speech"]

_SHOWN = ("p50", "p95", "p99", "max")


def distribution(name: str, values: Sequence[float]) -> Report | None:
    """The entry of a figure; None where nothing was measured."""
    if not values:
        return None
    ordered = sorted(values)
    ranks = {f"p{share}": ordered[math.ceil(len(ordered) * share / 100) - 1] for share in (50, 95, 99)}
    summary = {**ranks, "max": ordered[-1], "mean": fmean(ordered)}
    rounded = {key: round(value, 4) for key, value in summary.items()}
    return {
        "unit": FIGURES[name][1],
        "count": len(values),
        **rounded,
        "values": [round(value, 4) for value in values],
    }


def rate(report: Report) -> None:
    """Adds lead_in_ms and ratios: medians over the least that they could be."""
    p50 = {name: figure["p50"] for name, figure in report["figures"].items() if figure}
    floor = {part: entry["ms"] for part, entry in (report["floors"] or {}).items()}
    steps = report["counts"] and report["counts"]["expected"]
    lead_in = None
    if steps:
        model = steps["backbone_steps"] * p50["backbone_step"] + steps["frames"] * p50["whole_frame"]
        lead_in = round(model + p50["codec_frame"], 4)
        p50["depformer"] = p50["whole_frame"] - p50["backbone_step"]
    base = {
        "backbone_step": floor.get("backbone"),
        "backbone_step_late": floor.get("backbone"),
        "depformer": floor.get("depformer"),
        "whole_frame": floor.get("frame"),
        "whole_frame_late": floor.get("frame"),
        **dict.fromkeys(LEAD_INS, lead_in),
    }
    report["lead_in_ms"] = lead_in
    report["ratios"] = {name: _over(p50.get(name), least) for name, least in base.items()} | {
        f"{name}_late_over_early": _over(p50.get(f"{name}_late"), p50.get(name))
        for name in ("backbone_step", "whole_frame")
    }


def _over(value: float | None, base: float | None) -> float | None:
    return round(value / base, 4) if value is not None and base else None


# ---- Files ----


def read(path: str) -> Report:
    """Reads an older report. Raises Dia2StreamError if the file is not one."""
    try:
        report = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError:
        raise Dia2StreamError(f"{path}: not JSON") from None
    schema = report.get("schema") if isinstance(report, dict) else None
    if schema != SCHEMA:
        raise Dia2StreamError(f"{path}: not a report of dia2stream bench: its schema is {schema!r}, not {SCHEMA!r}")
    return dict(report)


def dump(report: Report) -> str:
    """One line of JSON."""
    return json.dumps(report, allow_nan=False)


# ---- Gates ----


def gates(report: Report, options: BenchOptions) -> list[Report]:
    """Checks the limits that were given, and always the counts. Latencies are held at p95, the ratio at its median."""
    found: list[Report] = [_count_gate(report["counts"])] if report["counts"] else []
    latencies = {
        "--max-cold-ms": (options.max_cold_ms, ("cold_start",)),
        "--max-inject-ms": (options.max_inject_ms, ("inject_after_silence", "inject_after_barge_in")),
    }
    for flag, (limit, names) in latencies.items():
        if limit is not None:
            name = max(names, key=lambda name: report["figures"][name]["p95"])
            value = report["figures"][name]["p95"]
            found.append(_gate(flag, limit, value, f"{FIGURES[name][0]} takes {value:.1f} ms at p95", " ms"))
    if options.max_frame_ratio is not None:
        value = max(report["ratios"]["whole_frame"], report["ratios"]["whole_frame_late"])
        floor = report["floors"]["frame"]["ms"]
        told = f"a whole frame takes {value:.2f} times its floor of {floor:.3g} ms"
        found.append(_gate("--max-frame-ratio", options.max_frame_ratio, value, told, " times"))
    return found


def _gate(flag: str, limit: float, value: float, told: str, unit: str) -> Report:
    passed = value <= limit
    line = f"{'passed' if passed else 'FAILED'}: {told}, {flag} allows {limit:g}{unit}"
    return {"flag": flag, "limit": limit, "value": value, "passed": passed, "line": line}


def _count_gate(counts: Report) -> Report:
    expected = counts["expected"]
    wrong = {name: count for name, count in counts.items() if count != expected}
    name, worst = next(iter(wrong.items()), ("every first sample", expected))
    line = f"FAILED: {name} takes {_counted(worst)}, not {_counted(expected)}"
    if not wrong:
        line = f"passed: {name} takes {_counted(worst)}, as it must"
    return {"flag": "counts", "limit": expected, "value": worst, "passed": not wrong, "line": line}


def _counted(count: Report) -> str:
    return f"{count['backbone_steps']} backbone steps and {count['frames']} whole"


# ---- Comparison ----


def compare(report: Report, old: Report) -> Report:
    """New over old at p50, and the verdict in one line."""
    olds = old["figures"] or {}
    both = [name for name in _COMPARED if report["figures"].get(name) and olds.get(name)]
    p50 = {name: _over(report["figures"][name]["p50"], old["figures"][name]["p50"]) for name in both}
    changes = {name: ratio for name in _VERDICT if (ratio := p50.get(name))}
    slower = {name: ratio for name, ratio in changes.items() if ratio > 1 + _NOISE}
    faster = {name: ratio for name, ratio in changes.items() if ratio < 1 - _NOISE}
    if slower and faster:
        verdict = f"mixed: slower {_listed(slower)}; faster {_listed(faster)}"
    elif slower or faster:
        verdict = f"slower: {_listed(slower)}" if slower else f"faster: {_listed(faster)}"
    else:
        verdict = f"no change beyond {_NOISE:.0%}"
    differs = [
        f"{key} was {old[group].get(key)}"
        for group, key in (("machine", "gpu"), ("machine", "cpu"), ("model", "name"), ("model", "dtype"))
        if old[group].get(key) != report[group].get(key)
    ]
    if differs:
        verdict += f" (another setting: {', '.join(differs)})"
    return {"made": old["made"], "machine": old["machine"], "p50": p50, "verdict": verdict}


def _listed(changes: dict[str, float]) -> str:
    return ", ".join(f"{name} x {ratio:.2f}" for name, ratio in changes.items())


# ---- For people ----


def show(report: Report, to_stderr: bool) -> None:
    """Prints the tables."""
    from rich.console import Console

    console = Console(stderr=to_stderr, highlight=False, soft_wrap=True)
    console.print(*heading(report), sep="\n")
    console.print(_table(report))
    for line in _lines(report):
        console.print(line)


def heading(report: Report) -> Iterable[str]:
    """What was measured, and on what."""
    machine, model = report["machine"], report["model"]
    place = machine["gpu"] or f"{machine['cpu']}, {machine['threads']} of {machine['cores']} cores"
    what = " ".join(filter(None, (model["name"], model["dtype"])))
    if report["target"] == "simulation":
        return [f"{what}, simulated from its cost curve"]
    if report["target"] != "engine":
        return [f"{what} at {report['target']}, measured from {machine['cpu']}"]
    return [f"{what}, torch {machine['torch']}", f"on {place}"]


def _table(report: Report) -> Any:
    from rich import box
    from rich.table import Table

    compared = (report["compared"] or {}).get("p50", {})
    headings = ["p50", "p95", "p99", "max", "ratio", *(["new/old"] if compared else [])]
    table = Table("ms", box=box.SIMPLE_HEAD, pad_edge=False)
    table.columns[0].no_wrap = True
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, (label, unit) in FIGURES.items():
        figure, ratio = report["figures"][name], report["ratios"].get(name)
        if figure is None:
            continue
        cells = [label if unit == "ms" else f"{label}, {unit}", *(_shown(figure[key]) for key in _SHOWN)]
        table.add_row(*cells, _times(ratio), *([_times(compared.get(name))] if compared else []))
    return table


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"x {ratio:.2f}"


def _shown(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _lines(report: Report) -> Iterable[str]:
    once, settings, floors = report["once"], report["settings"], report["floors"]
    yield f"{settings['runs']} runs after {settings['warmup']} to warm up; p99 of few runs is their worst"
    if floors:
        ms = {part: f"{entry['ms']:.3g} ms" for part, entry in floors.items()}
        ratio = _times(report["ratios"]["depformer"])
        yield f"floors, as the weights are read at {once['read_bytes_per_s'] / 1e9:.0f} GB/s: "
        yield f"  backbone step {ms['backbone']}, depformer {ms['depformer']} ({ratio}), whole frame {ms['frame']}"
        yield f"first audio's steps, frame and codec frame add up to {report['lead_in_ms']:.3g} ms"
        yield f"late: at the end of the context; load {once['load_s']:.1f} s, warm-up {once['warm_up_s']:.1f} s"
        yield f"peak memory {_memory(once)}"
    if report["compared"]:
        yield f"against the report of {report['compared']['made']}: {report['compared']['verdict']}"


def _memory(once: Report) -> str:
    cuda = once["peak_cuda_bytes"]
    rss = f"{once['peak_rss_bytes'] / 1e9:.2f} GB"
    return rss if cuda is None else f"{rss} here, {cuda / 1e9:.2f} GB on the GPU"


# ---- The picture ----


def plot(report: Report, old: Report | None, path: str) -> None:
    """Draws every run of every latency as a dot and marks p50 and p95; an older report is grey, below."""
    from matplotlib.figure import Figure

    names = [name for name in FIGURES if report["figures"][name] and FIGURES[name][1] == "ms"]
    groups = [
        group for group in ([n for n in names if n in LEAD_INS], [n for n in names if n not in LEAD_INS]) if group
    ]
    heights = [len(group) for group in groups]
    figure = Figure(figsize=(9, 1.8 + 0.4 * sum(heights)), layout="constrained")
    figure.suptitle("\n".join(heading(report)), fontsize=10)
    for axes, group in zip(
        figure.subplots(len(groups), 1, height_ratios=heights, squeeze=False).flat, groups, strict=True
    ):
        for row, name in enumerate(group):
            if old is not None and (old["figures"] or {}).get(name):
                _dots(axes, row + 0.28, old["figures"][name], "0.6")
            _dots(axes, row, report["figures"][name], "C0")
        axes.set_yticks(range(len(group)), [FIGURES[name][0] for name in group])
        axes.set_ylim(len(group) - 0.4, -0.6)
        axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
        axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("ms; bars: p50 and p95" + ("; grey: the older report" if old else ""))
    figure.savefig(path, format="png", dpi=130)


def _dots(axes: Any, row: float, figure: Report, colour: str) -> None:
    axes.scatter(figure["values"], [row] * len(figure["values"]), s=14, alpha=0.35, color=colour, linewidths=0)
    axes.vlines([figure["p50"], figure["p95"]], row - 0.22, row + 0.22, color=colour, linewidth=1.5)
