"""A journal whose store is full, torn, slow or gone: nothing is lost that can be kept, and nobody waits."""

import asyncio
import contextlib
import errno
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from engines import eventually
from piping import PATIENCE

from dia2stream.errors import CommandError, JournalError
from dia2stream.journal import journal as journal_module
from dia2stream.journal import record as record_module
from dia2stream.journal import revived as revived_module
from dia2stream.journal.folder import FolderStore
from dia2stream.journal.journal import Entry, Journal
from dia2stream.journal.store import LEASE_SECONDS, Lease, Renewal, Unreachable, key_of
from dia2stream.server.keeping import KeepingJournal


class Written:
    """A tape on which a test writes."""

    def __init__(self) -> None:
        self.lost, self.begins = False, 0
        self.notes: deque[bytes | None] = deque()

    def take(self) -> Iterator[bytes | None]:
        while self.notes:
            yield self.notes.popleft()


class Tapes:
    """An engine that has nothing but tapes."""

    def __init__(self) -> None:
        self.last = Written()

    def tape(self, keeps_text: bool = True, on_command: Callable[[], None] = lambda: None) -> Any:
        self.last, self.hurry = Written(), on_command
        return self.last


def log_of(folder: Path, id: str = "a") -> bytes:
    path = folder / f"{key_of(id)}.log"
    return path.read_bytes() if path.exists() else b""


@pytest.mark.parametrize("fault", ["full", "torn", "fsync"])
def test_what_a_disk_refuses_is_written_when_it_takes_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    journal, tapes = Journal(FolderStore(str(tmp_path), 30, fsync=True)), Tapes()
    entry = journal.begin("a", tapes, lambda: None)  # type: ignore[arg-type]
    tapes.last.notes.append(b"first;")
    eventually(lambda: log_of(tmp_path) == b"first;")
    broken, real_write, real_sync = threading.Event(), os.pwrite, os.fsync
    broken.set()

    def write(fd: int, data: bytes, at: int) -> int:
        if broken.is_set() and fault == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if broken.is_set() and fault == "torn":
            real_write(fd, bytes(data)[:3], at)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real_write(fd, data, at)

    def sync(fd: int) -> None:
        if broken.is_set() and fault == "fsync":
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        real_sync(fd)

    monkeypatch.setattr(os, "pwrite", write)
    monkeypatch.setattr(os, "fsync", sync)
    tapes.last.notes.append(b"second;")
    eventually(lambda: journal.counts.failures > 2)
    tapes.last.notes.append(b"third;")
    assert journal.problem in (os.strerror(errno.ENOSPC), os.strerror(errno.EIO))
    assert journal.behind(time.monotonic()) > 0
    assert journal.may_speak(entry)
    broken.clear()
    eventually(lambda: log_of(tmp_path) == b"first;second;third;")
    eventually(lambda: not journal.waiting_bytes and journal.problem is None)
    assert journal.counts.given_up == 0
    journal.close()


def test_a_torn_tail_is_cut_off_by_whoever_goes_on(tmp_path: Path) -> None:
    store = FolderStore(str(tmp_path), 30)
    lease = store.acquire("k", new=True)
    assert lease is not None
    store.append(lease, 0, b"whole, and to")
    store.append(lease, 7, b"then on")
    assert store.read(lease) == b"whole, then on"
    store.close()


class Gone:
    """A store that can be out of reach, and has leases that expire."""

    leases_expire = True

    def __init__(self) -> None:
        self.gone = self.lost = False
        self.data = b""

    def _ask(self) -> None:
        if self.gone:
            time.sleep(0.05)
            raise Unreachable(0, "gone")

    def acquire(self, key: str, new: bool = False) -> Lease:
        self._ask()
        return Lease(key, 1, 0)

    def renew(self, lease: Lease) -> Renewal:
        self._ask()
        return Renewal.LOST if self.lost else Renewal.HELD

    def has(self, key: str) -> bool:
        self._ask()
        return bool(self.data)

    def append(self, lease: Lease, at: int, data: bytes) -> bool:
        self._ask()
        self.data = self.data[:at] + data
        return False

    def release(self, lease: Lease) -> None:
        self._ask()

    def delete(self, lease: Lease) -> None:
        self._ask()

    def sweep(self) -> None:
        pass

    def close(self) -> None:
        pass


