"""The two transformers for training: dia2's own weights, and a forward pass over whole sequences at once.

`dia2.Backbone` and `dia2.Depformer` step through a cache and train nothing. Here the same modules hold the weights, so
that names and shapes are theirs, and every column of a sequence, and every stage of a column, is computed in parallel
with the true codes fed (teacher forcing). `check_lm.py` holds that both compute the same.
"""

import os
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dia2.checkpoint import random_models
from dia2.model.backbone import Backbone
from dia2.model.config import DataConfig, DecoderConfig, DepformerConfig, Dia2Config, ModelConfig, RuntimeConfig
from dia2.model.depformer import Depformer

CODEBOOKS, CODES = 8, 512
GROUPS = 3  # of depformer weights, spread over the stages
DELAYS = (8, *[10] * (CODEBOOKS - 1))  # shorter than published: a laptop has fewer steps to take before the first sound
CONTEXT = 750
LAYERS = 6
PART = 15 << 20  # bytes of a part of split weights


def config(text_vocab: int, layers: int | None = None) -> Dia2Config:
    """The bundled voice's config.json. layers: of the backbone, for a try."""
    stages = CODEBOOKS - 1
    data = DataConfig(
        channels=2 + CODEBOOKS,
        text_vocab_size=text_vocab,
        audio_vocab_size=CODES + 2,
        action_vocab_size=2,
        text_pad_token_id=random_models.PAD,
        text_new_word_token_id=random_models.NEW_WORD,
        text_zero_token_id=random_models.ZERO,
        action_pad_token_id=0,
        action_new_word_token_id=1,
        delay_pattern=DELAYS,
        second_stream_ahead=2,
    )
    model = ModelConfig(
        DecoderConfig(
            n_layer=layers or LAYERS, n_embd=448, n_hidden=1216, gqa_query_heads=7, kv_heads=7, gqa_head_dim=64
        ),
        DepformerConfig(
            n_layer=2,
            n_embd=192,
            n_hidden=512,
            gqa_query_heads=3,
            kv_heads=3,
            gqa_head_dim=64,
            text_embedding=False,
        ),
        normalization_layer_epsilon=1e-6,
    )
    schedule = tuple(stage * GROUPS // stages for stage in range(stages))
    return Dia2Config(data, model, RuntimeConfig(schedule, max_context_steps=CONTEXT))


class Logits(NamedTuple):
    """action [B, T, 2]; cb0 [B, T, V]; stages [S, N, codes], N = the positions asked for, over the batch."""

    action: Tensor
    cb0: Tensor
    stages: Tensor


class LmNet(nn.Module):
    """Columns [B, T, 2 + C] -> the logits of each next column. For models without depformer text embedding."""

    def __init__(self, config: Dia2Config, dropout: float = 0.0) -> None:
        super().__init__()
        self.config, self.dropout = config, dropout
        self.backbone, self.depformer = Backbone(config, config.runtime.max_context_steps + 1), Depformer(config)
        for rotary in (self.backbone.rotary, self.depformer.rotary):
            if rotary is not None:
                rotary.prepare(torch.device("cpu"))
        books = torch.arange(config.data.codebooks)
        self.register_buffer("offsets", books * config.data.audio_vocab_size, persistent=False)
        # A list as an index would be copied to the device each time, which no CUDA graph can record.
        self.register_buffer("schedule", torch.tensor(self.depformer.group_of_stage), persistent=False)
        self.requires_grad_(True)

    def initialise(self, seed: int) -> "LmNet":
        """New weights: dia2's random ones (scaled by fan-in), with smaller embeddings and nearly flat predictions."""
        with torch.no_grad():
            random_models.randomize(self.backbone, seed)
            random_models.randomize(self.depformer, seed + 1)
            # What is small moves far in few steps; layers norm what they read, so only proportions matter.
            for table in (self.backbone.text_embed.embedding, self.backbone.audio_embeds, self.depformer.audio_embeds):
                table.mul_(0.5)
            for head in (self.backbone.action_head, self.backbone.cb0_head, self.depformer.heads):
                head.mul_(0.1)
        return self

    def weights(self) -> dict[str, Tensor]:
        """Everything, under the published names: views of the parameters."""
        tensors = self.backbone.checkpoint_tensors() | self.depformer.checkpoint_tensors()
        return {name: tensor.detach() for name, tensor in tensors.items()}

    @torch.no_grad()
    def load(self, weights: dict[str, Tensor]) -> "LmNet":
        """Copies published tensors in."""
        own = self.weights()
        if set(own) != set(weights):
            raise ValueError(f"not these weights: {sorted(set(own) ^ set(weights))[:8]}")
        for name, tensor in own.items():
            tensor.copy_(weights[name])
        return self

    def hidden(self, columns: Tensor) -> Tensor:
        """columns int64 [B, T, 2 + C] -> normed hidden states [B, T, D]."""
        body = self.backbone
        codes = F.embedding(columns[..., 2:] + self.offsets, body.audio_embeds.flatten(0, 1))
        x = self._text(columns[..., 0], columns[..., 1]) + codes.sum(-2)
        angles = self._angles(body.rotary, columns.shape[1])
        for layer in body.layers:
            attention = layer.attention
            heads = F.linear(self._norm(layer.pre_norm, x), attention.qkv).unflatten(-1, (-1, attention.head_dim))
            y = self._attend(heads, attention, attention.split, angles)
            x = x + self._drop(F.linear(y, attention.o_proj))
            x = x + self._drop(layer.mlp(self._norm(layer.post_norm, x)))
        return self._norm(body.norm, x)

    def stages(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """hidden [N, D] and the next column's codes int64 [N, C] -> logits [S, N, codes], S = C - 1.

        All stages of a kind are one batched product, each with its group's weights.
        """
        depth = self.depformer
        projections = depth.project_in.index_select(0, self.schedule)  # [S, d, D]
        previous = codes[:, :-1].T + self.offsets[: depth.stages, None]  # stage s reads codebook s
        x = torch.einsum("nk,sdk->snd", hidden, projections) + F.embedding(previous, depth.audio_embeds.flatten(0, 1))
        angles = None if depth.rotary is None else self._angles(depth.rotary, depth.stages)
        for layer in depth.layers:
            attention = layer.attention
            into, out = (w.index_select(0, self.schedule) for w in (attention.in_proj, attention.out_proj))
            heads = torch.bmm(self._norm(layer.pre_norm, x), into.mT).unflatten(-1, (-1, attention.head_dim))
            split = [heads.shape[-2] // 3] * 3
            y = self._attend(heads.transpose(0, 1), attention, split, angles)  # [N, S, heads * head_dim]
            x = x + self._drop(torch.bmm(y.transpose(0, 1), out.mT))
            x = x + self._drop(layer.mlp(self._norm(layer.post_norm, x)))
        return torch.bmm(self._norm(depth.norm, x), depth.heads[:, : depth.codes].mT)

    def forward(self, columns: Tensor, following: Tensor, odd: Tensor | None = None) -> Logits:
        """columns and the columns after each, int64 [B, T, 2 + C].

        odd: bool [B, T / 2]: of each two positions, the one whose stages are computed; of all when None.
        """
        hidden = self.hidden(columns)
        some, codes = either(hidden, odd), either(following[..., 2:], odd)
        return Logits(
            F.linear(hidden, self.backbone.action_head),
            F.linear(hidden, self.backbone.cb0_head),
            self.stages(some.flatten(0, 1), codes.flatten(0, 1)),
        )

    def _text(self, main: Tensor, second: Tensor) -> Tensor:
        """dia2's TextEmbedding, by a lookup whose gradient is quick."""
        embed = self.backbone.text_embed
        spoken = F.linear(F.embedding(second, embed.embedding), embed.second_proj) * (second != embed.pad)[..., None]
        return F.linear(F.embedding(main, embed.embedding), embed.main_proj) + spoken

    def _attend(self, heads: Tensor, attention: nn.Module, split: list[int], angles: tuple[Tensor, Tensor]) -> Tensor:
        """heads [B, T, q + k + v heads, head_dim] -> [B, T, heads * head_dim]; causal, scores not scaled."""
        q, k, v = heads.split(list(split), dim=-2)
        q, k = self._norm(attention.q_norm, q), self._norm(attention.k_norm, k)
        if angles is not None:
            q, k = self._rotate(q, angles), self._rotate(k, angles)
        q, k, v = (part.to(heads.dtype).transpose(1, 2) for part in (q, k, v))
        grouped = q.shape[1] != k.shape[1]
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1.0, enable_gqa=grouped)
        return y.transpose(1, 2).flatten(2)

    @staticmethod
    def _norm(norm: nn.Module, x: Tensor) -> Tensor:
        return F.rms_norm(x.float(), norm.weight.shape, norm.weight, norm.eps)

    @staticmethod
    def _angles(rotary: nn.Module, length: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines for x [B, length, heads, head_dim], the halves' signs in the sines."""
        cos, sin = rotary.cos[:length, None], rotary.sin[:length, None]
        return torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)

    @staticmethod
    def _rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        return x * angles[0] + x.roll(x.shape[-1] // 2, -1) * angles[1]

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x


def either(x: Tensor, odd: Tensor | None) -> Tensor:
    """x [B, T, n] -> of each two positions one, [B, T / 2, n]; all of x when `odd` is None."""
    return x if odd is None else torch.where(odd[..., None], x[:, 1::2], x[:, ::2])


def save(weights: dict[str, Tensor], path: Path, dtype: torch.dtype = torch.float32) -> None:
    """Writes published tensors; the file is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    save_file({name: w.detach().to("cpu", dtype).contiguous().clone() for name, w in weights.items()}, partial)
    partial.replace(path)


def save_parts(weights: dict[str, Tensor], folder: Path, dtype: torch.dtype = torch.float16, most: int = PART) -> None:
    """The same in files of at most `most` bytes, `part-N.safetensors`, where larger ones cannot travel."""
    parts: list[dict[str, Tensor]] = [{}]
    room = most - (1 << 16)
    for name, tensor in weights.items():
        size = tensor.numel() * dtype.itemsize
        if size > room:
            parts.append({})
            room = most - (1 << 16)
        parts[-1][name] = tensor
        room -= size
    for number, part in enumerate(parts):
        save(part, folder / f"part-{number}.safetensors", dtype)


def read(path: Path) -> dict[str, Tensor]:
    """What `save` wrote, or the folder of what `save_parts` wrote."""
    files = sorted(path.glob("part-*.safetensors")) if path.is_dir() else [path]
    return {name: tensor.float() for file in files for name, tensor in load_file(file).items()}
