"""What a conversation is spoken with: the values of a start command, and the server's own where it gives none."""

import secrets
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

from dia2.model.sampling import SamplingConfig, SamplingDefaults, SlotSettings
from dia2.voice.voice import Prefix
from dia2stream.errors import CommandError
from dia2stream.options import SpeechOptions
from dia2stream.protocol.fields import MAX_SEED, shown
from dia2stream.protocol.messages import Start


def find_voice(voices: Mapping[str, Prefix], name: str | None) -> Prefix | None:
    """The voice of a name; without a name the first one, or None. Raises CommandError for an unknown one."""
    if name is None:
        return next(iter(voices.values()), None)
    if name not in voices:
        known = ", ".join(voices) or "none is loaded"
        raise CommandError("bad_field", f"voice {shown(name)} is not known: {known}", field="voice")
    return voices[name]


def choose_seed(command: Start, defaults: SpeechOptions) -> int:
    """The seed that was asked for, or a new one."""
    given = defaults.seed if command.seed is None else command.seed
    return secrets.randbelow(MAX_SEED + 1) if given is None else given


def choose_padding(command: Start, defaults: SpeechOptions) -> int:
    """Frames before the first word."""
    return defaults.initial_padding if command.initial_padding is None else command.initial_padding


def settled(options: SpeechOptions, sampling: SamplingDefaults) -> SpeechOptions:
    """The options, with the checkpoint's defaults for how to sample where they leave it open."""
    open_ones = {name: value for name, value in asdict(sampling).items() if getattr(options, name) is None}
    return replace(options, **open_ones)


def sampling_of(options: SpeechOptions) -> dict[str, float]:
    """What settled options say of sampling."""
    return {field.name: getattr(options, field.name) for field in fields(SamplingDefaults)}


def slot_settings(command: Start, defaults: SpeechOptions) -> SlotSettings:
    """What the model's steps of the conversation are drawn with. defaults: settled ones."""

    def chosen(name: str) -> Any:
        value = getattr(command, name)
        return getattr(defaults, name) if value is None else value

    return SlotSettings(
        chosen("cfg_scale"),
        chosen("cfg_filter_k"),
        SamplingConfig(chosen("text_temperature"), chosen("text_top_k")),
        SamplingConfig(chosen("audio_temperature"), chosen("audio_top_k")),
    )
