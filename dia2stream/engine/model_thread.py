"""The engine's thread: lends slots, carries out orders between steps, and makes one step after the other.

Everything that touches the model happens on this thread. It carries out commands between steps, so a pause acts within
a frame. Then it makes one step for all conversations that can use one. What is ready waits in each conversation's
outbox. An outbox is bounded: a slow reader holds back its own speech and nobody else's.

A failure in one conversation's own work, in its text or its events, ends that conversation with an `internal` error. If
the model fails, all conversations in that step end so. The thread then finds out whether the device still answers. If
it does not, every conversation ends, and whoever asks for another one is told why.
"""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import torch

from dia2.cuda.graphs import batch_sizes
from dia2.steps.pool import ContextPool
from dia2.steps.voice_cache import VoiceCache
from dia2stream.conversation.conversation import Conversation
from dia2stream.engine.backlog import OrderSeconds
from dia2stream.engine.batch import Batch
from dia2stream.engine.capacity import Capacity
from dia2stream.engine.costs import CostCurve, unmeasured
from dia2stream.engine.demands import Demands
from dia2stream.engine.ears import Ears
from dia2stream.engine.observer import EngineObserver
from dia2stream.engine.order_handler import OrderHandler
from dia2stream.engine.orders import CLOSE, Adoption, Order
from dia2stream.engine.scheduler import Decision, Kind, Scheduler
from dia2stream.engine.session import Session
from dia2stream.errors import CommandError, EngineError
from dia2stream.journal.prepared_tape import StepTape
from dia2stream.journal.tape import Tape
from dia2stream.protocol.messages import Error

_log = logging.getLogger(__name__)
# Orders are carried out for so long between two steps, and one more: whoever speaks needs a frame every 80 ms.
ORDERS_SECONDS = 0.02
# A row of lead-in steps goes on for so long although an outbox has room again: until a moment ago it was full, so its
# listener has at least a frame to play. Many calls make room more often than the model makes steps.
ROOM_SECONDS = 0.008
LATER_SECONDS = 0.5  # for which the take-over of a conversation that stands still lets other orders go first
_FAILED = Error("internal", "the model failed; the conversation is over, the log says why")


@dataclass
class Stats:
    """What the engine has done so far. device_seconds, host_seconds: of its steps, see StepReport.

    last_progress: when it last finished a step or had nothing to do.
    """

    steps: int = 0
    frames: int = 0
    device_seconds: float = 0.0
    host_seconds: float = 0.0
    failures: int = 0
    last_progress: float = 0.0


