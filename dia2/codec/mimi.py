"""Mimi, the codec: codes in, sound out, one 80 ms frame at a time, with no seam between frames.

A decoder that is causal all the way down can stream, if every layer remembers what its next output still needs:

- A **convolution** looks back over its kernel: it keeps the last `(kernel - 1) * dilation` inputs, the *left context*,
  and puts them in front of the next piece. At the start they are zeros, which is what padding is.
- A **transposed convolution** smears one input over `2 * stride` outputs, so its second half lands on the outputs of
  the next input. That half is kept and added there: *overlap-add*. What the whole-sequence decoder trims at its right
  end is exactly this half, still waiting for a partner.
- **Attention** looks back over a window of 250 positions (10 s): keys and values live in a *ring*, where a new
  position overwrites one that no query can see any more. RoPE tells only differences of positions: they may count on
  for days.

All that a conversation's decoder remembers is therefore a fixed number of floats: one row of `DecoderState`. It is
updated in place, so it can be saved, put back, and captured in a CUDA graph. The path of one frame (published sizes):

    codes [32] -> one gather and sum per frame -> [1, 512] at 12.5 Hz -> upsample -> [2, 512] at 25 Hz
    -> 8 transformer layers -> convolution -> x8 -> x6 -> x5 -> x4, a residual block after each -> [1920, 1] samples

Everything here is channels-last, `[slots, time, channels]`: convolutions are then plain matrix products over windows,
transposed ones need no shuffling afterwards, and the transformer needs no transposes.

The network is built from the tensor names of the published file and knows nothing of transformers, whose `MimiModel`
is only the encoder here (and the reference in the tests). All in true float32: the codec is a small part of a frame's
time.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dia2.errors import CheckpointError, ConfigError

__all__ = ["FRAMES_PER_PASS", "PUBLISHED", "DecoderState", "Mimi", "MimiConfig", "MimiDecoder"]

FRAMES_PER_PASS: Final = 25
"""Longer sequences are cut into passes of at most this many frames, so that memory does not grow with length."""

_STRIDE: Final = 2  # latent frames per codec frame: 12.5 Hz of codes, 25 Hz in the transformer
_FLOATS: Final = ("F64", "F32", "F16", "BF16")
_USAGE_FLOOR: Final = 1e-5  # codebook entries that training never used must not divide by zero
_RANDOM_LEVEL: Final = 0.1  # standard deviation of what a random codec says

# Options of the format of which one value is implemented, the one of every published codec; absent means that value.
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

# Tensors of the file that belong to the encoder, or to training.
_ENCODER_SIDE: Final = re.compile(
    r"(encoder|encoder_transformer|downsample)\..+|quantizer\.\w+\.input_proj\..+|quantizer\..+\.initialized"
)


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
        if raw.get("model_type") != "mimi":
            raise ConfigError(f"mimi config: model_type is {raw.get('model_type')!r}, expected 'mimi'")
        for key, value in _FIXED.items():
            if raw.get(key, value) != value:
                raise ConfigError(f"mimi config: {key} is {raw[key]!r}, only {value!r} is implemented")
        filled = {**raw, **_rope(raw), **_derived(raw)}
        missing = [field.name for field in fields(cls) if field.name not in filled]
        if missing:
            raise ConfigError(f"mimi config: missing {', '.join(missing)}")
        config = cls(**{field.name: _typed(field.name, filled[field.name], str(field.type)) for field in fields(cls)})
        config._check_echoes(raw)
        return config

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            numbers = value if isinstance(value, tuple) else (value,)
            if not numbers or not all(number > 0 for number in numbers):
                raise ConfigError(f"mimi config: {name} is {value!r}, it must be positive")
        for wrong, message in self._conflicts():
            if wrong:
                raise ConfigError(f"mimi config: {message}")

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

    def _check_echoes(self, raw: Mapping[str, Any]) -> None:
        """Keys that repeat what other keys already say: refuse a file in which they disagree."""
        for key, value in (
            ("frame_rate", self.frame_rate),
            ("_frame_rate", self.frame_rate),
            ("vector_quantization_hidden_dimension", self.codebook_dim),
        ):
            if raw.get(key) not in (None, value):
                raise ConfigError(f"mimi config: {key} is {raw[key]!r}, only {value!r} is implemented here")

    @property
    def sample_rate(self) -> int:
        """Samples per second."""
        return self.sampling_rate

    @property
    def frame_samples(self) -> int:
        """Samples per frame of codes (1920)."""
        return _STRIDE * math.prod(self.upsampling_ratios)

    @property
    def frame_rate(self) -> float:
        """Frames of codes per second (12.5)."""
        return self.sampling_rate / self.frame_samples


def _rope(raw: Mapping[str, Any]) -> dict[str, Any]:
    """rope_theta, from the top level (published) or from rope_parameters (as transformers 5 writes it)."""
    rope = raw.get("rope_parameters") or {}
    if not isinstance(rope, Mapping):
        raise ConfigError(f"mimi config: rope_parameters is {rope!r}, expected an object")
    for key, value in (("rope_type", "default"), ("partial_rotary_factor", 1.0)):
        if rope.get(key, value) != value:
            raise ConfigError(f"mimi config: rope_parameters.{key} is {rope[key]!r}, only {value!r} is implemented")
    return {"rope_theta": rope["rope_theta"]} if "rope_theta" in rope else {}


def _derived(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes that may be null in the file because others give them."""
    hidden, heads = raw.get("hidden_size"), raw.get("num_attention_heads")
    derived: dict[str, Any] = {"num_key_value_heads": heads, "codebook_dim": hidden}
    if isinstance(hidden, int) and isinstance(heads, int) and heads > 0:
        derived["head_dim"] = hidden // heads
    return {key: size for key, size in derived.items() if size is not None and raw.get(key) is None}


