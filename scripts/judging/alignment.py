"""Two rows of words side by side: which were heard, mistaken, missed and added."""

from collections.abc import Sequence
from typing import NamedTuple


class Pair(NamedTuple):
    """A word that was said and the one that was heard for it; None where there is none."""

    said: str | None
    heard: str | None


_EDIT, _MATCH = 1000, -1  # fewest edits count first, then most words that are the same


def aligned(said: Sequence[str], heard: Sequence[str]) -> list[Pair]:
    """The way with the fewest edits to make one row of the other: adding, missing or mistaking a word is one edit."""
    costs = [[_EDIT * j for j in range(len(heard) + 1)]]
    for i, word in enumerate(said, 1):
        row, last = [_EDIT * i], costs[-1]
        for j, other in enumerate(heard, 1):
            row.append(min(last[j] + _EDIT, row[j - 1] + _EDIT, last[j - 1] + _pairing(word, other)))
        costs.append(row)
    pairs, i, j = list[Pair](), len(said), len(heard)
    while i or j:
        here = costs[i][j]
        if i and j and here == costs[i - 1][j - 1] + _pairing(said[i - 1], heard[j - 1]):
            i, j = i - 1, j - 1
            pairs.append(Pair(said[i], heard[j]))
        elif j and here == costs[i][j - 1] + _EDIT:
            j -= 1
            pairs.append(Pair(None, heard[j]))
        else:
            i -= 1
            pairs.append(Pair(said[i], None))
    return pairs[::-1]


def _pairing(word: str, other: str) -> int:
    return _MATCH if word == other else _EDIT
