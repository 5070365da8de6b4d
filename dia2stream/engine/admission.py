"""Whether one more conversation can be served well, and how many slots a machine should have.

Both follow from the same estimate: how long nearly everybody waits for the first audio, given how many conversations
there are, how they behave, and the cost curve.

- Frames: whoever speaks needs one each 80 ms, made in the best batches. That takes a share of the GPU's time.
- Starts: a turn begins with a lead-in and a first frame, in what time the frames leave. Turns that begin at the same
  time share their steps, so the more begin a second, the cheaper each one is, and the longer it takes.

The estimate is within two fifths of the 95th percentile that the simulator finds with the real scheduler: see the
tests. It grows without bound where frames alone would fill the GPU, so it is also what keeps deadlines.

`slots_for` takes the load as it is stated. `Admission` takes the load as it was seen lately, as far as there is enough
to see, and refuses a conversation that all others would have to pay for.

Pure: no torch, no threads, no clock of its own.
"""

import math
from dataclasses import dataclass
from itertools import count

from dia2stream.engine.costs import CostCurve

FRAME_SECONDS = 0.08
LEAD_IN_STEPS = 17
TAIL_FRAMES = 6  # of silence behind the last word of a turn

# What `auto` takes at most, however much memory there is: as many as one step of the model takes.
MOST_SLOTS = 128
# Seconds of first audio, at the 95th percentile, up to which a conversation counts as served well.
FIRST_AUDIO = 0.1
# For how long a missed deadline keeps new conversations out.
LATE_SECONDS = 5.0
# What is seen counts for so long, and the stated load counts like so many conversations.
MEMORY_SECONDS = 20.0
STATED_CONVERSATIONS = 8.0


@dataclass(frozen=True)
class Load:
    """How conversations behave. speaking: the share of the time that one speaks; turn: for how many seconds at once."""

    speaking: float = 0.5
    turn: float = 2.5

    def __str__(self) -> str:
        return f"{self.speaking:.0%} of the time spent speaking, in turns of {self.turn:.3g} s"


@dataclass(frozen=True)
class Need:
    """What a number of conversations needs.

    frames, starts: shares of the GPU's time; they may add up to more than 1. first_audio: seconds that 95 of 100 turns
    wait at most for their first frame, inf when the GPU cannot keep up.
    """

    frames: float
    starts: float
    first_audio: float

    @property
    def share(self) -> float:
        """Of the GPU's time."""
        return self.frames + self.starts


def need(costs: CostCurve, conversations: float, load: Load) -> Need:
    """What so many conversations need of the GPU."""
    turns = conversations * load.speaking / load.turn  # that begin each second
    batch = costs.best(max(1, math.ceil(conversations * load.speaking)))
    under_way = costs.frame(batch, batch)
    frames = turns * (load.turn / FRAME_SECONDS + TAIL_FRAMES) * under_way / batch
    for size in costs.sizes:
        # How many turns begin while one does that shares its steps with `size` - 1 others.
        starting = turns * _start(costs, size) / (1 - frames) if frames < 1 else math.inf
        if starting <= size:
            crowd = math.ceil(starting + 1.65 * math.sqrt(starting))  # nearly always at most so many
            alone = _start(costs, min(max(1, crowd), costs.largest)) / (1 - frames)
            return Need(frames, turns * _start(costs, size) / size, alone + under_way / 2)
    return Need(frames, turns * _start(costs, costs.largest) / costs.largest, math.inf)


def _start(costs: CostCurve, starters: int) -> float:
    """Seconds to the first frame of so many that share their steps, with the GPU to themselves."""
    return costs.lead_ins(starters, LEAD_IN_STEPS) + costs.frame(starters, starters)


def most_conversations(costs: CostCurve, load: Load, first_audio: float = FIRST_AUDIO) -> int:
    """How many conversations are served well; at least 1, however slow the machine is."""
    return max(1, next(n for n in count(1) if need(costs, n + 1, load).first_audio > first_audio))


