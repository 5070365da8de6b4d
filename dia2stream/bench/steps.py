"""The steps between a command and its first sample, as the engine reports them."""

import threading
from collections.abc import Sequence

from dia2stream.engine.observer import StepReport

# backbone_steps: steps without the depformer, also those that were run as columns of one pass; frames: whole steps.
StepCount = dict[str, int]


def expected_steps(delays: Sequence[int]) -> StepCount:
    """What a first sample costs at least.

    In a lead-in the codes of every frame before the first new one are known. Codes of the depformer are due from the
    shortest of its codebooks' delays on, and the frame is complete when its code of the longest delay is drawn.
    """
    shortest, longest = min(delays[1:]), max(delays)
    return {"backbone_steps": shortest - 1, "frames": longest - shortest + 1}


class EngineWatch:
    """An observer that keeps the reports of steps, and tells when the engine rests.

    rests: set whenever the engine has nothing left to do; whoever waits for that clears it first.
    """

    def __init__(self) -> None:
        self.rests = threading.Event()
        self._reports: list[StepReport] = []

    def stepped(self, step: StepReport) -> None:
        self._reports.append(step)

    def idle(self) -> None:
        self.rests.set()

    def forget(self) -> None:
        """Drops all reports. The engine must rest."""
        self._reports.clear()

    def to_first_frame(self) -> StepCount:
        """The steps up to the one that completed the first frame, which must have been taken already."""
        steps = next(number for number, step in enumerate(self._reports, start=1) if step.frames)
        whole = [step.depformer_rows > 0 for step in self._reports[:steps]]
        columns = sum(step.columns for step in self._reports[:steps])
        return {"backbone_steps": columns - sum(whole), "frames": sum(whole)}
