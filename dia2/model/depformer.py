"""The depformer: every codebook of a column but the first, one codebook a stage.

Stage s reads the backbone's hidden state and the code of the codebook before, and gives the logits of codebook s + 1.
Example: codebook 0 was drawn from the backbone's logits; stage 0 reads it and gives codebook 1, stage 1 reads that one.
A stage attends only to the stages before it in the same column, so the cache has one entry a stage and starts anew in
every column. Projections in and out of attention come in weight groups, and the schedule says which stage has which;
all stages share the norms and MLPs.
"""

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from dia2.model.config import Dia2Config
from dia2.model.fp8 import Matrix, linear
from dia2.model.layers import (
    GatedMLP,
    RMSNorm,
    Rotary,
    TextEmbedding,
    attend,
    empty_weight,
    prefixed,
    rotate,
    split_by_name,
)


class Depformer(nn.Module):
    """The published `depformer.*` tensors."""

    def __init__(self, config: Dia2Config) -> None:
        super().__init__()
        data, model, sizes = config.data, config.model, config.model.depformer
        self.groups = sorted(set(config.schedule))  # their published numbers
        self.group_of_stage = [self.groups.index(group) for group in config.schedule]
        self.stages = data.codebooks - 1
        self.codes = data.audio_codes
        self.audio_embeds = empty_weight(self.stages, data.audio_vocab_size, sizes.n_embd)
        self.text_embed = (
            TextEmbedding(data.text_vocab_size, sizes.n_embd, None, data.text_pad_token_id)
            if sizes.text_embedding
            else None
        )
        self.project_in: Matrix = empty_weight(len(self.groups), sizes.n_embd, model.decoder.n_embd)
        self.layers = nn.ModuleList(Block(config, len(self.groups)) for _ in range(sizes.n_layer))
        self.norm = RMSNorm(sizes.n_embd, model.normalization_layer_epsilon)
        self.heads = empty_weight(self.stages, data.audio_vocab_size, sizes.n_embd)
        self.rotary = (
            Rotary(sizes.gqa_head_dim, model.rope_min_timescale, model.rope_max_timescale, self.stages)
            if sizes.apply_rope
            else None
        )
        self.kv_shape = (sizes.n_layer, sizes.kv_heads, self.stages, sizes.gqa_head_dim)

    def prepare(self) -> None:
        """Fills the tables that are in no file, once the device is known."""
        if self.rotary is not None:
            self.rotary.prepare(self.heads.device)

    def new_cache(self, rows: int) -> tuple[Tensor, Tensor]:
        """Keys and values of one column, each [layers, rows, heads, stages, head_dim]; reused for every frame."""
        layers, *rest = self.kv_shape
        shape = (layers, rows, *rest)
        return self.heads.new_zeros(shape), self.heads.new_zeros(shape)

    def embed_text(self, main: Tensor, second: Tensor) -> Tensor | None:
        """What the new text tokens [rows] add to stage 0, [rows, d]; None in a model without this embedding."""
        return None if self.text_embed is None else self.text_embed(main, second)

    def stage(
        self, stage: int, hidden: Tensor, previous: Tensor, text: Tensor | None, cache: tuple[Tensor, Tensor]
    ) -> Tensor:
        """One stage: hidden [rows, D] and the previous code, int64 [rows] -> float32 logits [rows, codes]."""
        group = self.group_of_stage[stage]
        x = linear(hidden, self.project_in[group]) + self.audio_embeds[stage][previous]
        if stage == 0 and text is not None:
            x = x + text
        angles = None if self.rotary is None else (self.rotary.cos[stage], self.rotary.sin[stage])
        x = x.unsqueeze(1)  # [rows, 1, d]
        for number, layer in enumerate(self.layers):
            x = layer(x, stage, group, angles, cache[0][number], cache[1][number])
        return F.linear(self.norm(x.squeeze(1)).float(), self.heads[stage, : self.codes].float())

    def checkpoint_tensors(self) -> dict[str, Matrix]:
        """Published name -> the view of our weights that holds it."""
        stages = range(self.stages)
        tensors = split_by_name(stages, self.audio_embeds, "audio_embeds.{}.weight")
        if self.text_embed is not None:
            tensors |= prefixed("text_embed", self.text_embed.checkpoint_tensors())
        tensors |= split_by_name(self.groups, self.project_in, "depformer_in.{}.weight")
        for number, layer in enumerate(cast("list[Block]", self.layers)):
            tensors |= prefixed(f"layers.{number}", layer.checkpoint_tensors(self.groups))
        tensors |= {"norm.weight": self.norm.weight}
        tensors |= split_by_name(stages, self.heads, "logits.{}.weight")
        return prefixed("depformer", tensors)


