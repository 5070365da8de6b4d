"""Two rows of words side by side: which were heard, mistaken, missed and added."""

from collections.abc import Sequence
from typing import NamedTuple


class Pair(NamedTuple):
    """A word that was said and the one that was heard for it; None where there is none."""

    said: str | None
    heard: str | None


def aligned(said: Sequence[str], heard: Sequence[str]) -> list[Pair]:
    """The cheapest way to make one row of the other, where adding, missing and mistaking a word each cost one."""
    costs = [list(range(len(heard) + 1))]
    for i, word in enumerate(said, 1):
        row, last = [i], costs[-1]
        for j, other in enumerate(heard, 1):
            row.append(min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (word != other)))
        costs.append(row)
    pairs, i, j = list[Pair](), len(said), len(heard)
    while i or j:
        here = costs[i][j]
        if i and j and here == costs[i - 1][j - 1] + (said[i - 1] != heard[j - 1]):
            i, j = i - 1, j - 1
            pairs.append(Pair(said[i], heard[j]))
        elif j and here == costs[i][j - 1] + 1:
            j -= 1
            pairs.append(Pair(None, heard[j]))
        else:
            i -= 1
            pairs.append(Pair(said[i], None))
    return pairs[::-1]
