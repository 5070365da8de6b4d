"""How much memory a command or event takes, about: for whoever has to bound what waits."""

from collections.abc import Mapping
from dataclasses import fields
from sys import getsizeof

from dia2stream.protocol.messages import Command, Event

_OBJECT_BYTES = 60  # a list, or the object that a message is
_NUMBER_BYTES = 30


def size_of(message: Command | Event) -> int:
    """Bytes of memory, with its texts and lists."""
    return _OBJECT_BYTES + sum(_size(getattr(message, field.name)) for field in fields(message))


def _size(value: object) -> int:
    if isinstance(value, str):
        return getsizeof(value)
    if isinstance(value, Mapping):
        return sum(_OBJECT_BYTES + _size(key) + _size(said) for key, said in value.items())
    if isinstance(value, tuple):
        return _OBJECT_BYTES + sum(map(_size, value))
    return _NUMBER_BYTES
