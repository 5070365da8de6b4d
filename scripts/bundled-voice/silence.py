"""How silent a checkpoint is between words, and whether frames show in its sound: `silence.py FOLDER`.

Both voices say the sentences of test-20.txt two by two, with two seconds of silence between them. One JSON line:

line, hertz    the loudest line in the middle of the silences, in dB below a sine of full scale, and where it is
constant       what the silences have as a constant, in the same dB
borders        for each voice: how far a sample is from the one before it at the frames' borders, in proportion to its
               neighbours there (1: a border is like any other place)
worst, at      for each voice: the same for that sample of a frame which is furthest from its neighbours, and which one
               that is. Far above 1, the voice's pulses stand at the same places of each frame: their phase begins anew
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RATE, FRAME = 24_000, 1_920
TEXTS = Path(__file__).with_name("test-20.txt")
SILENCE = ' <break time="2s"/> '
BEFORE, BEHIND = 1.4, 0.3  # seconds of a silence that the word before, or the word behind, may take
WINDOW = 9_600  # samples in which a line is looked for
AROUND = 24  # samples on either side that a step is compared with
LOWEST = 20  # Hz of a line; what is slower is not heard, and counts as a constant
FLOOR = 1e-9
Sound = NDArray[np.float64]


def loudest_line(silence: Sound) -> tuple[float, float]:
    """(dB, Hz) of the loudest sine that can be heard in a silence of at least WINDOW samples."""
    lowest = LOWEST * WINDOW // RATE
    window, best = np.hanning(WINDOW), (-np.inf, 0.0)
    for start in range(0, len(silence) - WINDOW + 1, WINDOW // 2):
        piece = silence[start : start + WINDOW]
        spectrum = 2 * np.abs(np.fft.rfft((piece - piece.mean()) * window)) / window.sum()
        place = lowest + int(spectrum[lowest:].argmax())
        best = max(best, (decibels(float(spectrum[place])), place * RATE / WINDOW))
    return best


def steps_by_place(sounds: Sequence[Sound]) -> Sound:
    """How far each sample of a frame is from the one before it, on average over all frames, [FRAME]."""
    found = [np.abs(np.diff(sound))[FRAME - 1 :] for sound in sounds]  # the first is that onto frame 1
    whole = [each[: len(each) // FRAME * FRAME].reshape(-1, FRAME) for each in found]
    return np.asarray(np.concatenate(whole).mean(0))


def against_neighbours(steps: Sound) -> Sound:
    """Each sample's step in proportion to the mean of those around it, [FRAME]."""
    around = np.concatenate([steps[-AROUND:], steps, steps[:AROUND]])
    means = np.convolve(around, np.full(2 * AROUND + 1, 1 / (2 * AROUND + 1)), "valid")
    return np.asarray(steps / np.maximum(means, FLOOR))


def measured(sounds: Sequence[Sequence[Sound]], silences: Sequence[Sound]) -> dict[str, object]:
    """What `main` prints, of each voice's whole sounds and of the silences in them."""
    line, hertz = max(loudest_line(silence) for silence in silences)
    steps = [against_neighbours(steps_by_place(each)) for each in sounds]
    return {
        "line": round(line, 1),
        "hertz": hertz,
        "constant": round(max(decibels(abs(float(silence.mean()))) for silence in silences), 1),
        "borders": [round(float(each[0]), 2) for each in steps],
        "worst": [round(float(each.max()), 2) for each in steps],
        "at": [int(each.argmax()) for each in steps],
    }


def decibels(size: float) -> float:
    return 20 * float(np.log10(size + FLOOR))


def said(folder: Path, seed: int) -> tuple[tuple[list[Sound], list[Sound]], list[Sound]]:
    """Sounds of each voice, and the silences in their middle."""
    from dia2.generate import Dia2, GenerationConfig

    dia, sounds, silences = Dia2.from_repo(folder, device="cpu"), (list[Sound](), list[Sound]()), list[Sound]()
    texts = TEXTS.read_text(encoding="utf-8").splitlines()
    config = GenerationConfig(initial_padding=0, seed=seed)
    for before, behind in zip(texts[::2], texts[1::2], strict=True):
        for speaker, own in enumerate(sounds, 1):
            result = dia.generate(f"[S{speaker}] {before}{SILENCE}{behind}", config=config)
            sound, starts = result.waveform.numpy().astype(np.float64), [start for _, start in result.timestamps]
            words = len(before.split())
            first, last = starts[words - 1] + BEFORE, starts[words] - BEHIND
            own.append(sound)
            silences.append(sound[round(first * RATE) : round(last * RATE)])
    return sounds, silences


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(json.dumps(measured(*said(given.folder, given.seed))))


if __name__ == "__main__":
    main()
