"""How natural a checkpoint sounds and how like a clip, by two nets that listen where no people do.

    score.py OLD NEW            checkpoint folders: each one's figures, and how often the last one is preferred
    score.py NEW --wav FOLDER   keeps what was said

Naturalness is DNSMOS (P.835, 1 to 5) of the sentences of test-20.txt, each in both voices. Likeness is the cosine
between what Resemblyzer hears in a clip of tests/clips and in sentences that were said in a voice made of it; beside it
stands the same for the clip and Flite's own sentences in that voice, and for the clip and the other clips.

`pip install speechmos onnxruntime librosa webrtcvad-wheels` and `pip install --no-deps Resemblyzer` bring both with
their weights.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from resemblyzer import VoiceEncoder
from speechmos import dnsmos

from dia2.generate import Dia2, GenerationConfig

HERE = Path(__file__).parent
CLIPS = HERE.parents[1] / "tests" / "clips"
VOICES = ("flite_slt", "flite_rms", "flite_awb")  # two that were taught, and one that was not
SPOKEN_IN_A_VOICE = 4
RATE = 16_000  # Hz, of both listeners
Sound = NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", type=Path)
    parser.add_argument("--wav", type=Path, help="a folder for what is said")
    given = parser.parse_args()
    texts = (HERE / "test-20.txt").read_text(encoding="utf-8").splitlines()
    listener, liked = VoiceEncoder("cpu", verbose=False), []
    for folder in given.checkpoints:
        keep = given.wav / folder.name if given.wav else None
        scores = naturalness(Dia2.from_repo(folder, device="cpu"), texts, keep)
        liked.append(scores["overall"])
        means = {name: round(float(np.mean(values)), 3) for name, values in scores.items()}
        likenesses = likeness(Dia2.from_repo(folder, device="cpu"), texts[:SPOKEN_IN_A_VOICE], listener, keep)
        print(json.dumps({"checkpoint": str(folder), "naturalness": means, "likeness": likenesses}), flush=True)
    preferred = [float(np.mean(np.greater(liked[-1], other))) for other in liked[:-1]]
    print(json.dumps({"between two clips": between_clips(listener), "the last is preferred": preferred}))


def naturalness(dia: Dia2, texts: list[str], keep: Path | None) -> dict[str, list[float]]:
    """DNSMOS of each text in both voices: of the speech, of the background and overall."""
    scores: dict[str, list[float]] = {"speech": [], "background": [], "overall": []}
    for seed, (speaker, text) in enumerate((speaker, text) for text in texts for speaker in (1, 2)):
        heard = dnsmos.run(said(dia, f"[S{speaker}] {text}", seed, keep), RATE, return_df=False)
        for name, key in zip(scores, ("sig_mos", "bak_mos", "ovrl_mos"), strict=True):
            scores[name].append(float(heard[key]))
    return scores


def likeness(dia: Dia2, texts: list[str], listener: VoiceEncoder, keep: Path | None) -> dict[str, float]:
    """How like each clip the sentences are that are said in a voice made of it."""
    found = {}
    for name in VOICES:
        clip = embedding(listener, sound_of(CLIPS / f"{name}.flac"))
        heard = [
            embedding(listener, said(dia, f"[S1] {text}", seed, keep, CLIPS / f"{name}.flac"))
            for seed, text in enumerate(texts)
        ]
        found[name] = round(float(np.mean([clip @ each for each in heard])), 3)
    return found


def between_clips(listener: VoiceEncoder) -> float:
    """The likeness of two different people."""
    clips = [embedding(listener, sound_of(CLIPS / f"{name}.flac")) for name in VOICES]
    return round(float(np.mean([one @ other for n, one in enumerate(clips) for other in clips[:n]])), 3)


def said(dia: Dia2, text: str, seed: int, keep: Path | None, clip: Path | None = None) -> Sound:
    """A text as the product draws it, in 16 kHz; in the voice of a clip, without the clip itself."""
    config = replace(GenerationConfig(initial_padding=0), seed=seed)
    prefix = {} if clip is None else {"prefix_speaker_1": str(clip), "prefix_speaker_2": str(clip)}
    result = dia.generate(text, config=config, **prefix)
    sound = soxr.resample(result.waveform.numpy(), result.sample_rate, RATE).astype(np.float32)
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        soundfile.write(keep / f"{clip.stem if clip else 'own'}-{seed}-{text[1:3]}.wav", sound, RATE)
    return np.clip(sound, -1, 1)


def sound_of(path: Path) -> Sound:
    """A file in 16 kHz."""
    sound, rate = soundfile.read(path, dtype="float32")
    return soxr.resample(sound, rate, RATE).astype(np.float32)


def embedding(listener: VoiceEncoder, sound: Sound) -> Sound:
    """What makes the voice of a sound, a vector of length 1."""
    return np.asarray(listener.embed_utterance(sound / max(1e-4, float(np.abs(sound).max()))), np.float32)


if __name__ == "__main__":
    main()
