"""What was heard of a recorded conversation, as codes: no model is needed, and no text.

The frames of the audio clock come out of the columns that the model drew. An interruption takes back frames that were
not sent; what follows it goes on from the frames that were heard, so the codec has to hear these again first.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from dia2stream.items import FRAME_MS
from dia2stream.journal.record import ArrivalEntry, ClockEntry, Codes, CommandEntry, Record, StepsEntry

_WARM_UP = 250  # frames after which a codec that began with silence sounds the same


@dataclass
class Stretch:
    """Frames that follow each other without a cut. before: what the codec has to hear first. Both are codes int16 [C]
    of each frame.
    """

    before: list[Codes]
    frames: list[Codes] = field(default_factory=list)


def heard(record: Record) -> Iterator[Stretch]:
    """The stretches that the listener was sent, and behind the last cut all that was made."""
    yield from (stretch for stretch in _stretches(record) if stretch.frames)


def _stretches(record: Record) -> list[Stretch]:
    delays = record.header.delays
    lead_in = max(1, *delays)
    columns: dict[int, Codes] = {}
    known = made = 0
    heard_ms = 0.0  # at the last pause
    # The frames that the codec has heard: their numbers, their places on the audio clock, their codes.
    played: list[tuple[int, int, Codes]] = []
    stretches = [Stretch([])]
    for entry in record.entries:
        match entry:
            case CommandEntry():
                _take_back(stretches, made - entry.made)
                made, known = min(made, entry.made), entry.frames
                if entry.command.get("cmd") == "pause":
                    heard_ms = min(entry.command.get("played_ms", math.inf), entry.sent * FRAME_MS)
            case ClockEntry():
                known = max(known, entry.step)
                if played and played[-1][0] >= entry.step:  # an interruption
                    # The codec goes on behind what was heard, also where the model goes back further.
                    played = [
                        frame for frame in played if frame[0] < entry.step or (frame[1] + 1) * FRAME_MS <= heard_ms
                    ]
                    stretches.append(Stretch([codes for _, _, codes in played[-_WARM_UP:]]))
                    played = [(min(number, entry.step - 1), at, codes) for number, at, codes in played]
            case StepsEntry():
                for number, codes in enumerate(entry.codes, start=entry.step):
                    columns[number + 1] = codes
                    frame = number + 1 - lead_in
                    if frame >= known:
                        whole = _aligned(columns, frame, delays)
                        stretches[-1].frames.append(whole)
                        played.append((frame, made, whole))
                        known, made = frame + 1, made + 1
            case ArrivalEntry():
                pass  # the same frames, sent again
    return stretches


def _aligned(columns: dict[int, Codes], frame: int, delays: tuple[int, ...]) -> Codes:
    # Without a delay, the first frame's code stands in a column that no step drew.
    codes = [columns[frame + delay][k] if frame + delay in columns else 0 for k, delay in enumerate(delays)]
    return np.array(codes, np.int16)


def _take_back(stretches: list[Stretch], count: int) -> None:
    """The last frames were made and not sent."""
    while count > 0 and stretches:
        dropped = min(count, len(stretches[-1].frames))
        del stretches[-1].frames[len(stretches[-1].frames) - dropped :]
        count -= dropped
        if count:
            stretches.pop()
