"""Dia2 in plain loops over single columns: slow, no batches, no tensors kept in place, written from the facts alone.

What the library computes in other ways for every checkpoint has to come out equal to this one, so nothing here is
shared with it but the parsed config, and scripts as entries. Greedy only.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dia2.model.config import Dia2Config
from dia2.text.script import Entry

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    **dict.fromkeys(("silu", "swish", "swiglu"), lambda x: x * torch.sigmoid(x)),
    **dict.fromkeys(("gelu", "geglu"), lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))),
    **dict.fromkeys(("linear", "identity"), lambda x: x),
    "relu": lambda x: x.clamp(min=0),
}
Past = dict[int, list[tuple[Tensor, Tensor]]]  # keys and values by layer, one of each a column or stage


def tensor_shapes(config: Dia2Config) -> dict[str, tuple[int, ...]]:
    """Every tensor of a checkpoint's file."""
    data, big, small = config.data, config.model.decoder, config.model.depformer
    books, vocab, wide, thin = data.codebooks, data.audio_vocab_size, big.n_embd, small.n_embd
    rank, groups = big.low_rank_dim or wide, sorted(set(config.schedule))
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.text_embed.embedding": (data.text_vocab_size, rank),
        "transformer.text_embed.main_proj": (wide, rank),
        "transformer.text_embed.second_proj": (wide, rank),
        **{f"transformer.audio_embeds.{k}": (vocab, wide) for k in range(books)},
        "transformer.norm": (wide,),
        "transformer.action_head": (data.action_vocab_size, wide),
        "transformer.cb0_head": (vocab, wide),
        **{f"depformer.audio_embeds.{k}": (vocab, thin) for k in range(books - 1)},
        **{f"depformer.logits.{k}": (vocab, thin) for k in range(books - 1)},
        **{f"depformer.depformer_in.{group}": (thin, wide) for group in groups},
        "depformer.norm": (thin,),
    }
    if small.text_embedding:
        shapes["depformer.text_embed.embedding"] = (data.text_vocab_size, thin)
        shapes |= {f"depformer.text_embed.{name}_proj": (thin, thin) for name in ("main", "second")}
    heads = {"q": big.gqa_query_heads, "k": big.kv_heads, "v": big.kv_heads}
    for at in (f"transformer.layers.{n}" for n in range(big.n_layer)):
        shapes |= {f"{at}.attn.{name}_proj": (count * big.gqa_head_dim, wide) for name, count in heads.items()}
        shapes[f"{at}.attn.o_proj"] = (wide, big.gqa_query_heads * big.gqa_head_dim)
        shapes |= _layer_shapes(at, "attn", wide, big.n_hidden, big.gqa_head_dim)
    inner = small.gqa_query_heads * small.gqa_head_dim
    for at in (f"depformer.layers.{n}" for n in range(small.n_layer)):
        shapes |= {f"{at}.self_attention.in_proj.{group}": (3 * inner, thin) for group in groups}
        shapes |= {f"{at}.self_attention.out_proj.{group}": (thin, inner) for group in groups}
        shapes |= _layer_shapes(at, "self_attention", thin, small.n_hidden, small.gqa_head_dim)
    return {f"{name}.weight": shape for name, shape in shapes.items()}


def _layer_shapes(at: str, attention: str, width: int, hidden: int, head_dim: int) -> dict[str, tuple[int, ...]]:
    norms = {f"{at}.{name}": (width,) for name in ("pre_norm", "post_norm")}
    head_norms = {f"{at}.{attention}.{name}": (head_dim,) for name in ("q_norm", "k_norm")}
    return norms | head_norms | {f"{at}.mlp.wi": (2 * hidden, width), f"{at}.mlp.wo": (width, hidden)}


