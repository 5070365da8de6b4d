"""What `bench` tells of many calls: a table, gates, a comparison and the curve."""

from collections.abc import Iterable, Sequence
from typing import Any

from dia2stream.bench.load.results import holds
from dia2stream.bench.report import Report, heading

# By kind of load: what its amount counts.
LABELS = {"phone": "phone calls", "rate": "requests a second", "crowd": "calls that speak without pause but for one"}

# First audio in ms at p95, by requests a second: the best published curve of an open loop, for the picture of ours.
# Qwen3-TTS 1.7B on one H100 by its makers' server; nari-labs/benchmarks, 2026-08.
_PUBLISHED = {1: 26.5, 2: 27.2, 4: 31.6, 6: 32.1, 8: 33.1, 10: 34.1, 12: 62.2, 16: 69.5, 20: 77.2}

_NOISE = 0.10  # a smaller change of first audio is no change


# ---- Gates and comparison ----


def load_gates(report: Report, max_first_ms: float | None, find: bool) -> list[Report]:
    """Holds the loads to a limit: each of them, or with --find at least the one that was found."""
    if max_first_ms is None:
        return []
    points = report["calls"]["points"]
    unit = LABELS[report["calls"]["kind"]]
    if find:
        highest = report["calls"]["highest"]
        told = f"the highest load that holds is {highest:g} {unit}" if highest else "no load holds"
        return [_gate(highest is not None, max_first_ms, highest, told)]
    return [_gate(holds(point, max_first_ms), max_first_ms, _p95(point), _told(point, unit)) for point in points]


def _gate(passed: bool, limit: float, value: float | None, told: str) -> Report:
    line = f"{'passed' if passed else 'FAILED'}: {told}; --max-first-ms allows {limit:g} ms at p95 and no gaps"
    return {"flag": "--max-first-ms", "limit": limit, "value": value, "passed": passed, "line": line}


def _told(point: Report, unit: str) -> str:
    p95 = _p95(point)
    parts = [f"first audio at p95 {p95:.1f} ms" if p95 is not None else "no first audio"]
    if point["continuity"] is not None:
        parts.append(f"{point['continuity']:.2%} of the calls without a gap")
    parts += [f"{sum(point[key].values())} {key}" for key in ("refused", "failed") if point[key]]
    return f"{point['load']:g} {unit}: {', '.join(parts)}"


def compare_loads(report: Report, old: Report) -> Report:
    """New over old first audio at p95, for the loads of one kind that both have."""
    calls, olds = report["calls"], old.get("calls") or {"kind": None, "points": []}
    before = {point["load"]: _p95(point) for point in olds["points"] if olds["kind"] == calls["kind"]}
    ratios = {
        f"{point['load']:g}": round(p95 / was, 4)
        for point in calls["points"]
        if (p95 := _p95(point)) is not None and (was := before.get(point["load"]))
    }
    worst, best = max(ratios.values(), default=1.0), min(ratios.values(), default=1.0)
    if not ratios:
        verdict = f"the older report has none of these loads of {LABELS[calls['kind']]}"
    elif worst > 1 + _NOISE:
        verdict = f"slower: first audio x {worst:.2f} at {_where(ratios, worst)}"
    elif best < 1 - _NOISE:
        verdict = f"faster: first audio x {best:.2f} at {_where(ratios, best)}"
    else:
        verdict = f"no change beyond {_NOISE:.0%}"
    return {"made": old["made"], "machine": old["machine"], "p50": {}, "first_audio_p95": ratios, "verdict": verdict}


def _where(ratios: dict[str, float], value: float) -> str:
    return next(load for load, ratio in ratios.items() if ratio == value)


def _p95(point: Report) -> float | None:
    return point["first_audio_ms"]["p95"] if point["first_audio_ms"] else None


# ---- For people ----


def show_loads(report: Report, to_stderr: bool) -> None:
    """Prints the table."""
    from rich.console import Console

    console = Console(stderr=to_stderr, highlight=False, soft_wrap=True)
    console.print(*heading(report), sep="\n")
    console.print(_table(report["calls"]["kind"], report["calls"]["points"]))
    for line in _notes(report):
        console.print(line)


