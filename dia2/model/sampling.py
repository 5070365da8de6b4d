"""Guidance and draws.

Guidance needs two rows: the model with the text and the model without it. It says which tokens are candidates: the two
rows' logits are pushed apart by the scale, and the `filter_k` largest of the result are kept. The draw is then from the
logits of the row with the text, among the candidates alone.

A draw is the inverse CDF at a uniform number, which comes from a table by (seed, step, stream). So a conversation gives
the same tokens for the same seed, also when it goes back, and whatever else the device computes. The CDF runs in the
order of the vocabulary, not of the probabilities: when rounding swaps the ranks of two logits, nothing changes.

Every slot has its own settings. They are tensors on the device, so that captured graphs read new ones without a change.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from dia2.model.slots import SlotIndex

# Streams of the table of uniforms: each draw within a step has its own.
ACTION_STREAM = 0
CB0_STREAM = 1  # depformer stage s draws from stream CB0_STREAM + 1 + s


@dataclass(frozen=True)
class SamplingConfig:
    """temperature: 0 or less takes the most likely token. top_k: how many candidates are kept, 0 for all."""

    temperature: float = 0.8
    top_k: int = 50


@dataclass(frozen=True)
class SlotSettings:
    """How one conversation is sampled. The defaults are those of dia2stream."""

    cfg_scale: float = 3.0  # 1 turns guidance off
    cfg_filter_k: int = 50  # 0 keeps every candidate
    text: SamplingConfig = field(default_factory=lambda: SamplingConfig(0.7, 50))
    audio: SamplingConfig = field(default_factory=lambda: SamplingConfig(0.8, 80))

    @property
    def guided(self) -> bool:
        """Whether an unconditional row is needed."""
        return self.cfg_scale != 1.0


@dataclass(frozen=True)
class SamplingDefaults:
    """What a conversation is sampled with where nobody says it. A checkpoint may have its own."""

    cfg_scale: float = 3.0
    cfg_filter_k: int = 50
    text_temperature: float = 0.7
    text_top_k: int = 50
    audio_temperature: float = 0.8
    audio_top_k: int = 80


class Draws:
    """One kind of draw (text or audio) for every slot: temperature and top_k [slots] on the device."""

    def __init__(self, slots: int, device: torch.device) -> None:
        self.temperature = torch.zeros(slots, device=device)
        self.top_k = torch.zeros(slots, dtype=torch.int64, device=device)
        self._configs = [SamplingConfig(0.0, 0)] * slots

    def set(self, slot: int, config: SamplingConfig) -> None:
        """Takes one slot's settings."""
        config = replace(config, top_k=max(0, config.top_k))
        self._configs[slot] = config
        self.temperature[slot] = config.temperature
        self.top_k[slot] = config.top_k

    def __call__(self, logits: Tensor, uniforms: Tensor, slots: SlotIndex) -> Tensor:
        """logits float32 [n, V] of n slots, uniforms [n] in [0, 1) -> a token for each, int64 [n]."""
        greedy = logits.argmax(dim=-1)
        configs, temperature = [self._configs[slot] for slot in slots.numbers], self.temperature[slots.at]
        if all(config.temperature <= 0 for config in configs):
            return greedy
        widest = max(config.top_k for config in configs)
        drawn = _draw(logits, temperature.clamp(min=1e-4), self.top_k[slots.at], widest, uniforms)
        return torch.where(temperature > 0, drawn, greedy)


class Guidance:
    """Scale and filter_k of every slot, [slots] on the device."""

    def __init__(self, slots: int, device: torch.device) -> None:
        self.scale = torch.ones(slots, device=device)
        self.filter_k = torch.zeros(slots, dtype=torch.int64, device=device)
        self._filters = [0] * slots

    def set(self, slot: int, settings: SlotSettings) -> None:
        """Takes one slot's settings. At scale 1 its filter is off, also where an unconditional row is computed."""
        self._filters[slot] = max(0, settings.cfg_filter_k) if settings.guided else 0
        self.scale[slot] = settings.cfg_scale
        self.filter_k[slot] = self._filters[slot]

    def __call__(self, logits: Tensor, slots: SlotIndex) -> Tensor:
        """logits float32 [n, branches, V] of n slots -> the candidates' conditional logits [n, V], -inf elsewhere."""
        conditional, widest = logits[:, 0], max(self._filters[slot] for slot in slots.numbers)
        if logits.shape[1] == 1 or widest == 0:
            return conditional
        unconditional = logits[:, 1]
        guided = unconditional + self.scale[slots.at, None] * (conditional - unconditional)
        return conditional.masked_fill(guided < kth_largest(guided, self.filter_k[slots.at], widest), -torch.inf)


def kth_largest(values: Tensor, k: Tensor, widest: int) -> Tensor:
    """The k-th largest of each row of values [n, V] -> [n, 1]: the least where k is above V, -inf where k is 0.

    k: int64 [n]. widest: the largest k of all, which is known on the host.
    """
    widest = min(widest, values.shape[1])
    if widest == 0:
        return values.new_full((len(values), 1), -torch.inf)
    best = values.topk(widest, dim=-1).values
    chosen = best.gather(1, (k.clamp(1, widest) - 1)[:, None])
    return chosen.masked_fill((k == 0)[:, None], -torch.inf)


def _draw(logits: Tensor, temperature: Tensor, top_k: Tensor, widest: int, uniforms: Tensor) -> Tensor:
    scaled = logits / temperature[:, None]
    kept = scaled.masked_fill(scaled < kth_largest(scaled, top_k, widest), -torch.inf)
    # In float64: devices sum in parallel, so the sums before and after an impossible token can differ by a rounding
    # error, and a uniform that falls between them would draw it. With float32's 24 bits that does happen.
    cdf = kept.softmax(dim=-1, dtype=torch.float64).cumsum(dim=-1)
    return torch.searchsorted(cdf, uniforms[:, None] * cdf[:, -1:], right=True).squeeze(1)


def uniform_table(seed: int, first_step: int, steps: int, streams: int) -> Tensor:
    """Uniforms of steps first_step .. first_step + steps - 1, float32 [steps, streams] in [0, 1).

    The generator is counter-based (Philox), so any part of the table can be made alone, with the same numbers. Steps
    before 0 are those of a voice, in which nothing is drawn: 0.
    """
    if first_step < 0:
        drawn = uniform_table(seed, 0, max(0, steps + first_step), streams)
        return torch.cat([torch.zeros(steps - len(drawn), streams), drawn])
    blocks = -(-streams // 4)  # one Philox counter gives four 64-bit numbers
    raw = np.random.Philox(key=seed, counter=first_step * blocks).random_raw(steps * blocks * 4)
    # 24 bits are what a float32 below 1 can hold exactly.
    uniforms = (raw >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
    return torch.from_numpy(uniforms.reshape(steps, blocks * 4)[:, :streams].copy())