def _typed(name: str, value: Any, annotation: str) -> Any:
    """`value` as a field of that annotation takes it, or a ConfigError that names the key."""
    if annotation.startswith("tuple"):
        if not isinstance(value, list | tuple):
            raise ConfigError(f"mimi config: {name} is {value!r}, expected a list of integers")
        return tuple(_typed(name, item, "int") for item in value)
    if type(value) is not int and not (annotation == "float" and isinstance(value, float)):
        raise ConfigError(f"mimi config: {name} is {value!r}, expected {annotation}")
    return value


PUBLISHED: Final = MimiConfig()
"""The shape of kyutai/mimi."""


class DecoderState:
    """What the decoders of `slots` conversations remember. Its tensors are updated in place and never replaced.

    position: int64 [slots], the next position at 25 Hz (it may grow without end, and may be set forward).
    filled: int64 [slots], how many past positions the attention rings hold.
    memory: float32 [slots, floats], everything else; `carry` names its parts. A new conversation is all zeros.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], slots: int, device: torch.device) -> None:
        if slots < 1:
            raise ValueError(f"slots is {slots}, it must be at least 1")
        self.shapes = dict(shapes)
        # One row of memory per conversation: saving or restoring it is one copy. Parts start at multiples of 256 bytes.
        sizes = [-(-math.prod(shape) // 64) * 64 for shape in self.shapes.values()]
        self.memory = torch.zeros(slots, sum(sizes), device=device)
        self.position = torch.zeros(slots, dtype=torch.int64, device=device)
        self.filled = torch.zeros(slots, dtype=torch.int64, device=device)
        self.carry: dict[str, Tensor] = {}
        for (name, shape), part in zip(self.shapes.items(), torch.split(self.memory, sizes, dim=1), strict=True):
            self.carry[name] = torch.unflatten(part[:, : math.prod(shape)], 1, shape)

    @property
    def slots(self) -> int:
        """How many conversations this state holds."""
        return self.memory.shape[0]

    def clone(self, slot: int | None = None) -> DecoderState:
        """A copy on the same device: of all slots, or a state of one slot."""
        rows = self._rows(slot)
        copy = DecoderState(self.shapes, self.position[rows].shape[0], self.memory.device)
        for mine, theirs in zip(copy._tensors(), self._tensors(), strict=True):
            mine.copy_(theirs[rows])
        return copy

    def copy_(self, other: DecoderState, slot: int | None = None) -> DecoderState:
        """Overwrite all slots with `other`'s, or one slot with the same slot of `other` (its only one, if it has one).

        Raises ValueError when the states do not have the same shape.
        """
        if other.shapes != self.shapes:
            raise ValueError("the states belong to codecs of different shapes")
        source = 0 if slot is not None and other.slots == 1 else slot
        if slot is None and other.slots != self.slots:
            raise ValueError(f"the states have {other.slots} and {self.slots} slots; name the slot to copy")
        into, from_ = self._rows(slot), other._rows(source)
        for mine, theirs in zip(self._tensors(), other._tensors(), strict=True):
            mine[into].copy_(theirs[from_])
        return self

    def reset(self, slot: int | None = None) -> DecoderState:
        """Back to silence before the first frame, for one slot or all."""
        rows = self._rows(slot)
        for tensor in self._tensors():
            tensor[rows].zero_()
        return self

    def _tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.position, self.filled, self.memory

    def _rows(self, slot: int | None) -> slice:
        if slot is None:
            return slice(None)
        if not 0 <= slot < self.slots:
            raise ValueError(f"slot {slot} is outside 0..{self.slots - 1}")
        return slice(slot, slot + 1)


class Mimi:
    """The codec: `decode` turns codes into sound, piece by piece if given a state; `encode` turns a clip into codes."""

    def __init__(
        self,
        config: MimiConfig,
        decoder: MimiDecoder,
        device: torch.device,
        load_encoder: Callable[[], nn.Module],
    ) -> None:
        self.config = config
        self.decoder = decoder
        self.codebooks = decoder.codebooks
        self.device = device
        self.sample_rate = config.sample_rate
        self.frame_samples = config.frame_samples
        self._shapes = decoder.carries()
        self._load_encoder = load_encoder
        self._encoder: nn.Module | None = None

    @classmethod
    def from_folder(cls, folder: Path, codebooks: int, device: torch.device | str) -> Mimi:
        """Load config.json and the decoder's part of model.safetensors, with the first `codebooks` codebooks.

        Raises ConfigError for a config that is not one or not implemented; CheckpointError for files that cannot be
        read, and for tensors that are missing, misshapen or unknown, naming all of them.
        """
        folder, device = Path(folder), torch.device(device)
        config = MimiConfig.from_dict(_read_json(folder / "config.json"))
        if codebooks > config.num_quantizers:
            raise CheckpointError(f"{folder}: the codec has {config.num_quantizers} codebooks, {codebooks} are needed")
        decoder = MimiDecoder(config, codebooks).to_empty(device=device)
        _load(decoder, folder / "model.safetensors", device)
        decoder.prepare()
        return cls(config, decoder, device, lambda: _read_encoder(folder, device))

    @classmethod
    def random(cls, config: MimiConfig, codebooks: int, device: torch.device | str, seed: int) -> Mimi:
        """A codec with random weights, drawn on the device; what it says is noise of a moderate level."""
        device = torch.device(device)
        decoder = MimiDecoder(config, codebooks).to_empty(device=device)
        generator = torch.Generator(device).manual_seed(seed)
        decoder.randomize(generator)
        decoder.prepare()
        mimi = cls(config, decoder, device, lambda: _random_encoder(config, seed, device))
        codes = torch.randint(config.codebook_size, (1, codebooks, 4), generator=generator, device=device)
        decoder.last.weight.mul_(_RANDOM_LEVEL / mimi.decode(codes).std())
        return mimi

    def state(self, slots: int = 1) -> DecoderState:
        """The state of `slots` new conversations."""
        return DecoderState(self._shapes, slots, self.device)

    @torch.no_grad()
    def decode(self, codes: Tensor, state: DecoderState | None = None, check: bool = True) -> Tensor:
        """Codes [slots, codebooks, n] int64 -> float32 [slots, n * frame_samples], moving `state` on by n frames.

        Without a state, a whole sequence from silence. However a sequence is cut, the sound is the same.
        Raises ValueError for a wrong shape, dtype or state, and for an id outside 0..codebook_size-1. `check=False`
        does not look at the ids, which on CUDA waits for the device: such an id then adds nothing.
        """
        self._check_call(codes, state)
        if check:
            self._check_ids(codes)
        codes = codes.to(self.device)
        slots, _, frames = codes.shape
        state = self.state(slots) if state is None else state
        step = max(1, FRAMES_PER_PASS // slots)
        if 0 < frames <= step:
            return self._pass(codes, state)
        out = torch.empty(slots, frames * self.frame_samples, device=self.device)
        for i in range(0, frames, step):
            sound = self._pass(codes[:, :, i : i + step], state)
            out[:, i * self.frame_samples :][:, : sound.shape[1]] = sound
        return out

    @torch.no_grad()
    def encode(self, pcm: Tensor) -> Tensor:
        """A clip, float32 [samples] or [1, samples] at `sample_rate` -> codes int64 [codebooks, frames].

        The first call imports transformers and loads the encoder. Raises ValueError for another shape or dtype.
        """
        if pcm.dim() not in (1, 2) or (pcm.dim() == 2 and pcm.shape[0] != 1) or pcm.shape[-1] == 0:
            raise ValueError(f"pcm has shape {list(pcm.shape)}, expected [samples] or [1, samples]")
        if pcm.dtype != torch.float32:
            raise ValueError(f"pcm is {pcm.dtype}, expected torch.float32")
        if self._encoder is None:
            self._encoder = self._load_encoder()
        clip = pcm.to(self.device).view(1, 1, -1)
        with _exact_float32():
            found = self._encoder.encode(clip, num_quantizers=self.codebooks)  # type: ignore[operator]
        codes: Tensor = found.audio_codes[0]
        return codes.to(torch.int64)

    def _pass(self, codes: Tensor, state: DecoderState) -> Tensor:
        with _exact_float32():
            sound: Tensor = self.decoder(codes, state)
        return sound

    def _check_call(self, codes: Tensor, state: DecoderState | None) -> None:
        if codes.dim() != 3 or codes.shape[0] < 1 or codes.shape[1] != self.codebooks:
            raise ValueError(f"codes have shape {list(codes.shape)}, expected [slots, {self.codebooks}, frames]")
        if codes.dtype != torch.int64:
            raise ValueError(f"codes are {codes.dtype}, expected torch.int64")
        if state is not None and state.slots != codes.shape[0]:
            raise ValueError(f"codes are for {codes.shape[0]} slots, the state has {state.slots}")
        if state is not None and state.shapes != self._shapes:
            raise ValueError("the state belongs to a codec of another shape")

    def _check_ids(self, codes: Tensor) -> None:
        wrong = (codes < 0) | (codes >= self.config.codebook_size)
        if bool(wrong.any()):
            slot, codebook, frame = (int(i) for i in wrong.nonzero()[0])
            raise ValueError(
                f"id {int(codes[slot, codebook, frame])} (slot {slot}, codebook {codebook}, frame {frame}) is outside "
                f"0..{self.config.codebook_size - 1}"
            )


@contextmanager
def _exact_float32() -> Iterator[None]:
    """No TF32 on CUDA, whatever the rest of the process wants: the sound would then depend on how it is cut, by more
    than a step of PCM16, and one code in a hundred on the device. A captured graph keeps what held at its capture.
    """
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected an object, found {type(raw).__name__}")
    return raw


def _load(decoder: MimiDecoder, path: Path, device: torch.device) -> None:
    """Copy the file's tensors into the decoder, one at a time; CheckpointError when they are not what it needs."""
    wanted = decoder.checkpoint_tensors()
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            faults = _faults(file, decoder, wanted)
            if faults:
                raise CheckpointError(f"{path}: {'; '.join(faults)}")
            for name, tensor in wanted.items():
                tensor.copy_(file.get_tensor(name))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error


