"""The protocol: commands, events and the audio message. Names are imported when they are first used."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dia2stream.protocol.audio_message import Audio, pack_audio, unpack_audio
    from dia2stream.protocol.fields import FIELDS, MAX_ID_CHARS, MAX_SEED, MAX_TEXT_CHARS, HeardWord, shown
    from dia2stream.protocol.messages import (
        COMMANDS,
        EVENTS,
        MAX_COMMAND_BYTES,
        Cancel,
        Cancelled,
        Command,
        Commit,
        Discard,
        Discarded,
        Done,
        End,
        Error,
        Event,
        FirstAudio,
        Fork,
        Forked,
        Inject,
        Listen,
        Notice,
        Pause,
        Paused,
        Prepare,
        Prepared,
        Ready,
        Reset,
        ResetDone,
        Resume,
        Resumed,
        Start,
        Started,
        WordEvent,
        dump_command,
        dump_event,
        error_event,
        parse_command,
        parse_event,
    )

__all__ = [
    "COMMANDS",
    "EVENTS",
    "FIELDS",
    "MAX_COMMAND_BYTES",
    "MAX_ID_CHARS",
    "MAX_SEED",
    "MAX_TEXT_CHARS",
    "Audio",
    "Cancel",
    "Cancelled",
    "Command",
    "Commit",
    "Discard",
    "Discarded",
    "Done",
    "End",
    "Error",
    "Event",
    "FirstAudio",
    "Fork",
    "Forked",
    "HeardWord",
    "Inject",
    "Listen",
    "Notice",
    "Pause",
    "Paused",
    "Prepare",
    "Prepared",
    "Ready",
    "Reset",
    "ResetDone",
    "Resume",
    "Resumed",
    "Start",
    "Started",
    "WordEvent",
    "dump_command",
    "dump_event",
    "error_event",
    "pack_audio",
    "parse_command",
    "parse_event",
    "shown",
    "unpack_audio",
]

_HOMES = {
    "Audio": "audio_message",
    "pack_audio": "audio_message",
    "unpack_audio": "audio_message",
    "FIELDS": "fields",
    "HeardWord": "fields",
    "MAX_ID_CHARS": "fields",
    "MAX_SEED": "fields",
    "MAX_TEXT_CHARS": "fields",
    "shown": "fields",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'messages')}"), name)
