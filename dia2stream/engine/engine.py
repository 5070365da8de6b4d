"""The one warm engine: loads once, owns the thread that steps the model, lends conversations.

    from dia2stream.items import Frame

    engine = Engine.load(ModelOptions(model="random:tiny"))
    async with engine.conversation() as conversation:
        await conversation.start("[S1] Hello there. [S2] Hello!")
        conversation.finish()  # no more text: the loop ends when all of it has been spoken
        async for item in conversation:
            if isinstance(item, Frame):
                play(item.pcm)  # float32 [1920] at 24 kHz
            else:
                print(item)  # an event of protocol.py

Everything that touches the model happens on the engine's thread. The thread carries out commands between steps, so a
pause acts within a frame. Then it makes one step for all conversations that can use one. What is ready waits in each
conversation's outbox. An outbox is bounded: a slow reader holds back its own speech and nobody else's.

A failure in one conversation's own work, in its text or its events, ends that conversation with an `internal` error. If
the model fails, all conversations in that step end so. The engine then finds out whether the device still answers. If
it does not, every conversation ends, and whoever asks for another one is told why.
"""

import gc
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch

from dia2.backend import make_codec, make_hearing, make_stepper
from dia2.checkpoint.download import Progress
from dia2.checkpoint.load import BUNDLED, Checkpoint, LoadOptions, has_bundled, load_checkpoint
from dia2.checkpoint.threads import set_threads
from dia2.codec.hearing import Hearing
from dia2.cuda.graphs import batch_sizes
from dia2.errors import Dia2Error as Dia2Error  # what `load` raises, for those who may not touch dia2
from dia2.steps.pool import ContextPool
from dia2.steps.voice_cache import VoiceCache
from dia2.voice.voice import Prefix
from dia2stream.conversation.conversation import QUEUE_FRAMES, Conversation
from dia2stream.conversation.settings import sampling_of, settled
from dia2stream.engine.backlog import OrderSeconds
from dia2stream.engine.batch import Batch
from dia2stream.engine.capacity import Capacity, blocks_to_build, free_memory, slot_bytes, slots_to_build
from dia2stream.engine.costs import unmeasured
from dia2stream.engine.demands import demand_of
from dia2stream.engine.ears import Ears
from dia2stream.engine.measure import measured
from dia2stream.engine.observer import EngineObserver
from dia2stream.engine.scheduler import Decision, Kind, Scheduler, Waits
from dia2stream.engine.session import (
    CLOSE,
    FINISH,
    STAND_STILL,
    Adoption,
    Forking,
    Order,
    Revival,
    Session,
    SessionRequest,
)
from dia2stream.engine.voices import prefixes, read_voices
from dia2stream.errors import CommandError, EngineError
from dia2stream.items import FRAME_MS, FRAME_SAMPLES, Frame
from dia2stream.journal.prepared_tape import PreparedTape, StepTape
from dia2stream.journal.rerun import Speaker
from dia2stream.journal.tape import Facts, Place, Tape
from dia2stream.options import ModelOptions, SpeechOptions
from dia2stream.protocol.messages import Command, End, Error, Forked, Listen, Pause, Start, error_event
from dia2stream.text.settings import TextSettings

_log = logging.getLogger(__name__)
PUBLISHED_MODEL = "nari-labs/Dia2-2B"
NOISE_MODEL = "random:tiny"
_SAMPLE_RATE = FRAME_SAMPLES * 1000 // FRAME_MS
# Orders are carried out for so long between two steps, and one more: whoever speaks needs a frame every 80 ms.
ORDERS_SECONDS = 0.02
_WARM_UP_TEXT = "[S1] One two three. [S2] Four five six."
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


