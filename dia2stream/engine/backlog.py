"""How far a session is behind: orders that are on their way to the engine, and answers that nobody has taken yet.

Three things are bounded, and whoever reads a client's commands stops reading at each bound:

    orders     an error that answers one takes more memory than the order did, and an answer for which the outbox has
               no room is lost: so few are on their way that their errors fit
    bytes      what waits takes memory: a command may have 256 KiB, an answer the text of a whole turn
    seconds    what waits takes the engine's time, which all conversations share: 42 bytes of `listen` may be
               milliseconds of the codec, and a client that is gone holds its slot until its orders are carried out

How long an order takes depends on the model and the machine, so the engine measures. Knows nothing of sessions.
"""

from collections import Counter
from collections.abc import Callable
from typing import Final

from dia2stream.conversation.outbox import Outbox
from dia2stream.protocol.messages import Command
from dia2stream.protocol.sizes import size_of

MAX_ORDERS: Final = 64
MAX_BYTES: Final = 256 * 1024
MAX_SECONDS: Final = 0.1
_FIRST_SECONDS: Final = 0.005  # of a kind of order that was never carried out
_FORGETS: Final = 0.1  # the share of a measurement that a lower one after it takes away
_ORDER_BYTES: Final = 500  # of an order that is no command: an error has a line of text


class OrderSeconds:
    """How long orders take, by their type: about the longest of late, in seconds. `note` is for one thread."""

    def __init__(self) -> None:
        self._seconds: dict[type[object], float] = {}

    def note(self, order: object, seconds: float) -> None:
        """An order was carried out, and took so long."""
        before = self._seconds.get(type(order), seconds)
        self._seconds[type(order)] = max(seconds, before + _FORGETS * (seconds - before))

    def of(self, kind: type[object]) -> float:
        """What an order of that type takes."""
        return self._seconds.get(kind, _FIRST_SECONDS)


class Backlog:
    """The orders of one session that are on their way. Not safe for threads by itself."""

    def __init__(self, seconds_of: Callable[[type[object]], float]) -> None:
        self._seconds_of = seconds_of
        self._orders: Counter[type[object]] = Counter()
        self._bytes = 0

    def add(self, order: object) -> None:
        """An order is on its way."""
        self._orders[type(order)] += 1
        self._bytes += _bytes_of(order)

    def remove(self, order: object) -> None:
        """It was carried out, or dropped."""
        self._orders[type(order)] -= 1
        self._bytes -= _bytes_of(order)

    def share(self, answers: Outbox) -> float:
        """How much is behind, together with the answers that wait, as a share of what may be; 0 for nothing at all."""
        seconds = sum(count * self._seconds_of(kind) for kind, count in self._orders.items() if count)
        number = self._orders.total()
        return max(number / MAX_ORDERS, (self._bytes + answers.answer_bytes) / MAX_BYTES, seconds / MAX_SECONDS)


def _bytes_of(order: object) -> int:
    return size_of(order) if isinstance(order, Command) else _ORDER_BYTES