class PlainModel:
    """Both transformers, one column or stage of one row at a time."""

    def __init__(self, config: Dia2Config, weights: Mapping[str, Tensor]) -> None:
        self.config, self.weights = config, weights

    def column(self, text: tuple[int, int], codes: Sequence[int], position: int, past: Past) -> Tensor:
        """The normed hidden state [D] of a column, which joins the past."""
        sizes = self.config.model.decoder
        x = self._text("transformer", text)
        for k, code in enumerate(codes):
            x = x + self.weights[f"transformer.audio_embeds.{k}.weight"][code]
        shared = sizes.gqa_query_heads // sizes.kv_heads
        for n in range(sizes.n_layer):
            at = f"transformer.layers.{n}"
            y = self._norm(f"{at}.pre_norm", x)
            q, k, v = (self._times(f"{at}.attn.{p}_proj", y).view(-1, sizes.gqa_head_dim) for p in "qkv")
            q, k = (self._turned(self._norm(f"{at}.attn.{p}_norm", t), position) for p, t in (("q", q), ("k", k)))
            past.setdefault(n, []).append((k, v))
            x = x + self._times(f"{at}.attn.o_proj", _attend(q, past[n], shared))
            x = x + self._mlp(at, self._norm(f"{at}.post_norm", x), self.config.model.linear.mlp_activations)
        return self._norm("transformer.norm", x)

    def action_logits(self, hidden: Tensor) -> Tensor:
        return self._times("transformer.action_head", hidden)

    def cb0_logits(self, hidden: Tensor) -> Tensor:
        return self._times("transformer.cb0_head", hidden)

    def stage(self, stage: int, hidden: Tensor, before: int, text: tuple[int, int], past: Past) -> Tensor:
        """Logits of codebook `stage` + 1."""
        sizes, group = self.config.model.depformer, self.config.schedule[stage]
        x = self._times(f"depformer.depformer_in.{group}", hidden)
        x = x + self.weights[f"depformer.audio_embeds.{stage}.weight"][before]
        if stage == 0 and sizes.text_embedding:
            x = x + self._text("depformer", text)
        for n in range(sizes.n_layer):
            at = f"depformer.layers.{n}"
            y = self._times(f"{at}.self_attention.in_proj.{group}", self._norm(f"{at}.pre_norm", x))
            q, k, v = y.view(3, sizes.gqa_query_heads, sizes.gqa_head_dim)
            q, k = (self._norm(f"{at}.self_attention.{p}_norm", t) for p, t in (("q", q), ("k", k)))
            if sizes.apply_rope:
                q, k = self._turned(q, stage), self._turned(k, stage)
            past.setdefault(n, []).append((k, v))
            x = x + self._times(f"{at}.self_attention.out_proj.{group}", _attend(q, past[n], 1))
            x = x + self._mlp(at, self._norm(f"{at}.post_norm", x), sizes.mlp_activations)
        return self._times(f"depformer.logits.{stage}", self._norm("depformer.norm", x))[: self.config.data.audio_codes]

    def _times(self, name: str, x: Tensor) -> Tensor:
        return self.weights[f"{name}.weight"] @ x

    def _norm(self, name: str, x: Tensor) -> Tensor:
        mean = x.pow(2).mean(-1, keepdim=True)
        return x / torch.sqrt(mean + self.config.model.normalization_layer_epsilon) * self.weights[f"{name}.weight"]

    def _text(self, where: str, text: tuple[int, int]) -> Tensor:
        table = self.weights[f"{where}.text_embed.embedding.weight"]
        x = self._times(f"{where}.text_embed.main_proj", table[text[0]])
        if text[1] != self.config.data.text_pad_token_id:
            x = x + self._times(f"{where}.text_embed.second_proj", table[text[1]])
        return x

    def _mlp(self, at: str, x: Tensor, activations: Sequence[str]) -> Tensor:
        gate, up = self._times(f"{at}.mlp.wi", x).chunk(2)
        return self._times(f"{at}.mlp.wo", ACTIVATIONS[activations[0]](gate) * ACTIVATIONS[activations[1]](up))

    def _turned(self, x: Tensor, position: int) -> Tensor:
        """x [heads, head_dim], rotated."""
        low, high = self.config.model.rope_min_timescale, self.config.model.rope_max_timescale
        half = x.shape[1] // 2
        angles = position / (low * (high / low) ** (torch.arange(half) / half))
        first, second = x[:, :half], x[:, half:]
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=1)


