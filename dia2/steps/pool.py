"""The conversations of one model: their contexts, and what is done for many of them at once.

A step of the engine, for any of the contexts:

    actions = pool.stepper.act([context.slot for context in contexts])    # one pass of the backbone
    texts = [context.advance(action) for context, action in zip(contexts, actions)]
    pool.stepper.complete(texts)            # the depformer, for those whose next column has a code to draw
    finished = pool.take_frames(contexts)   # one gather of the frames that this step completed
    sounds = pool.decode(finished)          # one pass of the codec, beside the next step on a GPU
    ...
    for context, number, pcm in zip(finished.contexts, finished.numbers, sounds.pcm()):
        ...                                 # one wait for all of them

Everything else a conversation does (begin, rewind, extend, rollover) is its context's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from dia2.codec.frames import FrameCodec, Sounds
from dia2.model.slots import on_device
from dia2.steps.aside import AsideRoom
from dia2.steps.context import Context
from dia2.steps.history import ARCHIVE_FRAMES, new_archive
from dia2.steps.stepper import Stepper
from dia2.steps.voice_cache import VoiceCache

ASIDE_BYTES = 1_000_000_000  # for what drafts overwrite; the 2B model takes some 10 MB for one between two turns


@dataclass(frozen=True)
class FinishedFrames:
    """A frame of each of n contexts that a step has completed.

    numbers: the frame of each, counted from its conversation's first. codes: int64 [n, C, 1] on the model's device.
    """

    contexts: list[Context]
    numbers: list[int]
    codes: Tensor

    def __len__(self) -> int:
        return len(self.contexts)


class ContextPool:
    """One context for every slot of a stepper; they share its codec, the archive of their frames, and kept voices.

    history_frames: how much of a conversation a rebuilt context holds. `contexts` are in the order of the slots.
    """

    def __init__(self, stepper: Stepper, codec: FrameCodec, history_frames: int, voices: VoiceCache) -> None:
        if codec.slots != len(stepper.slots):
            raise ValueError(f"the codec has {codec.slots} slots, the stepper {len(stepper.slots)}")
        self.stepper, self.codec = stepper, codec
        self._archive = new_archive(stepper, codec.slots)
        self._nothing = FinishedFrames([], [], stepper.codes.new_zeros(0, len(stepper.delays), 1))
        room = AsideRoom(ASIDE_BYTES)
        self.contexts = [
            Context(stepper, slot, codec.slot(slot), history_frames, voices, self._archive[slot], room)
            for slot in range(codec.slots)
        ]

    def take_frames(self, contexts: Sequence[Context]) -> FinishedFrames:
        """The frames that the step of these contexts has completed: none yet of those that are in their lead-in."""
        due = [(context, number) for context in contexts if (number := context.completed) is not None]
        if not due:
            return self._nothing
        slots, numbers = [context.slot for context, _ in due], [number for _, number in due]
        codes = self.stepper.frame_of_each(slots, [number - context.base for context, number in due])
        where = on_device([slots, [number % ARCHIVE_FRAMES for number in numbers]], self._archive.device)
        self._archive[where[0], :, where[1]] = codes.to(self._archive.dtype)
        for context, number in due:
            context.frames = number + 1
        return FinishedFrames([context for context, _ in due], numbers, codes.unsqueeze(2))

    def decode(self, finished: FinishedFrames) -> Sounds:
        """Starts decoding frames, at least one: the next of each of their contexts."""
        for context, number in zip(finished.contexts, finished.numbers, strict=True):
            context.playback.decoded = number + 1
        return self.codec.submit([context.slot for context in finished.contexts], finished.codes)
