"""What of a server's conversations is kept: records for replay, or a journal that other servers go on from."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

from dia2stream.errors import CommandError, RecordError
from dia2stream.items import FRAME_MS
from dia2stream.journal.journal import Entry, Journal, Taken
from dia2stream.journal.store import NoLog, Owned
from dia2stream.journal.writer import Recorder
from dia2stream.options import ServeOptions
from dia2stream.server.conversations import ServedConversation
from dia2stream.server.metrics import Reading

if TYPE_CHECKING:
    from dia2stream.engine.engine import Engine

_log = logging.getLogger(__name__)
MAX_TAKE_OVERS = 64  # at a time; the next ones wait
BEHIND_SECONDS = 1.0  # from then on, /readyz says that the journal is behind


class Keeping(Protocol):
    """Where conversations are kept."""

    def begin(
        self, served: ServedConversation, engine: "Engine", max_lead_ms: float | None, is_fork: bool = False
    ) -> None:
        """Takes a slot for a new conversation that is kept. Raises CommandError or EngineError.

        is_fork: it is to become a copy of another one.
        """

    def end(self, served: ServedConversation, delete: bool) -> None:
        """It is over here. delete: and everywhere."""

    def close(self) -> None:
        """The server stops. Writes what there is, and lets go of it. May be called twice."""


class KeepingNothing:
    """By default nothing is kept."""

    def begin(
        self, served: ServedConversation, engine: "Engine", max_lead_ms: float | None, is_fork: bool = False
    ) -> None:
        """See Keeping."""
        served.open(engine, max_lead_ms)

    def end(self, served: ServedConversation, delete: bool) -> None:
        """See Keeping."""

    def close(self) -> None:
        """See Keeping."""


class KeepingRecords:
    """Records for `dia2stream replay`."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def begin(
        self, served: ServedConversation, engine: "Engine", max_lead_ms: float | None, is_fork: bool = False
    ) -> None:
        """See Keeping."""
        served.open(engine, max_lead_ms, self._recorder.begin(served.id, engine, is_fork))

    def end(self, served: ServedConversation, delete: bool) -> None:
        """See Keeping."""
        if served.tape is not None:
            self._recorder.end(served.tape)

    def close(self) -> None:
        """See Keeping."""
        self._recorder.close()


