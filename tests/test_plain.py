"""Checkpoints of any sizes and options, with and without clips: the library says what the plain loops say."""

import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import GOLDENS
from models import GREEDY
from plain import ACTIVATIONS, PlainModel, speak, tensor_shapes
from safetensors.torch import save_file
from torch import Tensor

from dia2 import Dia2, GenerationConfig
from dia2.model.config import Dia2Config
from dia2.text.script import read_script
from dia2.voice.voice import load_prefix

FOLDER = GOLDENS / "published-like" / "checkpoint"  # whose tokenizer and codec serve for all
SCRIPTS = ["Hello", '[S1] Wait <break time="0.8s"/> it is 4:30 now. [S2] Yes', ["[S1] Hi there.", "[S2] I could not."]]


def some_config(choose: random.Random) -> dict[str, Any]:
    """A config with something of everything that a config may say."""
    books, kv_heads, heads = choose.randint(1, 8), choose.choice([1, 2, 3]), choose.choice([1, 2, 3])
    pad, new_word, zero = choose.choice([(3, 2, 7), (5, 9, 0), (0, 4, 1), (1, 0, 3)])
    special = choose.choice([{}, {"audio_pad_token_id": 64, "audio_bos_token_id": 65}])
    data = {
        "channels": books + 2,
        "text_vocab_size": 416,
        "audio_vocab_size": 66,
        "action_vocab_size": choose.choice([2, 3]),
        "text_pad_token_id": pad,
        "text_new_word_token_id": new_word,
        "text_zero_token_id": zero,
        "action_pad_token_id": 0,
        "action_new_word_token_id": 1,
        "second_stream_ahead": choose.randint(0, 3),
        **special,
    }
    if choose.random() < 0.9:
        data["delay_pattern"] = [choose.randint(choose.choice([0, 1]), 6) for _ in range(books)]
    decoder = {
        "n_layer": choose.randint(1, 3),
        "n_embd": choose.choice([24, 40]),
        "n_hidden": choose.choice([20, 48]),
        "gqa_query_heads": kv_heads * choose.choice([1, 2, 4]),
        "kv_heads": kv_heads,
        "gqa_head_dim": choose.choice([2, 6, 16]),
        "low_rank_dim": choose.choice([None, 8, 50]),
    }
    depformer = {
        "n_layer": choose.randint(1, 2),
        "n_embd": choose.choice([16, 24]),
        "n_hidden": choose.choice([20, 30]),
        "gqa_query_heads": heads,
        "kv_heads": heads,
        "gqa_head_dim": choose.choice([2, 8]),
        "apply_rope": choose.random() < 0.5,
        "text_embedding": choose.random() < 0.5,
    }
    model = {"decoder": decoder, "depformer": depformer}
    if choose.random() < 0.5:
        model |= {"rope_min_timescale": 2.5, "rope_max_timescale": 500, "normalization_layer_epsilon": 1e-3}
    for block in (model.setdefault("linear", {}), depformer):
        if choose.random() < 0.7:
            block["mlp_activations"] = choose.choices(sorted(ACTIVATIONS), k=2)
    runtime: dict[str, Any] = {"max_context_steps": choose.choice([48, 70])}
    if choose.random() < 0.7:
        runtime["weights_schedule"] = [choose.randint(0, 5) for _ in range(books - 1)]
    return {"data": data, "model": model, "runtime": runtime}


def some_weights(config: Dia2Config, seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def drawn(name: str, shape: tuple[int, ...]) -> Tensor:
        if "norm" in name:
            return 0.6 + 0.8 * torch.rand(shape, generator=generator)
        return torch.randn(shape, generator=generator) * (0.7 if "embed" in name else 1.6 / math.sqrt(shape[-1]))

    return {name: drawn(name, shape) for name, shape in tensor_shapes(config).items()}


@torch.inference_mode()
@pytest.mark.parametrize(("seed", "clips"), [*((seed, 0) for seed in range(12)), (20, 1), (21, 1), (22, 2), (23, 2)])
def test_whatever_the_config_says_the_tokens_are_those_of_plain_loops(seed: int, clips: int, tmp_path: Path) -> None:
    choose = random.Random(seed)
    raw = some_config(choose)
    config = Dia2Config.from_dict(raw)
    weights = some_weights(config, seed)
    (tmp_path / "config.json").write_text(json.dumps(raw))
    save_file(weights, tmp_path / "model.safetensors")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(FOLDER / name, tmp_path / name)
    dia = Dia2.from_local(
        tmp_path / "config.json",
        tmp_path / "model.safetensors",
        device="cpu",
        dtype="float32",
        mimi_id=str(FOLDER / "mimi"),
    )
    script, padding = choose.choice(SCRIPTS), choose.choice([0, 2])
    scale, filter_k = choose.choice([1.0, 2.0, 3.0]), choose.choice([0, 1, 5, 50])
    paths = [str(GOLDENS / "published-like" / "prefix" / f"s{n}.wav") for n in range(1, clips + 1)]
    prefix = None
    if paths:
        prefix = load_prefix(paths, dia.checkpoint.codec, dia.checkpoint.tokenizer)
    result = dia.generate(
        script,
        config=GenerationConfig(GREEDY, GREEDY, scale, filter_k, padding),
        **{f"prefix_speaker_{n}": path for n, path in enumerate(paths, start=1)},
    )
    tokens, words = speak(
        PlainModel(config, weights),
        read_script(script, dia.checkpoint.tokenizer),
        dia.checkpoint.tokenizer.bos,
        scale,
        filter_k,
        padding,
        (prefix.codes, prefix.entries, prefix.new_word_steps) if prefix else None,
    )
    assert torch.equal(result.audio_tokens[0], tokens)
    assert result.timestamps == words
