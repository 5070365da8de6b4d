"""The highest load that holds: pure."""

from collections.abc import Callable

_PRECISION = 0.05  # of the highest load


def highest_load(holds: Callable[[float], bool], start: float, most: float, whole: bool) -> float | None:
    """The highest load found to hold, within 5 % of one that does not; None if not even the smallest holds.

    holds: measures a load. start: the first one that is measured; it is doubled while it holds, and halved while it
    does not. most: the highest that may be measured. whole: loads are whole numbers, from 1 on; else from 0.1 on.
    """
    least = 1.0 if whole else 0.1
    best, failed = _bracket(holds, min(max(start, least), most), least, most)
    if best is None or failed is None:
        return best
    while failed - best > max(_PRECISION * failed, 1.0 if whole else 0.0):
        middle = (best + failed) / 2
        middle = float(round(middle)) if whole else round(middle, 2)
        if middle in (best, failed):
            break
        if holds(middle):
            best = middle
        else:
            failed = middle
    return best


def _bracket(
    holds: Callable[[float], bool], load: float, least: float, most: float
) -> tuple[float | None, float | None]:
    """A load that holds and one that does not, at most twice as high; either may be missing."""
    best = failed = None
    while True:
        if holds(load):
            best = load
            if failed is not None or load >= most:
                return best, failed
            load = min(2 * load, most)
        else:
            failed = load
            if best is not None or load <= least:
                return best, failed
            load = max(load / 2 if least < 1 else load // 2, least)
