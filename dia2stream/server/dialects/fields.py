"""Fields of a client's JSON or query, read with care: each is of its type, or the error says which one is not.

What a format has and we do not (a speed, an emotion, a dictionary) is passed over where a wrong sound would not follow.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from dia2stream.errors import CommandError
from dia2stream.protocol.fields import shown

_T = TypeVar("_T")


def text_of(fields: Mapping[str, object], name: str, default: str | None = None) -> str:
    """A string; without a default it has to be there. Raises CommandError."""
    value = fields.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise CommandError("bad_field", f"{name} must be a string, not {shown(value)}", field=name)
    return value


def bool_of(fields: Mapping[str, object], name: str, default: bool = False) -> bool:
    """true or false, which a query spells out. Raises CommandError."""
    value = fields.get(name)
    if value is None:
        return default
    known = {True: True, False: False, "true": True, "false": False}
    if not isinstance(value, bool | str) or value not in known:
        raise CommandError("bad_field", f"{name} must be true or false, not {shown(value)}", field=name)
    return known[value]


def number_of(fields: Mapping[str, object], name: str, default: float | None, low: float, high: float) -> float | None:
    """A number in its range, which a query spells out. Raises CommandError."""
    value = fields.get(name)
    if value is None:
        return default
    number = _as_number(value)
    if number is None or not low <= number <= high:
        problem = f"{name} must be a number from {low:g} to {high:g}, not {shown(value)}"
        raise CommandError("bad_field", problem, field=name)
    return number


def choice_of(fields: Mapping[str, object], name: str, known: Mapping[Any, _T], default: _T | None = None) -> _T:
    """What is known under the value; without a default it has to be there. Raises CommandError."""
    value = fields.get(name)
    if value is None and default is not None:
        return default
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 7:
        value = next((key for key in known if str(key) == value), value)  # a number in a query
    if isinstance(value, bool) or not isinstance(value, str | int) or value not in known:
        offered = ", ".join(str(key) for key in known)
        raise CommandError("bad_field", f"{name} must be one of {offered}, not {shown(value)}", field=name)
    return known[value]


def object_of(fields: Mapping[str, object], name: str) -> dict[str, object]:
    """An object, empty when it is not there. Raises CommandError."""
    value = fields.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise CommandError("bad_field", f"{name} must be an object, not {shown(value)}", field=name)
    return value


def _as_number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
