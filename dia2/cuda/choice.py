"""Which of several forms of a step is the fastest here: timed once for a card, then read from a file.

Knows nothing about GPUs: who calls says what the forms are, how one is made and checked, and how its step is timed.

The file is in the user's cache folder, one for each card, model and version of all that matters. It is replaced in one
step, so servers that start at the same time may write it together; each of them leaves a whole file.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from dia2.cuda.user_cache import keep
from dia2.errors import CheckpointError, ConfigError
from dia2.strict_json import read_dataclass, read_object

Step = Callable[[], None]
Timer = Callable[[Step], float]
"""Runs a whole step again and again; the median of its milliseconds."""

SECONDS = 6.0
"""So long after the first form that works, no further one is begun. The first one is needed anyway."""
FASTER = 0.98
"""Another form than the first is taken if it needs at most this share of the first one's time."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Key:
    """What a choice is for. Where anything here differs, it is made anew."""

    card: str
    capability: str
    driver: str
    torch: str
    triton: str
    model: str
    dtype: str
    weights: str
    kernels: str


@dataclass(frozen=True)
class Candidate:
    """A form of a step. make: compiles, captures and checks it; returns its step, or why it cannot be used."""

    name: str
    make: Callable[[], Step | str]


@dataclass(frozen=True)
class Timed:
    """How long a step of a form took."""

    form: str
    milliseconds: float


@dataclass(frozen=True)
class LeftOut:
    """A form that was not timed."""

    form: str
    reason: str


@dataclass(frozen=True)
class Choice:
    """What the file holds."""

    key: Key
    form: str
    timed: tuple[Timed, ...]
    left_out: tuple[LeftOut, ...]

    def reason(self) -> str:
        """All that was found, in one line."""
        times = ", ".join(f"{each.form} {each.milliseconds:.3f} ms" for each in self.timed)
        rest = "".join(f"; {each.form}: {each.reason}" for each in self.left_out)
        return f"of whole steps timed: {times}{rest}"


class Chooser:
    """Chooses by the time of whole steps, or takes what was chosen before.

    folder: of the files. again: time them although there is a file. clock: seconds, for the limit.
    """

    def __init__(
        self,
        folder: Path,
        key: Key,
        timer: Timer,
        *,
        again: bool = False,
        seconds: float = SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._key, self._timer, self._again = key, timer, again
        self._seconds, self._clock = seconds, clock
        digest = hashlib.sha256(json.dumps(asdict(key)).encode()).hexdigest()[:24]
        self.path = folder / f"{digest}.json"

    def choose(self, candidates: Sequence[Candidate]) -> tuple[str, str]:
        """The name of the form to take, and the reason. candidates: the first is the usual one.

        Raises RuntimeError where none of them can be used.
        """
        kept = None if self._again else self.kept([each.name for each in candidates])
        if kept is not None:
            return kept.form, f"{kept.reason()}; read from {self.path}"
        choice = self._time(candidates)
        keep(self.path, json.dumps(asdict(choice), indent=1).encode())
        return choice.form, f"{choice.reason()}; kept in {self.path}"

    def kept(self, names: Sequence[str]) -> Choice | None:
        """What the file says; None where there is no file, or one that is not to be believed."""
        if not self.path.exists():
            return None
        try:
            choice = read_dataclass(Choice, read_object(self.path))
            if choice.key != self._key:
                other = next(f.name for f in fields(Key) if getattr(choice.key, f.name) != getattr(self._key, f.name))
                raise ConfigError(f"key.{other} is another")
            if choice.form not in names:
                raise ConfigError(f"form is {choice.form!r}, it must be one of {', '.join(names)}")
        except (CheckpointError, ConfigError) as error:
            _log.warning("the forms of a step are timed again: %s: %s", self.path, error)
            return None
        return choice

    def _time(self, candidates: Sequence[Candidate]) -> Choice:
        began = float("inf")
        timed: list[Timed] = []
        left_out: list[LeftOut] = []
        for candidate in candidates:
            if self._clock() - began > self._seconds:
                left_out.append(LeftOut(candidate.name, f"not tried, {self._seconds:g} s were over"))
                continue
            step = candidate.make()
            if isinstance(step, str):
                left_out.append(LeftOut(candidate.name, step))
            else:
                timed.append(Timed(candidate.name, self._timer(step)))
                began = min(began, self._clock())
        if not timed:
            raise RuntimeError("; ".join(f"{each.form}: {each.reason}" for each in left_out))
        return Choice(self._key, _fastest(timed), tuple(timed), tuple(left_out))


def _fastest(timed: Sequence[Timed]) -> str:
    """The first form, unless another one is clearly faster: two runs on one card shall choose the same."""
    best = min(timed, key=lambda each: each.milliseconds)
    return best.form if best.milliseconds <= FASTER * timed[0].milliseconds else timed[0].form
