"""The codec's config.json -> a frozen dataclass, strictly.

The format is that of kyutai/mimi and allows more than is implemented here: other activations, other kinds of padding.
Such a file is refused with the key, its value and the only value that works, because a codec that ignores an option
makes noise. Keys that decoding does not need are ignored, as the encoder and the training have many.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from dia2.errors import ConfigError, shown
from dia2.strict_json import read_dataclass

STRIDE: Final = 2  # latent frames per codec frame: 12.5 Hz of codes, 25 Hz in the transformer
# Options of which one value is implemented, the one that every published codec has. An absent option means that value.
_FIXED: Final[Mapping[str, Any]] = {
    "attention_bias": False,
    "audio_channels": 1,
    "hidden_act": "gelu",
    "pad_mode": "constant",
    "rope_scaling": None,
    "trim_right_ratio": 1.0,
    "use_causal_conv": True,
    "use_conv_shortcut": False,
}
# The most of each size, far beyond any codec. The first three are built as Python objects, one by one; the next two say
# how much of the past is kept; all others are sides of tensors.
_MOST: Final[Mapping[str, int]] = {
    "num_hidden_layers": 1000,
    "num_quantizers": 1000,
    "num_residual_layers": 10,
    "dilation_growth_rate": 10,
    "sliding_window": 100_000,
}
_MOST_OF_OTHERS: Final = 2**20
_MOST_RATIOS: Final = 20  # the entries of upsampling_ratios


@dataclass(frozen=True)
class MimiConfig:
    """The sizes of a codec, under the names of its config.json; the defaults are those of kyutai/mimi.

    Raises ConfigError for values that do not fit together or are not implemented.
    """

    sampling_rate: int = 24_000
    hidden_size: int = 512
    num_filters: int = 64
    num_residual_layers: int = 1
    upsampling_ratios: tuple[int, ...] = (8, 6, 5, 4)
    kernel_size: int = 7
    last_kernel_size: int = 3
    residual_kernel_size: int = 3
    dilation_growth_rate: int = 2
    compress: int = 2
    codebook_size: int = 2048
    codebook_dim: int = 256
    num_quantizers: int = 32
    num_semantic_quantizers: int = 1
    upsample_groups: int = 512
    num_hidden_layers: int = 8
    intermediate_size: int = 2048
    num_attention_heads: int = 8
    num_key_value_heads: int = 8
    head_dim: int = 64
    sliding_window: int = 250
    norm_eps: float = 1e-5
    rope_theta: float = 10_000.0
    layer_scale_initial_scale: float = 0.01

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> MimiConfig:
        """Read a parsed config.json. Every field is required there; keys that decoding does not need are ignored.

        Raises ConfigError, naming the key, for a missing or malformed one and for an option that is not implemented.
        """
        try:
            _check_implemented(raw)
            filled = {**raw, **_rope(raw), **_derived(raw)}
            names = [field.name for field in fields(cls)]
            missing = [name for name in names if name not in filled]
            if missing:
                raise ConfigError(f"missing {', '.join(missing)}")
            config = read_dataclass(cls, {name: filled[name] for name in names})
            config.check_repeated_keys(raw)
        except ConfigError as error:
            raise ConfigError(f"mimi config: {error}") from None
        return config

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            numbers = value if isinstance(value, tuple) else (value,)
            most = value if isinstance(value, float) else _MOST.get(name, _MOST_OF_OTHERS)
            if not 0 < len(numbers) <= _MOST_RATIOS or not all(0 < number <= most for number in numbers):
                raise ConfigError(f"{name} is {shown(value)}, it must be positive and at most {most}")
        for wrong, message in self._conflicts():
            if wrong:
                raise ConfigError(f"{message}")

    def _conflicts(self) -> Iterator[tuple[bool, str]]:
        heads, groups = self.num_attention_heads, self.num_key_value_heads
        yield bool(heads % groups), f"num_attention_heads {heads} is not a multiple of num_key_value_heads {groups}"
        yield bool(self.head_dim % 2), f"head_dim is {self.head_dim}, it must be even"
        yield (
            bool(self.hidden_size % self.upsample_groups),
            f"hidden_size {self.hidden_size} is not a multiple of upsample_groups {self.upsample_groups}",
        )
        yield (
            self.num_semantic_quantizers >= self.num_quantizers,
            f"num_semantic_quantizers is {self.num_semantic_quantizers}, it must be below num_quantizers "
            f"{self.num_quantizers}",
        )
        yield (
            bool(self.sampling_rate % math.prod(self.upsampling_ratios)),
            f"sampling_rate {self.sampling_rate} is not a multiple of the upsampling_ratios' product",
        )
        yield self.num_filters < self.compress, f"compress {self.compress} leaves none of {self.num_filters} filters"

    def check_repeated_keys(self, raw: Mapping[str, Any]) -> None:
        """Raises ConfigError for a key that repeats what other keys say, and says something else."""
        for key, value in (
            ("frame_rate", self.frame_rate),
            ("_frame_rate", self.frame_rate),
            ("vector_quantization_hidden_dimension", self.codebook_dim),
        ):
            if raw.get(key) not in (None, value):
                raise ConfigError(f"{key} is {shown(raw[key])}, only {value!r} is implemented here")

    @property
    def sample_rate(self) -> int:
        """Samples per second."""
        return self.sampling_rate

    @property
    def frame_samples(self) -> int:
        """Samples per frame of codes (1920)."""
        return STRIDE * math.prod(self.upsampling_ratios)

    @property
    def frame_rate(self) -> float:
        """Frames of codes per second (12.5)."""
        return self.sampling_rate / self.frame_samples


def _check_implemented(raw: Mapping[str, Any]) -> None:
    if raw.get("model_type") != "mimi":
        raise ConfigError(f"model_type is {shown(raw.get('model_type'))}, expected 'mimi'")
    for key, value in _FIXED.items():
        if raw.get(key, value) != value:
            raise ConfigError(f"{key} is {shown(raw[key])}, only {value!r} is implemented")


def _rope(raw: Mapping[str, Any]) -> dict[str, Any]:
    """rope_theta, from the top level (published) or from rope_parameters (as transformers 5 writes it)."""
    rope = raw.get("rope_parameters") or {}
    if not isinstance(rope, Mapping):
        raise ConfigError(f"rope_parameters is {shown(rope)}, expected an object")
    for key, value in (("rope_type", "default"), ("partial_rotary_factor", 1.0)):
        if rope.get(key, value) != value:
            raise ConfigError(f"rope_parameters.{key} is {shown(rope[key])}, only {value!r} is implemented")
    return {"rope_theta": rope["rope_theta"]} if "rope_theta" in rope else {}


def _derived(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes that may be null or absent in the file, because they follow from others."""
    hidden, heads = raw.get("hidden_size"), raw.get("num_attention_heads")
    derived: dict[str, Any] = {"num_key_value_heads": heads, "codebook_dim": hidden}
    if isinstance(hidden, int) and isinstance(heads, int) and heads > 0:
        derived["head_dim"] = hidden // heads
    return {key: size for key, size in derived.items() if size is not None and raw.get(key) is None}


# The shape of kyutai/mimi.
PUBLISHED: Final = MimiConfig()
