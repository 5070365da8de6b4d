"""What `plan` tells: a table and advice for people, one line of JSON for programs, a picture of the days."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dia2stream.options import PlanOptions

Report = dict[str, Any]


def publish(report: Report, options: PlanOptions) -> None:
    """Shows a report and writes the files that are asked for."""
    show(report, to_stderr=options.json == "-")
    if options.plot:
        plot(report, options.plot)
    if options.json == "-":
        print(json.dumps(report))
    elif options.json:
        Path(options.json).write_text(json.dumps(report) + "\n", encoding="utf-8")


# ---- For people ----


def show(report: Report, to_stderr: bool) -> None:
    from rich.console import Console

    console = Console(stderr=to_stderr, highlight=False, soft_wrap=True)
    console.print(f"{report['costs']}, {report['slots']} conversations a GPU, simulated")
    console.print(_table(report["days"]))
    for line in _notes(report):
        console.print(line)


def _table(days: Sequence[Report]) -> Any:
    from rich import box
    from rich.table import Table

    table = Table("calls/day", box=box.SIMPLE_HEAD, pad_edge=False)
    columns = ("p50", "p95", "p99", "refused", "lost", "GPUs", "GPU h", "per 1,000")
    table.columns[0].no_wrap = True
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for day in days:
        table.add_row(*_cells(day))
    return table


def _cells(day: Report) -> Iterable[str]:
    yield f"{day['calls']:,}"
    for share in ("p50", "p95", "p99"):
        yield f"{day['first_audio_ms'][share]:.0f}" if day["first_audio_ms"] else "-"
    yield f"{sum(day['refused'].values()):,}"
    yield f"{day['lost']:,}"
    yield f"{day['peak_gpus']:,}"
    yield f"{day['gpu_hours']:,.0f}"
    yield f"${1000 * day['cost_per_call']:,.2f}"


def _notes(report: Report) -> Iterable[str]:
    settings = report["settings"]
    yield "p50, p95, p99: first audio, ms, without the network; GPUs: the most at once"
    yield "lost: calls whose GPU was gone and that found no slot on another one; per 1,000: calls"
    yield f"assumed: a GPU for ${settings['gpu_price']:g} an hour, calls of {settings['call_seconds']:g} s on average"
    if not settings["calm"]:
        yield "at 10:30 the GPU with the most calls is lost, at 14:00 a rollout begins (neither with --calm)"
    yield from _cold_start(report["days"][-1])
    for day in report["days"]:
        yield f"{day['calls']:,} calls a day, ${day['cost']:,.0f}:"
        yield from (f"  {line}" for line in _advice(day))


def _cold_start(day: Report) -> Iterable[str]:
    """How long it takes until a new GPU serves, what most of that is, and what to do about it."""
    stages = day["cold_start_s"]
    longest = max(stages, key=lambda name: stages[name])
    yield f"a new GPU serves after {sum(stages.values()):.0f} s: {_told(stages)}"
    yield f"  longest: the {longest}; {_SHORTER[longest]}"
    rollout = day["cold_start_in_a_rollout_s"]
    if sum(rollout.values()) > 1.05 * sum(stages.values()):
        share = f"a quarter of {day['peak_gpus']:,} GPUs at once"
        yield f"  {share}: {sum(rollout.values()):.0f} s, {_told(rollout)}"


def _told(stages: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {seconds:.0f}" for name, seconds in stages.items())


_SHORTER = {
    "machine": "machines that are kept in reserve (--node-seconds)",
    "image": "an image that lies on the machines or on a mirror near them (--image-gb, --registry-gbps)",
    "model": "a volume that has the model (--model-gb 0)",
    "load": "a disk that reads faster (--load-seconds)",
    "warm-up": "a volume that keeps the compiled kernels (--warm-up-seconds)",
}


def _advice(day: Report) -> Iterable[str]:
    """What is short first, and what to do about it."""
    for reason, number in day["refused"].items():
        yield f"refused {reason}: {number:,}; keep more in reserve (--target, --min-gpus)"
    if day["lost"]:
        yield f"lost with their GPU: {day['lost']:,}; keep a second one (--min-gpus)"
    if day["slots_used"] < 0.2:
        yield f"slots taken on average: {day['slots_used']:.1%}; a smaller GPU would do, or one shared with other work"
    for part in day["parts"]:
        if part["use"] > 1:
            yield f"too small, needed {part['use']:.1f} times at the peak: the {part['name']}"
            yield f"  {part['mend']}"
    part = next((part for part in day["parts"] if part["use"] <= 1), None)
    if part is not None:
        yield f"full next, at {_rounded(part['full_at']):,} calls a day: the {part['name']}"
        yield f"  {part['mend']}"


def _rounded(number: int) -> int:
    """Two digits say enough of an estimate."""
    return round(number, 2 - len(str(number)))


# ---- The picture ----


def plot(report: Report, path: str) -> None:
    """Draws each day hour by hour: calls and slots, calls that were not served, first audio."""
    from matplotlib.figure import Figure

    days = report["days"]
    figure = Figure(figsize=(1 + 4 * len(days), 8), layout="constrained")
    figure.suptitle(f"{report['costs']}, {report['slots']} conversations a GPU, simulated", fontsize=10)
    rows = figure.subplots(3, len(days), sharex=True, squeeze=False, height_ratios=(3, 2, 3))
    for column, day in enumerate(days):
        _draw_day(rows[:, column], day, report["slots"])
    for axes, label in zip(rows[:, 0], ("calls at once", "calls not served", "first audio, ms"), strict=True):
        axes.set_ylabel(label)
    figure.savefig(path, format="png", dpi=130)


def _draw_day(column: Any, day: Report, slots: int) -> None:
    """One day, into the three pictures of a column."""
    calls, unserved, first = column
    hours = day["hours"]

    def draw(axes: Any, values: Iterable[float | None], style: str, label: str) -> None:
        drawn = list(values)
        axes.step(range(len(hours) + 1), [*drawn, drawn[-1]], style, where="post", label=label)

    calls.set_title(f"{day['calls']:,} calls, {day['gpu_hours']:,.0f} GPU hours, ${day['cost']:,.0f}", fontsize=10)
    draw(calls, (hour["calls_at_once"] for hour in hours), "C0-", "calls")
    draw(calls, (hour["gpus"] * slots for hour in hours), "0.6", "slots that are paid for")
    draw(unserved, (hour["refused"] for hour in hours), "C3-", "refused")
    draw(unserved, (hour["lost"] for hour in hours), "C1--", "lost with their GPU")
    for share, style in (("p50", "C0:"), ("p95", "C0-"), ("p99", "C0--")):
        draw(first, ((hour["first_audio_ms"] or {}).get(share) for hour in hours), style, share)
    first.set(xlabel="hour of the day", xlim=(0, 24), xticks=range(0, 25, 4))
    for axes in column:
        axes.set_ylim(0, max(1.0, axes.get_ylim()[1]))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
