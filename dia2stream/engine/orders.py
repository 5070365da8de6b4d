"""What a session asks of the engine's thread, which carries it out between two steps (`order_handler.py`)."""

from concurrent.futures import Future
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from dia2stream.errors import CommandError
from dia2stream.protocol.messages import Command

if TYPE_CHECKING:  # brings torch along
    from dia2.steps.context import Context
    from dia2stream.conversation.caller import Ear
    from dia2stream.conversation.conversation import Conversation


class SessionRequest(Enum):
    """What a session asks of the engine besides commands."""

    FINISH = "close the text; the loop ends when all is spoken"
    STAND_STILL = "nobody listens: stop, unless the client has paused, who then knows best where"
    SAY_WHERE = "somebody listens again: say where it stands, if it is paused"
    CLOSE = "give the slot back"


class Revival(Protocol):
    """A conversation from elsewhere that is to go on in a slot of this engine."""

    @property
    def conversation(self) -> "Conversation":
        """It, as it will go on."""

    @property
    def speaks(self) -> bool:
        """Whether somebody waits for its next frame."""

    def settle(self, context: "Context", ear: "Ear") -> None:
        """Puts it into a slot, whose ear hears its caller from here on; on the engine's thread."""


@dataclass(frozen=True)
class Adoption:
    """Asks the engine to go on with a conversation from elsewhere in this session's slot. done: it does, or is over."""

    revival: Revival
    done: "Future[None]"


class Copied(Protocol):
    """A session in which nothing has been said yet."""

    @property
    def conversation(self) -> "Conversation":
        """What becomes the copy."""


@dataclass(frozen=True)
class Forking:
    """Asks the engine to make another session's conversation a copy of this one's.

    id: of the copy, which the client is told; None tells nothing. done: its result is whether there is a copy.
    """

    copy: Copied
    id: str | None
    done: "Future[None]"


FINISH, CLOSE = SessionRequest.FINISH, SessionRequest.CLOSE
STAND_STILL, SAY_WHERE = SessionRequest.STAND_STILL, SessionRequest.SAY_WHERE
# A command, one that was refused before it got here, or the end of the session.
Order = Command | CommandError | SessionRequest | Adoption | Forking
