"""A checkpoint's tokenizer: text -> ids of the model's text vocabulary.

It is read by the `tokenizers` library alone where the checkpoint has a tokenizer.json, because importing transformers
takes seconds. Files around it (tokenizer_config.json and others) may add tokens and name the first one.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as TokenizerBackend

from dia2.checkpoint.sources import Source
from dia2.errors import CheckpointError, ScriptError, first_line, shown
from dia2.strict_json import read_object

SPEAKER_TAGS = ("[S1]", "[S2]")
_TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_BPE_PREFIX = re.compile(rb'"type"\s*:\s*"BPE"[^{}\[\]]*"continuing_subword_prefix"\s*:\s*"[^"]')
_SLOW_TOKENIZER_FILES = ("vocab.json", "merges.txt")  # what a tokenizer without tokenizer.json is made from


# ---- The tokenizer ----


class LoadedTokenizer:
    """Text -> ids, without special tokens around them.

    bos: the main text token of column 0; 1 when the tokenizer names none, or names 0. speakers: ids of [S1] and [S2].
    Raises CheckpointError for a tokenizer without the two speakers, or with ids beyond the model's text vocabulary.
    """

    def __init__(self, backend: TokenizerBackend, bos: int | None, vocabulary: int, name: str) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self.bos = bos or 1
        self.speakers = self._speakers(name)
        largest = max(backend.get_vocab(with_added_tokens=True).values(), default=0)
        if largest >= vocabulary:
            raise CheckpointError(f"tokenizer {name} has ids up to {largest}, the model only {vocabulary} text ids")

    def _speakers(self, name: str) -> tuple[int, int]:
        first, second = (self._backend.token_to_id(tag) for tag in SPEAKER_TAGS)
        if first is None or second is None:
            missing = [tag for tag, token in zip(SPEAKER_TAGS, (first, second), strict=True) if token is None]
            raise CheckpointError(f"tokenizer {name} has no {' and no '.join(missing)}: not a Dia2 tokenizer")
        return first, second

    def encode(self, text: str) -> list[int]:
        """The ids of a text. Raises ScriptError for half of a character, which is no UTF-8."""
        try:
            ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        except TypeError:  # how the library says that a text cannot be UTF-8
            raise ScriptError(f"the text holds half of a character (a lone surrogate): {shown(text)}") from None
        return ids


def load_tokenizer(source: Source, vocabulary: int) -> LoadedTokenizer:
    """Reads tokenizer.json, or, when there is none, vocab.json and merges.txt through transformers.

    vocabulary: how many text ids the model has. A test holds both ways to the same ids. Raises CheckpointError.
    """
    path = source.find("tokenizer.json")
    side = {name: found for name in _TOKENIZER_FILES if (found := source.find(name)) is not None}
    if path is None:
        return _load_slow_tokenizer(source, vocabulary)
    backend = _load_backend(path)
    settings = {name: read_object(found) for name, found in side.items()}
    config = settings.get("tokenizer_config.json", {})
    try:
        _add_tokens(backend, config.get("added_tokens_decoder", {}), settings.get("added_tokens.json", {}))
    except (AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(f"tokenizer {source.name}: its added tokens are damaged: {first_line(error)}") from None
    bos = _token_text(config.get("bos_token") or settings.get("special_tokens_map.json", {}).get("bos_token"))
    return LoadedTokenizer(backend, backend.token_to_id(bos) if bos else None, vocabulary, source.name)


def _load_backend(path: Path) -> TokenizerBackend:
    # The library panics, and prints a backtrace, at merges that do not begin with such a prefix.
    if _BPE_PREFIX.search(path.read_bytes()):
        raise CheckpointError(f"{path}: its merges have a continuing_subword_prefix, which no Dia2 tokenizer has")
    try:
        return TokenizerBackend.from_file(str(path))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the library raises bare Exception, and after a panic less than that
        raise CheckpointError(f"{path}: not a tokenizer: {first_line(error)}") from None


def _token_text(token: object) -> str | None:
    """The text of a special token, which files write as a string, or as an object with its content."""
    text = token.get("content") if isinstance(token, Mapping) else token
    return text if isinstance(text, str) else None


def _add_tokens(backend: TokenizerBackend, by_id: Mapping[str, Any], by_text: Mapping[str, int]) -> None:
    """Adds, in the order of their ids, the tokens that only the older files beside tokenizer.json know."""
    tokens = {int(number): (token, True) for number, token in by_id.items()}
    tokens |= {number: ({"content": text}, False) for text, number in by_text.items() if number not in tokens}
    for _, (token, special) in sorted(tokens.items()):
        text = _token_text(token)
        if text is not None and backend.token_to_id(text) is None:
            flags = {k: bool(token.get(k, False)) for k in ("single_word", "lstrip", "rstrip", "normalized")}
            added = AddedToken(text, special=bool(token.get("special", special)), **flags)
            backend.add_tokens([added])


def _load_slow_tokenizer(source: Source, vocabulary: int) -> LoadedTokenizer:
    if any(source.find(name) is None for name in _SLOW_TOKENIZER_FILES):
        source.need("tokenizer.json")  # raises, and knows why
    folder = source.need("vocab.json").parent
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False)
        backend, bos = loaded.backend_tokenizer, loaded.bos_token_id
    except Exception as error:  # whatever transformers meets in the files
        raise CheckpointError(f"tokenizer {source.name} cannot be loaded: {first_line(error)}") from None
    return LoadedTokenizer(backend, bos, vocabulary, source.name)
