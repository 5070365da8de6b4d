"""A translator whose client's speech is contexts: what is the same for all of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

from dia2stream.items import Item
from dia2stream.protocol.messages import Command
from dia2stream.server.dialects.context_items import ContextItem, Turned
from dia2stream.server.dialects.contexts import Contexts
from dia2stream.server.dialects.dialect import Output, Standing, Translator


class ContextTranslator(Translator):
    """Hands on what comes, and has each format say in its own way what its contexts give."""

    def __init__(self) -> None:
        self._contexts = Contexts()

    def begin(self, standing: Standing, now: float) -> list[Output]:
        self._contexts.begin(standing, now)
        return []

    def take(self, item: Item, now: float) -> list[Output]:
        return self._outputs(self._contexts.take(item, now))

    def look(self, now: float) -> list[Output]:
        return self._outputs(self._contexts.look(now))

    def leave(self, now: float) -> list[Output]:
        return [*self._contexts.leave(now)]

    @abstractmethod
    def _tell(self, item: ContextItem) -> list[Output]:
        """What the client is told of it."""

    def _outputs(self, turned: Iterable[Turned]) -> list[Output]:
        """Commands as they are, and what the client is told of the rest."""
        told: list[Output] = []
        for each in turned:
            told += [each] if isinstance(each, Command) else self._tell(each)
        return told
