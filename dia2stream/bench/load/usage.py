"""How busy the engine was, added up from its reports."""

import threading

from dia2stream.bench.load.results import Usage
from dia2stream.engine.observer import StepReport


class UsageMeter:
    """An observer that adds up steps. `take` may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._total = Usage(0, 0, 0, 0.0, 0.0)

    def stepped(self, step: StepReport) -> None:
        with self._lock:
            total = self._total
            self._total = Usage(
                total.steps + 1,
                total.rows + step.backbone_rows,
                total.frames + step.frames,
                total.step_seconds + step.seconds,
                total.device_seconds + step.device_seconds,
            )

    def idle(self) -> None:
        """An engine that rests adds nothing."""

    def take(self) -> Usage:
        """What was added up since the last time, and begins again at nothing."""
        with self._lock:
            taken, self._total = self._total, Usage(0, 0, 0, 0.0, 0.0)
        return taken