class ModelThread(threading.Thread):
    """The thread of one model. Methods that are not private may be called from any thread.

    kept_voices: those that the pool keeps. device: the model's. observers: see `EngineObserver`.
    batch: makes the steps. capacity: how many conversations are lent. stats: what was done so far.
    broken: why no conversation can be had any more; None while one can.
    """

    def __init__(
        self,
        pool: ContextPool,
        ears: Ears,
        kept_voices: VoiceCache,
        device: torch.device,
        observers: Sequence[EngineObserver] = (),
    ) -> None:
        super().__init__(name="dia2-engine", daemon=True)
        slots = len(pool.contexts)
        self.stats = Stats(last_progress=time.monotonic())
        self.broken: str | None = None
        self.capacity = Capacity(slots)
        self.order_seconds = OrderSeconds()
        self._ears, self._kept_voices, self._device, self._observers = ears, kept_voices, device, tuple(observers)
        self._tapes: dict[Conversation, StepTape] = {}  # of the conversations that are written down
        self._demands = Demands()
        self._orders = OrderHandler(
            pool.contexts,
            ears,
            self._tapes,
            on_failure=self.conversation_failed,
            on_copy=lambda slot: self._demands.note(filter(None, [self._sessions.get(slot)])),
        )
        self.batch = Batch(pool, self.conversation_failed, self._tapes)
        self._scheduler = Scheduler(unmeasured(batch_sizes(slots), trees=pool.stepper.tree_size(1) > 0))
        self._free = set(range(slots))
        self._sessions: dict[int, Session] = {}  # by slot
        self._inbox: deque[tuple[Session, Order, float]] = deque()
        self._later: deque[tuple[Session, Order, float]] = deque()  # conversations to take over that nobody waits for
        self._lock = threading.Lock()  # guards _free and _sessions
        self._wake = threading.Event()
        # resting: the thread sleeps. calm: it sleeps until some time, and room in an outbox is no reason to wake up.
        self._resting = self._calm = self._closing = False
        self._over = False  # the thread has done its last work

    def lend(self, make: Callable[[int], Session], tape: Tape | None = None) -> Session:
        """What `make` makes of a free slot. Raises CommandError `busy` without one, EngineError when it is broken.

        tape: writes the session's conversation down.
        """
        with self._lock:
            if self.broken or self._closing:
                raise EngineError(self.broken or "the engine is closed")
            refusal = self.capacity.refusal(len(self._sessions))
            if refusal is not None:
                raise CommandError("busy", refusal)
            slot = min(self._free)  # the one that is most likely to have the voice already
            session = self._sessions[slot] = make(slot)
            self._free.remove(slot)
            if tape is not None:
                self._orders.write_down(session.conversation, tape)
        return session

    @property
    def costs(self) -> CostCurve:
        """What the model's work costs, as the scheduler plans."""
        return self._scheduler.costs

    def plan_with(self, costs: CostCurve) -> None:
        """Schedules by what the model's work costs, now that this is known. Nobody may be speaking."""
        self._scheduler = Scheduler(costs)

    def close(self) -> None:
        """Ends every conversation and the thread; returns when the model is at rest."""
        with self._lock:
            self._closing = True
        self._wake.set()
        if threading.current_thread() is not self:
            self.join()

    @property
    def free(self) -> int:
        """How many more conversations there can be."""
        return max(0, self.capacity.slots - len(self._sessions))

    @property
    def has_work(self) -> bool:
        """Whether it is working, or is about to look for work."""
        return bool(self._inbox or self._later) or self._wake.is_set() or not self._resting

    def submit(self, session: Session, order: Order) -> None:
        """Hands an order to the engine's thread. CLOSE goes before all others: a slot is not held by what waits."""
        add = self._inbox.appendleft if order is CLOSE else self._inbox.append
        add((session, order, time.monotonic()))
        self._wake.set()
        if self._over:
            self._drop_orders()

    def wake(self, session: Session) -> None:
        """The session's outbox has room again."""
        self._demands.note_room(session)
        if not self._calm:
            self._wake.set()

    # ---- The thread itself ----

    def run(self) -> None:
        """Works until it is closed."""
        try:
            if self._device.type == "cuda":
                torch.cuda.set_device(self._device)  # each thread has its own current device
            while not self._closing:
                self._carry_out_orders()
                self._hear_callers()
                self._tell_demands()
                decision = self._scheduler.decide(time.monotonic())
                if decision.kind is Kind.REST:
                    self._rest(decision.until)
                else:
                    self._work(decision)
                self.stats.last_progress = time.monotonic()
        except BaseException as error:
            self.broken = f"the engine's thread has ended: {_first_line(error)}"
            _log.exception("the engine's thread failed")
            for session in list(self._sessions.values()):
                session.conversation.outbox.answer(_FAILED)
        finally:
            with self._lock:
                self._closing = True
            for session in list(self._sessions.values()):
                self._release(session)
            self._over = True  # before the last look into the inbox: whoever submits later drops the order
            self._drop_orders()

    def _drop_orders(self) -> None:
        """Nobody carries out any more what waits in the inbox: tells the sessions so. On any thread."""
        for orders in (self._later, self._inbox):
            with suppress(IndexError):  # empty, perhaps because another thread drops them as well
                while True:
                    session, order, _ = orders.popleft()
                    session.carried_out(order)

    def _rest(self, until: float) -> None:
        """Waits until somebody wants something, or until a time."""
        self.batch.settle()  # nobody may wait for a frame while the thread sleeps
        self._calm = until < math.inf
        self._resting = True  # before observers are told: whoever waits for that looks at `has_work` then
        if not self._calm:
            self._tell(EngineObserver.idle)
        until = min(until, self._ears.due)
        self._wake.wait(until - time.monotonic() if until < math.inf else None)
        self._resting = self._calm = False
        self._wake.clear()

    def _tell_demands(self) -> None:
        """Tells the scheduler what the conversations want whose state has changed."""
        now = time.monotonic()
        for session in self._demands.take():
            slot = session.conversation.slot
            if self._sessions.get(slot) is session:
                self._prepare_ahead(session, now)
                demand = self._demands.of(session, now)
                self._scheduler.update(slot, demand)
                self.capacity.demanded(slot, demand, now)
        self.capacity.observe(now, self._sessions.values())

    def _prepare_ahead(self, session: Session, now: float) -> None:
        """Begins to make what is prepared, where that can be; tells when it is there."""
        conversation = session.conversation
        try:
            if not session.ended and conversation.preparation.advance(now):
                session.notify()
        except Exception as error:
            self.conversation_failed(conversation, error)

    def _carry_out_orders(self) -> None:
        """Carries out what has come, until it takes too long: then speech comes first, and the rest after a step."""
        began = now = time.monotonic()
        while now < began + ORDERS_SECONDS and (waiting := self._next_order(now)):
            session, order, arrived = waiting
            if session.conversation.current.awaits_sound:
                self.batch.settle()
            elif session.conversation in self._tapes:
                self.batch.write_down()  # the steps before this order
            if order is CLOSE:
                self._release(session)
            elif not session.ended:
                started = time.monotonic()
                self._orders.handle(session, order, arrived)
                now = time.monotonic()
                self.order_seconds.note(order, now - started)
            session.carried_out(order)
            self._demands.note([session])
        if self._inbox or self._later:
            self._wake.set()

    def _next_order(self, now: float) -> tuple[Session, Order, float] | None:
        """What is carried out next. A conversation from elsewhere that stands still waits until others are served."""
        while self._inbox and not (self._later and now > self._later[0][2] + LATER_SECONDS):
            waiting = self._inbox.popleft()
            if not (isinstance(waiting[1], Adoption) and not waiting[1].revival.speaks):
                return waiting
            self._later.append(waiting)
        return self._later.popleft() if self._later else None

    def _hear_callers(self) -> None:
        """Has what callers have said encoded, when it is time."""
        if time.monotonic() >= self._ears.due:
            sessions = [session for session in self._sessions.values() if self._ears.hears(session.conversation)]
            try:
                self._ears.hear()
            except Exception:
                self._model_failed("hearing callers", sessions)

    def _work(self, decision: Decision) -> None:
        """Does what the scheduler has decided."""
        sessions = [self._sessions[slot] for slot in sorted((*decision.slots, *decision.riders))]
        self._demands.note(sessions)
        try:
            if decision.kind is Kind.PASS:
                self.batch.run_pass(sessions[0].conversation.current, decision.columns)
            else:
                self._step([session.conversation.current for session in sessions], decision.steps)
        except Exception:
            self._model_failed(decision.kind.value, sessions)
        for session in sessions:
            session.worked()

    def _step(self, conversations: Sequence[Conversation], steps: int) -> None:
        now = time.monotonic()
        interrupted = partial(self._has_news, now + ROOM_SECONDS)
        for report in self.batch.lead_in(conversations, steps, interrupted, self._scheduler.margin(now)):
            self.stats.steps += report.columns
            self.stats.frames += report.frames
            self.stats.device_seconds += report.device_seconds
            self.stats.host_seconds += report.host_seconds
            self._tell(EngineObserver.stepped, report)

    def _has_news(self, room_counts_at: float) -> bool:
        """Whether the scheduler may now decide otherwise than it did before the last step."""
        has_room = self._demands.has_news and time.monotonic() >= room_counts_at
        return bool(self._inbox or self._closing or has_room)

    def _tell(self, what: Callable[..., None], *arguments: object) -> None:
        for observer in self._observers:
            try:
                getattr(observer, what.__name__)(*arguments)
            except Exception:
                _log.exception("an observer of the engine failed")

    def _release(self, session: Session) -> None:
        slot = session.conversation.slot
        session.conversation.preparation.forget()
        self._tapes.pop(session.conversation, None)
        self._ears.forget(session.conversation)
        with self._lock:
            if self._sessions.get(slot) is session:
                if not self.broken:
                    session.conversation.context.release()
                del self._sessions[slot]
                self._free.add(slot)
                self._scheduler.update(slot, None)
        session.release()

    # ---- Failures ----

    def conversation_failed(self, conversation: Conversation, error: Exception) -> None:
        """One conversation's own work failed: ends that one, unless the device has failed underneath it."""
        _log.error("a conversation failed", exc_info=error)
        self._fail([s for s in self._sessions.values() if conversation in (s.conversation, s.conversation.current)])

    def _model_failed(self, doing: str, sessions: list[Session]) -> None:
        """Work for many conversations at once failed: ends them, and trusts nothing that the device keeps."""
        _log.exception("%s failed", doing)
        self.batch.forget()
        self._kept_voices.clear()
        self._fail(sessions)

    def _fail(self, sessions: list[Session]) -> None:
        self.stats.failures += 1
        self._check_device()
        for session in list(self._sessions.values()) if self.broken else sessions:
            if not session.ended:
                session.conversation.preparation.forget()
                if not self.broken:
                    session.conversation.context.distrust()
                session.conversation.outbox.restart()
                session.conversation.outbox.answer(_FAILED)
                session.stop()
                self._demands.note([session])

    def _check_device(self) -> None:
        try:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
        except Exception as error:
            self.broken = f"the device no longer answers: {_first_line(error)}"
            _log.error("%s", self.broken)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