def _faults(file: Any, decoder: MimiDecoder, wanted: Mapping[str, Tensor]) -> list[str]:
    """Everything about the tensors of an open safetensors file that keeps it from being this decoder's."""
    names = set(file.keys())
    known = MimiDecoder(decoder.config, decoder.config.num_quantizers).checkpoint_tensors()
    missing = [name for name in wanted if name not in names]
    unexpected = sorted(name for name in names - set(known) if not _ENCODER_SIDE.fullmatch(name))
    misshapen = []
    for name in (name for name in wanted if name in names):
        found, expected = file.get_slice(name), list(wanted[name].shape)
        if found.get_shape() != expected:
            misshapen.append(f"{name} is {found.get_shape()}, expected {expected}")
        elif found.get_dtype() not in _FLOATS:
            misshapen.append(f"{name} is {found.get_dtype()}, expected one of {', '.join(_FLOATS)}")
    faults = {"missing": missing, "wrong": misshapen, "unexpected": unexpected}
    return [f"{kind} tensors: {', '.join(which)}" for kind, which in faults.items() if which]


def _read_encoder(folder: Path, device: torch.device) -> nn.Module:
    from transformers import MimiModel  # slow to import, and only voices need it

    model: nn.Module = MimiModel.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    return model.to(device).eval()


