"""The codec against its reference, transformers' MimiModel, and against itself however the frames are cut."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import wave
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import MimiConfig as ReferenceConfig
from transformers import MimiModel

from dia2.codec.config import PUBLISHED, MimiConfig
from dia2.codec.decoder import MimiDecoder
from dia2.codec.mimi import Mimi
from dia2.codec.state import CodecState
from dia2.errors import CheckpointError, ConfigError

TOLERANCE = 1e-4
GOLDENS = Path(__file__).parent / "goldens"
SMALL = GOLDENS / "published-like" / "checkpoint" / "mimi"  # 8 codebooks of 64, window 12
CODEBOOKS = {"published-like": 8, "every-option": 6}

# kyutai/mimi's config.json, as published.
PUBLISHED_JSON: dict[str, Any] = {
    "architectures": ["MimiModel"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "audio_channels": 1,
    "codebook_dim": 256,
    "codebook_size": 2048,
    "compress": 2,
    "dilation_growth_rate": 2,
    "frame_rate": 12.5,
    "head_dim": 64,
    "hidden_act": "gelu",
    "hidden_size": 512,
    "initializer_range": 0.02,
    "intermediate_size": 2048,
    "kernel_size": 7,
    "last_kernel_size": 3,
    "layer_scale_initial_scale": 0.01,
    "max_position_embeddings": 8000,
    "model_type": "mimi",
    "norm_eps": 1e-05,
    "normalize": False,
    "num_attention_heads": 8,
    "num_filters": 64,
    "num_hidden_layers": 8,
    "num_key_value_heads": 8,
    "num_quantizers": 32,
    "num_residual_layers": 1,
    "num_semantic_quantizers": 1,
    "pad_mode": "constant",
    "residual_kernel_size": 3,
    "rope_theta": 10000.0,
    "sampling_rate": 24000,
    "sliding_window": 250,
    "torch_dtype": "float32",
    "transformers_version": "4.45.0.dev0",
    "trim_right_ratio": 1.0,
    "upsample_groups": 512,
    "upsampling_ratios": [8, 6, 5, 4],
    "use_cache": False,
    "use_causal_conv": True,
    "use_conv_shortcut": False,
    "vector_quantization_hidden_dimension": 256,
}


@pytest.fixture(scope="module")
def small() -> Mimi:
    return Mimi.from_folder(SMALL, 8, "cpu")


@pytest.fixture(scope="module")
def codec(goldens: Path) -> Mimi:
    return Mimi.from_folder(goldens / "checkpoint" / "mimi", CODEBOOKS[goldens.name], "cpu")


def draw_codes(mimi: Mimi, frames: int, slots: int = 1, seed: int = 0) -> Tensor:
    shape = (slots, mimi.codebooks, frames)
    return torch.randint(mimi.config.codebook_size, shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def reference(folder: Path, codes: Tensor) -> Tensor:
    """What MimiModel makes of the whole sequence: [1, samples]."""
    return MimiModel.from_pretrained(folder).eval().decode(codes).audio_values[:, 0]


def stream(mimi: Mimi, codes: Tensor, cuts: list[int], state: CodecState | None = None) -> Tensor:
    state = mimi.state(codes.shape[0]) if state is None else state
    return torch.cat([mimi.decode(piece, state) for piece in torch.split(codes, cuts, dim=2)], dim=1)


def far(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max())


# The sound.


def test_golden_waveforms_come_out_of_golden_codes(goldens: Path, codec: Mimi) -> None:
    expected = load_file(goldens / "expected.safetensors")
    cases = [name.removesuffix(".waveform") for name in expected if name.endswith(".waveform")]
    assert len(cases) >= 3
    for case in cases:
        sound = codec.decode(expected[f"{case}.audio_tokens"].long()[None])
        assert far(sound[0], expected[f"{case}.waveform"]) < TOLERANCE, case


def test_a_whole_sequence_longer_than_the_window_equals_the_reference(goldens: Path, codec: Mimi) -> None:
    codes = draw_codes(codec, 150)
    assert codec.config.sliding_window < 2 * 150
    assert far(codec.decode(codes), reference(goldens / "checkpoint" / "mimi", codes)) < TOLERANCE


@pytest.mark.parametrize("frames", [1, 2, 3, 7])
def test_sound_does_not_depend_on_how_many_frames_come_at_a_time(codec: Mimi, frames: int) -> None:
    codes = draw_codes(codec, 140)
    cuts = [frames] * (140 // frames) + ([140 % frames] if 140 % frames else [])
    assert far(stream(codec, codes, cuts), codec.decode(codes)) < TOLERANCE


@settings(max_examples=15)
@given(cuts=st.lists(st.integers(0, 30), min_size=1, max_size=4))
def test_sound_does_not_depend_on_where_the_cuts_are(small: Mimi, cuts: list[int]) -> None:
    codes = draw_codes(small, sum(cuts))
    sound = stream(small, codes, cuts)
    assert sound.shape == (1, sum(cuts) * 1920)
    if sum(cuts):
        assert far(sound, small.decode(codes)) < TOLERANCE


@pytest.mark.parametrize("codebooks", [1, 3])
def test_the_first_codebooks_alone_equal_the_reference(codebooks: int) -> None:
    mimi = Mimi.from_folder(SMALL, codebooks, "cpu")
    codes = draw_codes(mimi, 20)
    assert far(mimi.decode(codes), reference(SMALL, codes)) < TOLERANCE


def make_reference(folder: Path, **sizes: Any) -> None:
    """Save a MimiModel of the small codec's sizes, but for those given, with weights of a fair size everywhere."""
    known = json.loads((SMALL / "config.json").read_text())
    model = MimiModel(ReferenceConfig(**{**known, **sizes}))
    generator = torch.Generator().manual_seed(1)
    for name, tensor in model.state_dict().items():
        if name.endswith("cluster_usage"):
            tensor.uniform_(-1, 3, generator=generator)  # some below the floor
        elif not name.endswith("initialized"):
            tensor.uniform_(-0.3, 0.3, generator=generator)
    model.save_pretrained(folder)


