"""config.json: what is there is read, what is not has its default, and what is wrong is named."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dia2.errors import CheckpointError, ConfigError, Dia2Error
from dia2.model.config import ACTIVATIONS, Dia2Config

GOLDENS = Path(__file__).parent / "goldens"
PUBLISHED_LIKE: dict[str, Any] = json.loads((GOLDENS / "published-like/checkpoint/config.json").read_text())
REQUIRED: dict[str, Any] = {
    "data": {
        "channels": 4,
        "text_vocab_size": 10,
        "audio_vocab_size": 20,
        "action_vocab_size": 2,
        "text_pad_token_id": 3,
        "text_new_word_token_id": 2,
        "action_pad_token_id": 0,
        "action_new_word_token_id": 1,
    },
    "model": {
        block: {"n_layer": 1, "n_embd": 4, "n_hidden": 4, "gqa_query_heads": 2, "kv_heads": kv_heads, "gqa_head_dim": 2}
        for block, kv_heads in (("decoder", 1), ("depformer", 2))
    },
    "runtime": {},
}


def changed(path: str, value: object) -> dict[str, Any]:
    """The golden's config with one value set; the path has dots."""
    raw = copy.deepcopy(PUBLISHED_LIKE)
    *blocks, name = path.split(".")
    block = raw
    for key in blocks:
        block = block.setdefault(key, {})
    block[name] = value
    return raw


def refusal(raw: object) -> str:
    with pytest.raises(ConfigError) as caught:
        Dia2Config.from_dict(raw, "the config")
    message = str(caught.value)
    assert message.startswith("the config: ")
    assert len(message.splitlines()) == 1
    return message.removeprefix("the config: ")


def test_a_file_is_read_and_written_back_equal(goldens: Path) -> None:
    config = Dia2Config.from_file(goldens / "checkpoint" / "config.json")
    assert Dia2Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_every_value_of_a_file_is_where_the_file_has_it() -> None:
    config = Dia2Config.from_dict(PUBLISHED_LIKE)
    assert config.data.delays == (4, 6, 6, 6, 6, 6, 6, 6)
    assert (config.data.codebooks, config.data.audio_codes) == (8, 64)
    assert (config.model.decoder.n_embd, config.model.depformer.n_embd) == (64, 48)
    assert (config.model.depformer.apply_rope, config.model.depformer.text_embedding) == (True, False)
    assert config.model.normalization_layer_epsilon == 1e-6
    assert config.schedule == (0, 1, 2, 2, 2, 2, 2)
    assert config.runtime.max_context_steps == 160


def test_what_is_left_out_has_the_published_default() -> None:
    config = Dia2Config.from_dict(REQUIRED)
    data, model = config.data, config.model
    assert (data.text_zero_token_id, data.audio_pad_token_id, data.audio_bos_token_id) == (7, 19, 18)
    assert (data.delays, data.second_stream_ahead, data.tokenizer_path) == ((0, 0), 0, None)
    assert (model.rope_min_timescale, model.rope_max_timescale) == (1.0, 10000.0)
    assert (model.normalization_layer_epsilon, model.decoder.low_rank_dim) == (1e-5, None)
    assert model.linear.mlp_activations == model.depformer.mlp_activations == ("silu", "linear")
    assert (model.depformer.apply_rope, model.depformer.text_embedding) == (True, True)
    assert (config.schedule, config.runtime.max_context_steps) == ((0,), 1500)
    assert (config.assets.tokenizer, config.assets.mimi) == (None, None)
    assert Dia2Config.from_dict(config.to_dict()) == config


def test_numbers_without_a_fraction_are_numbers() -> None:
    assert Dia2Config.from_dict(changed("model.rope_max_timescale", 500)).model.rope_max_timescale == 500.0


@pytest.mark.parametrize(
    ("path", "known"),
    [
        ("data.delay_patern", "data may have channels, "),
        ("model.decoder.n_layers", "model.decoder may have n_layer, "),
        ("model.rope_theta", "model may have decoder, "),
        ("runtime.context", "runtime may have weights_schedule, max_context_steps"),
        ("assets.codec", "assets may have tokenizer, mimi"),
        ("training", "the file may have data, model, runtime, assets"),
    ],
)
def test_an_unknown_key_is_refused_with_those_that_exist(path: str, known: str) -> None:
    assert refusal(changed(path, 1)).startswith(f"unknown {path}; {known}")


@pytest.mark.parametrize("path", ["data.first_word_min_start", "data.max_pad", "model.dropout"])
def test_keys_that_only_training_reads_are_passed_over(path: str) -> None:
    assert Dia2Config.from_dict(changed(path, 5)) == Dia2Config.from_dict(PUBLISHED_LIKE)