class KeepingJournal:
    """A journal. on_lost: called when another server has a conversation of this one."""

    def __init__(self, journal: Journal, on_lost: Callable[[ServedConversation], None]) -> None:
        self.journal, self._on_lost = journal, on_lost
        # Each waits for a store and for the conversation's owner, and must not hold up others that are given up sooner.
        self._threads = ThreadPoolExecutor(MAX_TAKE_OVERS, "take-over")
        self._entries: dict[ServedConversation, Entry] = {}

    def begin(
        self, served: ServedConversation, engine: "Engine", max_lead_ms: float | None, is_fork: bool = False
    ) -> None:
        """See Keeping."""
        entry = self.journal.begin(served.id, engine, self._lost(served), is_fork)
        self._open(served, entry, engine, max_lead_ms, None)

    async def take_over(
        self, id: str, engine: "Engine", received_ms: float | None, max_lead_ms: float | None
    ) -> Taken | None:
        """A conversation that another server had; None if there is none that can go on here.

        Raises CommandError `busy` where that cannot be known yet: then its client comes back, and nothing is lost.
        """
        received = None if received_ms is None else round(received_ms / FRAME_MS)
        fetching = self._threads.submit(self.journal.take_over, id, engine, received, max_lead_ms)
        try:
            return await asyncio.wrap_future(fetching)
        except asyncio.CancelledError:  # its client is gone, and the thread goes on
            fetching.add_done_callback(self._leave_to_others)
            raise
        except NoLog:
            return None
        except Owned:
            raise CommandError("busy", "the server that has this conversation does not let go of it yet") from None
        except OSError as error:
            _log.warning("the journal does not answer", extra={"conversation": id[:6], "reason": str(error)})
            raise CommandError("busy", "the journal of the conversations does not answer") from None
        except RecordError as error:
            _log.error("a conversation could not be taken over", extra={"conversation": id[:6], "reason": str(error)})
            return None

    def go_on(self, served: ServedConversation, taken: Taken, engine: "Engine", max_lead_ms: float | None) -> None:
        """Takes a slot for a conversation that was taken over. Raises CommandError or EngineError."""
        entry = self.journal.keep(taken, engine, self._lost(served))
        self._open(served, entry, engine, max_lead_ms, taken)

    async def give_back(self, taken: Taken) -> None:
        """There is no room for it here."""
        await asyncio.to_thread(self.journal.give_back, taken)

    def _leave_to_others(self, fetched: Future[Taken]) -> None:
        """What was taken over is wanted by nobody any more."""
        if not fetched.cancelled() and fetched.exception() is None:
            with contextlib.suppress(RuntimeError):  # the server stops, and lets go of everything
                self._threads.submit(self.journal.give_back, fetched.result())

    def end(self, served: ServedConversation, delete: bool) -> None:
        """See Keeping."""
        entry = self._entries.pop(served, None)
        if entry is not None:
            self.journal.end(entry, delete)

    def close(self) -> None:
        """See Keeping."""
        for served in list(self._entries):
            self.end(served, delete=False)
        self._threads.shutdown(wait=False)
        self.journal.close()

    def _open(
        self,
        served: ServedConversation,
        entry: Entry,
        engine: "Engine",
        max_lead_ms: float | None,
        taken: Taken | None,
    ) -> None:
        self._entries[served] = entry
        served.may_speak = lambda: self.journal.may_speak(entry)
        try:
            served.open(engine, max_lead_ms, entry.tape, taken)
        except BaseException:
            self.end(served, delete=taken is None)
            raise

    def _lost(self, served: ServedConversation) -> Callable[[], None]:
        loop = asyncio.get_running_loop()

        def lost() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._on_lost, served)

        return lost

    # ---- What Prometheus and /readyz ask ----

    @property
    def remark(self) -> str | None:
        """What is wrong with the journal, if it is behind."""
        behind = self.journal.behind(time.monotonic())
        if behind < BEHIND_SECONDS:
            return None
        return f"the journal is {behind:.0f} s behind: {self.journal.problem or 'it is slow'}"


def gauges(keeping: Keeping) -> Iterable[Reading]:
    """Figures of this moment; 0 without a journal."""
    journal = keeping.journal if isinstance(keeping, KeepingJournal) else None
    behind = journal.behind(time.monotonic()) if journal else 0.0
    yield "journal_behind_seconds", "How long the oldest thing waits that is not in the journal", behind
    yield "journal_waiting_bytes", "What is not in the journal yet", journal.waiting_bytes if journal else 0


def counters(keeping: Keeping) -> Iterable[Reading]:
    """Totals; 0 without a journal."""
    counts = keeping.journal.counts if isinstance(keeping, KeepingJournal) else None
    yield "journal_failures", "Times that the journal could not be written", counts.failures if counts else 0
    yield "take_overs", "Conversations taken over from other servers", counts.take_overs if counts else 0
    yield "handed_over", "Conversations handed over to other servers", counts.handed_over if counts else 0
    yield "journal_given_up", "Conversations that the journal lost", counts.given_up if counts else 0


def open_keeping(options: ServeOptions, on_lost: Callable[[ServedConversation], None]) -> Keeping:
    """What the options ask for. Raises JournalError."""
    if options.journal is not None:
        return KeepingJournal(Journal.open(options.journal, options.linger, options.journal_fsync), on_lost)
    if options.record is not None:
        return KeepingRecords(Recorder(options.record, keeps_text=not options.record_without_text))
    return KeepingNothing()