@pytest.mark.parametrize(
    "sizes",
    [
        {"num_residual_layers": 2, "num_key_value_heads": 2, "head_dim": 6, "dilation_growth_rate": 3},
        {"num_semantic_quantizers": 2, "upsample_groups": 4, "upsampling_ratios": [3, 2], "sampling_rate": 1200},
        {"codebook_dim": 32, "vector_quantization_hidden_dimension": 32, "compress": 4, "kernel_size": 1},
        {"sliding_window": 1, "last_kernel_size": 5, "residual_kernel_size": 5, "num_hidden_layers": 3},
    ],
    ids=lambda sizes: next(iter(sizes)),
)
def test_other_sizes_equal_the_reference(sizes: dict[str, Any], tmp_path: Path) -> None:
    make_reference(tmp_path, **sizes)
    mimi = Mimi.from_folder(tmp_path, 5, "cpu")
    codes = draw_codes(mimi, 30)
    expected = reference(tmp_path, codes)
    assert far(stream(mimi, codes, [1, 9, 20]), expected) < TOLERANCE * float(expected.abs().max())


TEN_MINUTES = 7600  # frames


@pytest.mark.slow
def test_ten_minutes_equal_the_reference(tmp_path: Path) -> None:
    # One head and few samples a frame: the reference looks at all pairs of positions.
    heads = {"num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1}
    make_reference(tmp_path, **heads, upsampling_ratios=[2, 2], sliding_window=250)
    mimi = Mimi.from_folder(tmp_path, 3, "cpu")
    codes = draw_codes(mimi, TEN_MINUTES)
    expected = reference(tmp_path, codes)
    sound = stream(mimi, codes, [3600, 1, 2, 3, TEN_MINUTES - 3606])
    assert far(sound, expected) < TOLERANCE * max(1, float(expected.abs().max()))


@pytest.mark.slow
def test_the_eleventh_minute_of_the_golden_codec_equals_the_reference_and_nothing_grows(small: Mimi) -> None:
    codes = draw_codes(small, TEN_MINUTES)
    state = small.state()
    tensors = (state.memory, state.position, state.filled)
    before = [(tensor.data_ptr(), tensor.shape) for tensor in tensors]
    sound = stream(small, codes, [3600, 1, 2, 3, TEN_MINUTES - 3606], state)
    assert [(tensor.data_ptr(), tensor.shape) for tensor in tensors] == before
    assert state.position.tolist() == [2 * TEN_MINUTES]
    # Two layers with windows of 12 positions, and a few positions of convolutions, look back less than 40 frames.
    recent = reference(SMALL, codes[:, :, -100:])
    assert far(sound[:, -60 * 1920 :], recent[:, -60 * 1920 :]) < TOLERANCE


def test_a_year_on_the_line_sounds_like_its_first_minute(small: Mimi) -> None:
    codes = draw_codes(small, 60)
    late = small.state()
    late.position.fill_(10**9)
    assert far(stream(small, codes, [10] * 6, late), small.decode(codes)) < TOLERANCE


def test_a_position_set_forward_is_forgotten_once_the_window_has_passed(small: Mimi) -> None:
    codes = draw_codes(small, 80)
    state = small.state()
    small.decode(codes[:, :, :20], state)
    state.position += 10**9 + 7
    late = stream(small, codes[:, :, 20:], [30, 30], state)
    assert far(late[:, -30 * 1920 :], small.decode(codes)[:, -30 * 1920 :]) < TOLERANCE


def test_no_frames_give_no_sound_and_leave_the_state_alone(small: Mimi) -> None:
    state = small.state()
    assert small.decode(draw_codes(small, 0), state).shape == (1, 0)
    assert state.position.tolist() == [0]


# The state.


def test_slots_do_not_hear_each_other_and_are_reset_alone(small: Mimi) -> None:
    codes = draw_codes(small, 30, slots=3)
    state = small.state(3)
    first = small.decode(codes[:, :, :13], state)
    state.reset(1)
    second = small.decode(codes[:, :, 13:], state)
    for slot in (0, 2):
        alone = small.decode(codes[slot : slot + 1])
        assert far(torch.cat([first, second], dim=1)[slot], alone[0]) < TOLERANCE
    assert far(first[1], small.decode(codes[1:2, :, :13])[0]) < TOLERANCE
    assert far(second[1], small.decode(codes[1:2, :, 13:])[0]) < TOLERANCE


def test_a_saved_state_replays_to_the_bit(codec: Mimi) -> None:
    codes = draw_codes(codec, 40)
    state = codec.state()
    codec.decode(codes[:, :, :21], state)
    saved = state.clone()
    once = stream(codec, codes[:, :, 21:], [1] * 19, state)
    assert torch.equal(stream(codec, codes[:, :, 21:], [1] * 19, saved.clone()), once)
    state.copy_(saved)
    assert torch.equal(stream(codec, codes[:, :, 21:], [1] * 19, state), once)
    assert torch.equal(stream(codec, codes[:, :, 21:], [1] * 19, saved), once)


def test_one_slot_is_saved_and_put_back_alone(small: Mimi) -> None:
    codes = draw_codes(small, 20, slots=2)
    state = small.state(2)
    small.decode(codes[:, :, :9], state)
    saved, both = state.clone(1), state.clone()
    assert saved.slots == 1
    once = small.decode(codes[:, :, 9:], state)
    state.copy_(saved, 1)
    again = small.decode(codes[:, :, 9:], state)
    assert torch.equal(again[1], once[1])
    assert not torch.equal(again[0], once[0])
    state.copy_(both, 0)
    assert torch.equal(small.decode(codes[:, :, 9:], state)[0], once[0])


def test_a_reset_state_is_a_new_one(small: Mimi) -> None:
    state = small.state()
    codes = draw_codes(small, 10)
    first = small.decode(codes, state)
    assert torch.equal(small.decode(codes, state.reset()), first)


def test_states_that_do_not_fit_are_refused(small: Mimi) -> None:
    other = Mimi.from_folder(GOLDENS / "every-option" / "checkpoint" / "mimi", 6, "cpu")
    with pytest.raises(ValueError, match="different shapes"):
        small.state().copy_(other.state())
    with pytest.raises(ValueError, match="1 and 2 slots"):
        small.state(2).copy_(small.state())
    with pytest.raises(ValueError, match=r"slot 2 is outside 0\.\.1"):
        small.state(2).reset(2)
    with pytest.raises(ValueError, match="at least 1"):
        small.state(0)
    with pytest.raises(ValueError, match="another shape"):
        small.decode(draw_codes(small, 1), other.state())
    with pytest.raises(ValueError, match="for 1 slots, the state has 2"):
        small.decode(draw_codes(small, 1), small.state(2))


# What decode refuses.


@pytest.mark.parametrize("bad", [-1, 64, 65])
def test_an_id_that_is_no_code_is_named_and_makes_no_sound(small: Mimi, bad: int) -> None:
    codes = draw_codes(small, 8, slots=2)
    codes[1, 3, 5] = bad
    state = small.state(2)
    with pytest.raises(ValueError, match=rf"id {bad} \(slot 1, codebook 3, frame 5\) is outside 0\.\.63"):
        small.decode(codes, state)
    assert state.position.tolist() == [0, 0]


def test_an_unchecked_id_that_is_no_code_adds_nothing(small: Mimi) -> None:
    # The same as if the codebook were not there.
    codes = draw_codes(small, 6)
    codes[:, 3:] = torch.tensor([64, 65, -1, 10**12, -(10**12)])[None, :, None]
    first = Mimi.from_folder(SMALL, 3, "cpu").decode(codes[:, :3])
    assert far(small.decode(codes, small.state(), check=False), first) < TOLERANCE


def test_codes_of_another_shape_or_type_are_refused(small: Mimi) -> None:
    for shape in [(8, 5), (1, 7, 5), (0, 8, 5)]:
        with pytest.raises(ValueError, match=r"expected \[slots, 8, frames\]"):
            small.decode(torch.zeros(shape, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"torch\.int32, expected torch\.int64"):
        small.decode(torch.zeros(1, 8, 5, dtype=torch.int32))


# The file.


def edited(folder: Path, edit: Callable[[dict[str, Tensor]], None]) -> Path:
    tensors = load_file(SMALL / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")
    shutil.copyfile(SMALL / "config.json", folder / "config.json")
    return folder


ACOUSTIC = "quantizer.acoustic_residual_vector_quantizer"


def test_everything_that_is_wrong_with_a_file_is_named_at_once(tmp_path: Path) -> None:
    def edit(tensors: dict[str, Tensor]) -> None:
        del tensors["upsample.conv.weight"], tensors[f"{ACOUSTIC}.layers.2.codebook.cluster_usage"]
        tensors["decoder.layers.0.conv.bias"] = torch.zeros(3)
        tensors["decoder.layers.14.conv.bias"] = torch.zeros(1, dtype=torch.int32)
        tensors["decoder.layers.99.conv.weight"], tensors["surprise"] = torch.zeros(1), torch.zeros(1)

    with pytest.raises(CheckpointError) as caught:
        Mimi.from_folder(edited(tmp_path, edit), 8, "cpu")
    assert str(caught.value) == (
        f"{tmp_path / 'model.safetensors'}: "
        f"missing tensors: {ACOUSTIC}.layers.2.codebook.cluster_usage, upsample.conv.weight; "
        "wrong tensors: decoder.layers.0.conv.bias is [3], expected [64], "
        "decoder.layers.14.conv.bias is I32, expected one of F64, F32, F16, BF16; "
        "unexpected tensors: decoder.layers.99.conv.weight, surprise"
    )


def test_a_decoder_needs_only_its_side_of_the_file_and_its_codebooks(tmp_path: Path) -> None:
    def edit(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            encoder = name.startswith(("encoder", "downsample")) or "input_proj" in name or "initialized" in name
            if encoder or f"{ACOUSTIC}.layers.6" in name:
                del tensors[name]

    codes = draw_codes(Mimi.from_folder(edited(tmp_path, edit), 7, "cpu"), 4)
    assert far(Mimi.from_folder(tmp_path, 7, "cpu").decode(codes), reference(SMALL, codes)) < TOLERANCE
    with pytest.raises(CheckpointError, match=r"missing tensors: \S+layers\.6\S+usage, \S+layers\.6\S+embed_sum$"):
        Mimi.from_folder(tmp_path, 8, "cpu")


def test_half_precision_files_are_read(tmp_path: Path, small: Mimi) -> None:
    def edit(tensors: dict[str, Tensor]) -> None:
        tensors |= {name: tensor.to(torch.float16) for name, tensor in tensors.items()}

    codes = draw_codes(small, 5)
    sound = Mimi.from_folder(edited(tmp_path, edit), 8, "cpu").decode(codes)
    assert sound.dtype == torch.float32
    assert far(sound, small.decode(codes)) < 0.02


def test_more_codebooks_than_the_file_has_are_refused() -> None:
    with pytest.raises(CheckpointError, match="has 8 codebooks, 9 are needed"):
        Mimi.from_folder(SMALL, 9, "cpu")
    with pytest.raises(ValueError, match=r"codebooks is 0, the codec has 1\.\.8"):
        Mimi.from_folder(SMALL, 0, "cpu")


def test_files_that_are_absent_or_broken_are_one_line_errors(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json: cannot be read: No such file"):
        Mimi.from_folder(tmp_path, 8, "cpu")
    for text, complaint in (("{", "not JSON"), ("[]", "must hold a JSON object, not list"), ("\xff", "not JSON")):
        (tmp_path / "config.json").write_text(text, encoding="latin-1")
        with pytest.raises(CheckpointError, match=complaint):
            Mimi.from_folder(tmp_path, 8, "cpu")
    shutil.copyfile(SMALL / "config.json", tmp_path / "config.json")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: cannot be read"):
        Mimi.from_folder(tmp_path, 8, "cpu")
    (tmp_path / "model.safetensors").write_bytes((SMALL / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: not a safetensors file, or cut short: "):
        Mimi.from_folder(tmp_path, 8, "cpu")


# The config.


def test_the_published_config_is_the_published_shape() -> None:
    config = MimiConfig.from_dict(PUBLISHED_JSON)
    assert config == PUBLISHED
    assert (config.frame_samples, config.frame_rate, config.sample_rate) == (1920, 12.5, 24_000)


def test_the_published_shape_has_the_published_tensors() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in MimiDecoder(PUBLISHED, 32).checkpoint_tensors().items()}
    assert shapes["decoder.layers.2.conv.weight"] == (1024, 512, 16)
    assert shapes["decoder.layers.14.conv.weight"] == (1, 64, 3)
    assert shapes["decoder_transformer.layers.7.self_attn.k_proj.weight"] == (512, 512)
    assert shapes["decoder_transformer.layers.7.mlp.fc1.weight"] == (2048, 512)
    assert shapes["upsample.conv.weight"] == (512, 1, 4)
    assert shapes[f"{ACOUSTIC}.layers.30.codebook.embed_sum"] == (2048, 256)
    convolutions, layers, quantizers = 2 * 14, 8 * 12, 2 + 2 * 32
    assert len(shapes) == convolutions + layers + quantizers + 1


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"model_type": "encodec"}, "model_type is 'encodec', expected 'mimi'"),
        ({"pad_mode": "replicate"}, "pad_mode is 'replicate', only 'constant' is implemented"),
        ({"use_causal_conv": False}, "use_causal_conv is False"),
        ({"trim_right_ratio": 0.5}, "trim_right_ratio is 0.5"),
        ({"use_conv_shortcut": True}, "use_conv_shortcut is True"),
        ({"audio_channels": 2}, "audio_channels is 2"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1.0}}, "rope_parameters.rope_type is 'yarn'"),
        ({"rope_parameters": 3}, "rope_parameters is 3, expected an object"),
        ({"frame_rate": 25}, "frame_rate is 25, only 12.5"),
        ({"vector_quantization_hidden_dimension": 128}, "only 256 is implemented"),
        ({"hidden_size": "512"}, "mimi config: hidden_size must be a whole number, not '512'"),
        ({"hidden_size": True}, "hidden_size must be a whole number, not True"),
        ({"hidden_size": 0}, "hidden_size is 0, it must be positive"),
        ({"norm_eps": float("nan")}, "norm_eps must be a number, not nan"),
        ({"upsampling_ratios": 8}, "upsampling_ratios must be a list, not 8"),
        ({"upsampling_ratios": []}, "it must be positive"),
        ({"upsampling_ratios": [8, "6"]}, "upsampling_ratios[1] must be a whole number, not '6'"),
        ({"upsampling_ratios": [7, 6, 5, 4]}, "not a multiple of the upsampling_ratios' product"),
        ({"num_key_value_heads": 3}, "not a multiple of num_key_value_heads 3"),
        ({"head_dim": 63}, "head_dim is 63, it must be even"),
        ({"upsample_groups": 500}, "not a multiple of upsample_groups 500"),
        ({"num_semantic_quantizers": 32}, "it must be below num_quantizers 32"),
        ({"compress": 65}, "compress 65 leaves none"),
        ({"hidden_size": 2**63}, "hidden_size is 9223372036854775808, it must be positive and at most 1048576"),
        ({"num_hidden_layers": 2**63}, "it must be positive and at most 1000"),
        ({"num_hidden_layers": 10**400}, "num_hidden_layers is a number of about 400 digits, it must be positive"),
        ({"sliding_window": 2**40}, "it must be positive and at most 100000"),
        ({"dilation_growth_rate": 2**31}, "it must be positive and at most 10"),
        ({"upsampling_ratios": [8] * 10_000}, "upsampling_ratios is a list of 10000, it must be positive"),
        ({"rope_theta": 10**400}, "rope_theta must be a number, not a number of about 400 digits"),
        ({"pad_mode": "x" * 10**6}, "pad_mode is 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'..., only"),
        ({"sampling_rate": [0] * 10**5}, "sampling_rate must be a whole number, not a list of 100000"),
    ],
)
def test_a_config_that_is_not_implemented_or_makes_no_sense_is_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        MimiConfig.from_dict({**PUBLISHED_JSON, **change})
    assert complaint in str(caught.value)


