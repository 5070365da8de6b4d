"""config.json <-> frozen dataclasses, strict.

A checkpoint's config.json has four blocks: `data` (vocabularies, special ids, delays), `model` (the sizes of the two
transformers), `runtime` (which depformer stage uses which weights, how long the context is) and `assets` (where the
tokenizer and the codec live). Everything the model reads is a field here; a key that is not a field is refused with
the fields that exist, because a misspelt key that falls back to its default is the hardest kind of wrong to find.
"""

import json
import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from dia2.errors import ConfigError

ACTIVATIONS = ("silu", "swish", "swiglu", "gelu", "geglu", "relu", "linear", "identity")
GATED_SILU = ("silu", "linear")

# Of what is built or looked at one by one, and not measured in memory: far more than any model has.
_MOST = 1000

# Written by the published trainer, read by nobody at inference.
_UNUSED_KEYS = frozenset({"first_word_min_start", "max_pad", "dropout"})


@dataclass(frozen=True)
class DataConfig:
    """Vocabularies and special ids; `channels` is 2 text streams plus the audio codebooks."""

    channels: int
    text_vocab_size: int
    audio_vocab_size: int
    action_vocab_size: int
    text_pad_token_id: int
    text_new_word_token_id: int
    action_pad_token_id: int
    action_new_word_token_id: int
    text_zero_token_id: int = 7
    audio_pad_token_id: int = -1  # -1 stands for its default, audio_vocab_size - 1
    audio_bos_token_id: int = -1  # -1 stands for its default, audio_vocab_size - 2
    delay_pattern: tuple[int, ...] = ()
    second_stream_ahead: int = 0
    tokenizer_path: str | None = None

    def __post_init__(self) -> None:
        if self.audio_pad_token_id == -1:
            object.__setattr__(self, "audio_pad_token_id", self.audio_vocab_size - 1)
        if self.audio_bos_token_id == -1:
            object.__setattr__(self, "audio_bos_token_id", self.audio_vocab_size - 2)

    @property
    def codebooks(self) -> int:
        """Audio codebooks a frame, C."""
        return self.channels - 2

    @property
    def delays(self) -> tuple[int, ...]:
        """Delay of each codebook in frames, [C]; an empty pattern means none is delayed."""
        return self.delay_pattern or (0,) * self.codebooks

    @property
    def audio_codes(self) -> int:
        """Codes a codebook can hold: ids below the first special one."""
        return min(self.audio_pad_token_id, self.audio_bos_token_id)


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes of the backbone."""

    n_layer: int
    n_embd: int
    n_hidden: int
    gqa_query_heads: int
    kv_heads: int
    gqa_head_dim: int
    low_rank_dim: int | None = None


@dataclass(frozen=True)
class DepformerConfig:
    """Sizes and options of the depth transformer, which has as many KV heads as query heads."""

    n_layer: int
    n_embd: int
    n_hidden: int
    gqa_query_heads: int
    kv_heads: int
    gqa_head_dim: int
    apply_rope: bool = True
    text_embedding: bool = True
    mlp_activations: tuple[str, ...] = GATED_SILU


@dataclass(frozen=True)
class LinearConfig:
    """Activations of the backbone's gated MLP."""

    mlp_activations: tuple[str, ...] = GATED_SILU


@dataclass(frozen=True)
class ModelConfig:
    """Both transformers and what they share."""

    decoder: DecoderConfig
    depformer: DepformerConfig
    linear: LinearConfig = field(default_factory=LinearConfig)
    rope_min_timescale: float = 1.0
    rope_max_timescale: float = 10000.0
    normalization_layer_epsilon: float = 1e-5


@dataclass(frozen=True)
class RuntimeConfig:
    """Which weight group each depformer stage uses ([C - 1]; empty stands for 0, 1, ..., C - 2), and the context."""

    weights_schedule: tuple[int, ...] = ()
    max_context_steps: int = 1500


@dataclass(frozen=True)
class AssetsConfig:
    """Where the tokenizer and the codec live, when the manifest does not say."""

    tokenizer: str | None = None
    mimi: str | None = None


@dataclass(frozen=True)
class Dia2Config:
    """A whole config.json."""

    data: DataConfig
    model: ModelConfig
    runtime: RuntimeConfig
    assets: AssetsConfig = field(default_factory=AssetsConfig)

    @property
    def schedule(self) -> tuple[int, ...]:
        """Weight group of every depformer stage, [C - 1]."""
        return self.runtime.weights_schedule or tuple(range(self.data.codebooks - 1))

    @classmethod
    def from_dict(cls, raw: object, source: str = "config.json") -> "Dia2Config":
        """Reads parsed JSON; raises ConfigError naming `source` and the key."""
        try:
            config: Dia2Config = _read(cls, raw, "")
            _check(config)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None
        return config

    @classmethod
    def from_file(cls, path: str | Path) -> "Dia2Config":
        """Reads config.json at `path`; raises ConfigError when it is not a Dia2 config."""
        try:
            raw = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{path}: not JSON: {error}") from None
        return cls.from_dict(raw, str(path))

    def to_dict(self) -> dict[str, Any]:
        """The JSON that `from_dict` reads back as an equal config."""
        written: dict[str, Any] = _write(self)
        return written


