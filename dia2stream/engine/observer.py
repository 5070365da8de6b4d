"""What the engine tells of its work: one report after every step, and a call when it has nothing left to do.

    class Load:
        def stepped(self, step: StepReport) -> None:
            print(f"{step.frames} frames in {1000 * step.seconds:.1f} ms")

        def idle(self) -> None: ...

    engine = Engine.load(observers=[Load()])

Metrics count with it, `bench` measures with it, and tests wait with it instead of sleeping. Needs no torch.
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class StepReport:
    """One step of the engine.

    started: when the step began, on the clock of time.perf_counter. seconds: how long it took on the engine's thread,
    from choosing the rows to waking the readers. device_seconds: the part of `seconds` in which that thread ran or
    waited for the model and the codec; the rest is the host's work.

    backbone_rows, depformer_rows, codec_rows: conversations for which each part ran. A lead-in step runs the backbone
    alone: depformer_rows is then 0. batch_size: rows that the backbone's batch has, which is backbone_rows rounded up
    to a size that the stepper has a graph for. frames: frames of sound that the step finished, 80 ms each. margin: for
    how many seconds the most urgent listener still had sound when the step began; None when nobody was listening.
    columns: what the conversation that came furthest moved on by: several, where a lead-in's were run in one pass.
    """

    started: float
    seconds: float
    device_seconds: float
    backbone_rows: int
    depformer_rows: int
    codec_rows: int
    batch_size: int
    frames: int
    margin: float | None = None
    columns: int = 1

    @property
    def host_seconds(self) -> float:
        """The part of the step in which the engine's thread did not run or wait for the model."""
        return max(0.0, self.seconds - self.device_seconds)


class EngineObserver(Protocol):
    """Is called on the engine's thread, between steps: every microsecond it takes is missing there.

    If a call fails, the engine logs the exception and goes on.
    """

    def stepped(self, step: StepReport) -> None:
        """A step is over, and what it made waits in the outboxes."""

    def idle(self) -> None:
        """No order waits and no conversation can step: the engine now sleeps until something wakes it."""