def test_an_owner_speaks_on_while_the_store_is_gone_and_stops_at_once_when_it_has_lost() -> None:
    store, tapes, lost = Gone(), Tapes(), threading.Event()
    journal = Journal(store)  # type: ignore[arg-type]
    entry = journal.begin("a", tapes, lost.set)  # type: ignore[arg-type]
    tapes.last.notes.append(b"one;")
    eventually(lambda: store.data == b"one;")
    store.gone = True
    until = time.monotonic() + 1.5  # longer than a lease
    while time.monotonic() < until:
        tapes.last.notes.append(b".")
        assert journal.may_speak(entry)
        time.sleep(0.02)
    assert journal.problem == "gone"
    store.lost, store.gone = True, False
    eventually(lost.is_set)
    assert not journal.may_speak(entry)
    journal.close()


def test_nothing_is_sent_behind_a_standstill_until_the_store_has_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    store, tapes = Gone(), Tapes()
    journal = Journal(store)  # type: ignore[arg-type]
    entry = journal.begin("a", tapes, lambda: None)  # type: ignore[arg-type]
    tapes.last.notes.append(b"one;")
    eventually(lambda: store.data == b"one;")
    held = threading.Event()
    monkeypatch.setattr(store, "renew", lambda lease: held.wait(60) and Renewal.HELD)
    eventually(lambda: not journal.may_speak(entry))  # nobody has asked the store for as long as a lease lasts
    held.set()
    eventually(lambda: journal.may_speak(entry))
    journal.close()


def test_what_waits_for_the_store_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "MAX_WAITING_BYTES", 1000)
    store, tapes = Gone(), Tapes()
    store.gone = True
    journal = Journal(store)  # type: ignore[arg-type]
    journal.begin("a", tapes, lambda: None)  # type: ignore[arg-type]
    for _ in range(20):
        tapes.last.notes.append(bytes(100))
        time.sleep(0.01)
    eventually(lambda: journal.counts.given_up == 1)
    assert journal.waiting_bytes == 0
    store.gone = False
    tapes.last.notes.extend([None, b"a new conversation"])  # which is whole again
    eventually(lambda: store.data == b"a new conversation")
    journal.close()


def test_a_store_that_takes_its_time_silences_none_of_many_calls() -> None:
    """Each call is written ten times a second, and one question after the other is asked."""

    class Far(Gone):
        def _ask(self) -> None:
            time.sleep(0.01)

    store, calls = Far(), []
    journal = Journal(store)  # type: ignore[arg-type]
    for number in range(40):
        tapes = Tapes()
        calls.append((journal.begin(f"{number}", tapes, lambda: None), tapes.last))  # type: ignore[arg-type]
    until, asked, silent = time.monotonic() + 4, 0, 0
    while time.monotonic() < until:
        for entry, tape in calls:
            tape.notes.append(b".")
            asked, silent = asked + 1, silent + (not journal.may_speak(entry))
        time.sleep(0.08)
    assert silent < 0.02 * asked  # none, unless this machine is busy
    journal.close()