def test_sizes_are_compared_with_the_file_before_there_is_memory_for_them(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SMALL, tmp_path / "mimi"))
    raw = json.loads((folder / "config.json").read_text()) | {"intermediate_size": 2**20, "hidden_size": 2**19}
    (folder / "config.json").write_text(json.dumps(raw | {"upsample_groups": 1}))
    with pytest.raises(CheckpointError, match="wrong tensors: ") as caught:
        Mimi.from_folder(folder, 8, "cpu")
    assert len(str(caught.value)) < 2000


def test_a_deep_config_is_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SMALL, tmp_path / "mimi"))
    (folder / "config.json").write_text('{"model_type": ' + "[" * 10**5 + "]" * 10**5 + "}")
    with pytest.raises(CheckpointError, match="not JSON: "):
        Mimi.from_folder(folder, 8, "cpu")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e35])
def test_a_codec_with_numbers_that_are_none_is_refused(value: float, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SMALL, tmp_path / "mimi"))
    tensors = load_file(folder / "model.safetensors")
    tensors["upsample.conv.weight"][0, 0, 0] = value
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"is damaged: upsample\.conv\.weight holds numbers from "):
        Mimi.from_folder(folder, 8, "cpu")


@pytest.mark.parametrize("change", ["missing", "misshapen"])
def test_a_file_without_all_that_the_encoder_needs_is_refused(change: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SMALL, tmp_path / "mimi"))
    tensors = load_file(folder / "model.safetensors")
    name = "downsample.conv.weight"
    tensor = tensors.pop(name)
    if change == "misshapen":
        tensors[name] = torch.zeros(*tensor.shape[:-1], tensor.shape[-1] + 1)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"(missing|wrong) tensors: .*{name}"):
        Mimi.from_folder(folder, 8, "cpu").encode(torch.zeros(1, 1920))


