"""Figures, their limits, and how both are shown: a table for people, JSON for programs."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """One line of the report.

    group: what it belongs to. least, most: the gate, both ends allowed; None where there is none. detail: what stands
    beside the value, as how many it was counted of. A value that is None could not be measured, and passes no gate.
    """

    group: str
    name: str
    value: float | None
    unit: str = ""
    least: float | None = None
    most: float | None = None
    detail: str = ""

    @property
    def has_gate(self) -> bool:
        """Whether it can fail."""
        return self.least is not None or self.most is not None

    @property
    def passes(self) -> bool:
        """Whether it is within its gate, or has none."""
        if not self.has_gate:
            return True
        if self.value is None or np.isnan(self.value):
            return False
        return (self.least is None or self.value >= self.least) and (self.most is None or self.value <= self.most)

    @property
    def gate(self) -> str:
        """The gate in words."""
        if self.least is not None and self.most is not None:
            return f"{self.least:g} to {self.most:g}"
        if self.least is not None:
            return f"at least {self.least:.3g}"
        return "" if self.most is None else f"at most {self.most:g}"


def spread(values: Iterable[float | None], *percentiles: float) -> list[float | None]:
    """Percentiles of the values that are known; None where there is none."""
    known = [value for value in values if value is not None and np.isfinite(value)]
    return [float(np.percentile(known, p)) if known else None for p in percentiles]


def show(figures: Sequence[Figure], title: str, console: Console) -> None:
    """The table."""
    table = Table("", "", "", "gate", "", title=title, box=None, title_justify="left", pad_edge=False)
    table.columns[2].justify = "right"
    for column in table.columns:
        column.no_wrap = True
    group = None
    for figure in figures:
        if figure.group != group and group is not None:
            table.add_row()
        first, group = "" if figure.group == group else figure.group, figure.group
        mark = "" if not figure.has_gate else "[green]ok[/]" if figure.passes else "[red]FAILS[/]"
        table.add_row(first, figure.name, shown(figure), figure.gate, f"{mark} {figure.detail}".strip())
    console.print(table)


def shown(figure: Figure) -> str:
    """The value and its unit."""
    if figure.value is None:
        return "-"
    number = f"{figure.value:.1f}" if figure.unit in ("%", "dB", "LUFS", "LU") else f"{figure.value:.0f}"
    return f"{number} {figure.unit}".strip()


def as_json(figures: Sequence[Figure], setting: dict[str, Any]) -> dict[str, Any]:
    """What --json writes."""
    rows = [asdict(figure) | {"passes": figure.passes} for figure in figures]
    return {"setting": setting, "figures": rows, "passes": all(figure.passes for figure in figures)}
