"""The backbone: a column of tokens in, logits of the action and of the next column's first codebook out.

A column holds two text tokens and C audio codes. Their embeddings are summed. A causal transformer with grouped
key/value heads reads all columns so far through the cache, and two heads give the action and codebook 0 of the next
column. The last hidden state also goes to the depformer, which gives the other codebooks.
"""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dia2.model.config import Dia2Config
from dia2.model.fp8 import Matrix, linear
from dia2.model.kv_cache import CacheView, Update
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


class Backbone(nn.Module):
    """The published `transformer.*` tensors. positions: how many rotary positions the tables have."""

    def __init__(self, config: Dia2Config, positions: int) -> None:
        super().__init__()
        data, model = config.data, config.model
        sizes, eps = model.decoder, model.normalization_layer_epsilon
        self.text_embed = TextEmbedding(data.text_vocab_size, sizes.n_embd, sizes.low_rank_dim, data.text_pad_token_id)
        self.audio_embeds = empty_weight(data.codebooks, data.audio_vocab_size, sizes.n_embd)
        self.layers = nn.ModuleList(Block(config) for _ in range(sizes.n_layer))
        self.norm = RMSNorm(sizes.n_embd, eps)
        self.action_head = empty_weight(data.action_vocab_size, sizes.n_embd)
        self.cb0_head = empty_weight(data.audio_vocab_size, sizes.n_embd)
        self.rotary = Rotary(sizes.gqa_head_dim, model.rope_min_timescale, model.rope_max_timescale, positions)
        self.register_buffer("codebooks", torch.empty(data.codebooks, dtype=torch.int64), persistent=False)

    def prepare(self) -> None:
        """Fills the tables that are in no file, once the device is known."""
        device = self.audio_embeds.device
        self.rotary.prepare(device)
        self.codebooks = torch.arange(len(self.audio_embeds), device=device)

    def forward(
        self,
        tokens: Tensor,
        index: Tensor,
        positions: Tensor,
        cache: CacheView,
        live: int,
        seen: Tensor | None = None,
    ) -> Tensor:
        """Runs n columns of every row and leaves their keys and values in the cache.

        tokens: int64 [rows, n, 2 + C]; main, second, then the codes.
        index: int64 [rows, n], the cache column each is written at, rising along n.
        positions: int64 [rows, n], the rotary position of each.
        live: how many leading columns of the cache any row may read, at least index.max() + 1.
        seen: bool [n, live], which of them each column reads; None: those up to its own.
        Returns the normed hidden states [rows, n, D].
        """
        x = self.embed(tokens)
        angles = self.rotary.at(positions)
        if seen is None:
            seen = torch.arange(live, device=index.device) <= index[:, :, None]
        mask = seen.unsqueeze(-3)  # [rows or nothing, 1, n, live]
        update = cache.at(index, live)
        for number, layer in enumerate(self.layers):
            x = layer(x, number, angles, mask, update)
        hidden: Tensor = self.norm(x)
        return hidden

    def embed(self, tokens: Tensor) -> Tensor:
        """tokens [rows, n, 2 + C] -> the sum of their embeddings [rows, n, D]."""
        text: Tensor = self.text_embed(tokens[..., 0], tokens[..., 1])
        return text + self.audio_embeds[self.codebooks, tokens[..., 2:]].sum(dim=-2)

    def action_logits(self, hidden: Tensor) -> Tensor:
        """hidden [..., D] -> float32 [..., actions]."""
        return F.linear(hidden.float(), self.action_head.float())

    def cb0_logits(self, hidden: Tensor) -> Tensor:
        """hidden [..., D] -> float32 [..., V], pad and bos included."""
        return F.linear(hidden.float(), self.cb0_head.float())

    def checkpoint_tensors(self) -> dict[str, Matrix]:
        """Published name -> the view of our weights that holds it."""
        tensors = prefixed("text_embed", self.text_embed.checkpoint_tensors())
        tensors |= split_by_name(range(len(self.audio_embeds)), self.audio_embeds, "audio_embeds.{}.weight")
        for number, layer in enumerate(cast("list[Block]", self.layers)):
            tensors |= prefixed(f"layers.{number}", layer.checkpoint_tensors())
        tensors |= {
            "norm.weight": self.norm.weight,
            "action_head.weight": self.action_head,
            "cb0_head.weight": self.cb0_head,
        }
        return prefixed("transformer", tensors)


class Block(nn.Module):
    """x += attention(norm(x)); x += mlp(norm(x))."""

    def __init__(self, config: Dia2Config) -> None:
        super().__init__()
        sizes, eps = config.model.decoder, config.model.normalization_layer_epsilon
        self.pre_norm = RMSNorm(sizes.n_embd, eps)
        self.attention = Attention(config)
        self.post_norm = RMSNorm(sizes.n_embd, eps)
        self.mlp = GatedMLP(sizes.n_embd, sizes.n_hidden, config.model.linear.mlp_activations)

    def forward(self, x: Tensor, number: int, angles: tuple[Tensor, Tensor], mask: Tensor, update: Update) -> Tensor:
        x += self.attention(self.pre_norm(x), number, angles, mask, update)
        x += self.mlp(self.post_norm(x))
        return x

    def checkpoint_tensors(self) -> dict[str, Matrix]:
        return {
            "pre_norm.weight": self.pre_norm.weight,
            "post_norm.weight": self.post_norm.weight,
            **prefixed("attn", self.attention.checkpoint_tensors()),
            **prefixed("mlp", self.mlp.checkpoint_tensors()),
        }


class Attention(nn.Module):
    """Grouped-query attention over the cache; queries and keys are normed a head, then rotated."""

    def __init__(self, config: Dia2Config) -> None:
        super().__init__()
        sizes, eps = config.model.decoder, config.model.normalization_layer_epsilon
        self.split = (sizes.gqa_query_heads, sizes.kv_heads, sizes.kv_heads)
        self.head_dim = sizes.gqa_head_dim
        self.qkv: Matrix = empty_weight(sum(self.split) * self.head_dim, sizes.n_embd)
        self.o_proj: Matrix = empty_weight(sizes.n_embd, sizes.gqa_query_heads * self.head_dim)
        self.q_norm = RMSNorm(self.head_dim, eps)
        self.k_norm = RMSNorm(self.head_dim, eps)

    def forward(self, x: Tensor, number: int, angles: tuple[Tensor, Tensor], mask: Tensor, update: Update) -> Tensor:
        q, k, v = linear(x, self.qkv).unflatten(-1, (-1, self.head_dim)).split(self.split, dim=-2)
        keys, values = update(number, rotate(self.k_norm(k), angles), v)
        return linear(attend(rotate(self.q_norm(q), angles), keys, values, mask), self.o_proj)

    def checkpoint_tensors(self) -> dict[str, Matrix]:
        q, k, v = self.qkv.split([heads * self.head_dim for heads in self.split])
        return {
            "q_proj.weight": q,
            "k_proj.weight": k,
            "v_proj.weight": v,
            "o_proj.weight": self.o_proj,
            "q_norm.weight": self.q_norm.weight,
            "k_norm.weight": self.k_norm.weight,
        }
