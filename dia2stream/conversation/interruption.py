"""Where an interruption cuts: at which word, and how the text goes on behind what was heard."""

from collections.abc import Sequence
from dataclasses import dataclass

from dia2.steps.context import Context
from dia2.text.script import TextTokenizer
from dia2stream.conversation.clock import AudioClock
from dia2stream.conversation.reader import TextReader
from dia2stream.conversation.word_times import WordTimes
from dia2stream.conversation.words import TakenWord, Words
from dia2stream.items import FRAME_MS


@dataclass(frozen=True)
class Interruption:
    """step: the first one whose frame was not heard. words: that are cut, the latest first; empty between words."""

    step: int
    words: Sequence[TakenWord]

    @classmethod
    def at(cls, heard_ms: float, clock: AudioClock, context: Context, words: Words, times: WordTimes) -> "Interruption":
        """Where an interruption goes back to, when the listener has heard so much of the audio clock."""
        step, state = clock.step_at(heard_ms), context.state
        mark = context.mark_at(step) if step < context.step else state.mark()
        taken = words.taken_between(clock.speaks_since(step), step)
        ended = mark.end_step is not None and mark.end_step <= step
        return cls(step, times.being_said(taken, step * FRAME_MS, ended))

    def reader(self, words: Words, tokenizer: TextTokenizer) -> TextReader:
        """A copy of the words' reader that goes on after what was heard."""
        reader = words.draft_from(self.step)
        if any(taken.word.tokens[0] in tokenizer.speakers for taken in self.words):
            reader.answer()  # the tag is forgotten together with the word that had it
        return reader
