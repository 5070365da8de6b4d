"""Conversations that outlive their server: each is written to a store as it goes, and another server can go on with it.

One thread writes everything: it takes what the tapes hold, renews the leases, and waits for the store. Neither the
engine nor the event loop ever waits for it. While the store cannot be reached, what is to be written waits in memory,
MAX_WAITING_BYTES of it at most; what has no room is given up, and such a conversation can no longer be taken over.
Nothing else changes for it.

No audio leaves before the store has the conversation's beginning: whatever happens then, what somebody has heard of it
can go on. A store that takes longer than BEGIN_SECONDS for that, or does not answer, is not waited for.

Who may speak: the owner of the lease, by this machine's own clock. A server that has not been able to renew a lease
because the store did not answer goes on speaking; one that finds its lease lost stops at once. After the process stood
still for longer than a lease, nothing is sent until the store has answered.
"""

import contextlib
import logging
import math
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from dia2stream.errors import JournalError, RecordError
from dia2stream.journal.folder import FolderStore
from dia2stream.journal.store import (
    LEASE_SECONDS,
    RENEW_SECONDS,
    Fenced,
    Lease,
    LogLost,
    NoLog,
    Owned,
    Renewal,
    Store,
    Unreachable,
    key_of,
)

if TYPE_CHECKING:  # brings torch along
    from dia2stream.journal.record import Record
    from dia2stream.journal.revived import Revived, Speaker
    from dia2stream.journal.tape import Tape

_log = logging.getLogger(__name__)

PERIOD_SECONDS = 0.1  # between two rounds of writing; a command is written at once
BEGIN_SECONDS = 0.25  # for which the first audio of a conversation waits for the store to have its beginning
MAX_WAITING_BYTES = 64 * 2**20
SWEEP_SECONDS = 5.0
TAKE_OVER_SECONDS = 2.0  # for the owner to hand a conversation over, or for its lease to end
UNKNOWN_SECONDS = 0.3  # after which a conversation that no log tells of does not exist
_SOON_SECONDS = 0.2  # in which an owner that lives hands a conversation over, mostly
_ASK_AGAIN_SECONDS, _ASK_SELDOM_SECONDS = 0.02, 0.05  # until then, and later: then a lease has to end


class JournaledEngine(Protocol):
    """What a journal needs of an engine."""

    @property
    def speaker(self) -> "Speaker":
        """What a conversation from elsewhere needs to go on here."""

    def tape(self, keeps_text: bool = True, on_command: Callable[[], None] = lambda: None) -> "Tape":
        """Something that writes one of its conversations down."""


@dataclass(eq=False)
class Entry:
    """A conversation of this server. Only the journal's thread changes it, but for `hurries`, `ends`, `deletes` and
    `first_asked`.

    waiting: bytes that are not in the store. written: bytes of the log. since: when the oldest of `waiting` was taken.
    unborn: a fork whose original has not been written down up to the fork. origin: of a fork whose log has not begun.
    valid_until: of the lease, on the monotonic clock. on_lost: called once when another server has the conversation.
    begins: of its tape, as much as was taken. safe: the same, as much as is in the store. first_asked: `begins` of the
    tape when somebody asked first whether that may be heard, and the time. hurries: something is to be written at once.
    unsure_until: until when this server may have a lease that it does not know of, because an answer got lost; infinite
    until the store answers again.
    """

    key: str
    tape: "Tape"
    on_lost: Callable[[], None] = lambda: None
    lease: Lease | None = None
    waiting: bytearray = field(default_factory=bytearray)
    written: int = 0
    since: float | None = None
    valid_until: float = 0.0
    renewed: float = 0.0
    unsure_until: float = 0.0
    given_up: bool = False
    unborn: bool = False
    origin: "Origin | None" = None
    lost: bool = False
    begins: int = 0
    safe: int = 0
    first_asked: tuple[int, float] = (-1, 0.0)
    hurries: bool = False
    ends: bool = False  # nothing more is on the tape: to be released
    deletes: bool = False  # and deleted


