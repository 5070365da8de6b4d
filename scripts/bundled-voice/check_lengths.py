"""Is the end found, at any length: `check_lengths.py FOLDER [--count 200]`.

Utterances of 1 to 40 words through the model in FOLDER, by the product's defaults. What is asked of each: speech that
lasts as long as its words do, within bounds that a pause or a slow reading stays in, and is no silence.
"""

import argparse
import itertools
import random
from pathlib import Path

import torch
from texts import KNOWN, Sources, ranked_words, spoken
from wordnet import WordNet

from dia2.generate import Dia2, GenerationConfig
from dia2.model.sampling import SamplingConfig

SHORTEST, LONGEST = 0.12, 1.0  # seconds a word, and LONGEST more for the whole
QUIET = 0.01  # root mean square


def everyday(count: int) -> list[str]:
    """Sentences as they are said."""
    lines = Sources(WordNet(), ranked_words(KNOWN)).lines("everyday", random.Random(2))
    return list(filter(None, map(spoken, itertools.islice(lines, count))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    dice = random.Random(given.seed)
    words = [word for text in everyday(2000) for word in text.split()]
    dia = Dia2.from_repo(str(given.folder), device="cpu")
    audio, text = SamplingConfig(0.8, 80), SamplingConfig(0.7, 50)
    config = GenerationConfig(text=text, audio=audio, cfg_scale=3.0, cfg_filter_k=50, initial_padding=0)
    odd = []
    for number in range(given.count):
        length = 1 + number * 40 // given.count
        begin = dice.randrange(len(words) - length)
        script = " ".join(words[begin : begin + length])
        torch.manual_seed(number)
        result = dia.generate(f"[S{number % 2 + 1}] {script}", config=config)
        seconds = len(result.waveform) / result.sample_rate
        loud = result.waveform.square().mean().sqrt().item()
        said = [word for word, _ in result.timestamps]
        if not (SHORTEST * length < seconds < LONGEST * (length + 1)) or loud < QUIET or len(said) != length:
            odd.append(number)
            print(
                f"{number}: {length} words, {len(said)} of them said, {seconds:.1f} s, {loud:.3f}: {script}", flush=True
            )
    print(f"{given.count} utterances, {len(odd)} odd")


if __name__ == "__main__":
    main()