def _attend(q: Tensor, past: list[tuple[Tensor, Tensor]], shared: int) -> Tensor:
    """q [heads, head_dim]; `shared` heads read one head of the past. No scale."""
    keys, values = (torch.stack(part) for part in zip(*past, strict=True))
    heads = [F.softmax(keys[:, h // shared] @ q[h], dim=0) @ values[:, h // shared] for h in range(len(q))]
    return torch.cat(heads)


class PlainText:
    """The text stream machine."""

    def __init__(self, config: Dia2Config, entries: Sequence[Entry], initial_padding: int) -> None:
        self.data, self.queue = config.data, list(entries)
        self.budget = self.forced = initial_padding
        self.pending: list[int] = []
        self.lookahead: list[int] = []
        self.end: int | None = None
        self.words: list[tuple[str, int]] = []

    def process(self, step: int, action: int, forced: bool = False) -> tuple[int, int]:
        data = self.data
        new_word, pad, ahead = data.text_new_word_token_id, data.text_pad_token_id, data.second_stream_ahead
        begins = action == 1 or (action == new_word and action != 0)
        if self.pending or (self.forced > 0 and not forced):
            begins = False
        elif not forced and self.budget <= 0:
            begins = True
        if begins:
            begins = self._take(step, ahead)
        if begins and not ahead:
            return new_word, new_word
        main = self.pending.pop(0) if self.pending else pad
        if begins:
            return main, new_word
        self.budget, self.forced = max(0, self.budget - 1), max(0, self.forced - 1)
        if not ahead:
            return main, main
        return main, self.lookahead.pop(0) if self.lookahead else pad

    def _take(self, step: int, ahead: int) -> bool:
        """A word is wanted. Whether the column says so."""
        if not self.queue:
            first, self.end = self.end is None, step if self.end is None else self.end
            return first and ahead > 0
        entry = self.queue.pop(0)
        self.forced = entry.padding
        if not entry.tokens:
            return False
        self.words.append((entry.text, step))
        self.pending = list(entry.tokens)
        later = [other.tokens for other in self.queue if other.tokens]
        if ahead and len(later) >= ahead:
            self.lookahead += later[ahead - 1]
        self.budget = 6
        return True


def speak(
    model: PlainModel,
    entries: Sequence[Entry],
    bos: int,
    scale: float,
    filter_k: int,
    initial_padding: int,
    clips: tuple[Tensor, Sequence[Entry], Sequence[int]] | None = None,
) -> tuple[Tensor, list[tuple[str, float]]]:
    """A whole generation. clips: codes [C, P], entries and new-word steps. -> codes [C, frames], words and seconds."""
    data, steps = model.config.data, model.config.runtime.max_context_steps
    delays, rows = data.delays, 1 if scale == 1 else 2
    # By codebook and column.
    known = {(k, f + d): int(code) for k, d in enumerate(delays) if clips for f, code in enumerate(clips[0][k])}
    machine = PlainText(model.config, [*(clips[1] if clips else []), *entries], initial_padding)
    bos_code, pad_code = data.audio_bos_token_id, data.audio_pad_token_id
    pasts: list[Past] = [{}, {}]
    text = (bos, data.text_pad_token_id)

    def columns(step: int) -> list[Tensor]:
        codes = [known.get((k, step), bos_code) if step >= d else bos_code for k, d in enumerate(delays)]
        texts = [text, (data.text_zero_token_id, data.text_pad_token_id)]
        return [model.column(texts[row], codes, step, pasts[row]) for row in range(rows)]

    first = 0
    if clips is not None:
        for step in range(clips[0].shape[1]):
            columns(step)
            text = machine.process(step, int(step in clips[2]), forced=True)
        first = clips[0].shape[1] - 1
    step = first
    while step < steps and (machine.end is None or step < machine.end + max(delays) + 6):
        hidden = columns(step)
        text = machine.process(step, _chosen([model.action_logits(h) for h in hidden], scale, filter_k))
        code = _chosen([model.cb0_logits(h) for h in hidden], scale, filter_k, banned=[pad_code, bos_code])
        known[0, step + 1] = code
        stages: list[Past] = [{}, {}]
        for stage in range(data.codebooks - 1):
            logits = [model.stage(stage, h, code, text, stages[row]) for row, h in enumerate(hidden)]
            code = known[stage + 1, step + 1] = _chosen(logits, scale, filter_k)
        step += 1
    frames = range(step + 1 - max(delays))
    spoken = torch.tensor([[known.get((k, f + d), pad_code) for f in frames] for k, d in enumerate(delays)])
    words, crop = machine.words[len(clips[1]) if clips else 0 :], first
    if clips is None and not data.second_stream_ahead and words:
        crop = max(0, words[0][1] - initial_padding)
    return spoken[:, crop:], [(word, (at - crop) / 12.5) for word, at in words if at >= crop]


def _chosen(logits: list[Tensor], scale: float, filter_k: int, banned: Sequence[int] = ()) -> int:
    """The likeliest of what guidance leaves."""
    candidates = logits[0].clone()
    if len(logits) == 2 and 0 < filter_k < len(candidates):
        guided = logits[1] + scale * (logits[0] - logits[1])
        candidates[guided < guided.topk(filter_k).values[-1]] = -torch.inf
    candidates[list(banned)] = -torch.inf
    if candidates.isneginf().all():
        candidates = logits[0].clone()
        candidates[list(banned)] = -torch.inf
    return int(candidates.argmax())
