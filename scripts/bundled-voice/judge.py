"""What a listener understands: word error rates by Whisper tiny.en, the teacher's beside ours.

    judge.py teacher                          Flite itself
    judge.py codec CODEC                      the same sound, encoded and decoded
    judge.py model FOLDER                     our model, from text, as the product would draw it
    judge.py model FOLDER --audio-temperature 0.5 --seeds 0 1 2

on test-20.txt and test-100.txt, both voices (in turn). A sentence has a seed of its own; `--seeds` says each sentence
again with others. `--wav FOLDER` keeps what was heard. The listener is that of the project's tests,
`pip install 'dia2stream[asr]'`.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from dia2.model.sampling import SlotSettings

HERE = Path(__file__).parent
sys.path.append(str(HERE.parents[1] / "tests"))
from ears import Ears  # noqa: E402

LISTS = ("test-20.txt", "test-100.txt")


def teacher(_: argparse.Namespace, texts: list[str]) -> Iterator[tuple[np.ndarray, int]]:
    """Flite's own sound."""
    from speak import read

    for n, text in enumerate(texts):
        sound, _words = read(n % 2, text, 1.1)
        yield sound.astype(np.float32) / 32768, 16_000


def codec(given: argparse.Namespace, texts: list[str]) -> Iterator[tuple[np.ndarray, int]]:
    """Flite's sound through the codec."""
    import torch
    from codec import ANALYSIS, Encoder, encode, read
    from spectra import Analysis

    net = read(given.what)
    encoder = Encoder(net, Analysis.read(given.what / ANALYSIS))
    for sound, _ in teacher(given, texts):
        with torch.no_grad():
            codes = encode(encoder, [(sound * 32768).astype(np.int16)], 100.0)[0]
            made = net.decode(net.dequantize(torch.from_numpy(codes.astype(np.int64))[None]))[0]
        yield made.numpy(), 24_000


def model(given: argparse.Namespace, texts: list[str]) -> Iterator[tuple[np.ndarray, int]]:
    """Our model, a sentence a generation."""
    from dia2.generate import Dia2, GenerationConfig
    from dia2.model.sampling import SamplingConfig

    dia = Dia2.from_repo(given.what, device="cpu")
    config = GenerationConfig(
        text=SamplingConfig(given.text_temperature, given.text_top_k),
        audio=SamplingConfig(given.audio_temperature, given.audio_top_k),
        cfg_scale=given.guidance,
        initial_padding=0,
    )
    for n, text in enumerate(texts):
        result = dia.generate(f"[S{n % 2 + 1}] {text}", config=replace(config, seed=1000 * given.seed + n))
        yield result.waveform.numpy(), result.sample_rate


def main() -> None:
    given = parse()
    ears = Ears(threads=given.threads)
    for seed in given.seeds:
        given.seed = seed
        for name in given.lists:
            print(json.dumps(settings(given) | {"list": name} | judged(ears, given, name)), flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = SlotSettings()
    parser.add_argument("kind", choices=["teacher", "codec", "model"])
    parser.add_argument("what", nargs="?", type=Path)
    parser.add_argument("--text-temperature", type=float, default=usual.text.temperature)
    parser.add_argument("--text-top-k", type=int, default=usual.text.top_k)
    parser.add_argument("--audio-temperature", type=float, default=usual.audio.temperature)
    parser.add_argument("--audio-top-k", type=int, default=usual.audio.top_k)
    parser.add_argument("--guidance", type=float, default=usual.cfg_scale)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--lists", nargs="+", default=LISTS)
    parser.add_argument("--threads", type=int, default=2, help="of the listener")
    parser.add_argument("--wav", type=Path)
    parser.add_argument("--verbose", action="store_true")
    return parser.parse_args()


def settings(given: argparse.Namespace) -> dict[str, object]:
    """What is said of the sound; the temperatures count for our model alone."""
    names = ("text_temperature", "text_top_k", "audio_temperature", "audio_top_k", "guidance", "seed")
    return {"kind": given.kind} | ({name: getattr(given, name) for name in names} if given.kind == "model" else {})


def judged(ears: Ears, given: argparse.Namespace, name: str) -> dict[str, float]:
    """Word error rates of one list of sentences, in percent; wrong: words of all."""
    texts = (HERE / name).read_text().splitlines()
    make = {"teacher": teacher, "codec": codec, "model": model}[given.kind]
    seconds, begun = 0.0, time.time()
    wrong, said = [0, 0], [0, 0]  # by voice
    for n, (text, (sound, rate)) in enumerate(zip(texts, make(given, texts), strict=True)):
        seconds += len(sound) / rate
        if given.wav:
            keep(given.wav / f"{Path(name).stem}-{n:03}.wav", sound, rate)
        heard = ears.hear(sound, rate)
        bad, words = ears.errors(text, heard)
        wrong[n % 2] += bad
        said[n % 2] += words
        if given.verbose and bad:
            print(f"  {text}  ->  {heard}", flush=True)
    rates = {f"S{voice + 1}": round(100 * wrong[voice] / said[voice], 1) for voice in (0, 1)}
    total = {"wer": round(100 * sum(wrong) / sum(said), 1), **rates, "wrong": sum(wrong), "words": sum(said)}
    return total | {"seconds": round(seconds, 1), "wall": round(time.time() - begun, 1)}


def keep(file: Path, sound: np.ndarray, rate: int) -> None:
    """Writes what was heard."""
    import soundfile

    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, sound, rate)


if __name__ == "__main__":
    main()
