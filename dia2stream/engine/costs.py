"""What the model's work costs on one machine, by batch size: measured at warm-up, read by the scheduler.

A batch is padded to the next size that a graph was captured for, so five slots cost what eight cost. One place of a
batch holds a slot with guidance, which has two rows, or two slots without.

Seconds throughout. Imports no torch.
"""

import json
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from math import ceil, inf
from pathlib import Path
from types import MappingProxyType

from dia2.steps.speculation import LEAST_DEPTH

TREE_STEPS = 6
"""Lead-in steps that one pass of trees makes, on average (dia2/steps/speculation.py)."""


@dataclass(frozen=True)
class CostCurve:
    """Seconds of each kind of work.

    name: the machine and the model. sizes: the batch sizes that there are graphs for, ascending. backbone, depformer,
    codec: seconds of one run at each size. passes: (columns, seconds) of passes of many columns, ascending. host: what
    one slot adds to a step on the CPU. turn: what one turn of the engine's loop costs besides. trees: (slots, seconds)
    of passes that make several lead-in steps of so many slots, ascending; none where these are made one by one.
    """

    name: str
    sizes: tuple[int, ...]
    backbone: tuple[float, ...]
    depformer: tuple[float, ...]
    codec: tuple[float, ...]
    passes: tuple[tuple[int, float], ...]
    host: float = 30e-6
    turn: float = 100e-6
    trees: tuple[tuple[int, float], ...] = ()
    # By how many there are: the index of their size, and how many of them to step at once.
    _padded: tuple[int, ...] = field(init=False, repr=False, compare=False)
    _best: tuple[int, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.sizes or not self.passes or sorted(set(self.sizes)) != list(self.sizes) or self.sizes[0] < 1:
            raise ValueError(f"sizes {self.sizes} and passes {self.passes}: ascending and at least one of each")
        if any(len(part) != len(self.sizes) for part in (self.backbone, self.depformer, self.codec)):
            raise ValueError(f"backbone, depformer and codec need {len(self.sizes)} costs each, one for each size")
        padded = (bisect_left(self.sizes, places) for places in range(self.sizes[-1] + 1))
        object.__setattr__(self, "_padded", tuple(padded))
        best = (self._most_per_second(slots) for slots in range(1, self.largest + 1))
        object.__setattr__(self, "_best", (0, *best))

    @classmethod
    def measured(
        cls,
        name: str,
        *,
        backbone: Mapping[int, float],
        depformer: Mapping[int, float],
        codec: Mapping[int, float],
        passes: Mapping[int, float],
        host: float = 30e-6,
        turn: float = 100e-6,
        trees: Mapping[int, float] = MappingProxyType({}),
    ) -> "CostCurve":
        """A curve of seconds by batch size. Only the backbone needs every size: the others are drawn as lines.

        A batch costs at most what a larger one costs. Where it was timed as more, the machine had other work meanwhile.
        """
        sizes = tuple(sorted(backbone))

        def costs(part: Mapping[int, float]) -> tuple[float, ...]:
            points = _smoothed(part)
            return tuple(_between(points, size) for size in sizes)

        parts = costs(backbone), costs(depformer), costs(codec)
        return cls(name, sizes, *parts, _smoothed(passes), host, turn, _smoothed(trees))

    @classmethod
    def read(cls, path: str) -> "CostCurve":
        """The curve of a file as `dump` writes it. Raises ValueError for any other, OSError where there is none."""
        try:
            parts = json.loads(Path(path).read_text(encoding="utf-8"))

            def costs(name: str) -> dict[int, float]:
                return {int(size): float(seconds) for size, seconds in parts[name].items()}

            parts.setdefault("trees", {})  # older files have none
            return cls.measured(
                str(parts["name"]),
                backbone=costs("backbone"),
                depformer=costs("depformer"),
                codec=costs("codec"),
                passes=costs("passes"),
                host=float(parts["host"]),
                turn=float(parts["turn"]),
                trees=costs("trees"),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no cost curve: {error}") from None

    def dump(self) -> str:
        """The curve as JSON: seconds by batch size, of passes by columns, and of trees by slots."""
        by_size = {
            "backbone": dict(zip(self.sizes, self.backbone, strict=True)),
            "depformer": dict(zip(self.sizes, self.depformer, strict=True)),
            "codec": dict(zip(self.sizes, self.codec, strict=True)),
        }
        points = {"passes": dict(self.passes), "trees": dict(self.trees)}
        return json.dumps({"name": self.name, **by_size, **points, "host": self.host, "turn": self.turn})

    def slowed(self, factor: float) -> "CostCurve":
        """The same machine, on which everything takes so many times as long."""

        def slow(seconds: tuple[float, ...]) -> tuple[float, ...]:
            return tuple(factor * each for each in seconds)

        passes, trees = (tuple((at, factor * seconds) for at, seconds in each) for each in (self.passes, self.trees))
        parts = (slow(self.backbone), slow(self.depformer), slow(self.codec))
        return CostCurve(self.name, self.sizes, *parts, passes, factor * self.host, factor * self.turn, trees)

    @property
    def largest(self) -> int:
        """How many places the largest batch has."""
        return self.sizes[-1]

    def padded(self, places: int) -> int:
        """The batch size that so many places are run at; at most the largest."""
        return self.sizes[self._padded[min(places, self.largest)]]

    def lead_in(self, places: int, slots: int) -> float:
        """One step of the backbone alone, for so many slots in so many places."""
        return self.backbone[self._padded[places]] + slots * self.host + self.turn

    def tree(self, slots: int) -> float:
        """One pass that makes several lead-in steps of each of so many slots; inf where there is no such pass."""
        if not self.trees or slots > self.trees[-1][0]:
            return inf
        return _between(self.trees, slots) + slots * self.host + self.turn

    def by_trees(self, slots: int, steps: int) -> bool:
        """Whether so many lead-in steps of so many slots, one behind the other, are made by trees."""
        return steps >= LEAST_DEPTH and self.tree(slots) < inf

    def starters(self, slots: int, steps: int) -> int:
        """Of so many slots with so many lead-in steps to make, how many are best stepped at once.

        Either all, step by step, or as many as have their trees in one pass.
        """
        slots, most = min(slots, self.largest), self.trees[-1][0] if self.trees else slots
        if slots <= most or steps < LEAST_DEPTH:
            return slots
        groups = ceil(slots / most)
        return most if groups * self.lead_ins(most, steps) < self.lead_ins(slots, steps) else slots

    def lead_ins(self, slots: int, steps: int) -> float:
        """So many lead-in steps of so many slots with guidance, one by one or by trees, whichever is faster."""
        return steps * min(self.lead_in(slots, slots), self.tree(slots) / TREE_STEPS)

    def frame(self, places: int, slots: int, riding: int = 0, riders: int = 0) -> float:
        """One whole step, a frame for each of `slots`; `riders` in `riding` places more take the backbone alone."""
        whole, all_places = self._padded[places], self._padded[places + riding]
        parts = self.backbone[all_places] + self.depformer[whole] + self.codec[self._padded[slots]]
        return parts + (slots + riders) * self.host + self.turn

    def best(self, slots: int) -> int:
        """Of so many slots that want a frame, how many are best stepped at once: those that make most frames a second.

        Example: of 70, first 64. Padded to 128, all 70 would take longer than a batch of 64 and one of 8.
        """
        return self._best[min(slots, self.largest)]

    def _most_per_second(self, slots: int) -> int:
        smaller = [size for size in self.sizes if size < slots][-1:]
        return max([*smaller, slots], key=lambda count: (count / self.frame(count, count), count))

    def one_pass(self, columns: int) -> float:
        """One pass of so many columns of one slot."""
        return _between(self.passes, columns) + self.turn

    def columns_within(self, seconds: float) -> int:
        """How many columns one pass may have to take no longer; at least 1."""
        low, high = 1, 2 * self.passes[-1][0]
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.one_pass(middle) <= seconds else (low, middle - 1)
        return low


def _smoothed(timed: Mapping[int, float]) -> tuple[tuple[int, float], ...]:
    """The timings in order of size, none above that of a larger size."""
    points = sorted(timed.items(), reverse=True)
    least = accumulate((seconds for _, seconds in points), min)
    return tuple(reversed([(size, seconds) for (size, _), seconds in zip(points, least, strict=True)]))


def _between(points: tuple[tuple[int, float], ...], at: int) -> float:
    """The value at `at` on the line through the points; before the first as there, behind the last in proportion."""
    if at <= points[0][0]:
        return points[0][1]
    for (left, low), (right, high) in pairwise(points):
        if at <= right:
            return low + (high - low) * (at - left) / (right - left)
    return points[-1][1] * at / points[-1][0]


def padded_passes(taken: Mapping[int, float]) -> dict[int, float]:
    """Seconds by columns where a pass is padded to one of these lengths: one column more costs what the next one does.

    A pass that is longer than the longest is run as several.
    """
    sizes = sorted(taken)
    steps = {shorter + 1: taken[longer] for shorter, longer in pairwise(sizes)}
    longest, more = sizes[-1], taken[sizes[-1]]
    return {**taken, **steps, longest + 1: more + taken[sizes[0]], 2 * longest: 2 * more}


_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


def _ms(*values: float, at: tuple[int, ...] = _SIZES) -> dict[int, float]:
    return {size: ms / 1000 for size, ms in zip(at, values, strict=True)}


# Captured graphs, one H100 80GB, random:2b, bf16, guidance on. Of one conversation: its kernels of clusters, at column
# 400 on the line between what the backbone took at 10 (1.04 ms) and at 1,490 (1.17); scripts/gpu-notes.md, section 10.
# Of more: a kernel a product, at column 400 of 128 slots; the backbone of 32 is drawn between those of 16 and 64. The
# codec by plain operations. Of an H200, only one conversation was measured (section 15), which makes no curve.
H100 = CostCurve.measured(
    "H100 80GB, 2B, bf16",
    backbone=_ms(1.07, 2.04, 2.22, 2.54, 2.90, 3.51, 4.74, 6.99),
    depformer=_ms(1.41, 4.22, 5.06, 5.14, 5.30, 5.60, 6.59, 8.39),
    codec=_ms(0.89, 1.17, 1.58, 2.36, 3.63, 6.20, at=(1, 4, 16, 32, 64, 128)),
    passes=padded_passes(_ms(1.95, 1.95, 2.05, 2.35, 3.4, 4.65, 6.0, at=(16, 32, 64, 128, 256, 384, 512))),
)


def unmeasured(sizes: Iterable[int], *, trees: bool = False) -> CostCurve:
    """A curve where costs are not measured, or not yet: work costs the same at each of these batch sizes.

    trees: whether a slot's lead-in may be made by trees of columns.
    """
    same, one = dict.fromkeys(sizes, 0.001), {1: 0.001} if trees else {}
    return CostCurve.measured("not measured", backbone=same, depformer=same, codec=same, passes={125: 0.01}, trees=one)
