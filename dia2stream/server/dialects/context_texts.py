"""The texts of contexts -> commands for the conversation that speaks them, and which utterance is whose."""

from __future__ import annotations

from collections.abc import Iterator

from dia2stream.protocol.fields import MAX_TEXT_CHARS
from dia2stream.protocol.messages import Command, End, Inject, Start
from dia2stream.server.dialects.context import Context, Utterance
from dia2stream.server.dialects.context_items import Flushed, Turned


class ContextTexts:
    """What the conversation was given to say. prefix: makes the ids of its utterances its own.

    begun: whether the conversation has begun. utterances: those that are not done, by id.
    """

    def __init__(self, prefix: str) -> None:
        self.begun = False
        self.utterances: dict[str, Utterance] = {}
        self._prefix, self._numbered = prefix, 0

    def hand_over(self, context: Context) -> list[Turned]:
        """The text that waits, up to each flush, and then the rest. Raises CommandError for what cannot be said."""
        turned: list[Turned] = []
        while context.breaks:
            at = context.breaks.pop(0)
            text, context.waiting = context.waiting[:at], context.waiting[at:]
            context.breaks = [later - at for later in context.breaks]
            context.flushes += 1
            turned += self._give(context, text, close=True, flush=context.flushes)
        text = context.waiting
        if text.strip() or (context.open and (text or context.ended)):
            context.waiting = ""
            turned += self._give(context, text, close=context.ended or context.patience <= 0, flush=None)
        elif context.ended:
            context.waiting = ""
        return turned

    def close(self, context: Context, flush: int | None = None) -> list[Turned]:
        """Ends the utterance that is open. flush: the number of what is told when it is done."""
        assert context.open is not None
        if flush is not None:
            context.open.flushes.append(flush)
        context.open = None
        return [End()]

    def forget(self, context: Context) -> None:
        """What becomes of a context's utterances is nothing to anybody."""
        for utterance in context.unspoken:
            self.utterances.pop(utterance.id, None)

    def _give(self, context: Context, text: str, close: bool, flush: int | None) -> list[Turned]:
        if context.open is None and not text.strip():
            context.text += text
            return [] if flush is None else self._flush_nothing(context, flush)
        if context.open is not None and not text:
            return self.close(context, flush) if close else []
        utterance = context.open or self._utterance(context)
        # Made before anything changes, because it raises for text that cannot be said.
        commands = list(self._commands(context, utterance, text, close))
        context.open = None if close else utterance
        context.text += text
        if flush is not None:
            utterance.flushes.append(flush)
        if utterance not in context.unspoken:
            context.unspoken.append(utterance)
            context.begun[utterance.id] = utterance.begin
        self.utterances[utterance.id] = utterance
        self.begun = True
        return [*commands]

    def _flush_nothing(self, context: Context, flush: int) -> list[Turned]:
        """There is no text to flush: with the utterance before it, if that is not done."""
        if context.unspoken:
            context.unspoken[-1].flushes.append(flush)
            return []
        return [Flushed(context.name, flush)]

    def _utterance(self, context: Context) -> Utterance:
        self._numbered += 1
        return Utterance(f"{self._prefix}{self._numbered}", context, len(context.text))

    def _commands(self, context: Context, utterance: Utterance, text: str, close: bool) -> Iterator[Command]:
        """The text in as many commands as it takes."""
        begun, voice = self.begun, context.voice
        for at in range(0, len(text), MAX_TEXT_CHARS):
            piece, final = text[at : at + MAX_TEXT_CHARS], close and at + MAX_TEXT_CHARS >= len(text)
            if begun:
                yield Inject(piece, id=utterance.id, final=final)
            else:
                yield Start(piece, id=utterance.id, final=final, voice=voice.name, seed=voice.seed)
            begun = True
