"""What a conversation asks of the model now, as the scheduler's table has it.

Knows a conversation by a few properties, and imports no torch.
"""

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from dia2stream.engine.scheduler import Demand, Waits
from dia2stream.items import FRAME_MS

if TYPE_CHECKING:
    from dia2stream.conversation.conversation import Conversation
    from dia2stream.engine.session import Session


class Demands:
    """The sessions whose demands may have changed since the scheduler was told."""

    def __init__(self) -> None:
        self._changed: set[Session] = set()
        self._roomy: deque[Session] = deque()  # the same, told by other threads: their outboxes have room
        self._due_since: dict[int, float] = {}  # by slot: when a pass that nobody waits for became due

    def note(self, sessions: "Iterable[Session]") -> None:
        """Something has happened to these; on the engine's thread."""
        self._changed.update(sessions)

    def note_room(self, session: "Session") -> None:
        """A frame was taken; on any thread."""
        self._roomy.append(session)

    @property
    def has_news(self) -> bool:
        """Whether another thread has told of something."""
        return bool(self._roomy)

    def take(self) -> "set[Session]":
        """The sessions to look at now. Those that are noted meanwhile are for the next time."""
        for _ in range(len(self._roomy)):
            self._changed.add(self._roomy.popleft())
        taken, self._changed = self._changed, set()
        return taken

    def of(self, session: "Session", now: float) -> Demand | None:
        """What a session asks of the model now; None for nothing."""
        slot = session.conversation.slot
        since = self._due_since.setdefault(slot, now)
        demand = None if session.ended else demand_of(session.conversation, since, now)
        if demand is None or demand.waits is not Waits.NOBODY:
            del self._due_since[slot]
        return demand


def demand_of(conversation: "Conversation", changed: float, now: float) -> Demand | None:
    """The demand of a conversation; None when it can do nothing.

    changed: since when a pass that nobody waits for has been due. now: seconds, on the clock of the commands' arrival.
    """
    draft = conversation.preparation.draft
    if draft is not None:
        return _demand_of_draft(draft)
    context = conversation.context
    if not conversation.wants_step():
        return Demand(Waits.NOBODY, columns=context.due, since=changed) if context.due else None
    rows = 2 if context.guided else 1
    rebuild = 0 if context.due else context.columns_to_rebuild
    since, dry = conversation.waits_since, conversation.outbox.dry_at()
    if since is not None and (dry is None or dry <= now):
        return Demand(Waits.STARTING, context.due, context.lead_in_left, since=since, rows=rows, rebuild=rebuild)
    if dry is None:  # frames are there, and nobody has begun to take them
        dry = now + conversation.outbox.waiting * FRAME_MS / 1000
    ready = conversation.has_room
    return Demand(Waits.SPEAKING, context.due, context.lead_in_left, ready, dry, rows=rows, rebuild=rebuild)


def _demand_of_draft(draft: "Conversation") -> Demand | None:
    """A prepared reply: nobody waits for it, and a commit may come at any time."""
    context = draft.context
    if not context.due and not draft.can_step():
        return None
    return Demand(Waits.PREPARED, context.due, context.lead_in_left, rows=2 if context.guided else 1)
