"""A Whisper of a few kilobytes that was never trained: everything about it is real but what it hears."""

import json
from pathlib import Path

import torch
from tokenizers import pre_tokenizers
from transformers import (
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)

END, BEGIN, ENGLISH, NO_TIMES = "<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|notimestamps|>"
TASKS = ["<|translate|>", "<|transcribe|>"]
SPECIAL = [END, BEGIN, ENGLISH, *TASKS, "<|startoflm|>", "<|startofprev|>", "<|nospeech|>", NO_TIMES]


def save_whisper(folder: Path, hears: str = "abc ") -> Path:
    """Writes the model into a folder. It hears the letters of `hears`, in an order that depends on its seed."""
    letters = {letter: n for n, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    (folder / "vocab.json").write_text(json.dumps(letters), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    roles = dict.fromkeys(("unk_token", "bos_token", "eos_token", "pad_token"), END)
    tokenizer = WhisperTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), **roles)
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL[1:]})
    tokenizer.add_tokens([f"<|{step * 0.02:.2f}|>" for step in range(1501)])
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL}
    common = {"bos_token_id": ids[END], "eos_token_id": ids[END], "pad_token_id": ids[END]}
    common |= {"decoder_start_token_id": ids[BEGIN], "begin_suppress_tokens": []}
    kept = [letters["Ġ" if letter == " " else letter] for letter in hears]
    torch.manual_seed(0)
    sides = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_target_positions": 64}
    model = WhisperForConditionalGeneration(
        WhisperConfig(vocab_size=len(tokenizer), num_mel_bins=80, **sides, **heads, **common, suppress_tokens=[])
    )
    with torch.no_grad():
        decoder = model.model.decoder
        embedding = decoder.embed_tokens.weight.normal_(0, 0.3, generator=torch.Generator().manual_seed(1))
        decoder.embed_positions.weight.normal_(0, 3)
        decoder.layer_norm.weight.fill_(6)
        decoder.layer_norm.bias.copy_(2 * embedding[kept].sum(0))  # letters are likelier than times
    model.generation_config = GenerationConfig(
        **common,
        suppress_tokens=[n for n in range(ids[END] + 1) if n not in kept],
        no_timestamps_token_id=ids[NO_TIMES],
        prev_sot_token_id=ids["<|startofprev|>"],
        lang_to_id={ENGLISH: ids[ENGLISH]},
        task_to_id={task.strip("<|>"): ids[task] for task in TASKS},
        is_multilingual=True,
        alignment_heads=[[0, 0], [0, 1]],
        max_length=40,
        max_initial_timestamp_index=50,
    )
    model.save_pretrained(folder)
    WhisperProcessor(WhisperFeatureExtractor(), tokenizer).save_pretrained(folder)
    return folder
