"""The exception tree of the streaming product.

    Dia2StreamError
      EngineError       the engine cannot speak, or cannot speak any more
      CommandError      a command or a connection that is refused; its code says why, see CLOSE_CODES
      Disconnected      a client cannot reach its server, or has lost it
      ProtocolError     an event or an audio message that a client cannot read
        UnknownEvent    an event of a newer server; a client skips it
      LexiconError      a line that does not say how a word is said
      RecordError       a recorded conversation that cannot be read, or not with this model
      JournalError      a journal that cannot be opened

Every message is one line of short lowercase facts: the field, the value, the limit and what would be accepted.
What went wrong inside (code `internal`) is for the log; clients are told only that it did.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

__all__ = [
    "CLOSE_CODES",
    "CommandError",
    "Dia2StreamError",
    "Disconnected",
    "EngineError",
    "ErrorCode",
    "JournalError",
    "LexiconError",
    "ProtocolError",
    "RecordError",
    "UnknownEvent",
]

ErrorCode = Literal[
    "bad_json",
    "bad_command",
    "bad_field",
    "too_long",
    "no_session",
    "not_paused",
    "busy",
    "unauthorized",
    "overloaded",
    "internal",
]

# The WebSocket close code that follows the `error` event; after None the connection and the conversation go on.
CLOSE_CODES: Mapping[ErrorCode, int | None] = MappingProxyType(
    {
        "bad_json": None,  # the line is not UTF-8 or not strict JSON
        "bad_command": None,  # not an object, or no known "cmd"
        "bad_field": None,  # a field that is unknown, missing, of the wrong type or out of range
        "too_long": None,  # the line or its text is over the limit
        "no_session": None,  # the command needs a conversation and there is none
        "not_paused": None,  # resume while nothing is paused
        "overloaded": None,  # no room for more queued words
        "unauthorized": 4401,  # token missing or wrong
        "busy": 1013,  # every slot is taken: try again later
        "internal": 1011,  # our fault
    }
)


class Dia2StreamError(Exception):
    """Anything the streaming product refuses to do; the message is one line meant for its user."""


class EngineError(Dia2StreamError):
    """The engine is closed, or its device no longer answers."""


class CommandError(Dia2StreamError):
    """A refused command: becomes one `error` event with the same fields.

    `cmd` and `id` are the command's own as far as they could be read; `field` is the field at fault.
    """

    def __init__(
        self, code: ErrorCode, message: str, cmd: str | None = None, id: str | None = None, field: str | None = None
    ) -> None:
        super().__init__(code, message, cmd, id, field)  # all of them, so that the error can be copied and pickled
        self.code = code
        self.message = message
        self.cmd = cmd
        self.id = id
        self.field = field

    def __str__(self) -> str:
        return self.message

    @property
    def close_code(self) -> int | None:
        """The WebSocket code to close the connection with, None to keep it."""
        return CLOSE_CODES[self.code]


class Disconnected(Dia2StreamError):
    """A client cannot reach its server, or has lost it."""


class ProtocolError(Dia2StreamError, ValueError):
    """An event or audio message that is not one of this protocol, or that cannot be put into it."""


class UnknownEvent(ProtocolError):
    """A well-formed event with a name this version does not know."""


class LexiconError(Dia2StreamError):
    """A lexicon's line, or its file, that cannot be used."""


class RecordError(Dia2StreamError):
    """A recorded conversation that cannot be read, or that another model has spoken."""


class JournalError(Dia2StreamError):
    """A journal that cannot be opened."""
