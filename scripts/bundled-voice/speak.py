"""Has the voices read the texts: `speak.py TEXTS FOLDER`, shards of so many utterances; those that are there are kept.

A shard is an .npz: `sound` int16 at 16 kHz, all utterances end to end; `ends` their ends in it; `about` JSON, a list of
[speaker, text, [[start, end] of each word, in seconds]]. The silence around an utterance is cut to what `PAD` says.

Speakers 0 and 1 are [S1] and [S2], at one pace and one level. Some utterances of each shard are of a guest, another
voice in every shard (speaker 2 and up): callers and voices from clips sound like nobody the model knows.
"""

import argparse
import json
import math
import multiprocessing
import random
import re
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from flite import RATE, VOICES, Flite

PAD = (0.05, 0.15)  # seconds kept before the first word and after the last
STRETCH = (1.0, 1.25)  # slower than the voice's own pace: a word of n tokens takes n + 1 frames at least
# Measured on 120 utterances: how much longer rms takes for a text, and what each lacks to -18 LUFS.
PACE = (1.12, 1.0, 1.11)
GAIN_DB = (-1.75, 3.75, 2.75)
GUESTS = 0.12  # of utterances
PITCH = (0.82, 1.25)  # a guest's, times that of the voice it is made of
TOO_ALIKE = 0.06  # a guest's pitch is at least so far from 1
SHARD = 500

_LETTER = re.compile(r"[A-Z][,.?!]*|zero|oh|" + "|".join("one two three four five six seven eight nine ten".split()))

_flite: Flite | None = None


class Part(NamedTuple):
    """Who speaks: a voice of VOICES, and how much higher than that it sounds."""

    speaker: int
    voice: int
    pitch: float = 1.0


def guest(shard: int) -> Part:
    """The guest of a shard: always the same one."""
    dice = random.Random(f"guest {shard}")
    pitch = 1.0
    while abs(math.log(pitch)) < TOO_ALIKE:
        pitch = math.exp(dice.uniform(*map(math.log, PITCH)))
    return Part(2 + shard, dice.randrange(len(VOICES)), pitch)


def respelt(text: str) -> str:
    """For Flite, which reads the letter A as the article within sentences, and "hmm" as three letters."""
    words = text.split()
    found = []
    for number, word in enumerate(words):
        begins = number == 0 or words[number - 1][-1] in ".?!"
        is_letter = not begins or _LETTER.fullmatch(" ".join(words[number + 1 : number + 2]))
        if re.fullmatch(r"A[,.?!]*", word) and is_letter:
            word = "ay" + word[1:]
        found.append(re.sub(r"(?i)\bh?mm+\b", "hum", word))
    return " ".join(found)


def higher(sound: np.ndarray, pitch: float) -> np.ndarray:
    """The same sound played so much faster, by its spectrum."""
    size = max(1, round(len(sound) / pitch))
    spectrum = np.fft.rfft(sound.astype(np.float64))[: size // 2 + 1]
    padded = np.zeros(size // 2 + 1, complex)
    padded[: len(spectrum)] = spectrum
    return np.fft.irfft(padded, size) * (size / len(sound))


def read(voice: int, text: str, stretch: float, pitch: float = 1.0) -> tuple[np.ndarray, list[list[float]]]:
    """An utterance with its silence trimmed, at the level of all, and the times of its words."""
    global _flite
    _flite = _flite or Flite()
    sound, times = _flite.speak(voice, respelt(text), stretch * PACE[voice] * pitch)
    first = max(0.0, times[0][0] - PAD[0])
    last = times[-1][1] + PAD[1]
    loud = sound[round(first * RATE) : round(last * RATE)] * 10 ** (GAIN_DB[voice] / 20)
    if pitch != 1:
        loud = higher(loud, pitch)
    levelled = np.clip(np.round(loud), -32768, 32767).astype(np.int16)
    return levelled, [[round((start - first) / pitch, 3), round((end - first) / pitch, 3)] for start, end in times]


def shard_of(number: int, texts: list[str]) -> tuple[list[np.ndarray], list[tuple[int, str, list[list[float]]]]]:
    """Reads one shard's texts: sounds, and (speaker, text, times) of each."""
    dice, visitor = random.Random(number), guest(number)
    sounds, about = [], []
    for text in texts:
        speaker = dice.randint(0, 1)
        part = visitor if dice.random() < GUESTS else Part(speaker, speaker)
        try:
            sound, words = read(part.voice, text, dice.uniform(*STRETCH), part.pitch)
        except ValueError:  # Flite reads it in other pieces
            continue
        sounds.append(sound)
        about.append((part.speaker, text, words))
    return sounds, about


class Job(NamedTuple):
    """A shard that is to be made."""

    path: Path
    number: int
    texts: list[str]


def jobs(texts: Path, folder: Path, size: int) -> list[Job]:
    """The shards that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = texts.read_text(encoding="utf-8").splitlines()
    found = [Job(folder / f"{n // size:04}.npz", n // size, lines[n : n + size]) for n in range(0, len(lines), size)]
    return [job for job in found if not job.path.exists()]


def work(make: Callable[[Job], float], waiting: list[Job], processes: int, stop: Callable[[float], bool]) -> None:
    """Makes shards until `stop`, which is told the hours made, or SIGTERM says so; those begun are finished."""
    ended = False

    def end(*_: object) -> None:
        nonlocal ended
        ended = True

    before = signal.signal(signal.SIGTERM, end)
    hours = 0.0
    try:
        for job, made in _made(make, waiting, processes):
            hours += made
            print(f"{job.path.name}: {60 * made:.1f} minutes, {hours:.2f} hours", flush=True)
            if ended or stop(hours):
                return
    finally:
        signal.signal(signal.SIGTERM, before)


def _made(make: Callable[[Job], float], waiting: list[Job], processes: int) -> Iterator[tuple[Job, float]]:
    """Each job once it is done. No job is begun ahead, so that ending waits for those that are running alone."""
    if processes == 1:
        yield from ((job, make(job)) for job in waiting)
        return
    # Not forked: what makes codes has used threads before.
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        left = iter(waiting)
        running = {pool.submit(make, job): job for job in islice(left, processes)}
        while running:
            done = next(as_completed(running))
            job = running.pop(done)
            yield job, done.result()
            running |= {pool.submit(make, job): job for job in islice(left, 1)}


def write_sound(job: Job) -> float:
    """Writes a shard; returns its hours."""
    sounds, about = shard_of(job.number, job.texts)
    partial = job.path.with_suffix(".part.npz")
    np.savez(partial, sound=np.concatenate(sounds), ends=np.cumsum([len(s) for s in sounds]), about=json.dumps(about))
    partial.rename(job.path)
    return sum(len(sound) for sound in sounds) / RATE / 3600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--shard", type=int, default=SHARD, help="utterances in a shard")
    parser.add_argument("--hours", type=float, default=math.inf, help="of speech in the folder, at most")
    given = parser.parse_args()
    there = sum(len(np.load(path)["sound"]) for path in given.folder.glob("[0-9]*[0-9].npz")) / RATE / 3600
    if there < given.hours:
        work(
            write_sound,
            jobs(given.texts, given.folder, given.shard),
            given.processes,
            lambda hours: there + hours >= given.hours,
        )


if __name__ == "__main__":
    main()
