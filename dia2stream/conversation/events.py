"""What a conversation tells of its words: the events, made from what is known of them."""

from collections.abc import Iterator

from dia2stream.conversation.reader import TextReader
from dia2stream.conversation.words import QueuedWord, Utterance
from dia2stream.protocol.messages import Notice, WordEvent

WORD_MS = 400  # how long a word takes whose end is not known when it begins


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
