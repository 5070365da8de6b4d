"""Exact speculation: many columns of a lead-in in one pass, before the actions between them are known.

In a lead-in the codes of all columns are known. Only their text is not: a column's text follows from the action that
the column before has drawn. So the text is guessed, in several ways at once. A `Tree` has columns that may follow each
other; it begins with the column that comes next, whose text is known. One pass runs all columns of the tree, where each
sees those on its own path and all before the tree, and draws the action of each.

The draws are fixed by the table of uniforms. So the way that the drawn actions take through the tree, from its first
column on, has the actions that single steps would have drawn. It ends where no column has the text that an action leads
to. That text is known now, and the next tree begins there:

    tree      the -> pad -> (new word) -> cat      the drawn actions hold twice, so the way is: the, pad, pad.
                        \\-> pad                    They lead to a new word behind it, where the next tree begins.

What a guess costs is time alone: a wrong one changes no draw. "The same draws" is meant up to rounding: a pass sums in
another order than a step, as all passes of many columns do. So a uniform that lies within a rounding error of the
border between two actions may fall to the other side.

Pure Python; knows neither model nor device.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import NamedTuple

from dia2.text.machine import TextMachine, TextState

TextColumn = tuple[int, int]  # main and second token of a column
MOST_COLUMNS = 64
"""Of a tree: what a column sees of it is told in the bits of one number."""
LEAST_DEPTH = 3
"""Of a tree: a pass takes about as long as two steps."""


@dataclass
class Tree:
    """Columns that may follow each other, parents before children.

    texts: of each. depths: how many columns lie between each and the first. seen: what each sees, by bits: bit j stands
    for the column of the tree that was added j places before it, bit 0 for itself. All before the tree is seen, too.
    """

    texts: list[TextColumn] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    seen: list[int] = field(default_factory=list)
    _next: list[dict[TextColumn, int]] = field(default_factory=list)  # of each: the places of its children, by text

    def __len__(self) -> int:
        return len(self.texts)

    def add(self, text: TextColumn, parent: int | None) -> int | None:
        """Adds a column behind another; its place. None if there is one with that text already."""
        place = len(self.texts)
        if parent is not None:
            if text in self._next[parent]:
                return None
            self._next[parent][text] = place
        self.texts.append(text)
        self.depths.append(0 if parent is None else self.depths[parent] + 1)
        self.seen.append(1 if parent is None else self.seen[parent] << (place - parent) | 1)
        self._next.append({})
        return place

    def follow(self, place: int, text: TextColumn) -> int | None:
        """The place of the column with this text behind another one, if the tree has it."""
        return self._next[place].get(text)

    def way(self, place: int) -> list[int]:
        """The places from the first column to this one, both included."""
        return [place - back for back in range(place, -1, -1) if self.seen[place] >> back & 1]

    def signed(self) -> list[int]:
        """What each sees, as numbers of 64 bits. The sign stands for all further back, which lie before the tree."""
        return [seen | -1 << (place + 1) for place, seen in enumerate(self.seen)]

    @property
    def depth(self) -> int:
        """How many columns its longest way has."""
        return max(self.depths) + 1


class _Branch(NamedTuple):
    """A column that may be added: what an action leads to."""

    unlikeliness: float  # the least is added first
    number: int  # of branches as likely, the one that was found first
    parent: int
    state: TextState  # of the machine before the action
    shared: bool  # with another branch
    action: int


@dataclass
class Guess:
    """What is known where a tree begins.

    state: the machine's, before the first column's action. step: of that column; text: its text. uniforms: of the
    actions of the first column and those behind it, as many as the tree may be deep. closed: as in
    `TextMachine.may_step`.
    """

    machine: TextMachine
    state: TextState
    step: int
    text: TextColumn
    uniforms: Sequence[float]
    closed: bool

    def tree(self, most: int) -> Tree:
        """The likeliest columns, at most so many, none that would have to wait for words."""
        tree, branches = Tree(), list[_Branch]()
        tree.add(self.text, None)
        self._branch(branches, tree, _Branch(-1.0, 0, 0, self.machine.near(self.state, len(self.uniforms)), False, 0))
        while branches and len(tree) < most:
            branch = heappop(branches)
            state = branch.state.copy() if branch.shared else branch.state
            text = self.machine.process(state, self.step + tree.depths[branch.parent], branch.action)
            if state.end_step is not None or self.machine.may_step(state, self.closed):
                place = tree.add(text, branch.parent)
                if place is not None:
                    self._branch(branches, tree, branch._replace(parent=place, state=state))
        return tree

    def _branch(self, branches: list[_Branch], tree: Tree, at: _Branch) -> None:
        """Adds what may follow the column `at.parent`, where the machine stands as `at.state` says."""
        depth = tree.depths[at.parent]
        if depth + 1 < len(self.uniforms):
            chances = self.chances(at.state, depth)
            for action, chance in chances:
                likely = at.unlikeliness * chance, 2 * at.parent + action
                heappush(branches, _Branch(*likely, at.parent, at.state, len(chances) > 1, action))

    def chances(self, state: TextState, depth: int) -> list[tuple[int, float]]:
        """The actions of a column, and how likely each is drawn."""
        if not self.machine.is_free(state):
            return [(0, 1.0)]
        # A word is started where the uniform is at least 1 - p. Of p we know nothing.
        word = min(max(self.uniforms[depth], 0.02), 0.98)
        return [(0, 1 - word), (1, word)]