def test_missing_keys_are_named_together() -> None:
    raw = copy.deepcopy(REQUIRED)
    del raw["data"]["channels"], raw["data"]["action_pad_token_id"]
    assert refusal(raw) == "data.channels, data.action_pad_token_id missing"
    del raw["runtime"]
    assert refusal(raw) == "runtime missing"


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("data.channels", True, "a whole number, not True"),
        ("data.channels", 10.0, "a whole number, not 10.0"),
        ("data.channels", "10", "a whole number, not '10'"),
        ("data.channels", None, "a whole number, not None"),
        ("model.rope_max_timescale", True, "a number, not True"),
        ("model.rope_max_timescale", "1e4", "a number, not '1e4'"),
        ("model.rope_max_timescale", float("inf"), "a number, not inf"),
        ("model.depformer.apply_rope", 1, "true or false, not 1"),
        ("model.decoder.low_rank_dim", "none", "a whole number, not 'none'"),
        ("assets.mimi", 3, "a string, not 3"),
        ("data.delay_pattern", 4, "a list, not 4"),
        ("data.delay_pattern", "4", "a list, not '4'"),
        ("model", [], "a JSON object, not list"),
        ("model.decoder", 3, "a JSON object, not int"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(path: str, value: object, expected: str) -> None:
    assert refusal(changed(path, value)) == f"{path} must be {expected}"


def test_an_item_of_a_list_is_named_by_its_place() -> None:
    message = refusal(changed("runtime.weights_schedule", [0, 1, True, 2, 2, 2, 2]))
    assert message == "runtime.weights_schedule[2] must be a whole number, not True"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("data.channels", 2, "data.channels must be at least 3, not 2"),
        ("data.channels", 10**30, f"data.channels must be at most 1000, not {10**30}"),
        ("data.second_stream_ahead", 10**30, "data.second_stream_ahead must be at most 1000"),
        ("model.depformer.n_layer", 10**9, "model.depformer.n_layer must be at most 1000"),
        ("data.action_vocab_size", 1, "data.action_vocab_size must be at least 2, not 1"),
        ("data.second_stream_ahead", -1, "data.second_stream_ahead must be at least 0, not -1"),
        ("data.pause_padding", -1, "data.pause_padding must be at least 0, not -1"),
        ("data.pause_padding", 10**30, "data.pause_padding must be at most 1000"),
        ("model.decoder.n_layer", 0, "model.decoder.n_layer must be at least 1, not 0"),
        ("model.decoder.kv_heads", 3, "model.decoder.kv_heads must divide gqa_query_heads, 4, not 3"),
        ("model.decoder.gqa_head_dim", 15, "model.decoder.gqa_head_dim must be even, not 15"),
        ("model.rope_min_timescale", 0, "model.rope_min_timescale must be above 0 and at most rope_max_timescale"),
        ("model.rope_max_timescale", 0.5, "model.rope_min_timescale must be above 0 and at most rope_max_timescale"),
        ("model.normalization_layer_epsilon", 0, "model.normalization_layer_epsilon must be above 0"),
        ("runtime.max_context_steps", 6, "runtime.max_context_steps must be at least 7, not 6"),
        ("data.audio_bos_token_id", 0, "data.audio_pad_token_id and audio_bos_token_id must come after the codes"),
        ("model.depformer.kv_heads", 1, "model.depformer.kv_heads must equal gqa_query_heads"),
    ],
)
def test_a_value_that_no_model_can_have_is_refused(path: str, value: object, message: str) -> None:
    assert refusal(changed(path, value)).startswith(message)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("text_pad", 416),
        ("text_new_word", 416),
        ("text_zero", 416),
        ("audio_pad", 66),
        ("audio_bos", 66),
        ("action_pad", 2),
        ("action_new_word", 2),
    ],
)
def test_a_special_id_must_be_in_its_vocabulary(name: str, size: int) -> None:
    path = f"data.{name}_token_id"
    for value in (size, -2):
        assert refusal(changed(path, value)) == f"{path} must be in 0..{size - 1}, not {value}"


@pytest.mark.parametrize(
    ("path", "length"), [("data.delay_pattern", 8), ("runtime.weights_schedule", 7)], ids=["delays", "schedule"]
)
def test_lists_have_an_entry_for_each(path: str, length: int) -> None:
    for value in ([1] * (length - 1), [1] * (length + 1), [-1] + [1] * (length - 1)):
        assert refusal(changed(path, value)).startswith(f"{path} must have {length} entries of 0 or more")


@pytest.mark.parametrize("value", [["silu"], ["silu", "tanh"], ["silu", "linear", "linear"], []])
@pytest.mark.parametrize("block", ["model.linear", "model.depformer"])
def test_activations_are_two_known_names(block: str, value: list[str]) -> None:
    message = f"{block}.mlp_activations must be two of {', '.join(ACTIVATIONS)}, not {value}"
    assert refusal(changed(f"{block}.mlp_activations", value)) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON: "),
        ("[" * 10**5, "not JSON: "),
        ("[1]", "must hold a JSON object, not list"),
        ("", "not JSON: "),
    ],
    ids=["cut short", "deep", "a list", "empty"],
)
def test_a_file_that_is_no_config_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(CheckpointError) as caught:
        Dia2Config.from_file(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read: No such file or directory$"):
        Dia2Config.from_file(tmp_path / "config.json")


def test_a_config_that_is_not_text_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match=r"config\.json: not JSON: "):
        Dia2Config.from_file(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
PATHS = [f"{block}.{name}" for block in ("data", "runtime") for name in PUBLISHED_LIKE[block]]
PATHS += [f"model.{b}.{n}" for b in ("decoder", "depformer") for n in PUBLISHED_LIKE["model"][b]]
PATHS += ["data", "model", "runtime", "model.rope_min_timescale", "model.normalization_layer_epsilon"]


@given(st.sampled_from(PATHS), JSON)
def test_no_value_breaks_the_reader(path: str, value: object) -> None:
    try:
        config = Dia2Config.from_dict(changed(path, value))
    except Dia2Error:
        return
    assert Dia2Config.from_dict(config.to_dict()) == config