def _random_encoder(config: MimiConfig, seed: int, device: torch.device) -> nn.Module:
    from transformers import MimiConfig as ReferenceConfig
    from transformers import MimiModel

    options = {**asdict(config), "vector_quantization_hidden_dimension": config.codebook_dim}
    options["upsampling_ratios"] = list(config.upsampling_ratios)
    options["rope_parameters"] = {"rope_type": "default", "rope_theta": options.pop("rope_theta")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = MimiModel(ReferenceConfig(**options))
    return model.to(device).eval()


class MimiDecoder(nn.Module):
    """The network, for the first `codebooks` codebooks. Built on the meta device, without memory; then, in order:
    `to_empty(device=...)`, a copy into each of `checkpoint_tensors()` (or `randomize`), `prepare()`.

    Raises ValueError when the codec does not have that many codebooks.
    """

    ring: Tensor  # int64 [capacity], the indices of an attention ring
    frequencies: Tensor  # float64 [head_dim / 2], radians per position

    def __init__(self, config: MimiConfig, codebooks: int) -> None:
        super().__init__()
        if not 1 <= codebooks <= config.num_quantizers:
            raise ValueError(f"codebooks is {codebooks}, the codec has 1..{config.num_quantizers}")
        self.config = config
        self.codebooks = codebooks
        with torch.device("meta"):
            self.codes = _Codebooks("quantizer", config, codebooks)
            self.upsample = _Upsample("upsample.conv", config)
            layers = (f"decoder_transformer.layers.{i}" for i in range(config.num_hidden_layers))
            self.layers = nn.ModuleList(_Layer(name, config) for name in layers)
            self.first, self.stages, self.last = _seanet(config)

    def checkpoint_tensors(self) -> dict[str, Tensor]:
        """Published tensor name -> the tensor, or view of one, to copy it into (float32, of the file's shape)."""
        return {f"{part.name}.{name}": tensor for part in self._parts() for name, tensor in part.published().items()}

    def carries(self) -> dict[str, tuple[int, ...]]:
        """What one conversation remembers: name of a part -> the shape of its memory (float32)."""
        return {part.name: part.carry for part in self._parts() if part.carry}

    @torch.no_grad()
    def randomize(self, generator: torch.Generator) -> None:
        """Fill the checkpoint's tensors with noise that keeps its level from layer to layer."""
        for part in self._parts():
            for name, tensor in part.published().items():
                if name.endswith(("bias", "norm.weight", "cluster_usage", "scale")):
                    constant = {"bias": 0.0, "scale": self.config.layer_scale_initial_scale}
                    tensor.fill_(constant.get(name.rpartition(".")[2], 1.0))
                else:
                    limit = math.sqrt(3 / part.fan_in(tensor))
                    tensor.uniform_(-limit, limit, generator=generator)

    @torch.no_grad()
    def prepare(self) -> None:
        """After loading: derive what decoding reads, drop what it does not. checkpoint_tensors() is over after this."""
        with _exact_float32():
            for part in self._parts():
                part.prepare()
        device, width = self.last.weight.device, self.config.head_dim
        exponents = torch.arange(0, width, 2, dtype=torch.float64, device=device) / width
        self.register_buffer("frequencies", self.config.rope_theta**-exponents)
        self.register_buffer("ring", torch.arange(_ring_capacity(self.config), device=device))

    def forward(self, codes: Tensor, state: DecoderState) -> Tensor:
        """Codes [slots, codebooks, n], n in 1..FRAMES_PER_PASS -> [slots, n * frame_samples]; moves `state` on."""
        carry = state.carry
        x: Tensor = self.upsample(self.codes(codes), carry)  # [slots, 2n, hidden]
        view = self._look(state, x.shape[1])
        for layer in self.layers:
            x = layer(x, carry, view)
        x = self.first(x, carry)
        for stage in self.stages:
            x = stage(x, carry)
        x = self.last(F.elu_(x), carry)  # [slots, samples, 1]
        return x.squeeze(2)

    def _parts(self) -> list[_Part]:
        return [module for module in self.modules() if isinstance(module, _Part)]

    def _look(self, state: DecoderState, steps: int) -> _View:
        """Where the next `steps` positions go and what they see, for every slot; moves the positions on."""
        capacity, order = self.ring.shape[0], self.ring[:steps]
        now = state.position[:, None] + order  # [slots, steps]
        angles = now[:, :, None, None] * self.frequencies  # float64: exact enough after years
        # How many positions ago each entry of the ring was, or will be, written, seen from the last of these steps.
        age = (now[:, -1:] - self.ring) % capacity  # [slots, capacity]
        written = age < state.filled[:, None] + steps
        distance = age[:, None] - (steps - 1 - order)[:, None]  # [slots, steps, capacity], from query back to key
        visible = (distance >= 0) & (distance < self.config.sliding_window) & written[:, None]
        mask = torch.zeros(visible.shape, device=visible.device).masked_fill_(~visible, -math.inf)
        state.position += steps
        state.filled.add_(steps).clamp_(max=capacity)
        return _View(
            rotation=torch.polar(torch.ones_like(angles), angles).to(torch.complex64),
            slots=torch.arange(now.shape[0], device=now.device)[:, None],
            where=now % capacity,
            mask=mask[:, None],
        )


def _ring_capacity(config: MimiConfig) -> int:
    """A pass writes all its keys before it looks: its first query must still find its whole window."""
    needed = config.sliding_window - 1 + _STRIDE * FRAMES_PER_PASS
    return -(-needed // 8) * 8  # attention kernels like masks in multiples of 8


def _seanet(config: MimiConfig) -> tuple[_Conv, nn.ModuleList, _Conv]:
    """The convolutional half. Its layers are numbered as in the file, where every ELU counts as one."""
    width = config.num_filters << len(config.upsampling_ratios)
    first = _Conv("decoder.layers.0.conv", config.hidden_size, width, config.kernel_size)
    stages, index = nn.ModuleList(), 1
    for ratio in config.upsampling_ratios:
        stages.append(_Stage(config, index, width, ratio))
        width //= 2
        index += 2 + config.num_residual_layers
    return first, stages, _Conv(f"decoder.layers.{index + 1}.conv", width, 1, config.last_kernel_size)


class _View(NamedTuple):
    """What attention needs to know about the steps of one pass; the same for all layers."""

    rotation: Tensor  # complex64 [slots, steps, 1, head_dim / 2]
    slots: Tensor  # int64 [slots, 1]; with `where`, the ring entries to write
    where: Tensor  # int64 [slots, steps]
    mask: Tensor  # float32 [slots, 1, steps, capacity], 0 or -inf


class _Part(nn.Module):
    """A piece of the decoder that owns tensors of the file, named `name` + ".", and may remember `carry` floats."""

    def __init__(self, name: str, carry: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.name = name
        self.carry = carry

    def published(self) -> dict[str, Tensor]:
        """The file's name, after the prefix -> the tensor that it is copied into."""
        raise NotImplementedError

    def fan_in(self, weight: Tensor) -> int:
        """How many products of a published weight are summed up in one output."""
        return weight[0].numel()

    def prepare(self) -> None:
        """Derive what forward reads from what was loaded."""


def _empty(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.empty(shape), requires_grad=False)


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [slots, steps, in] @ weight [out, in]^T + bias [out] -> a new tensor [slots, steps, out]."""
    if x.device.type == "cpu" and x.shape[0] * x.shape[1] <= _STRIDE:
        # One frame on a CPU is bound by reading the weights, and this order of factors reads them at full speed.
        product = torch.mm(weight, x.flatten(0, 1).T).T.contiguous()
        return (product if bias is None else product.add_(bias)).view(*x.shape[:2], -1)
    return F.linear(x, weight, bias)


class _Codebooks(_Part):
    """Codes -> latents. A split residual quantizer: each codebook has a table of vectors; those of the first ones
    (semantic) are summed and projected by one matrix, those of the others (acoustic) by another, and both are added.

    All linear, so `prepare` projects the tables instead, and decoding is one gather and one sum.
    """

    table: Tensor  # [codebooks * codebook_size + 1, hidden]; the last row is zero, for ids that are none
    start: Tensor  # int64 [codebooks, 1], where each codebook's rows begin

    def __init__(self, name: str, config: MimiConfig, codebooks: int) -> None:
        super().__init__(name)
        self.codebooks, self.size = codebooks, config.codebook_size
        self.semantic, self.hidden = config.num_semantic_quantizers, config.hidden_size
        self.embed_sum = _empty(codebooks, config.codebook_size, config.codebook_dim)
        self.cluster_usage = _empty(codebooks, config.codebook_size)
        # One projection per kind of codebook that is used; codebooks as wide as the latents need none.
        kinds = 0 if config.codebook_dim == config.hidden_size else 1 + (codebooks > self.semantic)
        self.output_proj = nn.ParameterList(_empty(config.hidden_size, config.codebook_dim, 1) for _ in range(kinds))

    def published(self) -> dict[str, Tensor]:
        semantic, acoustic = "semantic_residual_vector_quantizer", "acoustic_residual_vector_quantizer"
        tensors: dict[str, Tensor] = {
            f"{kind}.output_proj.weight": weight
            for kind, weight in zip((semantic, acoustic), self.output_proj, strict=False)
        }
        for k in range(self.codebooks):
            kind, layer = (semantic, k) if k < self.semantic else (acoustic, k - self.semantic)
            codebook = f"{kind}.layers.{layer}.codebook"
            tensors[f"{codebook}.embed_sum"] = self.embed_sum[k]
            tensors[f"{codebook}.cluster_usage"] = self.cluster_usage[k]
        return tensors

    def prepare(self) -> None:
        table = self.embed_sum.new_zeros(self.codebooks * self.size + 1, self.hidden)
        for k, rows in enumerate(table[:-1].split(self.size)):
            vectors = self.embed_sum[k] / self.cluster_usage[k].clamp(min=_USAGE_FLOOR)[:, None]
            if self.output_proj:
                vectors = vectors @ self.output_proj[int(k >= self.semantic)].squeeze(2).T
            rows.copy_(vectors)
        del self.embed_sum, self.cluster_usage, self.output_proj
        self.register_buffer("table", table)
        self.register_buffer("start", torch.arange(self.codebooks, device=table.device)[:, None] * self.size)

    def forward(self, codes: Tensor) -> Tensor:
        """[slots, codebooks, n] -> [slots, n, hidden]."""
        valid = (codes >= 0) & (codes < self.size)
        rows = torch.where(valid, codes + self.start, self.table.shape[0] - 1)
        return F.embedding(rows, self.table).sum(1)


class _Layer(_Part):
    """A transformer layer: attention over the window, then an MLP; both normed before and scaled after."""

    def __init__(self, name: str, config: MimiConfig) -> None:
        self.heads, self.groups, self.width = config.num_attention_heads, config.num_key_value_heads, config.head_dim
        super().__init__(name, carry=(_ring_capacity(config), 2 * self.groups, self.width))
        hidden = config.hidden_size
        self.attention_norm = nn.LayerNorm(hidden, config.norm_eps).requires_grad_(False)
        self.qkv = _empty((self.heads + 2 * self.groups) * self.width, hidden)
        self.out = _empty(hidden, self.heads * self.width)
        self.attention_scale = _empty(hidden)
        self.mlp_norm = nn.LayerNorm(hidden, config.norm_eps).requires_grad_(False)
        self.up = _empty(config.intermediate_size, hidden)
        self.down = _empty(hidden, config.intermediate_size)
        self.mlp_scale = _empty(hidden)

    def published(self) -> dict[str, Tensor]:
        q, k, v = torch.split(self.qkv, [heads * self.width for heads in (self.heads, self.groups, self.groups)])
        return {
            "input_layernorm.weight": self.attention_norm.weight,
            "input_layernorm.bias": self.attention_norm.bias,
            "self_attn.q_proj.weight": q,
            "self_attn.k_proj.weight": k,
            "self_attn.v_proj.weight": v,
            "self_attn.o_proj.weight": self.out,
            "self_attn_layer_scale.scale": self.attention_scale,
            "post_attention_layernorm.weight": self.mlp_norm.weight,
            "post_attention_layernorm.bias": self.mlp_norm.bias,
            "mlp.fc1.weight": self.up,
            "mlp.fc2.weight": self.down,
            "mlp_layer_scale.scale": self.mlp_scale,
        }

    def prepare(self) -> None:
        # RoPE turns the pairs (i, i + head_dim / 2) of each head of q and k. Put the two next to each other, so that
        # a pair is a complex number; attention only takes products of q and k, and does not see the order.
        turned = self.qkv[: (self.heads + self.groups) * self.width]
        turned.copy_(turned.view(-1, 2, self.width // 2, turned.shape[1]).transpose(1, 2).reshape(turned.shape))
        self.qkv[: self.heads * self.width] /= math.sqrt(self.width)
        self.out.mul_(self.attention_scale[:, None])
        self.down.mul_(self.mlp_scale[:, None])
        del self.attention_scale, self.mlp_scale

    def forward(self, x: Tensor, carry: dict[str, Tensor], view: _View) -> Tensor:
        """[slots, steps, hidden] -> the same shape."""
        x = _linear(self._attend(self.attention_norm(x), carry[self.name], view), self.out).add_(x)
        return _linear(F.gelu(_linear(self.mlp_norm(x), self.up)), self.down).add_(x)

    def _attend(self, x: Tensor, ring: Tensor, view: _View) -> Tensor:
        # x: [slots, steps, hidden]; ring: [slots, capacity, key heads and value heads, head_dim]
        slots, steps, _ = x.shape
        pairs = _linear(x, self.qkv).view(slots, steps, -1, self.width // 2, 2)
        turned, value = torch.split(pairs, [self.heads + self.groups, self.groups], dim=2)
        turned = torch.view_as_real(torch.view_as_complex(turned) * view.rotation)
        query, key = torch.split(turned.flatten(3), [self.heads, self.groups], dim=2)
        ring[view.slots, view.where] = torch.cat([key, value.flatten(3)], dim=2)
        keys, values = ring.transpose(1, 2).chunk(2, dim=1)  # [slots, key heads, capacity, head_dim]
        # The query heads that share a key head count as more steps. Written out: with so few queries, a fused
        # attention kernel, which walks along the keys, takes three times as long.
        query = query.transpose(1, 2).reshape(slots, self.groups, -1, self.width)
        scores = (query @ keys.transpose(2, 3)).view(slots, self.heads, steps, -1).add_(view.mask)
        mixed = torch.softmax(scores, dim=3).view(slots, self.groups, -1, scores.shape[3]) @ values
        return mixed.view(slots, self.heads, steps, self.width).transpose(1, 2).flatten(2)


class _Stage(nn.Module):
    """One step up in rate: ELU, a transposed convolution that halves the width, residual blocks."""

    def __init__(self, config: MimiConfig, index: int, width: int, ratio: int) -> None:
        super().__init__()
        self.up = _TransposedConv(f"decoder.layers.{index + 1}.conv", width, width // 2, ratio)
        self.blocks = nn.ModuleList(
            _Residual(f"decoder.layers.{index + 2 + i}", config, width // 2, config.dilation_growth_rate**i)
            for i in range(config.num_residual_layers)
        )

    def forward(self, x: Tensor, carry: dict[str, Tensor]) -> Tensor:
        """[slots, steps, width] -> [slots, steps * ratio, width / 2]."""
        x = self.up(F.elu_(x), carry)
        for block in self.blocks:
            x = block(x, carry)
        return x


class _Residual(nn.Module):
    """A block that adds to its input: ELU, convolution to fewer channels, ELU, pointwise convolution back."""

    def __init__(self, name: str, config: MimiConfig, width: int, dilation: int) -> None:
        super().__init__()
        inner = width // config.compress
        self.squeeze = _Conv(f"{name}.block.1.conv", width, inner, config.residual_kernel_size, dilation)
        self.expand = _Conv(f"{name}.block.3.conv", inner, width, 1)

    def forward(self, x: Tensor, carry: dict[str, Tensor]) -> Tensor:
        """[slots, steps, width] -> the same shape."""
        change: Tensor = self.expand(F.elu_(self.squeeze(F.elu(x), carry)), carry)
        return change.add_(x)


class _Conv(_Part):
    """A causal convolution: a matrix product over windows of the input, behind the last inputs of the piece before."""

    def __init__(self, name: str, inputs: int, outputs: int, kernel: int, dilation: int = 1) -> None:
        self.context = (kernel - 1) * dilation
        super().__init__(name, carry=(self.context, inputs) if self.context else ())
        self.kernel, self.dilation = kernel, dilation
        self.weight = _empty(outputs, kernel * inputs)
        self.bias = _empty(outputs)

    def published(self) -> dict[str, Tensor]:
        weight = self.weight.view(self.weight.shape[0], self.kernel, -1).transpose(1, 2)  # [out, in, kernel]
        return {"weight": weight, "bias": self.bias}

    def forward(self, x: Tensor, carry: dict[str, Tensor]) -> Tensor:
        """[slots, steps, inputs] -> [slots, steps, outputs]."""
        if self.context:
            steps, past = x.shape[1], carry[self.name]
            x = torch.cat([past, x], dim=1)
            past.copy_(x[:, steps:])
            x = torch.cat([x[:, i * self.dilation :][:, :steps] for i in range(self.kernel)], dim=2)
        return _linear(x, self.weight, self.bias)


class _OverlapAdd(_Part):
    """A transposed convolution of kernel 2 * stride: the second half of what an input spreads waits for the next."""

    def __init__(self, name: str, outputs: int, stride: int) -> None:
        super().__init__(name, carry=(1, stride * outputs))
        self.outputs = outputs

    def spread(self, x: Tensor) -> Tensor:
        """[slots, steps, inputs] -> [slots, steps, 2 * stride * outputs], in order of time."""
        raise NotImplementedError

    def forward(self, x: Tensor, carry: dict[str, Tensor]) -> Tensor:
        """[slots, steps, inputs] -> [slots, steps * stride, outputs]."""
        now, later = self.spread(x).chunk(2, dim=2)
        waiting = carry[self.name]
        sound = now + torch.cat([waiting, later[:, :-1]], dim=1)
        waiting.copy_(later[:, -1:])
        return sound.view(x.shape[0], -1, self.outputs)


class _TransposedConv(_OverlapAdd):
    """A dense one: a matrix product gives everything that an input spreads."""

    def __init__(self, name: str, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(name, outputs, stride)
        self.stride = stride
        self.weight = _empty(2 * stride * outputs, inputs)
        self.bias = _empty(outputs)

    def published(self) -> dict[str, Tensor]:
        weight = self.weight.view(-1, self.outputs, self.weight.shape[1]).permute(2, 1, 0)  # [in, out, kernel]
        return {"weight": weight, "bias": self.bias}

    def fan_in(self, weight: Tensor) -> int:
        return 2 * weight.shape[0]

    def prepare(self) -> None:
        # Every output sample gets two contributions and one bias: it comes with the first of them.
        once = self.bias.repeat(self.stride)
        self.bias = nn.Parameter(torch.cat([once, torch.zeros_like(once)]), requires_grad=False)

    def spread(self, x: Tensor) -> Tensor:
        return _linear(x, self.weight, self.bias)


class _Upsample(_OverlapAdd):
    """From frames to latent frames: the same in groups of channels (in the published codec each for itself)."""

    def __init__(self, name: str, config: MimiConfig) -> None:
        super().__init__(name, config.hidden_size, _STRIDE)
        self.groups = config.upsample_groups
        self.weight = _empty(2 * _STRIDE, config.hidden_size, config.hidden_size // self.groups)  # [tap, in, out]

    def published(self) -> dict[str, Tensor]:
        return {"weight": self.weight.permute(1, 2, 0)}

    def fan_in(self, weight: Tensor) -> int:
        return 2 * weight.shape[1]

    def spread(self, x: Tensor) -> Tensor:
        width = self.weight.shape[2]  # channels in a group
        taps = self.weight.view(-1, self.groups, width, width)  # [tap, group, in, out]
        inputs = x.view(*x.shape[:2], 1, self.groups, width, 1)
        return (inputs * taps).sum(4).flatten(2)
