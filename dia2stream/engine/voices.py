"""Voices from files, for whoever speaks with them: what is wrong with one is told before a model is loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from dia2.checkpoint.load import Checkpoint
from dia2.errors import ScriptError
from dia2.voice.voice import Prefix, Voice


def read_voices(given: Sequence[str]) -> dict[str, Voice]:
    """The voices of `--voice` values, PATH or NAME=PATH, by name. Raises ScriptError."""
    voices: dict[str, Voice] = {}
    for value in given:
        name, separator, path = value.partition("=")
        if not separator or "/" in name:
            name, path = "", value
        voice = Voice.load(path)
        name = name or voice.name
        if name in voices:
            raise ScriptError(f"two voices are called {name!r}: give one another name, as other={path}")
        voices[name] = replace(voice, name=name)
    return voices


def prefixes(voices: Mapping[str, Voice], checkpoint: Checkpoint) -> dict[str, Prefix]:
    """What conversations in these voices start from, with this model. Raises ScriptError for one that does not fit."""
    config = checkpoint.config
    for voice in voices.values():
        voice.check(config.data.codebooks, checkpoint.codec.config.codebook_size, config.runtime.max_context_steps)
    return {name: voice.prefix(checkpoint.tokenizer) for name, voice in voices.items()}
