"""How many conversations an engine is built for, and whether one more is served well now.

`slots` says it as a number, or `auto`: as many as the device's memory holds, at most what one step can take. After the
warm-up has measured what the work costs, `auto` keeps those that this machine serves in time, and says why.

On a GPU, a slot's memory is what its context has a right to, two thirds of the full one (dia2/model/blocks.py), and the
codec's state. The cache then gets what is left, up to a full context for every slot. So no conversation is refused, and
none fails, because the cache is full: contexts that find no block are rebuilt earlier.
"""

import time
from collections.abc import Collection

from dia2.checkpoint.device import column_bytes, free_bytes
from dia2.checkpoint.load import Checkpoint
from dia2.codec.frames import BACK_FRAMES
from dia2.model.blocks import assured_blocks
from dia2.model.kv_cache import context_columns
from dia2.steps.stepper import block_columns_for
from dia2stream.engine.admission import MOST_SLOTS, Admission, slots_for
from dia2stream.engine.costs import CostCurve
from dia2stream.engine.scheduler import Demand, Waits
from dia2stream.engine.session import Session
from dia2stream.errors import EngineError

_MOST_ON_CPU = 16  # what `auto` builds at most there: every slot makes the warm-up longer
_SPARE_MEMORY = 0.1  # of what is free, for passes of many columns
_OBSERVE_SECONDS = 1.0
# A listener who is dry for a shorter time is the clock's coarseness, not a late frame.
_LATE_SECONDS = 0.02


def slots_to_build(slots: int | str, checkpoint: Checkpoint) -> int:
    """The slots that the stepper gets.

    Raises EngineError for something that is neither a number from 1 nor `auto`, and for more slots than memory holds.
    """
    holds = free_memory(checkpoint) // slot_bytes(checkpoint, 2)
    if slots == "auto":
        most = MOST_SLOTS if checkpoint.device.type == "cuda" else _MOST_ON_CPU
        return max(1, int(min(most, holds)))
    if not str(slots).isdecimal() or not 1 <= int(slots) <= 1024:
        raise EngineError(f"slots is {str(slots)[:40]!r}: it must be auto, or a number from 1 to 1024")
    if checkpoint.device.type == "cuda" and int(slots) > max(1, holds):
        each, free = slot_bytes(checkpoint, 2) / 1e6, free_memory(checkpoint) / 1e9
        raise EngineError(f"slots is {slots}: {free:.3g} GB are free on the GPU, for {holds:.0f} of {each:.3g} MB each")
    return int(slots)


def blocks_to_build(slots: int, checkpoint: Checkpoint, voice_cache_bytes: int) -> int | None:
    """How many blocks the cache of so many slots gets, when all else but the stepper is built; None: all it can use.

    voice_cache_bytes: what kept voices will take.
    """
    columns = block_columns_for(checkpoint.device, slots)
    if columns is None:
        return None
    left = free_memory(checkpoint) - voice_cache_bytes
    needed = slots * assured_blocks(context_columns(checkpoint.config), columns)
    return max(needed, int(left // (columns * column_bytes(checkpoint.config, checkpoint.dtype))))


def slot_bytes(checkpoint: Checkpoint, slots: int) -> int:
    """Memory that each of so many slots takes at least: nearly all are the model's cache and the codec's states."""
    context, columns = context_columns(checkpoint.config), block_columns_for(checkpoint.device, slots)
    cached = columns * assured_blocks(context, columns) if columns else context
    codec = checkpoint.codec.state(1, BACK_FRAMES).bytes + checkpoint.codec.hearing_bytes
    return cached * column_bytes(checkpoint.config, checkpoint.dtype) + codec


def free_memory(checkpoint: Checkpoint) -> float:
    """Bytes of the device's memory that conversations may take."""
    free = free_bytes(checkpoint.device)
    return float("inf") if free is None else free * (1 - _SPARE_MEMORY)


class Capacity:
    """Admits conversations. A number of slots decides alone; `auto` also looks at what is going on.

    slots: how many conversations are admitted at most.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._admission: Admission | None = None
        self._observed = -_OBSERVE_SECONDS
        self._starts = 0
        self._starting: dict[int, float] = {}  # by slot: since when its newest turn waits

    def choose(self, costs: CostCurve, memory_bytes: float, slot_bytes: int) -> str:
        """Does what `auto` means, now that the machine's costs are known. Returns the number and its reason.

        memory_bytes: what all slots have, and what is still free. slot_bytes: what a slot needs of it.
        """
        chosen = slots_for(costs, memory_bytes, slot_bytes)
        self.slots = min(self.slots, chosen.slots)
        self._admission = Admission(costs, self.slots)
        return f"slots: {self.slots}, {chosen.reason}"

    def refusal(self, conversations: int) -> str | None:
        """Why there can be no conversation besides so many; None: there can."""
        if conversations >= self.slots:
            return f"every slot is taken: this engine holds {self.slots} at a time"
        return self.overload(conversations)

    def overload(self, conversations: int) -> str | None:
        """Why one more besides so many would be served badly, whatever slots are free; None: it would not."""
        if self._admission is None:
            return None
        return self._admission.refusal(time.monotonic(), conversations)

    # ---- The engine's thread ----

    def demanded(self, slot: int, demand: Demand | None, now: float) -> None:
        """What a conversation asks for has changed: counts turns that begin, and frames that are late."""
        if demand is None:
            return
        if demand.waits is Waits.STARTING and self._starting.get(slot) != demand.since:
            self._starting[slot] = demand.since
            self._starts += 1
        late = now - demand.deadline
        if self._admission and demand.waits is Waits.SPEAKING and demand.ready and late > _LATE_SECONDS:
            self._admission.late(now, late)

    def observe(self, now: float, sessions: Collection[Session]) -> None:
        """How much goes on; looks about once a second."""
        if self._admission and now - self._observed >= _OBSERVE_SECONDS:
            speaking = sum(session.conversation.speaking for session in list(sessions))
            self._admission.observe(now, len(sessions), speaking, self._starts)
            self._observed, self._starts = now, 0