class Slow(Gone):
    """A store that writes nothing until it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.writes = threading.Event()

    def append(self, lease: Lease, at: int, data: bytes) -> bool:
        self.writes.wait(60)
        return super().append(lease, at, data)


def slow_journal(monkeypatch: pytest.MonkeyPatch, seconds: float) -> tuple[Slow, Tapes, Journal, Entry]:
    """A journal over a slow store, for which audio waits so long, and a conversation that has begun."""
    monkeypatch.setattr(journal_module, "BEGIN_SECONDS", seconds)
    store, tapes = Slow(), Tapes()
    journal = Journal(store)  # type: ignore[arg-type]
    return store, tapes, journal, journal.begin("a", tapes, lambda: None)  # type: ignore[arg-type]


def test_nothing_is_heard_of_a_conversation_before_its_beginning_is_in_the_store(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else a client that has heard something is told that its conversation never was."""
    store, tapes, journal, entry = slow_journal(monkeypatch, 60.0)
    for begins in (1, 2):  # the second one after a reset
        store.writes.clear()
        tapes.last.notes.extend([None, b"the beginning;"])
        tapes.last.begins = begins
        assert not journal.may_speak(entry)
        tapes.hurry()
        time.sleep(0.05)
        assert not journal.may_speak(entry)
        store.writes.set()
        eventually(lambda: journal.may_speak(entry))
        assert store.data == b"the beginning;"
    journal.close()


def test_a_store_that_is_slow_holds_a_conversations_first_audio_up_for_a_moment_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, tapes, journal, entry = slow_journal(monkeypatch, 0.1)
    tapes.last.notes.append(b"the beginning;")
    tapes.last.begins = 1
    assert not journal.may_speak(entry)
    eventually(lambda: journal.may_speak(entry))
    assert store.data == b""
    store.writes.set()
    journal.close()


@contextlib.contextmanager
def owned_elsewhere(folder: Path, heard: bytes) -> Iterator[tuple[FolderStore, Lease, Journal]]:
    """The store of a server that has conversation "a" with this record, its lease, and another server's journal."""
    owner, journal = FolderStore(str(folder), 30), Journal(FolderStore(str(folder), 30))
    lease = owner.acquire(key_of("a"), new=True)
    assert lease is not None
    owner.append(lease, 0, heard)
    yield owner, lease, journal
    journal.close()
    owner.close()


def computed_records(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The records that are computed from now on; what is computed of one is itself."""
    computed: list[Any] = []
    monkeypatch.setattr(record_module, "read_record", lambda log, name: log)
    monkeypatch.setattr(revived_module, "Revived", lambda record, *_: computed.append(record) or record)
    return computed


def test_a_conversation_whose_owner_does_not_let_go_is_not_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "TAKE_OVER_SECONDS", 0.1)
    with owned_elsewhere(tmp_path, b"something was heard of it") as (_, _, journal):

        async def come(id: str) -> object:
            keeping = KeepingJournal(journal, lambda served: None)
            return await keeping.take_over(id, Tapes(), None, None)  # type: ignore[arg-type]

        with pytest.raises(CommandError, match="does not let go of it yet") as refused:
            asyncio.run(come("a"))
        assert refused.value.code == "busy"
        files = sorted(os.listdir(tmp_path))
        assert asyncio.run(come("b")) is None
        assert sorted(os.listdir(tmp_path)) == files  # nothing is left of one that never was


@pytest.mark.parametrize("tail", [b"", b", and its end"])
def test_a_record_is_computed_while_the_lease_of_a_dead_owner_runs_and_again_only_if_it_has_grown(
    tail: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = computed_records(monkeypatch)
    with owned_elsewhere(tmp_path, b"a record") as (owner, lease, journal):
        with ThreadPoolExecutor(1) as threads:
            engine: Any = SimpleNamespace(speaker=None)
            taking = threads.submit(journal.take_over, "a", engine, None, None)
            eventually(lambda: computed == [b"a record"])
            owner.append(lease, 8, tail)
            owner.release(lease)
            taken = taking.result(PATIENCE)
        assert taken.revived == taken.record == b"a record" + tail  # type: ignore[comparison-overlap]
        assert computed == ([b"a record"] if not tail else [b"a record", b"a record" + tail])
        assert taken.lease_seconds > 0.2


def test_who_goes_while_a_conversation_is_fetched_leaves_it_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder, a lease lasts as long as its server."""
    computed = computed_records(monkeypatch)
    with owned_elsewhere(tmp_path, b"a record") as (owner, lease, journal):

        async def come_and_go() -> None:
            keeping, engine = KeepingJournal(journal, lambda served: None), cast(Any, SimpleNamespace(speaker=None))
            fetching = asyncio.create_task(keeping.take_over("a", engine, None, None))
            await asyncio.sleep(0.05)
            fetching.cancel()
            with pytest.raises(asyncio.CancelledError):
                await fetching
            owner.release(lease)

        asyncio.run(come_and_go())
        eventually(lambda: computed)
        eventually(lambda: owner.acquire(key_of("a")))


def test_a_conversation_in_a_store_that_does_not_answer_is_not_gone() -> None:
    store = Gone()
    store.gone, journal = True, Journal(store)  # type: ignore[arg-type]

    async def come() -> object:
        keeping = KeepingJournal(journal, lambda served: None)
        return await keeping.take_over("a", Tapes(), None, None)  # type: ignore[arg-type]

    with pytest.raises(CommandError, match="does not answer") as refused:
        asyncio.run(come())
    assert refused.value.code == "busy"
    journal.close()


def test_a_conversation_that_is_asked_for_is_handed_over_with_the_next_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "RENEW_SECONDS", 1e9)
    journal, other, tapes = Journal(FolderStore(str(tmp_path), 30)), FolderStore(str(tmp_path), 30), Tapes()
    lost = threading.Event()
    journal.begin("a", tapes, lost.set)  # type: ignore[arg-type]
    tapes.last.notes.append(b"one;")
    eventually(lambda: log_of(tmp_path) == b"one;")
    other.want(key_of("a"))
    tapes.last.notes.append(b"two;")
    eventually(lost.is_set)
    lease = other.acquire(key_of("a"))
    assert lease is not None
    assert other.read(lease) == b"one;two;"
    journal.close()
    other.close()


