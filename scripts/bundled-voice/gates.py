"""What each stage of `make` must have reached before the next one begins: `gates.py STAGE PATH`. Ends with 1 if not.

texts FOLDER        enough lines, and no word that is rare
speech FOLDER       both speakers at one level and one pace
codes FOLDER        enough hours, both speakers alike
checkpoint FOLDER   the files' size
words FILE          the JSON lines of judge.py: how many words are heard wrong
silence FILE        the JSON line of silence.py: no line and no constant in silence, no step at the borders of frames
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import corpus
import numpy as np
import texts

from dia2.voice.loudness import TARGET_LUFS, loudness

LINES, RARE = 500_000, 0.01
LEVEL_DB, PACE = 0.7, 0.05
SHARDS, MEASURED = 4, 60.0  # of speech that are looked at; seconds at a time
HOURS, SHARE = 20.0, 0.05
MEGABYTES = 40.0
WRONG, APART = 8.0, 2.0  # percent of words; points between the speakers
SILENT_DB, STEP = -80.0, 1.5  # of a sine; of a border, in proportion to its neighbours
CONSTANT_DB = -70.0  # is heard only as a click where sound is cut off


def of_texts(folder: Path) -> Iterator[str]:
    """Faults of a folder that texts.py wrote."""
    lines = texts.read_lines(folder / "texts.txt")
    found = texts.variety(lines)
    few = float(str(found[f"under {texts.ENOUGH}"]))
    if len(lines) < LINES:
        yield f"{len(lines)} lines, not {LINES}"
    if few > RARE:
        yield f"{few:.1%} of the words stand fewer than {texts.ENOUGH} times, more than {RARE:.0%}"


def of_speech(folder: Path) -> Iterator[str]:
    """Faults of a folder that speak.py wrote."""
    powers: tuple[list[float], list[float]] = ([], [])
    letters, seconds = [0, 0], [0.0, 0.0]
    for path in sorted(folder.glob("[0-9]*[0-9].npz"))[:SHARDS]:
        shard = np.load(path)
        about, parts = json.loads(str(shard["about"])), np.split(shard["sound"], shard["ends"][:-1])
        for speaker, text, times in about:
            if speaker < 2:
                letters[speaker] += len(text)
                seconds[speaker] += times[-1][1] - times[0][0]
        for speaker in (0, 1):
            own = [sound for (who, *_), sound in zip(about, parts, strict=True) if who == speaker]
            powers[speaker].extend(10 ** (level / 10) for level in levels(own))
    for speaker, found in enumerate(powers):
        level = 10 * np.log10(np.mean(found))
        if abs(level - TARGET_LUFS) > LEVEL_DB:
            yield f"S{speaker + 1} is at {level:.1f} LUFS, not {TARGET_LUFS:.0f}"
    paces = [count / length for count, length in zip(letters, seconds, strict=True)]
    if abs(paces[0] / paces[1] - 1) > PACE:
        yield f"S1 says {paces[0]:.1f} letters a second, S2 {paces[1]:.1f}"


def levels(sounds: list[np.ndarray]) -> Iterator[float]:
    """LUFS of int16 sounds at 16 kHz, a piece of at least MEASURED seconds after the other, and of what is left.

    In pieces, as `loudness` takes a hundred bytes a sample.
    """
    waiting: list[np.ndarray] = []
    for number, sound in enumerate(sounds, 1):
        waiting.append(sound)
        if number == len(sounds) or sum(map(len, waiting)) >= MEASURED * 16_000:
            yield loudness((np.concatenate(waiting) / 32768).astype(np.float32), 16_000)
            waiting = []


def of_codes(folder: Path) -> Iterator[str]:
    """Faults of a folder that corpus.py wrote."""
    frames = [0, 0]
    for path in corpus.shards(folder):
        speakers, lengths = corpus.lengths_of(path)
        for speaker in (0, 1):
            frames[speaker] += int(lengths[speakers == speaker].sum())
    hours = sum(frames) / corpus.FRAME_RATE / 3600
    if hours < HOURS:
        yield f"{hours:.1f} hours, not {HOURS:.0f}"
    if abs(frames[0] - frames[1]) > SHARE * sum(frames):
        yield f"S1 has {frames[0]} frames, S2 {frames[1]}"


def of_checkpoint(folder: Path) -> Iterator[str]:
    """Faults of a folder that export.py wrote."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    if size > MEGABYTES:
        yield f"{size:.1f} MB, more than {MEGABYTES:.0f}"


def of_words(path: Path) -> Iterator[str]:
    """Faults of what judge.py printed of our model, its longest list of sentences."""
    judged = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    last = max(judged, key=lambda line: int(line["words"]))
    if last["wer"] > WRONG:
        yield f"{last['wer']} % of the words are heard wrong, more than {WRONG:.0f}"
    if abs(last["S1"] - last["S2"]) > APART:
        yield f"S1 {last['S1']} % and S2 {last['S2']} % are more than {APART:.0f} points apart"


def of_silence(path: Path) -> Iterator[str]:
    """Faults of what silence.py printed."""
    found = json.loads(path.read_text(encoding="utf-8"))
    if found["line"] > SILENT_DB:
        yield f"a line of {found['line']} dB at {found['hertz']:.0f} Hz in silence, more than {SILENT_DB:.0f}"
    if found["constant"] > CONSTANT_DB:
        yield f"a constant of {found['constant']} dB in silence, more than {CONSTANT_DB:.0f}"
    for speaker, step in enumerate(found["borders"], 1):
        if step > STEP:
            yield f"S{speaker}'s steps at the borders of frames are {step} times those around them, more than {STEP}"


GATES: dict[str, Callable[[Path], Iterator[str]]] = {
    "texts": of_texts,
    "speech": of_speech,
    "codes": of_codes,
    "checkpoint": of_checkpoint,
    "words": of_words,
    "silence": of_silence,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=GATES)
    parser.add_argument("path", type=Path)
    given = parser.parse_args()
    faults = list(GATES[given.stage](given.path))
    for fault in faults:
        print(f"gate {given.stage}: {fault}", file=sys.stderr)
    if not faults:
        print(f"gate {given.stage}: passed")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