class Engine:
    """A loaded model and its thread.

    slots: how many conversations the engine can hold at once, or `auto`: as many as memory holds and this machine
    serves in time. With `auto`, a conversation that would be served badly is refused although a slot is free.
    voices: prefixes by name. history_seconds: how much of itself a conversation remembers that has outlived the model's
    context. speculate: see `make_stepper`. observers: see `EngineObserver`.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        slots: int | str = 1,
        speech: SpeechOptions | None = None,
        voices: dict[str, Prefix] | None = None,
        history_seconds: float = 30.0,
        voice_cache_mb: int = 1000,
        speculate: bool | None = None,
        observers: Sequence[EngineObserver] = (),
    ) -> None:
        mimi = checkpoint.codec
        if (mimi.sample_rate, mimi.frame_samples) != (_SAMPLE_RATE, FRAME_SAMPLES):
            has = f"{mimi.frame_samples} samples a frame at {mimi.sample_rate} Hz"
            raise EngineError(
                f"the codec of {checkpoint.name} makes {has}; it must be {FRAME_SAMPLES} at {_SAMPLE_RATE}"
            )
        self.checkpoint = checkpoint
        self.speech = settled(speech or SpeechOptions(), checkpoint.sampling)
        self.text = TextSettings.read(self.speech, is_bundled=checkpoint.name == BUNDLED)
        self.voices = voices or {}
        for name, voice in self.voices.items():
            if voice.frames > checkpoint.config.runtime.max_context_steps // 2:
                raise EngineError(f"voice {name} takes {voice.frames} steps, over half of the model's context")
        self.stats = Stats(last_progress=time.monotonic())
        self.broken: str | None = None  # why no conversation can be had any more
        self._auto = slots == "auto"
        slots = slots_to_build(slots, checkpoint)
        self.kept_voices = VoiceCache(voice_cache_mb * 1_000_000)
        codec = make_codec(checkpoint.codec, slots)
        self._ears = Ears(make_hearing(checkpoint.codec, slots))
        blocks = blocks_to_build(slots, checkpoint, self.kept_voices.most_bytes)
        self.stepper, reason = make_stepper(checkpoint, slots, blocks, speculate=speculate)
        checkpoint.notes.append(reason)
        self._history_frames = history = round(history_seconds * 1000 / FRAME_MS)
        self.pool = ContextPool(self.stepper, codec, history, self.kept_voices)
        self._contexts = self.pool.contexts
        self._observers = tuple(observers)
        self._tapes: dict[Conversation, StepTape] = {}  # of the conversations that are written down
        self._batch = Batch(self.pool, self._conversation_failed, self._tapes)
        self._scheduler = Scheduler(unmeasured(batch_sizes(slots)))
        self.capacity = Capacity(slots)
        self._changed: set[Session] = set()  # whose demands have to be told to the scheduler
        self._roomy: deque[Session] = deque()  # the same, told by other threads: their outboxes have room
        self._due_since: dict[int, float] = {}  # by slot: when a pass that nobody waits for became due
        self._free = set(range(slots))
        self._sessions: dict[int, Session] = {}  # by slot
        self._inbox: deque[tuple[Session, Order, float]] = deque()
        self.order_seconds = OrderSeconds()
        self._lock = threading.Lock()  # guards _free and _sessions
        self._wake = threading.Event()
        # resting: the thread sleeps. calm: it sleeps until some time, and room in an outbox is no reason to wake up.
        self._resting = self._calm = self._closing = False
        self._thread = threading.Thread(target=self._run, name="dia2-engine", daemon=True)
        self._thread.start()

    @classmethod
    def load(cls, model: ModelOptions | None = None, *, progress: Progress | None = None, **options: Any) -> "Engine":
        """Loads and warms up. `options` are the constructor's; voices may also be files, those of `speech`.

        Raises Dia2Error when the model cannot be had, or a voice.
        """
        model = model or ModelOptions()
        speech = options.get("speech") or SpeechOptions()
        files = read_voices(speech.voice)  # before anything takes long
        TextSettings.read(speech)  # the same: what is wrong with a lexicon is told at once
        options.setdefault("history_seconds", model.history_seconds)
        options.setdefault("voice_cache_mb", model.voice_cache_mb)
        options.setdefault("speculate", {"on": True, "off": False}.get(model.speculate))
        checkpoint = load_checkpoint(model.model or default_model(model.device), load_options(model, progress))
        checkpoint.notes.append(set_threads(model.threads, checkpoint))
        if model.listen:
            checkpoint.codec.load_encoder()
        if files:
            options["voices"] = options.get("voices", {}) | prefixes(files, checkpoint)
        engine = cls(checkpoint, **options)
        for note in checkpoint.notes:
            _log.info("%s", note)
        engine.warm_up()
        # A full garbage collection visits all that the libraries have made, and so holds every thread up for 0.1 s.
        gc.collect()
        gc.freeze()
        return engine

    def warm_up(self) -> None:
        """Speaks one short utterance to nobody. What happens only once has then happened before the first caller.

        An engine of many slots also measures what its work costs, because the scheduler plans with that.
        """
        if len(self.pool.contexts) > 1:
            costs = measured(self.pool, f"{self.checkpoint.name} on {self.checkpoint.device}")
            _log.debug("costs: %s", costs.dump())  # a file for bench --simulate and plan --costs
            self._scheduler = Scheduler(costs)
        for voice in reversed(self.voices):  # the default one last: the slot then has it already
            with self.conversation() as session:
                session.submit(Start("", voice=voice, seed=0))
                session.finish()
                self._check_warm_up(session)
        with ExitStack() as stack:
            sessions = [stack.enter_context(self.conversation()) for _ in range(self.free)]
            for session in sessions:
                session.submit(Start(_WARM_UP_TEXT, seed=0))
                session.finish()
            for session in sessions:
                self._check_warm_up(session)
        if self._auto:
            slots, free = len(self.pool.contexts), free_memory(self.checkpoint)
            memory = free + self.stepper.cache.bytes + self.pool.codec.state.bytes
            each = slot_bytes(self.checkpoint, slots)
            _log.info("%s", self.capacity.choose(self._scheduler.costs, memory, each))

    def _check_warm_up(self, session: Session) -> None:
        for item in session:
            if isinstance(item, Error):
                raise EngineError(f"the model does not run here: {self.broken or item.message}")
            if isinstance(item, Frame) and not np.isfinite(item.pcm).all():
                raise EngineError(f"{self.checkpoint.name} makes sound that is not finite: its weights are damaged")

    def conversation(
        self, *, max_lead_ms: float | None = None, queue_frames: int = QUEUE_FRAMES, tape: Tape | None = None
    ) -> Session:
        """A conversation in a free slot. Raises CommandError `busy` without one, EngineError when the engine is broken.

        max_lead_ms: how far sending may be ahead of the listener. queue_frames: how far generation is ahead of sending.
        tape: writes it down.
        """
        with self._lock:
            if self.broken or self._closing:
                raise EngineError(self.broken or "the engine is closed")
            refusal = self.capacity.refusal(len(self._sessions))
            if refusal is not None:
                raise CommandError("busy", refusal)
            slot = min(self._free)  # the one that is most likely to have the voice already
            conversation = self._new_conversation(slot, max_lead_ms, queue_frames, tape)
            session = self._sessions[slot] = Session(self, conversation)
            self._free.remove(slot)
            if tape is not None:
                self._write_down(conversation, tape)
        return session

    def close(self) -> None:
        """Ends every conversation and the thread; returns when the model is at rest."""
        with self._lock:
            self._closing = True
        self._wake.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        gc.unfreeze()  # what `load` has set aside may be freed now

    @property
    def sampling(self) -> dict[str, float]:
        """What a conversation is sampled with if its start command leaves it open, by the names of its fields."""
        return sampling_of(self.speech)

    @property
    def free(self) -> int:
        """How many more conversations the engine can hold."""
        return max(0, self.capacity.slots - len(self._sessions))

    @property
    def rollovers(self) -> int:
        """How often a context was full and had to be rebuilt."""
        return sum(context.rollovers for context in self._contexts)

    @property
    def has_work(self) -> bool:
        """Whether the engine is working, or is about to look for work."""
        return bool(self._inbox) or self._wake.is_set() or not self._resting

    def tape(self, keeps_text: bool = True, on_command: Callable[[], None] = lambda: None) -> Tape:
        """Something that writes a conversation of this engine down. on_command: see `Tape`."""
        return Tape(self._facts, keeps_text, on_command)

    @cached_property
    def speaker(self) -> Speaker:
        """What a conversation from elsewhere needs, to go on here."""
        checkpoint = self.checkpoint
        return Speaker(
            self._facts.fingerprint,
            checkpoint.config,
            self.stepper.opening,
            checkpoint.tokenizer,
            lambda: Hearing(checkpoint.codec).slot(0),
            self.voices,
            self.speech,
            checkpoint.corrections,
        )

    @cached_property
    def _facts(self) -> Facts:
        return Facts(self.checkpoint, self.text, self._history_frames)

    def _new_conversation(
        self, slot: int, max_lead_ms: float | None, queue_frames: int, tape: Tape | None
    ) -> Conversation:
        return Conversation(
            self._contexts[slot],
            self.checkpoint.tokenizer,
            defaults=self.speech,
            voices=self.voices,
            max_lead_ms=max_lead_ms,
            queue_frames=queue_frames,
            ear=self._ears.of(slot, tape),
            text=self.text,
            corrections=self.checkpoint.corrections,
        )

    # ---- Called by sessions, from any thread: see `EngineThread` ----

    def submit(self, session: Session, order: Order) -> None:
        """Hands an order to the engine's thread. CLOSE goes before all others: a slot is not held by what waits."""
        add = self._inbox.appendleft if order is CLOSE else self._inbox.append
        add((session, order, time.monotonic()))
        self._wake.set()

    def load_ear(self) -> None:
        """Loads what hears callers, which takes a moment the first time; on the caller's thread."""
        self._ears.load()

    def wake(self, session: Session) -> None:
        """The session's outbox has room again."""
        self._roomy.append(session)
        if not self._calm:
            self._wake.set()

    # ---- The engine's thread ----

    def _run(self) -> None:
        try:
            if self.checkpoint.device.type == "cuda":
                torch.cuda.set_device(self.checkpoint.device)  # each thread has its own current device
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
            while self._inbox:
                session, order, _ = self._inbox.popleft()
                session.carried_out(order)

    def _rest(self, until: float) -> None:
        """Waits until somebody wants something, or until a time."""
        self._batch.settle()  # nobody may wait for a frame while the thread sleeps
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
        for _ in range(len(self._roomy)):
            self._changed.add(self._roomy.popleft())
        now = time.monotonic()
        for session in self._changed:
            slot = session.conversation.slot
            if self._sessions.get(slot) is session:
                self._prepare_ahead(session, now)
                since = self._due_since.setdefault(slot, now)
                demand = None if session.ended else demand_of(session.conversation, since, now)
                if demand is None or demand.waits is not Waits.NOBODY:
                    del self._due_since[slot]
                self._scheduler.update(slot, demand)
                self.capacity.demanded(slot, demand, now)
        self.capacity.observe(now, self._sessions.values())
        self._changed.clear()

    def _prepare_ahead(self, session: Session, now: float) -> None:
        """Begins to make what is prepared, where that can be; tells when it is there."""
        conversation = session.conversation
        try:
            if not session.ended and conversation.preparation.advance(now):
                session.notify()
        except Exception as error:
            self._conversation_failed(conversation, error)

    def _carry_out_orders(self) -> None:
        """Carries out what has come, until it takes too long: then speech comes first, and the rest after a step."""
        began = now = time.monotonic()
        while self._inbox and now < began + ORDERS_SECONDS:
            session, order, arrived = self._inbox.popleft()
            if session.conversation.current.awaits_sound:
                self._batch.settle()
            elif session.conversation in self._tapes:
                self._batch.write_down()  # the steps before this order
            if order is CLOSE:
                self._release(session)
            elif not session.ended:
                started = time.monotonic()
                self._carry_out(session, order, arrived)
                now = time.monotonic()
                self.order_seconds.note(order, now - started)
            session.carried_out(order)
            self._changed.add(session)
        if self._inbox:
            self._wake.set()

    def _carry_out(self, session: Session, order: Order, arrived: float) -> None:
        conversation = session.conversation
        tape = cast("Tape | None", self._tapes.get(conversation))  # of a conversation, and not of a draft
        try:
            if isinstance(order, CommandError):
                conversation.outbox.answer(error_event(order))
            elif isinstance(order, Adoption):
                self._adopt(session, order.revival)
            elif isinstance(order, Forking):
                self._fork(session, order)
            elif tape is None:
                self._obey(session, order, arrived)
            else:
                before = Place.of(conversation)
                carried_out = self._obey(session, order, arrived)
                if carried_out is not None:
                    tape.command(conversation, carried_out, before)
        except CommandError as error:
            conversation.outbox.answer(error_event(error))
        except Exception as error:
            self._conversation_failed(conversation, error)

    def _obey(self, session: Session, order: Command | SessionRequest, arrived: float) -> Command | None:
        """Carries out a command, or what amounts to one. Returns the command that was carried out, for a tape."""
        conversation = session.conversation
        if order is FINISH:
            is_open = conversation.words.opened is not None
            conversation.close_text()
            session.finishing = True
            return End() if is_open else None
        if order is STAND_STILL:
            stood = conversation.paused
            conversation.stand_still(arrived)
            session.stands_still()
            return Pause() if conversation.paused and not stood else None
        if isinstance(order, Command):
            carried_out = conversation.handle(order, arrived)
            if isinstance(order, Listen):
                self._ears.note(conversation, time.monotonic())
            return carried_out
        conversation.say_where(arrived)
        return None

    def _hear_callers(self) -> None:
        """Has what callers have said encoded, when it is time."""
        if time.monotonic() >= self._ears.due:
            sessions = [session for session in self._sessions.values() if self._ears.hears(session.conversation)]
            try:
                self._ears.hear()
            except Exception:
                self._model_failed("hearing callers", sessions)

    def _adopt(self, session: Session, revival: Revival) -> None:
        """Goes on with a conversation from elsewhere in the session's slot."""
        old, new = session.conversation, revival.conversation
        tape = cast("Tape | None", self._tapes.pop(old, None))
        revival.settle(self._contexts[old.slot], self._ears.of(old.slot, tape))
        if tape is not None:
            self._write_down(new, tape)
        session.conversation = new

    def _fork(self, session: Session, order: Forking) -> None:
        """Copies the session's conversation into another session."""
        if not order.done.set_running_or_notify_cancel():
            return
        original, conversation = session.conversation, order.copy.conversation
        try:
            conversation.copy(original, time.monotonic())
        except CommandError as error:
            order.done.set_exception(error)
            return
        except Exception:
            _log.exception("a fork failed")
            order.done.set_exception(CommandError("busy", "the conversation could not be copied; the log says why"))
            return
        tape, copied = self._tapes.get(original), self._tapes.get(conversation)
        if isinstance(tape, Tape) and isinstance(copied, Tape):
            tape.fork(copied, conversation, was_paused=original.paused)
        if order.id is not None:
            original.outbox.answer(Forked(order.id, conversation.outbox.sent * FRAME_MS))
        self._ears.note(conversation, time.monotonic())
        self._changed.add(order.copy)
        order.done.set_result(None)

    def _write_down(self, conversation: Conversation, tape: Tape) -> None:
        """Writes a conversation down from here on, and of its prepared replies those that are committed."""
        self._tapes[conversation] = tape
        conversation.preparation.keeper = PreparedTape(tape, self._tapes)

    def _work(self, decision: Decision) -> None:
        """Does what the scheduler has decided."""
        sessions = [self._sessions[slot] for slot in sorted((*decision.slots, *decision.riders))]
        self._changed.update(sessions)
        try:
            if decision.kind is Kind.PASS:
                self._batch.run_pass(sessions[0].conversation.current, decision.columns)
            else:
                self._step([session.conversation.current for session in sessions], decision.steps)
        except Exception:
            self._model_failed(decision.kind.value, sessions)
        for session in sessions:
            session.worked()

    def _step(self, conversations: Sequence[Conversation], steps: int) -> None:
        margin = self._scheduler.margin(time.monotonic())
        for report in self._batch.lead_in(conversations, steps, self._has_news, margin):
            self.stats.steps += report.columns
            self.stats.frames += report.frames
            self.stats.device_seconds += report.device_seconds
            self.stats.host_seconds += report.host_seconds
            self._tell(EngineObserver.stepped, report)

    def _has_news(self) -> bool:
        """Whether the scheduler may now decide otherwise than it did before the last step."""
        return bool(self._inbox or self._roomy or self._closing)

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

    def _conversation_failed(self, conversation: Conversation, error: Exception) -> None:
        """One conversation's own work failed: ends that one, unless the device has failed underneath it."""
        _log.error("a conversation failed", exc_info=error)
        self._fail([s for s in self._sessions.values() if conversation in (s.conversation, s.conversation.current)])

    def _model_failed(self, doing: str, sessions: list[Session]) -> None:
        """Work for many conversations at once failed: ends them, and trusts nothing that the device keeps."""
        _log.exception("%s failed", doing)
        self._batch.forget()
        self.kept_voices.clear()
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
                self._changed.add(session)

    def _check_device(self) -> None:
        try:
            if self.checkpoint.device.type == "cuda":
                torch.cuda.synchronize(self.checkpoint.device)
        except Exception as error:
            self.broken = f"the device no longer answers: {_first_line(error)}"
            _log.error("%s", self.broken)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def load_options(model: ModelOptions, progress: Progress | None = None) -> LoadOptions:
    """What the model library needs to know of the command line's options to load the model."""
    names = ("device", "dtype", "weights", "tokenizer", "mimi", "revision")
    return LoadOptions(**{name: getattr(model, name) for name in names}, progress=progress)


def default_model(device: str) -> str:
    """The published model where there is a GPU to run it, else one that needs no download: the bundled one.

    A build without it is left with a model that only makes noise.
    """
    if device != "cpu" and torch.cuda.is_available():
        return PUBLISHED_MODEL
    return BUNDLED if has_bundled() else NOISE_MODEL