def test_missing_config_keys_are_all_named() -> None:
    raw = {key: value for key, value in PUBLISHED_JSON.items() if key not in ("kernel_size", "rope_theta")}
    with pytest.raises(ConfigError, match="missing kernel_size, rope_theta"):
        MimiConfig.from_dict(raw)


def test_sizes_that_follow_from_others_may_be_null() -> None:
    raw = {**PUBLISHED_JSON, "head_dim": None, "num_key_value_heads": None, "frame_rate": None}
    assert MimiConfig.from_dict(raw) == PUBLISHED


def test_rope_theta_is_read_where_new_releases_write_it() -> None:
    raw = {key: value for key, value in PUBLISHED_JSON.items() if key != "rope_theta"}
    config = MimiConfig.from_dict({**raw, "rope_parameters": {"rope_type": "default", "rope_theta": 500}})
    assert config == replace(PUBLISHED, rope_theta=500)


# Random codecs.


def test_a_random_codec_of_the_published_shape_speaks_at_a_moderate_level() -> None:
    mimi = Mimi.random(PUBLISHED, 32, "cpu", seed=5)
    sound = mimi.decode(draw_codes(mimi, 6))
    assert sound.shape == (1, 6 * 1920)
    assert 0.05 < float(sound.std()) < 0.3
    assert float(sound.abs().max()) < 1.5


