"""The warm engine. Names are imported when they are first used, because the engine imports torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dia2stream.engine.engine import Engine
    from dia2stream.engine.session import Session

__all__ = ["Engine", "Session"]

_HOMES = {"Engine": "dia2stream.engine.engine", "Session": "dia2stream.engine.engine"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