def test_a_command_has_its_own_conversation_written_at_once_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "PERIOD_SECONDS", 1e6)
    store, tapes = Gone(), Tapes()
    journal = Journal(store)  # type: ignore[arg-type]
    journal.begin("a", tapes, lambda: None)  # type: ignore[arg-type]
    tapes.last.notes.append(b"one;")
    other = tapes.last
    journal.begin("b", tapes, lambda: None)  # type: ignore[arg-type]
    tapes.last.notes.append(b"two;")
    tapes.hurry()
    eventually(lambda: store.data == b"two;")
    assert list(other.notes) == [b"one;"]
    journal.close()


def test_a_conversation_that_cannot_be_written_down_is_given_up_and_all_others_go_on() -> None:
    store, tapes = Gone(), Tapes()
    journal = Journal(store)  # type: ignore[arg-type]
    journal.begin("a", tapes, lambda: None)  # type: ignore[arg-type]

    def take() -> Iterator[bytes]:
        yield b"half;"
        raise ValueError("a number that no entry can hold")

    tapes.last.take = take  # type: ignore[method-assign]
    eventually(lambda: journal.counts.given_up == 1)
    tapes.last.take = lambda: iter(())  # type: ignore[method-assign]
    other = journal.begin("b", tapes, lambda: None)  # type: ignore[arg-type]
    tapes.last.notes.append(b"one;")
    eventually(lambda: store.data == b"one;")
    assert journal.may_speak(other)
    journal.close()


