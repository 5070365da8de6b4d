"""What the scripts that measure a GPU share: timing, models that are loaded once, figures and their table."""

import argparse
import itertools
import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import triton
import triton.language as tl

from dia2.checkpoint.load import Checkpoint, LoadOptions, load_checkpoint
from dia2stream.bench.parts import backbone_bytes, depformer_bytes

STARTED = time.perf_counter()


class Figures:
    """The model under test and what was measured of it. A script's class adds methods `part_...`.

    Every part runs by itself: when one fails, its traceback is printed and the next one runs.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.bandwidth = 3.1e12  # bytes a second, an H100's, until it is measured
        self.found: dict[str, Any] = {}
        self._loaded: dict[str, Checkpoint] = {}

    def loaded(self, kind: str = "bfloat16") -> Checkpoint:
        """The model in a dtype; "fp8" is bfloat16 with 8-bit weights."""
        if kind not in self._loaded:
            kinds = {"dtype": "bfloat16", "weights": "fp8"} if kind == "fp8" else {"dtype": kind}
            self._loaded[kind] = load_checkpoint(self.options.model, LoadOptions(device="cuda", **kinds))
        return self._loaded[kind]

    def floor(self, part: str, kind: str = "bfloat16", columns: int = 0) -> float:
        """Milliseconds that reading a part's weights takes, and `columns` of the cache with both their rows."""
        checkpoint = self.loaded(kind)
        sizes = checkpoint.config.model.decoder
        column = 2 * 2 * sizes.n_layer * sizes.kv_heads * sizes.gqa_head_dim * checkpoint.dtype.itemsize
        size = {
            "backbone": backbone_bytes(checkpoint.backbone) + columns * column,
            "depformer": depformer_bytes(checkpoint.depformer),
        }
        return 1e3 * (size[part] if part in size else sum(size.values())) / self.bandwidth

    def note(self, name: str, value: Any, unit: str = "", floor: float | None = None) -> None:
        """Keeps a figure for the table, and prints it at once. floor: the least it could be, in the same unit."""
        beside = {} if floor is None else {"floor": floor, "ratio": value / floor}
        self.found[name] = {"value": value, "unit": unit, **beside}
        ratio = "" if floor is None else f"   {value / floor:.2f} x floor {floor:.4g}"
        print(f"  {name}: {shown(value)} {unit}{ratio}", flush=True)

    def part_machine(self) -> None:
        """The machine, and its bandwidth, which the floors are made of."""
        print(torch.__version__, triton.__version__, torch.cuda.get_device_name(), torch.cuda.get_device_properties(0))
        self.bandwidth = read_bandwidth()
        self.note("read bandwidth", self.bandwidth / 1e12, "TB/s")

    def table(self) -> str:
        """All figures in Markdown."""
        lines = ["| what | figure | x floor |", "|---|---|---|"]
        for name, row in self.found.items():
            ratio = f"{row['ratio']:.2f}" if "ratio" in row else ""
            lines.append(f"| {name} | {shown(row['value'])} {row['unit']} | {ratio} |")
        return "\n".join(lines)


def shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


# ---- Timing ----


def device_ms(work: Callable[[], Any], repeats: int = 20, rounds: int = 5) -> float:
    """Milliseconds of device time a call, the median of some rounds of back-to-back calls."""
    work()
    torch.cuda.synchronize()
    times = []
    for _ in range(rounds):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(repeats):
            work()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop) / repeats)
    return statistics.median(times)


def wall_ms(work: Callable[[], Any], repeats: int) -> list[float]:
    """Milliseconds by the clock of each call, sorted; `work` must wait for what it measures."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - start))
    return sorted(times)


def percentile(times: list[float], share: float) -> float:
    """Of sorted times."""
    return times[min(len(times) - 1, int(share * len(times)))]


@triton.jit
def _read_kernel(x_ptr, out_ptr, PER: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * PER * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.int32)
    for piece in tl.static_range(PER):
        total ^= tl.load(x_ptr + i + piece * BLOCK)
    tl.store(out_ptr + tl.program_id(0), tl.sum(total, axis=0))


def read_bandwidth() -> float:
    """Bytes a second of reading 4 GiB once, the best of some block shapes."""
    count = 1 << 30
    x = torch.randint(1 << 30, (count,), dtype=torch.int32, device="cuda")
    out = torch.empty(count // 1024, dtype=torch.int32, device="cuda")
    best = 0.0
    for per, warps in itertools.product((1, 2, 4, 8), (4, 8)):
        block = 16 * 32 * warps

        def work(per: int = per, block: int = block, warps: int = warps) -> None:
            _read_kernel[(count // (per * block),)](x, out, PER=per, BLOCK=block, num_warps=warps)

        best = max(best, 4 * count / (device_ms(work, 5, 3) * 1e-3))
    return best


# ---- Running ----


def options(parser: argparse.ArgumentParser, parts: type[Figures], standard: str) -> argparse.Namespace:
    """Reads the command line of a script whose parts are the methods of a class."""
    names = [name.removeprefix("part_") for name in dir(parts) if name.startswith("part_")]
    parser.add_argument("--model", default="random:2b")
    parser.add_argument("--out", default=os.environ.get("OUT"), help="a folder for the figures as JSON and Markdown")
    parser.add_argument("--until", type=float, default=1e9, help="seconds after which no further part is begun")
    parser.add_argument("--only", default=standard, help=f"of {', '.join(names)}; default: {standard}")
    return parser.parse_args()


def run(figures: Figures, name: str) -> int:
    """Runs the parts that were asked for. Returns the exit code: 1 when a part failed."""
    failed = False
    os.chdir(Path(__file__).resolve().parent.parent)
    for part in figures.options.only.split(","):
        if time.perf_counter() - STARTED > figures.options.until:
            print(f"no time for {part}")
            continue
        print(f"[{time.perf_counter() - STARTED:6.1f} s] {part}", flush=True)
        try:
            with torch.inference_mode():
                getattr(figures, f"part_{part}")()
        except Exception:
            traceback.print_exc(file=sys.stdout)
            figures.found[f"part {part}"] = {"value": "FAILED", "unit": ""}
            failed = True
        torch.cuda.empty_cache()
    print(figures.table())
    if figures.options.out:
        folder = Path(figures.options.out)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(figures.found, indent=1))
        (folder / f"{name}.md").write_text(figures.table())
    print(json.dumps({key: row["value"] for key, row in figures.found.items()}))
    return int(failed)
