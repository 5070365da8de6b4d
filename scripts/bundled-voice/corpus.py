"""Speech as codes alone: `corpus.py TEXTS CODEC CODES`, read, encoded and packed shard by shard, in parts that resume.

The sound is not kept. A frame takes 9 bytes (8 codes of 9 bits), so 100 hours of speech are some 45 MB, texts and times
of words included. Callers and clips come to the product through the codec's encoder, which hears less exactly than the
analysis: a model that knows the analysis alone takes voices from clips less well the longer it learns. So what guests
say, and a share of the rest, is there again as the encoder hears it. A shard is an .npz:

    codes      uint8 [frames * 9], packed: eight codes of 9 bits a frame
    ends       uint32, the end of each utterance, in frames
    speakers   uint16; 0 and 1 are [S1] and [S2], from 2 on guests; and HEARD
    texts      uint8, UTF-8, a line each
    times      uint16 [words, 2], in 10 ms: from the end of the word before to its start, and how long it lasts
"""

import argparse
import math
import os
import random
import time
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import speak

BITS = 9
BOOKS = 8
TICK = 0.01  # seconds
HEARD = 1 << 15  # is added to the speaker of codes that are the encoder's
HEARD_SHARE = 0.04  # of what [S1] and [S2] say; of guests all
FRAME_RATE = 12.5
FRAME = round(speak.RATE / FRAME_RATE)  # samples
SECONDS_A_BATCH = 60.0

Times = list[tuple[float, float]]


class Spoken(NamedTuple):
    """An utterance: codes uint16 [8, frames], and start and end of each word of the text, in seconds."""

    speaker: int
    text: str
    times: Times
    codes: np.ndarray


def pack(codes: np.ndarray) -> np.ndarray:
    """Codes below 512, [8, n] -> uint8 [9 * n], frame by frame."""
    if codes.size and codes.max() >= 1 << BITS:
        raise ValueError(f"a code of {codes.max()} does not fit into {BITS} bits")
    bits = codes.T.astype(np.uint16)[..., None] >> np.arange(BITS - 1, -1, -1, dtype=np.uint16) & 1
    return np.packbits(bits.astype(np.uint8).reshape(-1))


def unpack(packed: np.ndarray) -> np.ndarray:
    """What `pack` was given, uint16 [8, n]."""
    bits = np.unpackbits(packed).reshape(-1, BOOKS, BITS).astype(np.uint16)
    return np.ascontiguousarray((bits << np.arange(BITS - 1, -1, -1, dtype=np.uint16)).sum(-1, dtype=np.uint16).T)


def write_shard(path: Path, utterances: list[Spoken]) -> None:
    """The file is there whole or not at all."""
    times = [pair for utterance in utterances for pair in _gaps(utterance.times)]
    partial = path.with_name(f".{path.name}.{os.getpid()}.npz")
    np.savez_compressed(
        partial,
        codes=pack(np.concatenate([utterance.codes for utterance in utterances], 1)),
        ends=np.cumsum([utterance.codes.shape[1] for utterance in utterances]).astype("<u4"),
        speakers=np.array([utterance.speaker for utterance in utterances], "<u2"),
        texts=np.frombuffer("\n".join(utterance.text for utterance in utterances).encode(), np.uint8),
        times=np.array(times, "<u2"),
    )
    partial.rename(path)


def read_shard(path: Path) -> Iterator[Spoken]:
    """What `write_shard` was given; times to TICK."""
    shard = np.load(path)
    codes, times, begin = unpack(shard["codes"]), iter(shard["times"].tolist()), 0
    texts = shard["texts"].tobytes().decode().split("\n")
    for end, speaker, text in zip(shard["ends"].tolist(), shard["speakers"].tolist(), texts, strict=True):
        gaps = [next(times) for _ in text.split()]
        yield Spoken(speaker, text, _times(gaps), codes[:, begin:end])
        begin = end


def shards(folder: Path) -> list[Path]:
    """The shards that are there, in order."""
    return sorted(folder.glob("[0-9]*.npz"))


def hours(folder: Path) -> float:
    """Of speech in a folder; what is there twice counts once."""
    frames = 0
    for path in shards(folder):
        speakers, lengths = lengths_of(path)
        frames += int(lengths[speakers < HEARD].sum())
    return frames / FRAME_RATE / 3600