@dataclass(frozen=True)
class Slots:
    """A number of slots and why it is not larger."""

    slots: int
    reason: str


def slots_for(costs: CostCurve, memory_bytes: float, slot_bytes: float, load: Load | None = None) -> Slots:
    """What `--slots auto` is. memory_bytes: what is free for slots. slot_bytes: what each takes."""
    load = load or Load()
    fit, served = max(1, int(memory_bytes // slot_bytes)), most_conversations(costs, load)
    if fit < min(served, MOST_SLOTS):
        memory = f"{memory_bytes / 1e9:.3g} GB of memory hold {fit} slots of {slot_bytes / 1e6:.3g} MB"
        return Slots(fit, f"{memory}; the GPU could serve {served} conversations ({load})")
    if served > MOST_SLOTS:
        could = f"the GPU could serve {served} conversations ({load}), memory would hold {fit}"
        return Slots(MOST_SLOTS, f"one step of the model takes {MOST_SLOTS}; {could}")
    wait = need(costs, served, load).first_audio * 1000
    serves = f"the GPU serves {served} conversations ({load}), with first audio in {wait:.0f} ms at p95"
    return Slots(served, f"{serves}; memory would hold {fit}")


class Admission:
    """What goes on, seen over the last seconds, and whether one more conversation fits.

    The engine calls `observe` about once a second, and `late` for each frame that came after its deadline.
    """

    def __init__(
        self, costs: CostCurve, slots: int, load: Load | None = None, first_audio: float = FIRST_AUDIO
    ) -> None:
        self.costs, self.slots, self.stated, self.first_audio = costs, slots, load or Load(), first_audio
        self._seen: float | None = None  # when it was looked at last
        self._conversations = self._speaking = self._starts = 0.0  # averages; starts are each second
        self._late_at, self._late_by = -math.inf, 0.0

    def observe(self, now: float, conversations: int, speaking: int, starts: int) -> None:
        """How many conversations there are, how many speak, and how many turns have begun since the last look."""
        if self._seen is not None and now > self._seen:
            passed = now - self._seen
            old = math.exp(-passed / MEMORY_SECONDS)
            self._conversations = old * self._conversations + (1 - old) * conversations
            self._speaking = old * self._speaking + (1 - old) * speaking
            self._starts = old * self._starts + (1 - old) * starts / passed
        self._seen = now

    def late(self, now: float, seconds: float) -> None:
        """A frame came so many seconds after its listener had run dry, though its text was there."""
        if now - self._late_at > LATE_SECONDS or seconds > self._late_by:
            self._late_by = seconds
        self._late_at = now

    @property
    def load(self) -> Load:
        """How conversations behave: as was seen, and as was stated where little was seen."""
        stated = self.stated
        weight = self._conversations + STATED_CONVERSATIONS
        speaking = (self._speaking + STATED_CONVERSATIONS * stated.speaking) / weight
        starts = (self._starts + STATED_CONVERSATIONS * stated.speaking / stated.turn) / weight
        return Load(min(1.0, speaking), speaking / starts)

    def need(self, conversations: int) -> Need:
        """What so many conversations need, if they behave as those of now."""
        return need(self.costs, conversations, self.load)

    def refusal(self, now: float, conversations: int) -> str | None:
        """Why one more than so many conversations would be served badly; None: it is welcome."""
        if conversations >= self.slots:
            return f"every slot is taken: this engine holds {self.slots} conversations"
        if conversations == 0:
            return None
        if now - self._late_at <= LATE_SECONDS:
            late = f"a frame came {self._late_by * 1000:.0f} ms late {now - self._late_at:.0f} s ago"
            return f"{late}: {conversations} conversations are as many as are served in time"
        wait = self.need(conversations + 1).first_audio
        if wait > self.first_audio:
            waits = f"{wait * 1000:.0f} ms" if wait < math.inf else "ever longer"
            most = f"at most {self.first_audio * 1000:.0f} ms are meant"
            return f"with more than {conversations} conversations first audio would take {waits}; {most}"
        return None
