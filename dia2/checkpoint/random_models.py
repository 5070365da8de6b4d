"""Models with random weights under a name, for benches and tests: the published shapes, and a tiny one.

`random:2b` and `random:1b` cost what the published models cost, memory and time, and need no download; `random:tiny`
is quick on one CPU core. All step through a script exactly as the published models do (the same delays, streams and
special ids) and say noise.

Weights are scaled by fan-in, so that activations keep their size through the layers and logits spread enough for
sampling to have something to choose from. Values are drawn on the device, in float32 whatever the model's dtype: a seed
gives the same model in every dtype, on one kind of device.
"""

import re
from dataclasses import dataclass, replace

import torch
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from torch import Tensor

from dia2.codec.config import PUBLISHED, MimiConfig
from dia2.errors import CheckpointError
from dia2.model.backbone import Backbone
from dia2.model.config import DataConfig, DecoderConfig, DepformerConfig, Dia2Config, ModelConfig, RuntimeConfig
from dia2.model.depformer import Depformer

SCHEME = "random:"
BOS, NEW_WORD, PAD, ZERO = 1, 2, 3, 7  # text ids, as published

_CHUNK = 16 << 20  # values drawn at once
_HEAD_GAIN = 2.0  # how far logits spread: about e^2 between a likely code and an average one


@dataclass(frozen=True)
class RandomModel:
    """What a random model is made of. mimi_bytes: about what its codec's weights take in memory."""

    config: Dia2Config
    mimi: MimiConfig
    mimi_bytes: int
    seed: int = 0


def random_model(name: str) -> RandomModel:
    """The model called `random:tiny`, or `random:tiny:7` for another seed than 0. Raises CheckpointError."""
    match = re.fullmatch(rf"{SCHEME}(\w+)(?::(\d+))?", name)
    if match is None or match[1] not in _MODELS:
        known = ", ".join(f"{SCHEME}{size}" for size in _MODELS)
        raise CheckpointError(f"no such random model: {name}; there are {known}, each with :SEED if you like")
    return replace(_MODELS[match[1]], seed=int(match[2] or 0))


