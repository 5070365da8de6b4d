"""What the engine's thread does with an order of a session: a command, the end of its text, a copy, a take-over.

An order that fails is answered by an error event. Whatever changes in a conversation that is written down goes to its
tape. Knows nothing of slots, steps or the scheduler.
"""

import logging
import time
from collections.abc import Callable, MutableMapping, Sequence
from typing import cast

from dia2.steps.context import Context
from dia2stream.conversation.conversation import Conversation
from dia2stream.engine.ears import Ears
from dia2stream.engine.orders import FINISH, STAND_STILL, Adoption, Forking, Order, Revival, SessionRequest
from dia2stream.engine.session import Session
from dia2stream.errors import CommandError
from dia2stream.items import FRAME_MS
from dia2stream.journal.prepared_tape import PreparedTape, StepTape
from dia2stream.journal.tape import Place, Tape
from dia2stream.protocol.messages import Command, End, Forked, Listen, Pause, error_event

_log = logging.getLogger(__name__)


class OrderHandler:
    """Carries out orders, each between two steps.

    contexts: by slot. tapes: of the conversations that are written down, and of their drafts. on_failure: is told of a
    conversation whose own work failed. on_copy: is told of a slot whose conversation has become a copy of another one.
    """

    def __init__(
        self,
        contexts: Sequence[Context],
        ears: Ears,
        tapes: MutableMapping[Conversation, StepTape],
        on_failure: Callable[[Conversation, Exception], None],
        on_copy: Callable[[int], None],
    ) -> None:
        self._contexts, self._ears, self._tapes = contexts, ears, tapes
        self._on_failure, self._on_copy = on_failure, on_copy

    def write_down(self, conversation: Conversation, tape: Tape) -> None:
        """Writes a conversation down from here on, and of its prepared replies those that are committed."""
        self._tapes[conversation] = tape
        conversation.preparation.keeper = PreparedTape(tape, self._tapes)

    def handle(self, session: Session, order: Order, arrived: float) -> None:
        """Carries out an order. arrived: when it came, on the monotonic clock."""
        conversation = session.conversation
        try:
            if isinstance(order, CommandError):
                conversation.outbox.answer(error_event(order))
            elif isinstance(order, Adoption):
                self._adopt(session, order.revival)
            elif isinstance(order, Forking):
                self._fork(session, order)
            else:
                self._obey_and_write_down(session, order, arrived)
        except CommandError as error:
            conversation.outbox.answer(error_event(error))
        except Exception as error:
            self._on_failure(conversation, error)

    def _tape_of(self, conversation: Conversation) -> Tape | None:
        return cast("Tape | None", self._tapes.get(conversation))  # of a conversation, and not of a draft

    def _obey_and_write_down(self, session: Session, order: Command | SessionRequest, arrived: float) -> None:
        tape = self._tape_of(session.conversation)
        if tape is None:
            self._obey(session, order, arrived)
            return
        before = Place.of(session.conversation)
        carried_out = self._obey(session, order, arrived)
        if carried_out is not None:
            tape.command(session.conversation, carried_out, before)

    def _obey(self, session: Session, order: Command | SessionRequest, arrived: float) -> Command | None:
        """Carries out a command, or what amounts to one. Returns the command that was carried out, for a tape."""
        conversation = session.conversation
        if order is FINISH:
            is_open = conversation.words.opened is not None
            conversation.close_text()
            session.finishing = True
            return End() if is_open else None
        if order is STAND_STILL:
            stood = conversation.paused
            conversation.stand_still(arrived)
            session.stands_still()
            return Pause() if conversation.paused and not stood else None
        if isinstance(order, Command):
            carried_out = conversation.handle(order, arrived)
            if isinstance(order, Listen):
                self._ears.note(conversation, time.monotonic())
            return carried_out
        conversation.say_where(arrived)
        return None

    def _adopt(self, session: Session, revival: Revival) -> None:
        """Goes on with a conversation from elsewhere in the session's slot."""
        old, new = session.conversation, revival.conversation
        tape = self._tape_of(old)
        self._tapes.pop(old, None)
        revival.settle(self._contexts[old.slot], self._ears.of(old.slot, tape))
        if tape is not None:
            self.write_down(new, tape)
        session.conversation = new

    def _fork(self, session: Session, order: Forking) -> None:
        """Copies the session's conversation into another session."""
        if not order.done.set_running_or_notify_cancel():
            return
        original, conversation = session.conversation, order.copy.conversation
        try:
            conversation.copy(original, time.monotonic())
        except CommandError as error:
            order.done.set_exception(error)
            return
        except Exception:
            _log.exception("a fork failed")
            order.done.set_exception(CommandError("busy", "the conversation could not be copied; the log says why"))
            return
        tape, copied = self._tape_of(original), self._tape_of(conversation)
        if tape is not None and copied is not None:
            tape.fork(copied, conversation, was_paused=original.paused)
        if order.id is not None:
            original.outbox.answer(Forked(order.id, conversation.outbox.sent * FRAME_MS))
        self._ears.note(conversation, time.monotonic())
        self._on_copy(conversation.slot)
        order.done.set_result(None)