@dataclass(frozen=True)
class Origin:
    """What a fork's log begins with: so many bytes of its original's log."""

    lease: Lease
    size: int


@dataclass
class Counts:
    """What a journal did. failures: times that the store did not answer or could not write."""

    failures: int = 0
    take_overs: int = 0
    handed_over: int = 0
    given_up: int = 0


class Journal:
    """A store, and the thread that writes this server's conversations to it."""

    def __init__(self, store: Store) -> None:
        self.counts = Counts()
        self.problem: str | None = None  # why nothing can be written now
        self._store = store
        self._entries: set[Entry] = set()
        self._lock = threading.Lock()
        # Held while a record is computed again. Several at once would all be late, as they share the interpreter.
        self._reviving = threading.Lock()
        self._wake = threading.Event()
        self._closing = False
        self._unanswered = -math.inf  # when the store was last asked and did not answer
        self._lease_seconds = LEASE_SECONDS if store.leases_expire else math.inf
        self._swept = time.monotonic()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, place: str, linger: float, fsync: bool = False) -> "Journal":
        """A folder, or redis://... Raises JournalError."""
        if place.startswith(("redis://", "rediss://", "valkey://", "unix://")):
            try:
                from dia2stream.journal.redis_store import RedisStore
            except ImportError:
                raise JournalError(f"--journal {place}: pip install 'dia2stream[journal]' for it") from None
            return cls(RedisStore(place.replace("valkey://", "redis://", 1), linger))
        return cls(FolderStore(place, linger, fsync))

    # ---- Any thread ----

    def begin(self, id: str, engine: JournaledEngine, on_lost: Callable[[], None], is_fork: bool = False) -> Entry:
        """A new conversation. What its tape holds is written from here on. on_lost: called on the journal's thread.

        is_fork: its log begins with that of another conversation, whose tape says where.
        """
        tape = engine.tape(on_command=lambda: self._hurry(entry))
        entry = self._add(Entry(key_of(id), tape, on_lost, unborn=is_fork, safe=-1 if is_fork else 0))
        return entry

    def may_speak(self, entry: Entry) -> bool:
        """Whether a frame of it may be sent: it is owned, or nobody knows because the store does not answer."""
        now = time.monotonic()
        if entry.lost or not self._may_begin(entry, now):
            return False
        # A conversation that is not in the store yet can belong to nobody else.
        return entry.lease is None or now < entry.valid_until or now < self._unanswered + LEASE_SECONDS

    def _may_begin(self, entry: Entry, now: float) -> bool:
        """Whether the store has the beginning of what is heard next, or is not waited for."""
        begins = entry.tape.begins
        if entry.safe >= begins or entry.given_up or now < self._unanswered + LEASE_SECONDS:
            return True
        if entry.first_asked[0] != begins:
            entry.first_asked = begins, now
        return now >= entry.first_asked[1] + BEGIN_SECONDS

    def _hurry(self, entry: Entry) -> None:
        """Something of it is to be written at once."""
        entry.hurries = True
        self._wake.set()

    def end(self, entry: Entry, delete: bool = True) -> None:
        """The conversation is over here. delete: it is over everywhere; else another server may go on with it."""
        entry.ends, entry.deletes = True, delete
        self._hurry(entry)

    def take_over(self, id: str, engine: JournaledEngine, received: int | None, max_lead_ms: float | None) -> "Taken":
        """A conversation that another server had. Blocks for some seconds at most.

        received: how many frames its client has. Raises RecordError when it cannot be gone on with, NoLog when there
        is no such conversation, Owned when its owner does not let go of it, OSError when the store does not answer.
        """
        from dia2stream.journal.record import read_record
        from dia2stream.journal.revived import Revived

        key, asked = key_of(id), time.monotonic()
        early: dict[bytes, tuple[Record, Revived]] = {}  # by the log that it was computed from

        def revive(log: bytes) -> "tuple[Record, Revived]":
            with self._reviving:
                record = read_record(log, "the journal")
                return record, Revived(record, engine.speaker, received, max_lead_ms)

        def revive_early() -> None:
            log = self._store.peek(key)
            with contextlib.suppress(RecordError):
                early[log] = revive(log)

        lease, until = self._acquire(key, revive_early)
        owned = time.monotonic()
        try:
            with _Renewed(self._store, lease, until, self._lease_seconds) as renewed:
                log = self._store.read(lease)
                record, revived = early[log] if log in early else revive(log)
        except BaseException:
            with contextlib.suppress(OSError, Fenced):
                self._store.release(lease)
            raise
        return Taken(revived, record, lease, renewed.until, owned - asked, time.monotonic() - owned)

    def keep(self, taken: "Taken", engine: JournaledEngine, on_lost: Callable[[], None]) -> Entry:
        """Goes on writing a conversation that was taken over."""
        tape = engine.tape(on_command=lambda: self._hurry(entry))
        taken.revived.write_down(tape, taken.record)
        entry = Entry(taken.lease.key, tape, on_lost, taken.lease, written=taken.record.size)
        entry.valid_until = taken.owned_until
        self.counts.take_overs += 1
        return self._add(entry)

    def give_back(self, taken: "Taken") -> None:
        """A conversation that was taken over, and for which there is no room."""
        with contextlib.suppress(OSError, Fenced):
            self._store.release(taken.lease)

    def close(self) -> None:
        """Writes what there is, as far as the store answers, and lets go of all that is owned."""
        self._closing = True
        self._wake.set()
        self._thread.join()
        self._store.close()

    def behind(self, now: float) -> float:
        """For how many seconds the oldest thing that is not in the store has been waiting."""
        with self._lock:
            waiting = [entry.since for entry in self._entries if entry.since is not None]
        return max((now - since for since in waiting), default=0.0)

    @property
    def waiting_bytes(self) -> int:
        """What is not in the store yet."""
        with self._lock:
            return sum(len(entry.waiting) for entry in self._entries)

    # ---- Taking over ----

    def _acquire(self, key: str, meanwhile: Callable[[], None]) -> tuple[Lease, float]:
        """A log's lease, as soon as its owner lets go of it, and until when it is valid.

        meanwhile: what can be done once the owner seems to be dead, whose lease has to end first.
        """
        began, is_wanted, is_done = time.monotonic(), False, False
        while True:
            now = time.monotonic()
            lease = self._store.acquire(key)
            if lease is not None:
                return lease, now + self._lease_seconds
            waited, exists = now - began, self._store.has(key)
            if exists and not is_wanted:
                self._store.want(key)
                is_wanted = True
            if waited > (TAKE_OVER_SECONDS if exists else UNKNOWN_SECONDS):
                raise Owned if exists else NoLog
            if exists and waited > _SOON_SECONDS and not is_done:
                meanwhile()
                is_done = True
            time.sleep(_ASK_AGAIN_SECONDS if waited < _SOON_SECONDS else _ASK_SELDOM_SECONDS)

    # ---- The journal's thread ----

    def _add(self, entry: Entry) -> Entry:
        with self._lock:
            self._entries.add(entry)
        return entry

    def _run(self) -> None:
        due = time.monotonic() + PERIOD_SECONDS
        while not self._closing:
            self._wake.wait(max(0.0, due - time.monotonic()))
            self._wake.clear()
            if time.monotonic() >= due:
                self._round(self._all())
                self._sweep()
                due = time.monotonic() + PERIOD_SECONDS
            else:
                self._round([entry for entry in self._all() if entry.hurries])
        entries = self._all()
        self._round(entries)
        for entry in entries:
            if not self._finish(entry):
                break  # each would wait as long again; the leases end by themselves

    def _all(self) -> list[Entry]:
        with self._lock:
            return list(self._entries)

    def _round(self, entries: list[Entry]) -> None:
        """Everything once, for these conversations."""
        random.shuffle(entries)
        if self.problem is None:  # else each round begins with another one, which the store may answer
            entries.sort(key=lambda entry: entry.renewed)
        for entry in entries:
            entry.hurries = False
        ended = [entry for entry in entries if entry.ends]  # before the tapes are read, which have all of it then
        for entry in entries:
            self._take(entry)
        for entry in ended:
            entry.on_lost = _nobody_listens  # what was to be told would stay in memory until the store is back
        for entry in entries:
            try:
                # Both, because a lease is renewed whatever was written.
                if any([self._write(entry), self._renew(entry)]):
                    self._hand_over(entry)
                self.problem = None
            except Fenced:
                self._lose(entry)
            except LogLost as error:
                self._give_up(entry, str(error))
            except OSError as error:
                self._fail(error)
                if isinstance(error, Unreachable):
                    break  # each would wait as long again; the next round begins with another one
            if entry in ended and (entry.deletes or not (entry.waiting or entry.unborn or entry.origin)):
                self._finish(entry)

    def _sweep(self) -> None:
        if time.monotonic() - self._swept > SWEEP_SECONDS:
            self._swept = time.monotonic()
            with contextlib.suppress(OSError):
                self._store.sweep()

    def _take(self, entry: Entry) -> None:
        """What the tape holds. Gives up a conversation that cannot be written down, or has no room."""
        try:
            self._read_tape(entry)
        except Exception:  # a fault of ours, which must not end what is written of all others
            _log.exception("a conversation cannot be written down")
            if not entry.given_up:
                self._give_up(entry, "it cannot be written down")
        if not entry.given_up and (entry.tape.lost or self.waiting_bytes > MAX_WAITING_BYTES):
            self._give_up(entry, "too much waits for the journal")

    def _read_tape(self, entry: Entry) -> None:
        entry.begins = entry.tape.begins  # before the notes: all of these beginnings are among them
        for data in entry.tape.take():
            if not isinstance(data, bytes | None):
                self._fork(entry, data.copy)
            elif data is None:  # a reset, or a new record: what is in the store is to go
                entry.waiting.clear()
                entry.written, entry.since, entry.given_up = 0, None, False
                entry.unborn, entry.origin = False, None
                self._forget_log(entry)
            elif not (entry.given_up or entry.lost):
                entry.waiting += data
                entry.since = entry.since or time.monotonic()

    def _fork(self, entry: Entry, tape: "Tape") -> None:
        """What is known of a conversation up to here is the beginning of its fork's log."""
        with self._lock:
            fork = next((other for other in self._entries if other.tape is tape), None)
        if fork is None or not fork.unborn:  # it is over, or something else has begun in it
            return
        fork.unborn = False
        if entry.given_up or entry.lost:
            self._give_up(fork, "so it was with the conversation that it was forked from")
            return
        fork.waiting[:0] = entry.waiting
        fork.since = fork.since or time.monotonic()
        if entry.lease is not None and entry.written:
            fork.origin = Origin(entry.lease, entry.written)
            with contextlib.suppress(OSError):
                self._begin_fork(fork)

    def _begin_fork(self, fork: Entry) -> None:
        """Reads the beginning of a fork's log, if that is not done. Raises OSError: then it is to be tried again."""
        origin = fork.origin
        if origin is not None:
            try:
                fork.waiting[:0] = self._store.read(origin.lease)[: origin.size]
                fork.origin = None
            except Fenced:
                fork.origin = None
                self._give_up(fork, "the conversation that it was forked from is gone")

    def _give_up(self, entry: Entry, reason: str) -> None:
        """The record has a gap from here on."""
        entry.given_up, entry.since = True, None
        entry.waiting.clear()
        self.counts.given_up += 1
        _log.error("a conversation can no longer be taken over", extra={"reason": reason})
        self._forget_log(entry)

    def _forget_log(self, entry: Entry) -> None:
        if entry.lease is not None:
            try:
                self._store.delete(entry.lease)
            except (OSError, Fenced) as error:
                # It expires by itself, as nobody renews it.
                _log.warning("the journal could not delete a conversation", extra={"reason": str(error)})
                entry.unsure_until = math.inf
            entry.lease = None

    def _write(self, entry: Entry) -> bool:
        """Writes what waits. Returns whether another server asks for the conversation."""
        if entry.unborn or entry.lost or not (entry.waiting or entry.origin):
            return False
        self._begin_fork(entry)
        if entry.given_up:
            return False
        lease = entry.lease or self._own(entry)
        if lease is None:
            return False
        asked, size = time.monotonic(), len(entry.waiting)
        is_wanted = self._store.append(lease, entry.written, bytes(entry.waiting))
        entry.renewed, entry.valid_until = asked, asked + self._lease_seconds
        del entry.waiting[:size]
        entry.written, entry.since, entry.safe = entry.written + size, None, entry.begins
        return is_wanted

    def _own(self, entry: Entry) -> Lease | None:
        """The lease of a log that begins; None while that may be owned here already. Raises Fenced."""
        asked = time.monotonic()
        try:
            entry.lease = self._store.acquire(entry.key, new=True)
        except OSError:  # whether the store has done it is not known
            entry.unsure_until = math.inf
            raise
        if entry.lease is None:
            if entry.unsure_until == math.inf:
                entry.unsure_until = asked + 2 * LEASE_SECONDS  # nobody renews it, so it has ended by then
            if asked < entry.unsure_until:
                return None
            raise Fenced
        entry.valid_until, entry.renewed, entry.unsure_until = asked + self._lease_seconds, asked, 0.0
        return entry.lease

    def _renew(self, entry: Entry) -> bool:
        """Renews its lease when it is time. Returns whether another server asks for the conversation."""
        asked = time.monotonic()
        if entry.lease is None or entry.lost or asked < entry.renewed + RENEW_SECONDS:
            return False
        renewal = self._store.renew(entry.lease)
        if renewal is Renewal.LOST:
            raise Fenced
        entry.renewed, entry.valid_until = asked, asked + self._lease_seconds
        return renewal is Renewal.WANTED

    def _hand_over(self, entry: Entry) -> None:
        """Another server asks for it. What is sent behind the last thing written, the other one makes again."""
        self._take(entry)
        self._write(entry)
        self.counts.handed_over += 1
        lease, entry.lease, entry.lost = entry.lease, None, True
        if lease is not None:
            with contextlib.suppress(OSError):  # then the lease ends by itself
                self._store.release(lease)
        entry.on_lost()

    def _lose(self, entry: Entry) -> None:
        entry.lost, entry.lease = True, None
        entry.waiting.clear()
        entry.since = None
        _log.warning("another server owns a conversation of this one")
        entry.on_lost()

    def _fail(self, error: OSError) -> None:
        self._unanswered = time.monotonic()
        self.counts.failures += 1
        if self.problem is None:
            _log.error("the journal cannot be written", extra={"reason": error.strerror or str(error)})
        self.problem = error.strerror or str(error)

    def _finish(self, entry: Entry) -> bool:
        """The conversation is over here, and nothing more of it is sent. Returns whether the store answers."""
        entry.lost = True
        with self._lock:
            self._entries.discard(entry)
        try:
            if entry.lease is not None:
                (self._store.delete if entry.deletes else self._store.release)(entry.lease)
        except Unreachable:
            return False
        except (OSError, Fenced):
            pass
        return True


def _nobody_listens() -> None:
    """Who would be told of a conversation that is lost is gone."""


class _Renewed:
    """Goes on owning a log while its conversation is computed again. until: as long as it is owned for certain."""

    def __init__(self, store: Store, lease: Lease, until: float, lease_seconds: float) -> None:
        self.until = until
        self._store, self._lease, self._lease_seconds = store, lease, lease_seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="renew", daemon=True)

    def __enter__(self) -> "_Renewed":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _renew(self) -> None:
        while not self._over.wait(RENEW_SECONDS):
            asked = time.monotonic()
            with contextlib.suppress(OSError, Fenced):
                if self._store.renew(self._lease) is not Renewal.LOST:
                    self.until = asked + self._lease_seconds


@dataclass(frozen=True)
class Taken:
    """A conversation that was taken over, before it has a slot.

    lease_seconds: for which its owner was waited for. read_seconds: for which its record was computed again.
    """

    revived: "Revived"
    record: "Record"
    lease: Lease
    owned_until: float
    lease_seconds: float = 0.0
    read_seconds: float = 0.0
