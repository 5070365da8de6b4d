"""Tells a replica when it is no longer among those that get clients: it is being stopped.

Ray Serve stops a replica by taking it from the list that every router has, and then waits until its requests have
ended. It does not tell the replica. A call may last an hour, so the replica finds out by a router of its own.
"""

from collections.abc import Callable, Iterable

_watchers: dict[str, Callable[[], None]] = {}
_present: set[str] = set()


def watch(name: str, on_gone: Callable[[], None]) -> None:
    """Calls `on_gone`, from any thread, once the replica of that name was in the list and is there no more."""
    _watchers[name] = on_gone


def listed(names: Iterable[str]) -> None:
    """The replicas that there are now, by what a router of this process was told."""
    now = set(names)
    for name in [name for name in _watchers if name in _present and name not in now]:
        _watchers.pop(name)()
    _present.clear()
    _present.update(now)
