"""config.json <-> frozen dataclasses, strict.

A checkpoint's config.json has four blocks: `data` (vocabularies, special ids, delays), `model` (the sizes of the two
transformers), `runtime` (which depformer stage uses which weights, how long the context is) and `assets` (where the
tokenizer and the codec live). Everything the model reads is a field here, and a key that is no field is refused.
"""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from dia2.errors import ConfigError, shown
from dia2.strict_json import read_dataclass, read_object

FRAME_RATE = 12.5
"""Frames of sound a second; the model takes one step a frame. The codec's own sizes are in dia2/codec/config.py."""

ACTIVATIONS = ("silu", "swish", "swiglu", "gelu", "geglu", "relu", "linear", "identity")
GATED_SILU = ("silu", "linear")

# The most layers or codebooks a config may ask for, far more than any model has: each is built as a Python object.
_MOST = 1000

# The published trainer writes these keys; nothing reads them when the model speaks.
_UNUSED_KEYS = frozenset({"first_word_min_start", "max_pad", "dropout"})


@dataclass(frozen=True)
class DataConfig:
    """Vocabularies and special ids; `channels` is 2 text streams plus the audio codebooks.

    pause_padding: by how many steps a hold between two sentences may be longer than by the published rule, see
    dia2/text/machine.py. Published checkpoints do not name it.
    """

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
    pause_padding: int = 0
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
            config = read_dataclass(cls, raw, unread=_UNUSED_KEYS)
            _check(config)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None
        return config

    @classmethod
    def from_file(cls, path: str | Path) -> "Dia2Config":
        """Reads a config.json. Raises CheckpointError when it is not JSON, ConfigError when it is no Dia2 config."""
        return cls.from_dict(read_object(path), str(path))

    def to_dict(self) -> dict[str, Any]:
        """The JSON that `from_dict` reads back as an equal config."""
        written: dict[str, Any] = _write(self)
        return written


def _write(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return {f.name: _write(getattr(value, f.name)) for f in fields(value) if getattr(value, f.name) is not None}
    return list(value) if isinstance(value, tuple) else value


def _check(config: Dia2Config) -> None:
    """The values must describe a model that can be built."""
    data, model = config.data, config.model
    _at_least("data.channels", data.channels, 3)
    _at_least("data.action_vocab_size", data.action_vocab_size, 2)
    _at_least("data.second_stream_ahead", data.second_stream_ahead, 0)
    _at_least("data.pause_padding", data.pause_padding, 0)
    _at_least("data.audio_vocab_size", data.audio_vocab_size, 3)
    for where, count in (
        ("data.channels", data.channels),
        ("data.second_stream_ahead", data.second_stream_ahead),
        ("data.pause_padding", data.pause_padding),
        ("model.decoder.n_layer", model.decoder.n_layer),
        ("model.depformer.n_layer", model.depformer.n_layer),
    ):
        if count > _MOST:
            raise ConfigError(f"{where} must be at most {_MOST}, not {shown(count)}")
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
        raise ConfigError(f"{where} must be at least {least}, not {shown(value)}")


def _check_ids(data: DataConfig) -> None:
    for name, size in (
        ("text", data.text_vocab_size),
        ("audio", data.audio_vocab_size),
        ("action", data.action_vocab_size),
    ):
        for f in fields(data):
            if f.name.startswith(name) and f.name.endswith("_token_id") and not 0 <= getattr(data, f.name) < size:
                raise ConfigError(f"data.{f.name} must be in 0..{size - 1}, not {shown(getattr(data, f.name))}")
    if data.audio_codes < 1:
        raise ConfigError("data.audio_pad_token_id and audio_bos_token_id must come after the codes, so not be 0")


def _check_lists(config: Dia2Config) -> None:
    codebooks = config.data.codebooks
    if len(config.data.delays) != codebooks or min(config.data.delays) < 0:
        raise ConfigError(
            f"data.delay_pattern must have {codebooks} entries of 0 or more (one a codebook), "
            f"not {shown(config.data.delay_pattern)}"
        )
    if len(config.schedule) != codebooks - 1 or min(config.schedule, default=0) < 0:
        raise ConfigError(
            f"runtime.weights_schedule must have {codebooks - 1} entries of 0 or more (one a stage), "
            f"not {shown(config.schedule)}"
        )
    _at_least("runtime.max_context_steps", config.runtime.max_context_steps, max(config.data.delays) + 1)
    if config.model.depformer.kv_heads != config.model.depformer.gqa_query_heads:
        raise ConfigError("model.depformer.kv_heads must equal gqa_query_heads: the depformer's heads are not grouped")
    for where, pair in (
        ("model.depformer", config.model.depformer.mlp_activations),
        ("model.linear", config.model.linear.mlp_activations),
    ):
        if len(pair) != 2 or any(name not in ACTIVATIONS for name in pair):
            raise ConfigError(f"{where}.mlp_activations must be two of {', '.join(ACTIVATIONS)}, not {shown(pair)}")
