"""A request that is answered by speech: one text in, one body out. How the body looks is the format's business."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

from dia2stream.errors import CommandError
from dia2stream.server.dialects.containers import Body, Wanted, open_body
from dia2stream.server.dialects.context_items import Audio, ContextItem, Failed, Finished, Word
from dia2stream.server.dialects.context_translator import ContextTranslator
from dia2stream.server.dialects.dialect import Close, Output, Response, Standing, Voice

_ONLY = "request"  # the name of a request's one context


class Writer(ABC):
    """What a context gives -> the bytes of a body. headers: of the answer."""

    headers: Mapping[str, str]

    @abstractmethod
    def audio(self, audio: Audio) -> bytes:
        """80 ms of sound."""

    def word(self, word: Word) -> bytes:
        """A word, ahead of its sound."""
        return b""

    @abstractmethod
    def finish(self, finished: Finished) -> bytes:
        """The end of the body."""

    def error(self, error: CommandError) -> bytes | None:
        """The end of a body that has begun. None when the format has no word for it: the body breaks off."""
        return None


class SoundWriter(Writer):
    """The sound itself, in one of its forms."""

    def __init__(self, wanted: Wanted) -> None:
        self._body: Body = open_body(wanted)
        self.headers = {"Content-Type": wanted.content_type, "X-Sample-Rate": str(wanted.sample_rate)}

    def audio(self, audio: Audio) -> bytes:
        return self._body.encode(audio.pcm)

    def finish(self, finished: Finished) -> bytes:
        return self._body.finish()


class SpokenAnswer(ContextTranslator):
    """Speaks a text and ends.

    refuse: an error in the format's own shape, for as long as nothing was sent. conversation: the client's key, if the
    body of the request has one.
    """

    def __init__(
        self,
        text: str,
        voice: Voice,
        writer: Writer,
        refuse: Callable[[CommandError], Response],
        conversation: str | None = None,
    ) -> None:
        super().__init__()
        self._text, self._voice, self._writer, self._refuse = text, voice, writer, refuse
        self.headers, self.conversation = writer.headers, conversation
        self._begun = False  # whether the body has
        self._over = False

    def begin(self, standing: Standing, now: float) -> list[Output]:
        super().begin(standing, now)
        return self._outputs(self._contexts.speak(_ONLY, self._text, now, voice=self._voice, last=True))

    def leave(self, now: float) -> list[Output]:
        return [] if self._over else super().leave(now)

    def fail(self, error: CommandError) -> list[Output]:
        if self._over:
            return []
        self._over = True
        if not self._begun:
            return [self._refuse(error)]
        last = self._writer.error(error)
        return [Close(broken=True)] if last is None else [last, Close()]

    def _tell(self, item: ContextItem) -> list[Output]:
        if self._over:
            return []
        match item:
            case Audio():
                return self._body(self._writer.audio(item))
            case Word():
                return self._body(self._writer.word(item))
            case Finished():
                self._over = True
                return [*self._body(self._writer.finish(item)), Close()]
            case Failed():
                return self.fail(item.error)
        return []

    def _body(self, data: bytes) -> list[Output]:
        self._begun = self._begun or bool(data)
        return [data] if data else []
