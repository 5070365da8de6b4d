"""Has the voices read the texts: `speak.py TEXTS FOLDER`, shards of so many utterances; those that are there are kept.

A shard is an .npz: `sound` int16 at 16 kHz, all utterances end to end; `ends` their ends in it; `about` JSON, a list of
[speaker, text, [[start, end] of each word, in seconds]]. The silence around an utterance is cut to what `PAD` says.
"""

import argparse
import json
import random
from multiprocessing import Pool
from pathlib import Path

import numpy as np
from flite import RATE, Flite

PAD = (0.05, 0.15)  # seconds kept before the first word and after the last
STRETCH = (1.0, 1.25)  # slower than Flite's own pace: a word of n tokens takes n + 1 frames at least

_flite: Flite | None = None


def read(voice: int, text: str, stretch: float) -> tuple[np.ndarray, list[list[float]]]:
    """An utterance with its silence trimmed, and the times of its words."""
    global _flite
    _flite = _flite or Flite()
    sound, times = _flite.speak(voice, text, stretch)
    first = max(0.0, times[0][0] - PAD[0])
    last = times[-1][1] + PAD[1]
    sound = sound[round(first * RATE) : round(last * RATE)]
    return sound, [[round(start - first, 3), round(end - first, 3)] for start, end in times]


def make_shard(job: tuple[Path, int, list[str]]) -> str:
    """Reads one shard's texts and writes it."""
    path, seed, texts = job
    dice = random.Random(seed)
    sounds, about = [], []
    for text in texts:
        voice, stretch = dice.randint(0, 1), dice.uniform(*STRETCH)
        try:
            sound, words = read(voice, text, stretch)
        except ValueError:  # Flite reads it in other pieces
            continue
        sounds.append(sound)
        about.append([voice, text, words])
    partial = path.with_suffix(".part.npz")
    np.savez(partial, sound=np.concatenate(sounds), ends=np.cumsum([len(s) for s in sounds]), about=json.dumps(about))
    partial.rename(path)
    return f"{path.name}: {len(about)} of {len(texts)}, {sum(len(s) for s in sounds) / RATE / 60:.1f} minutes"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("texts", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--shard", type=int, default=1000, help="utterances in a shard")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    lines = given.texts.read_text(encoding="utf-8").splitlines()
    size = given.shard
    shards = [(given.folder / f"{n // size:04}.npz", n, lines[n : n + size]) for n in range(0, len(lines), size)]
    with Pool(given.processes) as pool:
        for line in pool.imap(make_shard, [shard for shard in shards if not shard[0].exists()]):
            print(line, flush=True)


if __name__ == "__main__":
    main()
