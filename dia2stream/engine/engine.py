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

`model_thread.py` says what the thread does.
"""

import gc
import logging
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from dia2.backend import Kernels, make_codec, make_hearing, make_stepper
from dia2.checkpoint.download import Progress
from dia2.checkpoint.load import BUNDLED, Checkpoint, load_checkpoint
from dia2.checkpoint.threads import set_threads
from dia2.codec.hearing import Hearing
from dia2.errors import Dia2Error as Dia2Error  # what `load` raises, for those who may not touch dia2
from dia2.steps.pool import ContextPool
from dia2.steps.voice_cache import VoiceCache
from dia2.voice.voice import Prefix
from dia2stream.conversation.conversation import QUEUE_FRAMES, Conversation
from dia2stream.conversation.settings import sampling_of, settled
from dia2stream.engine.capacity import blocks_to_build, free_memory, slot_bytes, slots_to_build
from dia2stream.engine.ears import Ears
from dia2stream.engine.loading import default_model, load_options
from dia2stream.engine.measure import measured
from dia2stream.engine.model_thread import ModelThread
from dia2stream.engine.observer import EngineObserver
from dia2stream.engine.session import Session
from dia2stream.engine.voices import prefixes, read_voices
from dia2stream.engine.warm_up import run_voices, speak_in_all
from dia2stream.errors import EngineError
from dia2stream.items import FRAME_MS, FRAME_SAMPLES
from dia2stream.journal.revived import Speaker
from dia2stream.journal.tape import Facts, Tape
from dia2stream.options import ModelOptions, SpeechOptions
from dia2stream.text.settings import TextSettings

_log = logging.getLogger(__name__)
_SAMPLE_RATE = FRAME_SAMPLES * 1000 // FRAME_MS


class Engine:
    """A loaded model and its thread.

    slots: how many conversations the engine can hold at once, or `auto`: as many as memory holds and this machine
    serves in time. With `auto`, a conversation that would be served badly is refused although a slot is free.
    voices: prefixes by name. history_seconds: how much of itself a conversation remembers that has outlived the model's
    context. speculate, kernels: see `make_stepper`. fuse_codec: see `make_codec`. observers: see `EngineObserver`.

    stats: what it has done so far. capacity: how many conversations it takes.
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
        fuse_codec: bool = True,
        kernels: Kernels = "auto",
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
        self._auto = slots == "auto"
        slots = slots_to_build(slots, checkpoint)
        self.kept_voices = VoiceCache(voice_cache_mb * 1_000_000)
        codec = make_codec(checkpoint.codec, slots, fuse=fuse_codec)
        self._ears = Ears(make_hearing(checkpoint.codec, slots))
        blocks = blocks_to_build(slots, checkpoint, self.kept_voices.most_bytes)
        self.stepper, reason = make_stepper(checkpoint, slots, blocks, speculate=speculate, kernels=kernels)
        checkpoint.notes += [reason, f"the codec decodes by {codec.kind}"]
        self._history_frames = history = round(history_seconds * 1000 / FRAME_MS)
        self.pool = ContextPool(self.stepper, codec, history, self.kept_voices)
        self.thread = ModelThread(self.pool, self._ears, self.kept_voices, checkpoint.device, observers)
        self.stats, self.capacity = self.thread.stats, self.thread.capacity
        self.thread.start()

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
        options.setdefault("fuse_codec", model.fuse_codec != "off")
        options.setdefault("kernels", model.kernels)
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
            self.thread.plan_with(costs)
        name = self.checkpoint.name
        run_voices(self, reversed(self.voices), name)  # the default one last: the slot then has it already
        speak_in_all(self, self.free, name)
        if self._auto:
            slots, free = len(self.pool.contexts), free_memory(self.checkpoint)
            memory = free + self.stepper.cache.bytes + self.pool.codec.state.bytes
            each = slot_bytes(self.checkpoint, slots)
            _log.info("%s", self.capacity.choose(self.thread.costs, memory, each))

    def conversation(
        self, *, max_lead_ms: float | None = None, queue_frames: int = QUEUE_FRAMES, tape: Tape | None = None
    ) -> Session:
        """A conversation in a free slot. Raises CommandError `busy` without one, EngineError when the engine is broken.

        max_lead_ms: how far sending may be ahead of the listener. queue_frames: how far generation is ahead of sending.
        tape: writes it down.
        """

        def session(slot: int) -> Session:
            conversation = Conversation(
                self.pool.contexts[slot],
                self.checkpoint.tokenizer,
                defaults=self.speech,
                voices=self.voices,
                max_lead_ms=max_lead_ms,
                queue_frames=queue_frames,
                ear=self._ears.of(slot, tape),
                text=self.text,
                corrections=self.checkpoint.corrections,
            )
            return Session(self, self.thread, conversation)

        return self.thread.lend(session, tape)

    def close(self) -> None:
        """Ends every conversation and the thread; returns when the model is at rest."""
        self.thread.close()
        gc.unfreeze()  # what `load` has set aside may be freed now

    @property
    def sampling(self) -> dict[str, float]:
        """What a conversation is sampled with if its start command leaves it open, by the names of its fields."""
        return sampling_of(self.speech)

    @property
    def free(self) -> int:
        """How many more conversations the engine can hold."""
        return self.thread.free

    @property
    def broken(self) -> str | None:
        """Why no conversation can be had any more; None while one can."""
        return self.thread.broken

    @property
    def has_work(self) -> bool:
        """Whether the engine is working, or is about to look for work."""
        return self.thread.has_work

    @property
    def rollovers(self) -> int:
        """How often a context was full and had to be rebuilt."""
        return sum(context.rollovers for context in self.pool.contexts)

    def load_ear(self) -> None:
        """Loads what hears callers, which takes a moment the first time; on the caller's thread."""
        self._ears.load()

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