def test_a_random_codec_follows_its_seed() -> None:
    config = MimiConfig.from_dict(json.loads((SMALL / "config.json").read_text()))
    one, same, other = (Mimi.random(config, 8, "cpu", seed) for seed in (1, 1, 2))
    codes = draw_codes(one, 12)
    assert torch.equal(one.decode(codes), same.decode(codes))
    assert far(one.decode(codes), other.decode(codes)) > 0.05
    assert 0.05 < float(one.decode(codes).std()) < 0.3


# The encoder.


def read_wav(path: Path) -> Tensor:
    with wave.open(str(path)) as file:
        samples = np.frombuffer(file.readframes(file.getnframes()), dtype="<i2")
    return torch.from_numpy(samples.astype(np.float32) / 32768)


def test_clips_encode_to_the_golden_codes(goldens: Path, codec: Mimi) -> None:
    clips = [codec.encode(read_wav(goldens / "prefix" / f"{speaker}.wav")[None])[0] for speaker in ("s1", "s2")]
    expected = load_file(goldens / "expected.safetensors")["prefix1.prefix_tokens"]
    assert torch.equal(torch.cat(clips, dim=1), expected.long())


def test_a_random_codec_encodes_without_touching_the_global_generator() -> None:
    config = MimiConfig.from_dict(json.loads((SMALL / "config.json").read_text()))
    mimi = Mimi.random(config, 5, "cpu", seed=1)
    before = torch.get_rng_state()
    codes = mimi.encode(torch.sin(torch.arange(1920 * 4) / 30)[None])
    assert torch.equal(torch.get_rng_state(), before)
    assert codes.shape == (1, 5, 4)
    assert codes.dtype == torch.int64
    assert mimi.decode(codes).shape == (1, 1920 * 4)


