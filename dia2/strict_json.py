"""JSON files -> frozen dataclasses, strictly.

Every key of a file must be a field, every field's value of the field's type, and nothing is converted: a misspelt key
that falls back to its default, or a number that was a string, is the hardest kind of wrong to find. What is refused is
named by its dotted path, with what would be accepted.
"""

import json
import sys
import types
from collections.abc import Collection, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from dia2.errors import CheckpointError, ConfigError, first_line, plain, shown

T = TypeVar("T")

_KINDS = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}


def read_object(path: str | Path) -> dict[str, Any]:
    """The JSON object in a file. Raises CheckpointError, naming the file, when there is none."""
    try:
        raw = json.loads(Path(path).read_text(encoding="utf-8"))
        json.dumps(raw, ensure_ascii=False).encode()  # refuses half of a character, which JSON can write as an escape
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON: {first_line(error)}") from None
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path}: must hold a JSON object, not {type(raw).__name__}")
    return raw


def read_dataclass(cls: type[T], raw: object, *, unread: Collection[str] = (), where: str = "") -> T:
    """Builds dataclass `cls`, and the dataclasses that are its fields, from parsed JSON. Raises ConfigError.

    unread: keys that may be there, in any block, and that nobody reads. where: the dotted path of `raw`, for messages.
    """
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where or 'the file'} must be a JSON object, not {type(raw).__name__}")
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(raw) - set(known) - set(unread))
    if unknown:
        raise ConfigError(f"unknown {_dotted(where, unknown[0])}; {where or 'the file'} may have {', '.join(known)}")
    missing = [n for n, f in known.items() if n not in raw and f.default is MISSING and f.default_factory is MISSING]
    if missing:
        raise ConfigError(f"{', '.join(_dotted(where, n) for n in missing)} missing")
    hints = get_type_hints(cls)
    return cls(**{name: _value(hints[name], raw[name], unread, _dotted(where, name)) for name in known if name in raw})


def _dotted(where: str, name: str) -> str:
    return f"{where}.{plain(name)}" if where else plain(name)


def _value(kind: Any, raw: Any, unread: Collection[str], where: str) -> Any:
    """One JSON value as a field of type `kind` takes it."""
    if get_origin(kind) in (Union, types.UnionType):
        return None if raw is None else _value(get_args(kind)[0], raw, unread, where)
    if hasattr(kind, "__dataclass_fields__"):
        return read_dataclass(kind, {} if raw is None else raw, unread=unread, where=where)
    if get_origin(kind) is tuple:
        if not isinstance(raw, list):
            raise ConfigError(f"{where} must be a list, not {shown(raw)}")
        return tuple(_value(get_args(kind)[0], item, unread, f"{where}[{i}]") for i, item in enumerate(raw))
    accepted = (int, float) if kind is float else (kind,)
    wrong = not isinstance(raw, accepted) or (isinstance(raw, bool) and kind is not bool)
    if wrong or (kind is float and not -sys.float_info.max <= raw <= sys.float_info.max):  # false for NaN too
        raise ConfigError(f"{where} must be {_KINDS[kind]}, not {shown(raw)}")
    return kind(raw)
