"""Learns the voice's tokenizer from the texts: `tokenizer.py TEXTS FOLDER`.

A byte-level BPE over single words, as Dia2 encodes them. A word of n tokens takes n + 1 steps of 80 ms at least, so
words should be few tokens: case and accents are dropped, and the merges are learnt from what the voice is trained on.
"""

import argparse
import json
import random
import re
from collections import Counter
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

VOCABULARY = 2500  # ids below the speakers' tags
# At the ids of `random_models`: BOS 1, NEW_WORD 2, PAD 3, ZERO 7.
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<pad>", *[f"<reserved_{i}>" for i in range(3)], "<zero>"]
TAGS = ("[S1]", "[S2]")
# Digits and signs stand alone; an apostrophe inside a word belongs to it.
ALONE = Regex(r"\d|_|(?<!\w)'|'(?!\w)|[^\w\s']")
# Characters that no text to learn from has: those that sound like one that is there become it, the rest goes away.
SOUND_ALIKE = {
    "[\u2018\u2019\u201b\u02bc\u2032`]": "'",
    "[\u2010-\u2015\u2044\u2212/_]": "-",
    "[;:]": ",",
    "\u00df": "ss",
    "\u00e6": "ae",
    "\u0153": "oe",
    "\u00f8": "o",
    "\u0142": "l",
    "\u0131": "i",
}
UNKNOWN = Regex("[^a-z0-9 ,.?!'$%-]")
LONG_RUN = Regex("(?<=[,.?!]{4})[,.?!]+")


def normalizer() -> normalizers.Normalizer:
    """Case, accents and characters that the voice was never taught."""
    alike = [normalizers.Replace(Regex(pattern), by) for pattern, by in SOUND_ALIKE.items()]
    return normalizers.Sequence(
        [
            *(normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase(), *alike),
            *(normalizers.Replace(UNKNOWN, ""), normalizers.Replace(LONG_RUN, "")),
        ]
    )


def learn(lines: list[str], vocabulary: int = VOCABULARY) -> Tokenizer:
    """A tokenizer for these texts' words."""
    built = Tokenizer(BPE())
    built.normalizer = normalizer()
    built.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(ALONE, "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    built.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    built.train_from_iterator((word for line in lines for word in line.split()), trainer)
    # With rstrip "[S1] hello" is the tag and what "hello" is alone.
    built.add_tokens([AddedToken(tag, normalized=False, special=True, rstrip=True) for tag in TAGS])
    return built


def other_tokens(built: Tokenizer, word: str, dice: random.Random, count: int = 3) -> list[list[int]]:
    """Up to `count` other ways to write a word in tokens: cut between two letters, and each half encoded.

    A model that only ever sees "appointment" as one token learns nothing of what "appoint" and "ment" sound like.
    """
    own = built.encode(word, add_special_tokens=False).ids
    letters = re.match("[A-Za-z]*", word)[0]
    cuts = list(range(2, len(letters) - 1))
    found: dict[tuple[int, ...], None] = {}
    for at in dice.sample(cuts, min(count, len(cuts))):
        halves = [built.encode(part, add_special_tokens=False).ids for part in (word[:at], word[at:])]
        found[tuple(halves[0] + halves[1])] = None
    return [list(tokens) for tokens in found if list(tokens) != own]


def save(built: Tokenizer, folder: Path) -> None:
    """tokenizer.json and tokenizer_config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    built.save(str(folder / "tokenizer.json"))
    config = {
        "backend": "tokenizers",
        "bos_token": SPECIAL[1],
        "eos_token": SPECIAL[2],
        "pad_token": SPECIAL[3],
        "unk_token": SPECIAL[0],
        "tokenizer_class": "TokenizersBackend",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("texts", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--vocabulary", type=int, default=VOCABULARY)
    given = parser.parse_args()
    lines = given.texts.read_text(encoding="utf-8").splitlines()
    built = learn(lines, given.vocabulary)
    save(built, given.folder)
    words = Counter(word for line in lines for word in line.split())
    tokens = sum(count * len(built.encode(word).ids) for word, count in words.items())
    print(f"{built.get_vocab_size()} ids, {tokens / words.total():.2f} tokens a word over {words.total()} words")


if __name__ == "__main__":
    main()