class LosesAnswers(Gone):
    """A store that does what it is asked once without telling so: its answer gets lost."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.loses, self.owned_until = what, 0.0

    def _lose(self, what: str) -> None:
        if self.loses == what:
            self.loses = ""
            raise Unreachable(0, "timed out")

    def acquire(self, key: str, new: bool = False) -> Lease | None:  # type: ignore[override]
        if time.monotonic() < self.owned_until:
            return None
        self.owned_until = time.monotonic() + LEASE_SECONDS
        self._lose("acquire")
        return Lease(key, 1, 0)

    def renew(self, lease: Lease) -> Renewal:
        self.owned_until = time.monotonic() + LEASE_SECONDS
        return Renewal.HELD

    def delete(self, lease: Lease) -> None:
        self._lose("delete")  # on the way there
        self.owned_until, self.data = 0.0, b""


@pytest.mark.parametrize("what", ["acquire", "delete"])
def test_a_lease_that_a_server_has_without_knowing_it_costs_no_conversation(what: str) -> None:
    store, tapes, lost = LosesAnswers(what), Tapes(), threading.Event()
    journal = Journal(store)  # type: ignore[arg-type]
    entry = journal.begin("a", tapes, lost.set)  # type: ignore[arg-type]
    tapes.last.notes.append(b"one;")
    eventually(lambda: store.data == b"one;" or lost.is_set())
    tapes.last.notes.extend([None, b"another conversation;"])
    eventually(lambda: store.data == b"another conversation;" or lost.is_set())
    assert not lost.is_set()
    assert not store.loses
    assert journal.may_speak(entry)
    journal.close()


def test_a_folder_whose_file_cannot_be_deleted_keeps_no_lease_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FolderStore(str(tmp_path), 30)
    lease = store.acquire("k", new=True)
    assert lease is not None
    store.append(lease, 0, b"one;")

    def refuse(path: Path, *_: object, **__: object) -> None:
        if path.name == "k.log":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    for attempt in (store.delete, store.release):
        with monkeypatch.context() as patched:
            patched.setattr(Path, "unlink", refuse)
            patched.setattr(os, "utime", refuse)
            with pytest.raises(PermissionError):
                attempt(lease)
        lease = store.acquire("k")
        assert lease is not None
    store.append(lease, 0, b"two;")
    assert store.read(lease) == b"two;"
    store.close()


def test_a_new_conversation_whose_log_another_server_goes_on_with_is_lost_also_behind_a_lost_answer() -> None:
    store, tapes, lost = LosesAnswers("acquire"), Tapes(), threading.Event()
    journal = Journal(store)  # type: ignore[arg-type]
    journal.begin("a", tapes, lost.set)  # type: ignore[arg-type]
    tapes.last.notes.append(b"one;")
    eventually(lambda: not store.loses)
    store.owned_until = time.monotonic() + 1e6
    eventually(lost.is_set)
    assert store.data == b""
    journal.close()


def test_who_is_asked_for_a_conversation_stops_although_the_store_does_not_answer_any_more() -> None:
    store, tapes, lost = Gone(), Tapes(), threading.Event()
    journal = Journal(store)  # type: ignore[arg-type]
    entry = journal.begin("a", tapes, lost.set)  # type: ignore[arg-type]
    tapes.last.notes.append(b"one;")
    eventually(lambda: store.data == b"one;")

    def release(lease: Lease) -> None:
        raise Unreachable(0, "gone")

    store.release, store.renew = release, lambda lease: Renewal.WANTED  # type: ignore[method-assign]
    eventually(lost.is_set)
    assert not journal.may_speak(entry)
    journal.close()


def test_what_was_said_last_is_written_also_if_the_conversation_ends_while_something_is_written() -> None:
    store, tapes = Gone(), Tapes()
    journal = Journal(store)  # type: ignore[arg-type]
    entry, real, released = journal.begin("a", tapes, lambda: None), store.append, threading.Event()  # type: ignore[arg-type]
    tape = tapes.last

    def append(lease: Lease, at: int, data: bytes) -> bool:
        if data == b"one;":
            tape.notes.append(b"two;")
            journal.end(entry, delete=False)
        return real(lease, at, data)

    store.append, store.release = append, lambda lease: released.set()  # type: ignore[method-assign, assignment]
    tape.notes.append(b"one;")
    assert released.wait(PATIENCE)
    assert store.data == b"one;two;"
    journal.close()


def test_a_fork_that_begins_anew_before_it_is_written_has_nothing_of_its_original(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "PERIOD_SECONDS", 1e6)  # only those are written that hurry
    journal, tapes = Journal(FolderStore(str(tmp_path), 30)), Tapes()
    journal.begin("a", tapes, lambda: None)  # type: ignore[arg-type]
    original, write_original = tapes.last, tapes.hurry
    original.notes.append(b"of the original;")
    write_original()
    eventually(lambda: log_of(tmp_path) == b"of the original;")
    journal.begin("b", tapes, lambda: None, is_fork=True)  # type: ignore[arg-type]
    tapes.last.notes.extend([b"of the fork;", None, b"anew;"])
    tapes.hurry()
    eventually(lambda: not tapes.last.notes)
    original.notes.extend([SimpleNamespace(copy=tapes.last), b"more;"])  # type: ignore[list-item]
    write_original()
    tapes.hurry()
    eventually(lambda: log_of(tmp_path) == b"of the original;more;")
    eventually(lambda: log_of(tmp_path, "b") == b"anew;")
    journal.close()


def test_the_beginning_of_a_forks_log_is_read_again_until_that_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nothing happens in the fork, and when its client has gone to another server."""
    store, tapes, broken, real = FolderStore(str(tmp_path), 30), Tapes(), threading.Event(), FolderStore.read

    def read(store: FolderStore, lease: Lease) -> bytes:
        if broken.is_set():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(store, lease)

    monkeypatch.setattr(FolderStore, "read", read)
    journal = Journal(store)
    journal.begin("a", tapes, lambda: None)  # type: ignore[arg-type]
    original = tapes.last
    original.notes.append(b"of the original;")
    eventually(lambda: log_of(tmp_path) == b"of the original;")
    broken.set()
    fork = journal.begin("b", tapes, lambda: None, is_fork=True)  # type: ignore[arg-type]
    original.notes.append(SimpleNamespace(copy=tapes.last))  # type: ignore[arg-type]
    eventually(lambda: journal.counts.failures > 1)
    journal.end(fork, delete=False)
    broken.clear()
    eventually(lambda: log_of(tmp_path, "b") == b"of the original;")
    eventually(lambda: journal.behind(time.monotonic()) == 0)
    journal.close()