def _config(
    text_vocab: int, codes: int, codebooks: int, groups: int, decoder: DecoderConfig, depformer: DepformerConfig
) -> Dia2Config:
    """A config of these sizes with the published options; stages share weight groups evenly."""
    stages = codebooks - 1
    data = DataConfig(
        channels=codebooks + 2,
        text_vocab_size=text_vocab,
        audio_vocab_size=codes + 2,
        action_vocab_size=2,
        text_pad_token_id=PAD,
        text_new_word_token_id=NEW_WORD,
        text_zero_token_id=ZERO,
        action_pad_token_id=0,
        action_new_word_token_id=1,
        delay_pattern=(16, *[18] * stages),
        second_stream_ahead=2,
    )
    runtime = RuntimeConfig(tuple(stage * groups // stages for stage in range(stages)), max_context_steps=1500)
    return Dia2Config(data, ModelConfig(decoder, depformer, normalization_layer_epsilon=1e-6), runtime)


_TINY_MIMI = replace(
    PUBLISHED,
    hidden_size=64,
    num_filters=4,
    codebook_size=256,
    codebook_dim=16,
    num_quantizers=8,
    upsample_groups=64,
    num_hidden_layers=1,
    intermediate_size=128,
    num_attention_heads=4,
    num_key_value_heads=4,
    head_dim=16,
)

_MODELS = {
    "tiny": RandomModel(
        _config(
            text_vocab=1024,
            codes=256,
            codebooks=8,
            groups=3,
            decoder=DecoderConfig(2, 128, 256, 4, 2, 32),
            depformer=DepformerConfig(1, 64, 128, 2, 2, 32, text_embedding=False),
        ),
        _TINY_MIMI,
        mimi_bytes=2 << 20,
    ),
    "1b": RandomModel(
        _config(
            text_vocab=49_280,
            codes=2048,
            codebooks=32,
            groups=3,
            decoder=DecoderConfig(30, 1024, 6144, 16, 8, 128),
            depformer=DepformerConfig(3, 1024, 3072, 8, 8, 128, text_embedding=False),
        ),
        PUBLISHED,
        mimi_bytes=400 << 20,
    ),
    "2b": RandomModel(
        _config(
            text_vocab=49_280,
            codes=2048,
            codebooks=32,
            groups=5,
            decoder=DecoderConfig(28, 2048, 6144, 16, 8, 128),
            depformer=DepformerConfig(4, 1024, 3072, 8, 8, 128, text_embedding=False),
        ),
        PUBLISHED,
        mimi_bytes=400 << 20,
    ),
}


@torch.no_grad()
def randomize(module: Backbone | Depformer, seed: int) -> None:
    """Draws every weight of an allocated module, on its device. The same seed gives the same weights."""
    weights = dict(module.named_parameters())
    generator = torch.Generator(module.norm.weight.device).manual_seed(seed)
    # What is summed up counts as fan-in: the backbone sums a code of every codebook, and the residual stream of both
    # transformers sums two products of every layer.
    codes = len(module.audio_embeds) if isinstance(module, Backbone) else 1
    residuals = 2 * len(module.layers)
    for name, weight in weights.items():
        if name.endswith("norm.weight"):
            weight.fill_(_norm_gain(name, weight))
        else:
            _draw(weight, _deviation(name, weight.shape[-1], codes, residuals), generator)


def _norm_gain(name: str, weight: Tensor) -> float:
    """1, but less for queries and keys: nothing else scales their products, and attention shall spread over columns."""
    per_head = name.endswith(("q_norm.weight", "k_norm.weight"))
    return float(weight.numel() ** -0.25) if per_head else 1.0


def _deviation(name: str, fan_in: int, codes: int, residuals: int) -> float:
    """The standard deviation of a weight's values."""
    if name == "text_embed.embedding":
        return 1.0
    if name == "audio_embeds":
        return float(codes**-0.5)
    if name in ("cb0_head", "action_head", "heads"):
        return float(_HEAD_GAIN * fan_in**-0.5)
    if name.endswith(("o_proj", "out_proj", "wo")):
        return float((residuals * fan_in) ** -0.5)
    return float(fan_in**-0.5)


def _draw(weight: Tensor, deviation: float, generator: torch.Generator) -> None:
    """Fills with uniform noise of that standard deviation: on a CPU it is drawn twice as fast as normal noise."""
    bound = deviation * 3**0.5
    for part in torch.split(weight.view(-1), _CHUNK):
        noise = torch.empty(part.shape, dtype=torch.float32, device=part.device)
        part.copy_(noise.uniform_(-bound, bound, generator=generator))


def train_tokenizer() -> Tokenizer:
    """A byte-level BPE tokenizer, trained here: common words are one token, others a few; it has [S1] and [S2]."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<pad>", *[f"<reserved_{i}>" for i in range(3)], "<zero>"]
    built = Tokenizer(BPE())
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=1000,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = _WORDS.split()
    # A word stands at the start, behind another word, or begins with a capital: the training text has all three ways.
    ways = (" ".join([word, word, word.capitalize()]) for word in words)
    built.train_from_iterator(ways, trainer)
    built.add_tokens([AddedToken(tag, normalized=False, special=True) for tag in ("[S1]", "[S2]")])
    return built


_WORDS = """
the be to of and a in that have I it for not on with he as you do at this but his by from they we say her she or an
will my one all would there their what so up out if about who get which go me when make can like time no just him know
take people into year your good some could them see other than then now look only come its over think also back after
use two how our work first well way even new want because any these give day most us is are was were been being had
has did said got going went here where why very much many more little long great old man woman life child world school
hello hi hey thanks thank please sorry yes yeah okay right sure really maybe never always again still down off own same
tell ask need feel try leave call keep let begin help talk turn start show hear play run move live believe hold bring
happen write provide sit stand lose pay meet include continue set learn change lead understand watch follow stop create
speak read allow add spend grow open walk win offer remember love consider appear buy wait serve die send expect build
stay fall cut reach kill remain morning night today tomorrow evening week month money story fact lot home house car door
water food friend family mother father name number part place point problem question room side system thing word voice
streaming audio model order check account weather appointment o'clock don't can't won't it's I'm that's you're let's
"""