def _write(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return {f.name: _write(getattr(value, f.name)) for f in fields(value) if getattr(value, f.name) is not None}
    return list(value) if isinstance(value, tuple) else value


def _read(cls: Any, raw: object, where: str) -> Any:
    """Builds dataclass `cls` from a JSON object; `where` is the dotted path of the block, for messages."""
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where or 'the file'} must be a JSON object, not {type(raw).__name__}")
    known = {f.name: f for f in fields(cls)}
    unknown = sorted(set(raw) - set(known) - _UNUSED_KEYS)
    if unknown:
        raise ConfigError(f"unknown {_dotted(where, unknown[0])}; {where or 'the file'} may have {', '.join(known)}")
    missing = [n for n, f in known.items() if n not in raw and f.default is MISSING and f.default_factory is MISSING]
    if missing:
        raise ConfigError(f"{', '.join(_dotted(where, n) for n in missing)} missing")
    hints = get_type_hints(cls)
    return cls(**{name: _value(hints[name], raw[name], _dotted(where, name)) for name in known if name in raw})


def _dotted(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _value(kind: Any, raw: Any, where: str) -> Any:
    """Checks one JSON value against the field's type."""
    if get_origin(kind) in (Union, types.UnionType):
        return None if raw is None else _value(get_args(kind)[0], raw, where)
    if hasattr(kind, "__dataclass_fields__"):
        return _read(kind, {} if raw is None else raw, where)
    if get_origin(kind) is tuple:
        if not isinstance(raw, list):
            raise ConfigError(f"{where} must be a list, not {raw!r}")
        return tuple(_value(get_args(kind)[0], item, f"{where}[{i}]") for i, item in enumerate(raw))
    accepted = (int, float) if kind is float else (kind,)
    wrong = not isinstance(raw, accepted) or (isinstance(raw, bool) and kind is not bool)
    if wrong or (kind is float and not math.isfinite(raw)):
        raise ConfigError(f"{where} must be {_KIND_NAMES[kind]}, not {raw!r}")
    return kind(raw)


_KIND_NAMES = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}


def _check(config: Dia2Config) -> None:
    """The values must describe a model that can be built."""
    data, model = config.data, config.model
    _at_least("data.channels", data.channels, 3)
    _at_least("data.action_vocab_size", data.action_vocab_size, 2)
    _at_least("data.second_stream_ahead", data.second_stream_ahead, 0)
    _at_least("data.audio_vocab_size", data.audio_vocab_size, 3)
    for where, count in (
        ("data.channels", data.channels),
        ("data.second_stream_ahead", data.second_stream_ahead),
        ("model.decoder.n_layer", model.decoder.n_layer),
        ("model.depformer.n_layer", model.depformer.n_layer),
    ):
        if count > _MOST:
            raise ConfigError(f"{where} must be at most {_MOST}, not {count}")
    for block, transformer in (("model.decoder", model.decoder), ("model.depformer", model.depformer)):
        for name in ("n_layer", "n_embd", "n_hidden", "gqa_query_heads", "kv_heads", "gqa_head_dim"):
            _at_least(f"{block}.{name}", getattr(transformer, name), 1)
        heads, kv_heads = transformer.gqa_query_heads, transformer.kv_heads
        if heads % kv_heads:
            raise ConfigError(f"{block}.kv_heads must divide gqa_query_heads, {heads}, not {kv_heads}")
        if transformer.gqa_head_dim % 2:
            raise ConfigError(f"{block}.gqa_head_dim must be even, not {transformer.gqa_head_dim}")
    _check_ids(data)
    _check_lists(config)
    if not 0 < model.rope_min_timescale <= model.rope_max_timescale:
        raise ConfigError("model.rope_min_timescale must be above 0 and at most rope_max_timescale")
    if not model.normalization_layer_epsilon > 0:
        raise ConfigError("model.normalization_layer_epsilon must be above 0")


def _at_least(where: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{where} must be at least {least}, not {value}")


def _check_ids(data: DataConfig) -> None:
    for name, size in (
        ("text", data.text_vocab_size),
        ("audio", data.audio_vocab_size),
        ("action", data.action_vocab_size),
    ):
        for f in fields(data):
            if f.name.startswith(name) and f.name.endswith("_token_id") and not 0 <= getattr(data, f.name) < size:
                raise ConfigError(f"data.{f.name} must be in 0..{size - 1}, not {getattr(data, f.name)}")
    if data.audio_codes < 1:
        raise ConfigError("data.audio_pad_token_id and audio_bos_token_id must come after the codes, so not be 0")


def _check_lists(config: Dia2Config) -> None:
    codebooks = config.data.codebooks
    if len(config.data.delays) != codebooks or min(config.data.delays) < 0:
        raise ConfigError(
            f"data.delay_pattern must have {codebooks} entries of 0 or more (one a codebook), "
            f"not {list(config.data.delay_pattern)}"
        )
    if len(config.schedule) != codebooks - 1 or min(config.schedule, default=0) < 0:
        raise ConfigError(
            f"runtime.weights_schedule must have {codebooks - 1} entries of 0 or more (one a stage), "
            f"not {list(config.schedule)}"
        )
    _at_least("runtime.max_context_steps", config.runtime.max_context_steps, max(config.data.delays) + 1)
    if config.model.depformer.kv_heads != config.model.depformer.gqa_query_heads:
        raise ConfigError("model.depformer.kv_heads must equal gqa_query_heads: the depformer's heads are not grouped")
    for where, pair in (
        ("model.depformer", config.model.depformer.mlp_activations),
        ("model.linear", config.model.linear.mlp_activations),
    ):
        if len(pair) != 2 or any(name not in ACTIVATIONS for name in pair):
            raise ConfigError(f"{where}.mlp_activations must be two of {', '.join(ACTIVATIONS)}, not {list(pair)}")
