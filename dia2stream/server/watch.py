"""A watch over the engine's thread: whether it still gets anywhere."""

import logging
import sys
import threading
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dia2stream.engine.engine import Engine

_log = logging.getLogger(__name__)

STUCK_SECONDS = 30.0


class Watch:
    """Notices when the engine has work and gets nowhere."""

    def __init__(self) -> None:
        self.engine: Engine | None = None
        self.problem: str | None = None
        self._progress = self._since = 0.0  # what the engine's clock said, and since when

    def look(self, now: float) -> None:
        """Call it every second or so."""
        if self.engine is None:
            return
        progress = self.engine.stats.last_progress
        if progress != self._progress or not self.engine.has_work:
            self._progress, self._since = progress, now
            if self.problem is not None:
                _log.warning("the engine goes on")
            self.problem = None
        elif self.problem is None and now - self._since > STUCK_SECONDS:
            self.problem = f"no step has finished for {now - self._since:.0f} s, and there is work"
            _log.error(self.problem, extra={"stack": _stack("dia2-engine")})


def _stack(thread_name: str) -> str:
    """Where that thread is right now."""
    frames = sys._current_frames()
    threads = [thread for thread in threading.enumerate() if thread.name == thread_name and thread.ident in frames]
    return "".join("".join(traceback.format_stack(frames[thread.ident or 0])) for thread in threads)
