"""The words of a conversation that have sounded, the older ones without an object for the garbage collector.

A full collection visits every object that may refer to others, and meanwhile all threads stand still. A word has three
such objects, and ten minutes of speech some 1,250 words: after five minutes of 64 calls, a collection took 0.18 s of a
slow core. So the last words are kept as they are, and those before them as plain tuples, which the collector lets go
(as in dia2/steps/history.py). An interruption that goes back so far makes words of them again.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, Protocol, TypeVar

KEPT = 32
"""So many of the last words are kept as they are, at least: those whose times are not known yet are among them."""

Flat = tuple[Any, ...]
"""A word without objects: its step, whether it begins a written word, whether it is a break, and what else it has."""


class Sounded(Protocol):
    """A word or break that has sounded. Steps never descend from one to the next."""

    @property
    def step(self) -> int:
        """At which it was taken."""

    @property
    def begins(self) -> bool:
        """Whether it is the first that came of its written word."""


T = TypeVar("T", bound=Sounded)


class SoundedWords(Generic[T]):
    """Oldest first. flatten: makes a tuple of a word. restore: makes words of tuples that follow each other."""

    def __init__(self, flatten: Callable[[T], Flat], restore: Callable[[Sequence[Flat]], list[T]]) -> None:
        self._flatten, self._restore = flatten, restore
        self._old: deque[Flat] = deque()
        self._last: deque[T] = deque()  # begins with a written word, of which no part is in `_old`

    def __len__(self) -> int:
        return len(self._old) + len(self._last)

    def __iter__(self) -> Iterator[T]:
        return iter([*self._restore([*self._old]), *self._last])

    def __reversed__(self) -> Iterator[T]:
        """The latest first. Those that are tuples are restored one by one, so parts of a written word are strangers."""
        yield from reversed(self._last)
        for flat in reversed(self._old):
            yield from self._restore([flat])

    @property
    def latest(self) -> T | None:
        """The last one; None before the first."""
        return self._last[-1] if self._last else None

    def append(self, word: T) -> None:
        """The next one."""
        self._last.append(word)
        if len(self._last) > 2 * KEPT:
            count = len(self._last) - KEPT
            while count > 0 and not self._last[count].begins:  # the parts of a written word stay together
                count -= 1
            self._old.extend(self._flatten(self._last.popleft()) for _ in range(count))

    def since(self, step: int) -> list[T]:
        """Those that were taken at this step or later, oldest first."""
        last = [word for word in self._last if word.step >= step]
        if len(last) < len(self._last):
            return last
        old = [*self._old]
        return [*self._restore(old[bisect_left(old, step, key=lambda flat: flat[0]) :]), *last]

    def drop_since(self, step: int) -> None:
        """Forgets those that were taken at this step or later."""
        while self._last and self._last[-1].step >= step:
            self._last.pop()
        if not self._last:
            while self._old and self._old[-1][0] >= step:
                self._old.pop()
            self._restore_last()

    def _restore_last(self) -> None:
        """The last words are no tuples."""
        old = [*self._old]
        first = max(0, len(old) - KEPT)
        while first > 0 and not old[first][1]:
            first -= 1
        self._last.extend(self._restore(old[first:]))
        self._old = deque(old[:first])

    def forget_before(self, step: int) -> None:
        """Forgets older words than the one that `step` is in, of those that are tuples."""
        while len(self._old) > 1 and self._old[1][0] < step:
            # A break is no word: the word before it stays the last one.
            del self._old[1 if self._old[1][2] else 0]

    def copy(self, change: Callable[[T], T]) -> "SoundedWords[T]":
        """Another one; the last words are changed, those that are tuples are as they were."""
        other = SoundedWords(self._flatten, self._restore)
        other._old = self._old.copy()
        other._last.extend(map(change, self._last))
        return other
