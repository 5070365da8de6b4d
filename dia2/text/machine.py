"""The text stream machine: from actions to the text tokens of the next column.

At every step the model chooses an action: "hold" (pad) or "start the next word" (new_word). The machine has the queue
of words and turns the action into the two text tokens of the next column. The main stream says the word that starts
now; the second stream shows the word that comes `ahead` words later.

An action is overruled where the rules want something else: a word's tokens come out one a step, a break lasts its
frames, and a hold lasts at most `max_padding` steps. A checkpoint may let a hold between two sentences, or two parts of
one, last longer: a model that pauses there takes the next word when it is to sound. Example without a second stream;
the tokens of "Hello" are 5 and 6:

    step    action      main token  because
    10      new_word    new_word    "Hello" is taken from the queue
    11      new_word    5           its tokens come first
    12      pad         6
    13      pad         pad         the model holds, as it may

Pure Python. Everything in a state but its queue is small and immutable, so a step is remembered by a `mark` and gone
back to by `restore`.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from dia2.model.config import DataConfig
from dia2.text.script import Entry

MAX_PADDING = 6
STOPS = tuple(".?!,;:")  # behind a word with one of these there may be a pause
QUOTES = "\"')]"  # may stand behind them


class Tokens(NamedTuple):
    """Tokens that are still to come. All tails of a word share one tuple, so a mark at each of its steps is small."""

    row: tuple[int, ...] = ()
    at: int = 0

    def __bool__(self) -> bool:
        return self.at < len(self.row)

    def pop(self, default: int) -> tuple[int, "Tokens"]:
        """The next token and the rest; `default` when there is none."""
        row, at = self
        if at >= len(row):
            return default, self
        return row[at], Tokens(row, at + 1) if at + 1 < len(row) else _NO_TOKENS

    def then(self, more: tuple[int, ...]) -> "Tokens":
        """These tokens with more behind them."""
        return Tokens(self.row[self.at :] + more)


_NO_TOKENS = Tokens()


class Mark(NamedTuple):
    """Where the machine stood before a step, all but its queue."""

    padding_budget: int
    pause_budget: int
    forced_padding: int
    pending: Tokens
    lookahead: Tokens
    end_step: int | None


@dataclass
class TextState:
    """Where the machine stands.

    queue: entries that are not taken yet. taken: (step, entry) of those that are, oldest first; a caller that has read
    it may clear it.
    padding_budget: how many steps the hold may still last. pause_budget: how many more, if the next entry is a word.
    pending: tokens of the current word still to come. lookahead: tokens the second stream still has to show.
    end_step: the step at which a word was wanted and there was none.
    """

    queue: deque[Entry] = field(default_factory=deque)
    padding_budget: int = 0
    pause_budget: int = 0
    forced_padding: int = 0
    pending: Tokens = _NO_TOKENS
    lookahead: Tokens = _NO_TOKENS
    end_step: int | None = None
    taken: list[tuple[int, Entry]] = field(default_factory=list)

    def copy(self) -> "TextState":
        """Another one that stands where this one does."""
        # By hand, because `replace` takes three times as long, and a guess copies some sixty states.
        return TextState(self.queue.copy(), *self.mark(), self.taken.copy())

    def append(self, entries: Iterable[Entry]) -> None:
        """Queues more text; a stream that had ended goes on."""
        self.queue.extend(entries)
        self.end_step = None

    def mark(self) -> Mark:
        """This point in time."""
        budgets = self.padding_budget, self.pause_budget, self.forced_padding
        return Mark(*budgets, self.pending, self.lookahead, self.end_step)

    def restore(self, mark: Mark) -> None:
        """Back to a marked point; the queue stays as it is."""
        self.padding_budget, self.pause_budget, self.forced_padding, self.pending, self.lookahead, self.end_step = mark

    @property
    def transcript(self) -> list[tuple[str, int]]:
        """(word, step) of every word in `taken`."""
        return [(entry.text, step) for step, entry in self.taken if entry.tokens]


@dataclass(frozen=True)
class TextMachine:
    """The rules: ids of the special tokens, and how far ahead the second stream looks (0: there is none).

    max_padding: how many steps a hold lasts at most. pause_padding: how many more between a word that ends a sentence,
    or a part of one, and the next word.
    """

    new_word: int
    pad: int
    ahead: int
    max_padding: int = MAX_PADDING
    pause_padding: int = 0

    @classmethod
    def of(cls, data: DataConfig) -> "TextMachine":
        """The machine of a checkpoint."""
        new_word, pad = data.text_new_word_token_id, data.text_pad_token_id
        return cls(new_word, pad, data.second_stream_ahead, pause_padding=data.pause_padding)

    def start(self, initial_padding: int = 0) -> TextState:
        """A new stream whose first word may come after `initial_padding` steps."""
        return TextState(padding_budget=initial_padding, forced_padding=initial_padding)

    def may_step(self, state: TextState, closed: bool) -> bool:
        """Whether text that may still come can no longer change the next step.

        That is so when the step cannot take an entry, when the text is closed, or when `enough` is queued.
        """
        return closed or bool(state.pending) or state.forced_padding > 0 or self.enough(state.queue)

    def enough(self, queue: Iterable[Entry]) -> bool:
        """Whether the first entry may be taken: it is queued, and so is the word that the second stream would show."""
        entries = iter(queue)
        first = next(entries, None)
        if first is None:
            return False
        return not first.tokens or not self.ahead or self._upcoming(entries) is not None

    def process(self, state: TextState, step: int, action: int, forced: bool = False) -> tuple[int, int]:
        """Advances `state` by one step. Returns the main and the second token of column step + 1.

        action: 1 to start a word, 0 to hold. forced: a hold may last as long as it likes, as in a recorded clip.
        """
        token = self._constrain(state, self._sanitise(action), forced)
        if token == self.new_word:
            token = self._take(state, step)
        output = token
        if token == self.pad:
            if state.padding_budget > 0:
                state.padding_budget -= 1
            else:
                state.pause_budget = max(0, state.pause_budget - 1)
            state.forced_padding = max(0, state.forced_padding - 1)
            output = self._next_pending(state)
        if not self.ahead:
            return output, output
        if output == self.new_word:
            return self._next_pending(state), self.new_word
        second, state.lookahead = state.lookahead.pop(self.pad)
        return output, second

    def foresee(self, state: TextState, step: int, closed: bool) -> tuple[tuple[int, int], tuple[int, int]] | None:
        """The text of column step + 1 if the action is to hold, and if it is to start a word. Changes nothing.

        None where a step could follow that has to wait for words. closed: as in `may_step`.
        """
        texts = []
        for action in (0, 1):
            draft = self.near(state, 1)
            texts.append(self.process(draft, step, action))
            if draft.end_step is None and not self.may_step(draft, closed):
                return None
        return texts[0], texts[1]

    def near(self, state: TextState, steps: int) -> TextState:
        """A copy with as much of the queue as so many steps look at, and the question behind them (`may_step`)."""
        near: list[Entry] = []
        words = 0
        for entry in state.queue:
            near.append(entry)
            words += bool(entry.tokens)
            if words > self.ahead + steps:
                break
        copy = TextState(deque(near))
        copy.restore(state.mark())
        return copy

    def is_free(self, state: TextState) -> bool:
        """Whether the next step's action counts: where it does not, the rules hold or start a word."""
        return not state.pending and state.forced_padding <= 0 and self._may_hold(state)

    def _sanitise(self, action: int) -> int:
        if action in (0, 1):  # 0 and 1 are actions, even in a vocabulary where they are also text ids
            return self.new_word if action else self.pad
        return self.new_word if action == self.new_word else self.pad

    def _constrain(self, state: TextState, token: int, forced: bool) -> int:
        if state.pending:
            return self.pad
        if forced:
            return token
        if state.forced_padding > 0:
            return self.pad
        return token if self._may_hold(state) else self.new_word

    def _may_hold(self, state: TextState) -> bool:
        """Whether the hold may go on. A break is a pause itself, and at the end of the text none is needed."""
        if state.padding_budget > 0:
            return True
        return state.pause_budget > 0 and bool(state.queue) and bool(state.queue[0].tokens)

    def _take(self, state: TextState, step: int) -> int:
        """Takes the next entry, because new_word was chosen. Returns new_word, or pad if there is no word to start."""
        if not state.queue:
            return self._end(state, step)
        entry = state.queue.popleft()
        state.taken.append((step, entry))
        state.forced_padding = entry.padding
        if not entry.tokens:
            state.pause_budget = 0
            return self.pad
        state.pending = Tokens(entry.tokens)
        if self.ahead:
            state.lookahead = state.lookahead.then(self._upcoming(state.queue) or ())
        state.padding_budget = self.max_padding
        state.pause_budget = self.pause_padding if may_pause_behind(entry.text) else 0
        return self.new_word

    def _end(self, state: TextState, step: int) -> int:
        first = state.end_step is None
        if first:
            state.end_step = step
        return self.new_word if first and self.ahead else self.pad

    def _upcoming(self, entries: Iterable[Entry]) -> tuple[int, ...] | None:
        """The tokens of word number `ahead` among `entries`, counted from 1; None when there are fewer."""
        words = (entry.tokens for entry in entries if entry.tokens)
        return next(islice(words, self.ahead - 1, None), None)

    def _next_pending(self, state: TextState) -> int:
        token, state.pending = state.pending.pop(self.pad)
        return token


def may_pause_behind(word: str) -> bool:
    """Whether a word as it is written ends a sentence, or a part of one."""
    return word.rstrip(QUOTES).endswith(STOPS)