def _notes(report: Report) -> Iterable[str]:
    """What stands below the table."""
    calls = report["calls"]
    yield f"{LABELS[calls['kind']]}; each load is held for {calls['settings']['seconds']:g} s"
    yield "p50, p95, p99: first audio, ms; heard: p95 from the first words on; gap: the longest in playback, ms"
    yield "fluent: calls without a gap of over 100 ms; lost: calls that were refused or failed"
    if report["target"] in ("engine", "simulation"):
        yield "model, host: shares of the time that the engine's thread spends on the model, and beside it"
    for point in calls["points"]:
        lost = [f"{kind} {code} x {count}" for kind in ("refused", "failed") for code, count in point[kind].items()]
        if lost:
            yield f"lost at {point['load']:g}: {', '.join(lost)}"
    if calls["settings"]["find"]:
        yield _told_highest(calls)
    if report["compared"]:
        yield f"against the report of {report['compared']['made']}: {report['compared']['verdict']}"


def _told_highest(calls: Report) -> str:
    limit = f"first audio within {calls['settings']['max_first_ms']:g} ms at p95 and no gap in any call"
    if calls["highest"] is None:
        return f"no load holds {limit}"
    told = f"holds {calls['highest']:g} {LABELS[calls['kind']]} with {limit}"
    capped = calls["kind"] != "rate" and calls["highest"] == calls["settings"]["slots"]
    return f"{told}; that is as many as the engine has slots, see --slots" if capped else told


def _table(kind: str, points: Sequence[Report]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table("per s" if kind == "rate" else "calls", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in ("p50", "p95", "p99", "heard", "fluent", "gap", "lost", "frames/s", "model", "host"):
        table.add_column(name, justify="right", no_wrap=True)
    for point in points:
        table.add_row(*_cells(point))
    return table


def _cells(point: Report) -> Iterable[str]:
    first, heard, engine = point["first_audio_ms"], point["first_heard_ms"], point["engine"]
    yield f"{point['load']:g}"
    for share in ("p50", "p95", "p99"):
        yield _shown(first[share]) if first else "-"
    yield _shown(heard["p95"]) if heard else "-"
    yield "-" if point["continuity"] is None else _percent(point["continuity"])
    yield f"{point['worst_underrun_ms']:.0f}"
    yield str(sum(point["refused"].values()) + sum(point["failed"].values()))
    yield f"{point['frames_per_s']:.0f}"
    for share in ("device_share", "host_share"):
        yield f"{engine[share]:.0%}" if engine else "-"


def _shown(value: float) -> str:
    return f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def _percent(share: float) -> str:
    return "100 %" if share == 1 else f"{min(100 * share, 99.9):.1f} %"


# ---- The curve ----


def plot_loads(report: Report, old: Report | None, path: str) -> None:
    """Draws first audio and the longest gap over the load; an older report in grey."""
    from matplotlib.figure import Figure

    calls = report["calls"]
    figure = Figure(figsize=(8, 7), layout="constrained")
    figure.suptitle("\n".join(heading(report)), fontsize=10)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for share, style in (("p50", ":"), ("p95", "-"), ("p99", "--")):
        _draw(top, calls["points"], lambda point, share=share: _share(point, share), f"C0{style}", share)
    if old is not None and (old.get("calls") or {}).get("kind") == calls["kind"]:
        _draw(top, old["calls"]["points"], _p95, "0.6", f"p95 of {old['made']}")
    if calls["kind"] == "rate":
        top.plot(list(_PUBLISHED), list(_PUBLISHED.values()), "C1-.", label="p95, Qwen3-TTS 1.7B on an H100, published")
    _draw(bottom, calls["points"], lambda point: point["worst_underrun_ms"], "C3-", "longest gap")
    bottom.axhline(100, color="0.6", linestyle=":", linewidth=1)
    if calls["settings"]["max_first_ms"] is not None:
        top.axhline(calls["settings"]["max_first_ms"], color="0.6", linestyle=":", linewidth=1)
    top.set_ylabel("first audio, ms")
    bottom.set(xlabel=LABELS[calls["kind"]], ylabel="ms")
    for axes in (top, bottom):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, format="png", dpi=130)


def _share(point: Report, share: str) -> float | None:
    return point["first_audio_ms"][share] if point["first_audio_ms"] else None


def _draw(axes: Any, points: Sequence[Report], value: Any, style: str, label: str) -> None:
    found = sorted((point["load"], y) for point in points if (y := value(point)) is not None)
    axes.plot([load for load, _ in found], [y for _, y in found], style, marker="o", markersize=3, label=label)
