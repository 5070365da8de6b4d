"""What a conversation tells of its words, made from what is known of them: the events that leave among its frames."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from dia2stream.conversation.level import Gain
from dia2stream.conversation.reader import TextReader
from dia2stream.conversation.word_times import WordTimes
from dia2stream.conversation.words import QueuedWord, TakenWord, Utterance, Words
from dia2stream.items import FRAME_MS, FirstFrame, Item
from dia2stream.protocol.messages import Done, Notice, WordEvent

WORD_MS = 400  # how long a word takes whose end is not known when it begins


class MadeFrame(NamedTuple):
    """A frame that a step completed, without its sound.

    number: of the model's frame. before: events that go out before it, and words that were taken for it. ends_turn: it
    is the turn's last. gain: of its sound, None where that stays as it is.
    """

    number: int
    before: Sequence[Item | TakenWord]
    ends_turn: bool
    gain: Gain | None = None


class FrameEvents(NamedTuple):
    """The events that have their place before the next frame of a conversation, as it stands now.

    clock_ms: where the next frame that is queued will stand on the audio clock. last_end: the step at which the words
    of the turn ended, if they did. words_at: when the words came that ended the last wait for words.
    """

    words: Words
    times: WordTimes
    clock_ms: int
    last_end: int | None
    words_at: float

    def announced(self, utterance: Utterance) -> list[Item]:
        """What tells the latency of an utterance's first frame, the first time that it is asked for."""
        if utterance.announced:
            return []
        utterance.announced = True
        return [FirstFrame(utterance.id, utterance.arrived, max(0.0, self.words_at - utterance.arrived))]

    def taken(self, taken: TakenWord) -> list[Item | TakenWord]:
        """A word that was taken for the frame that is made now, and the events before it."""
        utterance = taken.word.utterance
        items = [*self.done(before=utterance), *self.announced(utterance), taken]
        utterance.unheard -= 1
        return items

    def done(self, before: Utterance | None = None) -> list[Item]:
        """`done` for the utterances whose last sample is queued: all before one, or all there are."""
        return [Done(utterance.id, self.clock_ms) for utterance in self.words.finished(before)]

    def before(self, made: MadeFrame, levels: bytes) -> list[Item]:
        """The events that leave before a frame, now that its sound is known: also those of words that sound late."""
        events: list[Item] = []
        words: list[TakenWord] = []
        for item in made.before:
            if isinstance(item, TakenWord):
                words.append(item)
                continue
            if isinstance(item, Done):
                events += self.told(self.times.flush(), made.number)
            events.append(item)
        told = self.times.hear(made.number, levels, words)
        if made.ends_turn:
            told += self.times.flush()
        return events + self.told(told, made.number)

    def told(self, told: Sequence[TakenWord], frame: int) -> list[Item]:
        """The events of words that begin to sound. frame: the model's, which is the next one on the audio clock."""
        return [self._word_event(taken, frame) for taken in told if taken.word.tokens and taken.word.begins]

    def _word_event(self, taken: TakenWord, frame: int) -> WordEvent:
        assert taken.start is not None
        now = self.clock_ms - frame * FRAME_MS  # of the audio clock, less the model's
        start_ms = max(0, round(now + taken.start))
        end = self.words.end_of(taken, self.last_end)
        return word_event(taken.word, start_ms, None if end is None else round(now + self.times.over_at(end, taken)))


def word_event(word: QueuedWord, start_ms: int, end_ms: int | None) -> WordEvent:
    """The event of a written word that begins at start_ms. end_ms: None where that is not known yet."""
    written = word.written
    end_ms = start_ms + WORD_MS * written.entries if end_ms is None else end_ms
    said = None if written.said == written.text else written.said
    speaker = f"S{word.speaker}"
    return WordEvent(word.utterance.id, written.text, speaker, start_ms, said, end_ms, written.start, written.end)


def notices_of(utterance: Utterance, reader: TextReader) -> Iterator[Notice]:
    """What of an utterance's text was changed or left out, since this was asked last."""
    for notice in reader.take_notices():
        yield Notice(notice.code, notice.message, utterance.id, notice.start)