@pytest.mark.parametrize("left", [b"", bytes(20), b"3\0\0\0", b"?"])
def test_a_lock_of_which_a_power_cut_has_left_something_else_is_swept_away(left: bytes, tmp_path: Path) -> None:
    (tmp_path / "k.lock").write_bytes(left)
    store = FolderStore(str(tmp_path), -1)
    lease = store.acquire("k", new=True)
    assert lease is not None
    assert lease.fence > 0
    store.release(lease)
    (tmp_path / "k.lock").write_bytes(left)
    store.sweep()
    assert not os.listdir(tmp_path)
    store.close()


def test_who_has_ended_a_conversation_is_not_kept_in_memory_until_the_store_is_back() -> None:
    class Served:
        def lose(self) -> None: ...

    store, tapes, served = Gone(), Tapes(), Served()
    journal, there = Journal(store), weakref.ref(served)  # type: ignore[arg-type]
    entry = journal.begin("a", tapes, served.lose)  # type: ignore[arg-type]
    tapes.last.notes.append(b"one;")
    eventually(lambda: store.data == b"one;")
    store.gone = True
    journal.end(entry)
    del served
    eventually(lambda: there() is None)
    journal.close()


def test_a_server_that_stops_waits_once_for_a_store_that_does_not_answer() -> None:
    store, tapes = Gone(), Tapes()
    journal = Journal(store)  # type: ignore[arg-type]
    for number in range(10):
        store.data = b""
        journal.begin(f"{number}", tapes, lambda: None)  # type: ignore[arg-type]
        tapes.last.notes.append(b"one;")
        eventually(lambda: store.data == b"one;")
    asked: list[str] = []
    store.release = lambda lease: asked.append("release") or store._ask()  # type: ignore[method-assign, func-returns-value]
    store.gone = True
    journal.close()
    assert asked == ["release"]


def test_a_folder_that_cannot_be_had_is_one_clear_error(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(JournalError, match=f"--journal {file}: File exists"):
        Journal.open(str(file), 30)
    with pytest.raises(JournalError, match="--journal: "):
        Journal.open("redis://host:nine", 30)
