"""An engine around a toy that can be stopped before any step and made to fail, and ways to talk to it."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from conftest import GOLDENS
from conversations import SAMPLED, RigPool, ToyCodec, ToyStepper, toy
from models import checkpoint
from piping import PATIENCE

from dia2.steps.context import Context
from dia2.steps.stepper import TextColumn
from dia2stream.engine.batch import Batch
from dia2stream.engine.engine import Engine
from dia2stream.engine.observer import StepReport
from dia2stream.engine.session import Session
from dia2stream.items import Frame, Item
from dia2stream.protocol.messages import Command

HELLO = "[S1] Hello there my friend. [S2] How are you? [S1] One two three four five six seven eight nine ten."
LONG = " ".join(f"word{number} and so on" for number in range(300))


class Observing:
    """Keeps what the engine reports."""

    def __init__(self) -> None:
        self.steps: list[StepReport] = []
        self.rests = 0

    def stepped(self, step: StepReport) -> None:
        self.steps.append(step)

    def idle(self) -> None:
        self.rests += 1


def full(session: Session) -> bool:
    """Whether generation waits for the reader."""
    return session.conversation.outbox.waiting >= session.conversation.outbox.capacity


class GatedStepper(ToyStepper):
    """Stands before every step until `gate` is open, and fails when it is told to."""

    def __init__(self, slots: int) -> None:
        super().__init__(slots=slots)
        self.gate = threading.Event()
        self.gate.set()
        self.at_gate = threading.Event()
        self.acts = 0
        self.fail_in: str | None = None

    def act(self, active: Sequence[int]) -> list[int]:
        self.acts += 1
        self.at_gate.set()
        self.gate.wait()
        self._fail("act")
        return super().act(active)

    def complete(self, texts: Sequence[TextColumn]) -> None:
        super().complete(texts)
        self._fail("complete")

    def prefill(self, slot: int, texts: Sequence[TextColumn]) -> None:
        super().prefill(slot, texts)
        self._fail("prefill")

    def _fail(self, where: str) -> None:
        if self.fail_in == where:
            self.fail_in = None
            raise RuntimeError("the model is on fire")


class ToyEngine(Engine):
    """An engine around a toy."""

    def __init__(self, slots: int = 1, **options: Any) -> None:
        super().__init__(checkpoint(GOLDENS / "published-like"), slots=slots, speech=SAMPLED, **options)
        self.toy = GatedStepper(slots)
        self.stepper = cast(Any, self.toy)
        self.thread.batch = Batch(RigPool(self.stepper), self.thread.conversation_failed)
        self.pool.contexts[:] = [Context(self.stepper, slot, cast(Any, ToyCodec()), 375) for slot in range(slots)]


@contextmanager
def running(slots: int, **options: Any) -> Iterator[ToyEngine]:
    """An engine around a toy, closed at the end whatever it waits for."""
    engine = ToyEngine(slots=slots, **options)
    try:
        yield engine
    finally:
        engine.toy.gate.set()
        engine.close()


def eventually(condition: Callable[[], Any]) -> None:
    """Waits until it is so."""
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, "it never came to be"
        time.sleep(0.001)


def spoken(session: Session, *commands: Command) -> list[Item]:
    """Says all of it, and takes what comes to the end."""
    for command in commands:
        session.submit(command)
    session.finish()
    return list(session)


def audio(items: Sequence[Item]) -> bytes:
    return b"".join(item.pcm.tobytes() for item in items if isinstance(item, Frame))


def kinds(items: Sequence[Item]) -> list[type[Any]]:
    """Types of the items that are no frames."""
    return [type(item) for item in items if not isinstance(item, Frame)]


def take_until(session: Session, kind: type[Any]) -> list[Item]:
    """Items up to the first of a kind."""
    items: list[Item] = []
    while not items or not isinstance(items[-1], kind):
        item = session.next()
        assert item is not None, f"it ended before {kind.__name__}"
        items.append(item)
    return items


def alone(*commands: Command) -> bytes:
    """What a toy says that nobody disturbs."""
    rig = toy()
    rig.conversation.tokenizer = checkpoint(GOLDENS / "published-like").tokenizer
    return b"".join(frame.tobytes() for frame in rig.do(*commands).run().frames)