def lengths_of(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Of each utterance of a shard: the speaker, as the file has it, and how many frames it has."""
    shard = np.load(path)
    return shard["speakers"], np.diff(shard["ends"].astype(np.int64), prepend=0)


def _gaps(times: Times) -> list[tuple[int, int]]:
    """Rounded so that no error adds up."""
    found, at = [], 0
    for start, end in times:
        first, last = max(at, round(start / TICK)), round(end / TICK)
        last = max(first, last)
        found.append((first - at, last - first))
        at = last
    return found


def _times(gaps: list[list[int]]) -> Times:
    found, at = [], 0
    for gap, length in gaps:
        found.append((round((at + gap) * TICK, 2), round((at + gap + length) * TICK, 2)))
        at += gap + length
    return found


def make_shard(job: speak.Job, encoders: "Encoders") -> float:
    """Reads, encodes and writes one shard; returns its hours."""
    sounds, about = speak.shard_of(job.number, job.texts)
    said = [Spoken(*each, codes) for each, codes in zip(about, encoders.analysed(sounds), strict=True)]
    dice = random.Random(job.number)
    again = [n for n, each in enumerate(said) if each.speaker > 1 or dice.random() < HEARD_SHARE]
    heard = [
        said[n]._replace(speaker=HEARD + said[n].speaker, codes=codes)
        for n, codes in zip(again, encoders.heard([sounds[n] for n in again]), strict=True)
    ]
    write_shard(job.path, said + heard)
    return sum(each.codes.shape[1] for each in said) / FRAME_RATE / 3600


class Encoders:
    """int16 sounds at 16 kHz -> codes uint16 [8, frames] each: what the voice learns to say, and what it hears."""

    def __init__(self, folder: Path, device: str) -> None:
        """folder: of a codec whose encoder has learnt."""
        import codec
        from spectra import Analysis

        net = codec.read(folder).to(device)
        analysis = codec.Encoder(net, Analysis.read(folder / codec.ANALYSIS, device))
        self.analysed = partial(codec.encode, analysis, seconds_a_batch=SECONDS_A_BATCH, device=device)
        self.heard = partial(codec.encode, codec.heard(net), seconds_a_batch=SECONDS_A_BATCH, device=device)


class _Make:
    """`make_shard` for a codec, as other processes can be handed it: each has encoders of its own."""

    def __init__(self, codec_folder: Path, device: str) -> None:
        self.codec = codec_folder, device

    def __call__(self, job: speak.Job) -> float:
        import torch

        torch.set_num_threads(1)
        with torch.no_grad():
            return make_shard(job, _encoders_of(*self.codec))


_encoders_of = lru_cache(Encoders)


def write_silence(encoders: Encoders, folder: Path) -> None:
    """silence.npy, codes of nobody speaking, uint16 [8, frames]."""
    quiet = encoders.analysed([np.zeros(40 * FRAME, np.int16)])[0]
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "silence.npy", quiet[:, 8:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path)
    parser.add_argument("codec", type=Path, help="a folder that `codec.py place` and `encoder` wrote")
    parser.add_argument("codes", type=Path)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--shard", type=int, default=speak.SHARD, help="utterances in a shard")
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first shard: those before are made elsewhere"
    )
    parser.add_argument("--hours", type=float, default=math.inf, help="of speech in the folder, at most")
    parser.add_argument("--until", type=float, default=math.inf, help="seconds since 1970: no shard is begun later")
    parser.add_argument(
        "--device", default="cpu", help="of the encoders; a core hears 18 times as fast as people speak"
    )
    given = parser.parse_args()
    write_silence(_encoders_of(given.codec, given.device), given.codes)
    there = hours(given.codes)
    print(f"{there:.2f} hours are there", flush=True)
    if there < given.hours:
        waiting = [job for job in speak.jobs(given.texts, given.codes, given.shard) if job.number >= given.first]
        stop = lambda made: there + made >= given.hours or time.time() >= given.until  # noqa: E731
        speak.work(_Make(given.codec, given.device), waiting, given.processes, stop)


if __name__ == "__main__":
    main()
