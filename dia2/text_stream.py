"""The text stream machine: from actions to the text tokens of the next column.

Every step the model says either "hold" (pad) or "start the next word" (new_word). The machine keeps the words, obeys
where it may and overrules where it must (a word's tokens come out one a step, a break lasts its frames, a hold never
outlasts `max_padding`), and returns the two text tokens of the next column: the main stream says the word that starts
now, the second stream shows the word `ahead` of it.

Pure Python. A state is a small value: `copy` it to come back to a step later.
"""

from dataclasses import dataclass, field, replace

from dia2.config import DataConfig
from dia2.script import Entry

MAX_PADDING = 6


@dataclass
class TextState:
    """Where the machine stands.

    The queue is `entries[taken:]`; entries that were taken stay, so that a rewind can tell what was said.
    """

    entries: list[Entry] = field(default_factory=list)
    taken: int = 0
    padding_budget: int = 0
    forced_padding: int = 0
    pending: tuple[int, ...] = ()
    lookahead: tuple[int, ...] = ()
    end_step: int | None = None
    # (step, entry number) of everything taken, in order
    steps: list[tuple[int, int]] = field(default_factory=list)

    def copy(self) -> "TextState":
        """The same point in time over the same (shared, append-only) entries."""
        return replace(self)

    def append(self, entries: list[Entry]) -> None:
        """Queues more text; a stream that had ended goes on."""
        if entries:
            self.entries.extend(entries)
            self.end_step = None

    @property
    def transcript(self) -> list[tuple[str, int]]:
        """(word, step) of every word taken."""
        return [(self.entries[n].text, step) for step, n in self.steps if self.entries[n].tokens]


@dataclass(frozen=True)
class TextMachine:
    """The rules: ids of the special tokens, and how far ahead the second stream looks (0: there is none)."""

    new_word: int
    pad: int
    ahead: int
    max_padding: int = MAX_PADDING

    @classmethod
    def of(cls, data: DataConfig) -> "TextMachine":
        """The machine of a checkpoint."""
        return cls(data.text_new_word_token_id, data.text_pad_token_id, data.second_stream_ahead)

    def start(self, initial_padding: int = 0) -> TextState:
        """A new stream whose first word may come after `initial_padding` steps."""
        return TextState(padding_budget=initial_padding, forced_padding=initial_padding)

    def may_step(self, state: TextState, closed: bool) -> bool:
        """Whether the next step is the same whatever text follows.

        It is when the step cannot take an entry, when the text is closed, or when the entry it may take and the word
        that the second stream would show are both known.
        """
        if closed or state.pending or state.forced_padding > 0:
            return True
        if state.taken == len(state.entries):
            return False
        if not state.entries[state.taken].tokens:
            return True
        return self._upcoming(state, state.taken + 1) is not None or self.ahead == 0

    def process(self, state: TextState, step: int, action: int, forced: bool = False) -> tuple[int, int]:
        """Advances `state` by one step. Returns the main and second token of column step + 1."""
        token = self._constrain(state, self._sanitise(action), forced)
        if token == self.new_word:
            token = self._take(state, step)
        output = token
        if token == self.pad:
            state.padding_budget = max(0, state.padding_budget - 1)
            state.forced_padding = max(0, state.forced_padding - 1)
            output = self._next_pending(state)
        if not self.ahead:
            return output, output
        if output == self.new_word:
            return self._next_pending(state), self.new_word
        second, state.lookahead = (state.lookahead or (self.pad,))[0], state.lookahead[1:]
        return output, second

    def _sanitise(self, action: int) -> int:
        return self.new_word if action in (1, self.new_word) else self.pad

    def _constrain(self, state: TextState, token: int, forced: bool) -> int:
        if state.pending:
            return self.pad
        if forced:
            return token
        if state.forced_padding > 0:
            return self.pad
        return self.new_word if state.padding_budget <= 0 else token

    def _take(self, state: TextState, step: int) -> int:
        """new_word was chosen: takes the next entry. Returns what the choice became."""
        if state.taken == len(state.entries):
            return self._end(state, step)
        entry = state.entries[state.taken]
        state.steps.append((step, state.taken))
        state.taken += 1
        state.forced_padding = entry.padding
        if not entry.tokens:
            return self.pad
        state.pending = entry.tokens
        state.lookahead += self._upcoming(state, state.taken) or ()
        state.padding_budget = self.max_padding
        return self.new_word

    def _end(self, state: TextState, step: int) -> int:
        first = state.end_step is None
        if first:
            state.end_step = step
        return self.new_word if first and self.ahead else self.pad

    def _upcoming(self, state: TextState, start: int) -> tuple[int, ...] | None:
        """Tokens of the `ahead`-th word from entry `start` on; None when there are fewer."""
        words = 0
        for number in range(start, len(state.entries)):
            tokens = state.entries[number].tokens
            words += bool(tokens)
            if words == self.ahead:
                return tokens
        return None

    def _next_pending(self, state: TextState) -> int:
        token, state.pending = (state.pending or (self.pad,))[0], state.pending[1:]
        return token