class Block(nn.Module):
    """x += attention(norm(x)); x += mlp(norm(x)), with the group's projections."""

    def __init__(self, config: Dia2Config, groups: int) -> None:
        super().__init__()
        sizes, eps = config.model.depformer, config.model.normalization_layer_epsilon
        self.pre_norm = RMSNorm(sizes.n_embd, eps)
        self.attention = Attention(config, groups)
        self.post_norm = RMSNorm(sizes.n_embd, eps)
        self.mlp = GatedMLP(sizes.n_embd, sizes.n_hidden, sizes.mlp_activations)

    def forward(
        self, x: Tensor, stage: int, group: int, angles: tuple[Tensor, Tensor] | None, k: Tensor, v: Tensor
    ) -> Tensor:
        x += self.attention(self.pre_norm(x), stage, group, angles, k, v)
        x += self.mlp(self.post_norm(x))
        return x

    def checkpoint_tensors(self, groups: list[int]) -> dict[str, Matrix]:
        return {
            "pre_norm.weight": self.pre_norm.weight,
            "post_norm.weight": self.post_norm.weight,
            **prefixed("self_attention", self.attention.checkpoint_tensors(groups)),
            **prefixed("mlp", self.mlp.checkpoint_tensors()),
        }


class Attention(nn.Module):
    """Attention over the column's stages so far: keys and values [rows, heads, stages, head_dim]."""

    def __init__(self, config: Dia2Config, groups: int) -> None:
        super().__init__()
        sizes, eps = config.model.depformer, config.model.normalization_layer_epsilon
        self.head_dim = sizes.gqa_head_dim
        width = sizes.gqa_query_heads * self.head_dim
        self.in_proj: Matrix = empty_weight(groups, 3 * width, sizes.n_embd)
        self.out_proj: Matrix = empty_weight(groups, sizes.n_embd, width)
        self.q_norm = RMSNorm(self.head_dim, eps)
        self.k_norm = RMSNorm(self.head_dim, eps)

    def forward(
        self, x: Tensor, stage: int, group: int, angles: tuple[Tensor, Tensor] | None, k: Tensor, v: Tensor
    ) -> Tensor:
        q, new_k, new_v = linear(x, self.in_proj[group]).unflatten(-1, (-1, self.head_dim)).chunk(3, dim=-2)
        q, new_k = self.q_norm(q), self.k_norm(new_k)
        if angles is not None:
            q, new_k = rotate(q, angles), rotate(new_k, angles)
        k[:, :, stage] = new_k.squeeze(1)
        v[:, :, stage] = new_v.squeeze(1)
        out = attend(q, k[:, :, : stage + 1], v[:, :, : stage + 1], None)
        return linear(out, self.out_proj[group])

    def checkpoint_tensors(self, groups: list[int]) -> dict[str, Matrix]:
        return {
            **split_by_name(groups, self.in_proj, "in_proj.{}.weight"),
            **split_by_name(groups, self.out_proj, "out_proj.{}.weight"),
            "q_norm.weight": self.q_norm.weight,
            "k_norm.weight": self.k_norm.weight,
        }