def test_the_codec_is_imported_without_transformers() -> None:
    program = "import sys, dia2.codec.mimi; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# CUDA, and how exactly it counts.


def test_the_process_keeps_its_choice_of_precision(small: Mimi, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    forward = small.decoder.forward

    def spy(codes: Tensor, state: CodecState, *options: Any) -> Tensor:
        seen.append(torch.get_float32_matmul_precision())
        return forward(codes, state, *options)

    monkeypatch.setattr(small.decoder, "forward", spy)
    torch.set_float32_matmul_precision("high")
    try:
        small.decode(draw_codes(small, 1))
        assert (seen, torch.get_float32_matmul_precision()) == (["highest"], "high")
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.fixture(params=["highest", "high"])
def precision(request: pytest.FixtureRequest) -> Iterator[str]:
    torch.set_float32_matmul_precision(request.param)  # "high" allows TF32
    yield request.param
    torch.set_float32_matmul_precision("highest")


@pytest.mark.gpu
def test_clips_encode_to_the_golden_codes_on_cuda_too(goldens: Path, precision: str) -> None:
    mimi = Mimi.from_folder(goldens / "checkpoint" / "mimi", CODEBOOKS[goldens.name], "cuda")
    clips = [mimi.encode(read_wav(goldens / "prefix" / f"{speaker}.wav")[None])[0].cpu() for speaker in ("s1", "s2")]
    expected = load_file(goldens / "expected.safetensors")["prefix1.prefix_tokens"]
    assert torch.equal(torch.cat(clips, dim=1), expected.long())


@pytest.mark.gpu
def test_a_captured_graph_speaks_like_the_reference(precision: str) -> None:
    mimi = Mimi.from_folder(SMALL, 8, "cuda")
    codes = draw_codes(mimi, 40, slots=2).cuda()
    piece, state = codes[:, :, :1].clone(), mimi.state(2)
    mimi.decode(piece, state)  # warm up
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        sound = mimi.decode(piece, state, check=False)
    state.reset()
    pieces = []
    for frame in torch.split(codes, 1, dim=2):
        piece.copy_(frame)
        graph.replay()
        pieces.append(sound.clone())
    sound = torch.cat(pieces, dim=1)
    assert far(sound, mimi.decode(codes)) < 1e-6
    assert far(sound.cpu()[:1], reference(SMALL, codes[:1].cpu())) < 1e-6
