"""Where a journal is kept: one log for each conversation, with one owner at a time.

    lease = store.acquire(key)              # None while another server owns it
    store.append(lease, 0, data)            # at a place, so that it may be tried again when the answer got lost
    store.renew(lease)                      # every RENEW_SECONDS, or the lease ends LEASE_SECONDS after the last time
    store.release(lease)

Every acquisition has a higher fencing number than the one before. A store refuses whatever an older owner wants.

Every method may block, for TIMEOUT_SECONDS where that can be had, and raises OSError when the store cannot write. They
are called on threads that nobody waits for.
"""

import hashlib
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

LEASE_SECONDS = 1.0
RENEW_SECONDS = 0.3
TIMEOUT_SECONDS = 0.5


class Fenced(Exception):
    """Another server owns the conversation now, or it was deleted."""


class NoLog(Exception):
    """There is no such conversation."""


class Owned(Exception):
    """Another server owns the conversation, and has not let go of it for as long as one waits."""


class Unreachable(OSError):
    """The store does not answer."""


class LogLost(Exception):
    """The log is shorter than what was written to it: the store has lost it."""


class Renewal(Enum):
    """What became of a lease."""

    HELD = "it goes on"
    WANTED = "it goes on, and another server asks for it"
    LOST = "another server owns the conversation"


@dataclass(frozen=True)
class Lease:
    """The right to write a log. fence: its number. size: bytes of the log when it was acquired."""

    key: str
    fence: int
    size: int


class Store(Protocol):
    """A folder, or Redis. leases_expire: whether a lease ends by itself; else it ends with its process."""

    leases_expire: bool

    def acquire(self, key: str, new: bool = False) -> Lease | None:
        """The log's lease; None while another server has it, or if there is no such log and `new` is not said."""

    def has(self, key: str) -> bool:
        """Whether there is such a log, whoever owns it."""

    def want(self, key: str) -> None:
        """Asks the owner to hand the log over."""

    def renew(self, lease: Lease) -> Renewal:
        """Goes on owning it."""

    def append(self, lease: Lease, at: int, data: bytes) -> bool:
        """Writes behind the first `at` bytes of the log; what was there is replaced. Raises Fenced, LogLost.

        Goes on owning it. Returns whether another server asks for the log.
        """

    def read(self, lease: Lease) -> bytes:
        """The log. Raises Fenced."""

    def peek(self, key: str) -> bytes:
        """The log as it is now, whoever owns it; empty if there is none. Its last entry may be half written."""

    def release(self, lease: Lease) -> None:
        """Another server may own it from here on. The log expires if none does."""

    def delete(self, lease: Lease) -> None:
        """The log is gone at once."""

    def sweep(self) -> None:
        """Deletes what has expired, where that does not happen by itself."""

    def close(self) -> None:
        """Lets go of files and connections."""


def key_of(id: str) -> str:
    """The name of a conversation's log. Ids are secrets, so a store is not told them."""
    return hashlib.sha256(id.encode("utf-8", "surrogatepass")).hexdigest()[:32]
