"""What a checkpoint's own manifest says about its sound, for whoever plays it.

    {"word_delay_ms": 56, "letter_ms": 50, "pause_db": 35, "speaker_gain_db": [-1.9, 3.8], "silence": [0, 67, 510]}

in dia2_assets.json. All are measured, by scripts/judge, and 0 or empty for a checkpoint that says nothing. The model
itself is not touched: its codes, and dia2's own timestamps, are as published.
"""

from dataclasses import dataclass
from typing import Any

from dia2.checkpoint.sources import MANIFEST, Source
from dia2.errors import CheckpointError, shown
from dia2.model.config import DataConfig
from dia2.strict_json import read_object

MOST_DELAY_MS = 1000
MOST_LETTER_MS = 500
MOST_PAUSE_DB = 120
MOST_GAIN_DB = 30


@dataclass(frozen=True)
class Corrections:
    """word_delay_ms: how much later than its frame a word is heard, -1000 to 1000.

    letter_ms: how long a letter sounds in a word that the model hurries or drags, 0 to 500. The next word is not told
    as spoken before its letters, and two more, had time to sound. pause_db: what is so much quieter than the loudest 10
    ms is a pause, 0 to 120; a word that falls into one is told as spoken where the pause ends. With 0, nothing is done.
    speaker_gain_db: by how much to amplify speakers 1 and 2 where no voice is given, -30 to 30 each.
    silence: the codes of a silent frame, one of each codebook. The model reads them behind a word that was cut.
    """

    word_delay_ms: float = 0.0
    letter_ms: float = 0.0
    pause_db: float = 0.0
    speaker_gain_db: tuple[float, float] = (0.0, 0.0)
    silence: tuple[int, ...] = ()


def read_corrections(source: Source, data: DataConfig) -> Corrections:
    """What the manifest says of a model with these codebooks; the defaults where it says nothing.

    Raises CheckpointError.
    """
    path = source.find(MANIFEST)
    raw = {} if path is None else read_object(path)
    where = f"{source.name}/{MANIFEST}"
    gains = raw.get("speaker_gain_db")
    if gains is not None and not (isinstance(gains, list) and len(gains) == 2):
        raise CheckpointError(f"{where}: speaker_gain_db must be two numbers, one for each speaker, not {shown(gains)}")
    first, second = (_number(gain, f"{where}: speaker_gain_db", MOST_GAIN_DB) for gain in gains or (None, None))
    return Corrections(
        word_delay_ms=_number(raw.get("word_delay_ms"), f"{where}: word_delay_ms", MOST_DELAY_MS),
        letter_ms=_number(raw.get("letter_ms"), f"{where}: letter_ms", MOST_LETTER_MS, least=0),
        pause_db=_number(raw.get("pause_db"), f"{where}: pause_db", MOST_PAUSE_DB, least=0),
        speaker_gain_db=(first, second),
        silence=_silence(raw.get("silence"), where, data),
    )


def _number(value: Any, where: str, most: float, least: float | None = None) -> float:
    """A number up to `most`, from `least` or -most on; 0 for None."""
    least = -most if least is None else least
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise CheckpointError(f"{where} must be a number from {least} to {most}, not {shown(value)}")
    return float(value)


def _silence(value: Any, where: str, data: DataConfig) -> tuple[int, ...]:
    """The codes of a frame, one of each codebook; none for None."""
    if value is None:
        return ()
    fits = isinstance(value, list) and len(value) == data.codebooks
    if not fits or not all(type(code) is int and 0 <= code < data.audio_codes for code in value):
        usage = f"{data.codebooks} whole numbers from 0 to {data.audio_codes - 1}, a code of each codebook"
        raise CheckpointError(f"{where}: silence must be {usage}, not {shown(value)}")
    return tuple(value)
