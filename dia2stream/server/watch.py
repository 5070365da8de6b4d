"""A watch over the engine's thread: whether it still gets anywhere.

    30 s without a step, and there is work      the engine hangs: clients are told `internal` and let go, /readyz is 503
    30 s more                                   it will not come back: /healthz is 503, and the process ends with 1

A call of the GPU driver that hangs does not return to be told so. Only a new process helps, and whatever started this
one starts it. A process that was stopped or suspended is not to blame: then time is counted anew.
"""

import logging
import sys
import threading
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dia2stream.engine.engine import Engine

_log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0  # how often to look
STUCK_SECONDS = 30.0
LOST_SECONDS = 60.0  # both from the last sign of progress


class Watch:
    """Notices when the engine has work and gets nowhere."""

    def __init__(self) -> None:
        self.engine: Engine | None = None
        self.problem: str | None = None  # why there is no service now
        self.lost = False  # there will be none any more
        self._progress = self._since = 0.0  # what the engine's clock said, and since when
        self._looked = 0.0

    def look(self, now: float) -> None:
        """Call it every LOOK_SECONDS."""
        if self.engine is None:
            return
        stood_still = now - self._looked > 5 * LOOK_SECONDS
        self._looked = now
        progress = self.engine.stats.last_progress
        if progress != self._progress or not self.engine.has_work:
            self._progress, self._since = progress, now
            if self.problem is not None:
                _log.warning("the engine goes on")
            self.problem, self.lost = None, False
        elif stood_still:
            self._since = now
        else:
            self._judge(now - self._since)

    def _judge(self, seconds: float) -> None:
        if seconds > STUCK_SECONDS:
            if self.problem is None:
                _log.error("no step finishes", extra={"seconds": round(seconds), "stack": _stack("dia2-engine")})
            self.problem = f"no step has finished for {seconds:.0f} s, and there is work"
        self.lost = seconds > LOST_SECONDS


def _stack(thread_name: str) -> str:
    """Where that thread is right now."""
    frames = sys._current_frames()
    threads = [thread for thread in threading.enumerate() if thread.name == thread_name and thread.ident in frames]
    return "".join("".join(traceback.format_stack(frames[thread.ident or 0])) for thread in threads)
