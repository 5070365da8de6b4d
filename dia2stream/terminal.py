"""What people see while they wait: progress bars and notes on stderr, only where someone is looking.

stdout is the answer's and nothing here touches it.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class LoadProgress:
    """A bar for each stage of loading, called with the stage, the bytes done and the bytes in total."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total or None)
        self._bars.update(self._tasks[stage], completed=done, total=total or None)


@contextmanager
def load_progress() -> Iterator[LoadProgress | None]:
    """Progress bars on stderr if it is a terminal; they go away when the loading is done."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        yield LoadProgress(bars)


def note(message: str) -> None:
    """One line for people on stderr."""
    if sys.stderr is not None:  # closed; print would take stdout for it
        print(f"dia2stream: {message}", file=sys.stderr, flush=True)
