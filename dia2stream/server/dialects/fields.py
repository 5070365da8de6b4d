"""Fields of a client's JSON or query, read with care: each is of its type, or the error says which one is not.

What a format has and we do not (a speed, an emotion, a dictionary) is passed over where a wrong sound would not follow.
Clients spell one value in many ways: null, or nothing behind the = of a query, for what is not there; True, true and 1;
24000, 24000.0 and "24000"; MP3 and mp3. All of these are taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from dia2stream.errors import CommandError
from dia2stream.protocol.fields import shown

_T = TypeVar("_T")
_BOOLS = {"true": True, "1": True, "false": False, "0": False}


def text_of(fields: Mapping[str, object], name: str, default: str | None = None) -> str:
    """A string; without a default it has to be there. Raises CommandError."""
    value = fields.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise CommandError("bad_field", f"{name} must be a string, not {shown(value)}", field=name)
    return value


def bool_of(fields: Mapping[str, object], name: str, default: bool = False) -> bool:
    """true or false. Raises CommandError."""
    value = fields.get(name)
    if value is None or value == "":
        return default
    spelt = str(value).lower()
    if not isinstance(value, bool | int | str) or spelt not in _BOOLS:
        raise CommandError("bad_field", f"{name} must be true or false, not {shown(value)}", field=name)
    return _BOOLS[spelt]


def number_of(fields: Mapping[str, object], name: str, default: float | None, low: float, high: float) -> float | None:
    """A number in its range. Raises CommandError."""
    value = fields.get(name)
    if value is None or value == "":
        return default
    number = _as_number(value)
    if number is None or not low <= number <= high:
        problem = f"{name} must be a number from {low:g} to {high:g}, not {shown(value)}"
        raise CommandError("bad_field", problem, field=name)
    return number


def choice_of(fields: Mapping[str, object], name: str, known: Mapping[Any, _T], default: _T | None = None) -> _T:
    """What is known under the value; without a default it has to be there. Raises CommandError."""
    value = fields.get(name)
    if (value is None or value == "") and default is not None:
        return default
    key = next((key for key in known if _spelt(key) == _spelt(value)), None)
    if key is None:
        offered = ", ".join(str(key) for key in known)
        raise CommandError("bad_field", f"{name} must be one of {offered}, not {shown(value)}", field=name)
    return known[key]


def object_of(fields: Mapping[str, object], name: str) -> dict[str, object]:
    """An object, empty when it is not there. Raises CommandError."""
    value = fields.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise CommandError("bad_field", f"{name} must be an object, not {shown(value)}", field=name)
    return value


def _spelt(value: object) -> str | None:
    """A name or a number in the one way in which it is compared."""
    number = _as_number(value)
    if number is not None and number.is_integer():
        return str(int(number))
    return value.lower() if isinstance(value, str) else None


def _as_number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None
