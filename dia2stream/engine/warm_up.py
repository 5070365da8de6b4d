"""Speech that nobody hears, before the first caller: what happens only once has then happened, and a model that does
not run here is known.
"""

from collections.abc import Iterable, Sequence
from contextlib import ExitStack

import numpy as np

from dia2stream.engine.session import Lender, Session
from dia2stream.errors import EngineError
from dia2stream.items import Frame
from dia2stream.protocol.messages import Error, Start

_TEXT = "[S1] One two three. [S2] Four five six."
_ALL_FRAMES = 10_000  # more than a model ever makes of this text


def run_voices(engine: Lender, voices: Iterable[str], model: str) -> None:
    """Runs each voice in the slot that the next conversation gets. Raises EngineError, as `speak_in_all` does."""
    for voice in voices:
        with engine.conversation() as session:
            session.submit(Start("", voice=voice, seed=0))
            _hear([session], model)


def speak_in_all(engine: Lender, slots: int, model: str) -> None:
    """Speaks one short utterance in so many slots at once. model: its name, for what is told.

    Raises EngineError for a model that does not run here, or makes sound that is not finite.
    """
    with ExitStack() as stack:
        # Their readers take one after the other, and none may hold up the others' frames.
        sessions = [stack.enter_context(engine.conversation(queue_frames=_ALL_FRAMES)) for _ in range(slots)]
        for session in sessions:
            session.submit(Start(_TEXT, seed=0))
        _hear(sessions, model)


def _hear(sessions: Sequence[Session], model: str) -> None:
    for session in sessions:
        session.finish()
    for session in sessions:
        for item in session:
            if isinstance(item, Error):
                raise EngineError(f"the model does not run here: {session.engine.broken or item.message}")
            if isinstance(item, Frame) and not np.isfinite(item.pcm).all():
                raise EngineError(f"{model} makes sound that is not finite: its weights are damaged")
