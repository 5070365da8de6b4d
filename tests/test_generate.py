"""Offline generation: the goldens whole, the public names, the edges, and the sound streamed frame by frame."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import soundfile
import torch
from conftest import GOLDENS
from models import GREEDY, cases, checkpoint, dia, expected

from dia2 import Dia2, GenerationConfig, PrefixConfig, SamplingConfig
from dia2.checkpoint.load import Checkpoint
from dia2.errors import ConfigError, ScriptError
from dia2.generate import override
from dia2.model.config import Dia2Config
from dia2.steps.stepper import Stepper
from dia2.text.machine import MAX_PADDING

FRAME = 1920
HELLO = "[S1] Hello there, how can I help you today?"
LONG = "[S1] The quick brown fox jumps over the lazy dog. " * 12

greedy = GenerationConfig(GREEDY, GREEDY, cfg_scale=1.0, initial_padding=0)


def golden_cases(kind: str) -> list[Any]:
    """Every case of a kind, as (folder, case)."""
    folders = sorted(GOLDENS.iterdir())
    return [pytest.param(f, case, id=f"{f.name}-{case['id']}") for f in folders for case in cases(f)[kind]]


def configured(case: dict[str, Any]) -> GenerationConfig:
    return GenerationConfig(GREEDY, GREEDY, case["cfg_scale"], case["cfg_filter_k"], case["initial_padding"])


def with_config(goldens: Path, **blocks: dict[str, Any]) -> Dia2:
    """The golden model with some values of its config changed."""
    loaded = checkpoint(goldens)
    raw = loaded.config.to_dict()
    for block, values in blocks.items():
        raw[block] |= values
    return Dia2(replace(loaded, config=Dia2Config.from_dict(raw)))


@pytest.mark.parametrize(("goldens", "case"), golden_cases("generate"))
def test_a_script_gives_the_golden_tokens_words_and_sound(goldens: Path, case: dict[str, Any]) -> None:
    result = dia(goldens).generate(case["script"], config=configured(case))
    assert_golden(result, goldens, case)


@pytest.mark.parametrize(("goldens", "case"), golden_cases("prefix"))
def test_clips_are_gone_on_from_as_in_the_goldens(goldens: Path, case: dict[str, Any]) -> None:
    speakers = {
        f"prefix_{name}": str(goldens / case[name]) for name in ("speaker_1", "speaker_2") if case[name] is not None
    }
    result = dia(goldens).generate(
        case["script"], config=configured(case), include_prefix=case["include_audio"], **speakers
    )
    assert_golden(result, goldens, case)


def assert_golden(result: Any, goldens: Path, case: dict[str, Any]) -> None:
    wanted = expected(goldens)
    assert result.audio_tokens.dtype == torch.int64
    assert torch.equal(result.audio_tokens[0], wanted[f"{case['id']}.audio_tokens"].long())
    assert [list(word) for word in result.timestamps] == case["timestamps"]
    assert result.sample_rate == 24000
    assert result.waveform.shape == (result.audio_tokens.shape[2] * FRAME,)
    if f"{case['id']}.waveform" in wanted:
        torch.testing.assert_close(result.waveform, wanted[f"{case['id']}.waveform"], rtol=0, atol=1e-4)


def test_the_stepper_is_the_machines_fastest_unless_the_eager_one_is_asked_for(
    goldens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def faster(loaded: Checkpoint, speculate: bool | None) -> tuple[Stepper, str]:
        assert speculate is False  # nobody waits for a first frame
        made.append(Stepper(loaded))
        return made[-1], "steps are fast"

    monkeypatch.setattr("dia2.generate.make_stepper", faster)
    usual, eager = Dia2(checkpoint(goldens)), Dia2(checkpoint(goldens), stepper="eager")
    results = [model.generate(HELLO, config=greedy) for model in (usual, usual, eager)]
    assert len(made) == 1
    assert (usual.stepping, eager.stepping) == ("steps are fast", "steps run eagerly: asked for")
    assert torch.equal(results[0].audio_tokens, results[2].audio_tokens)


def test_a_stepper_of_no_kind_is_refused(goldens: Path) -> None:
    with pytest.raises(ConfigError, match="stepper must be auto or eager, not 'fast'"):
        Dia2.from_repo(str(goldens / "checkpoint"), device="cpu", stepper="fast")


@pytest.mark.parametrize("cut", [1, 2, 3, 7])
def test_sound_streamed_frame_by_frame_is_the_sound_of_the_whole(goldens: Path, cut: int) -> None:
    codec, codes = checkpoint(goldens).codec, expected(goldens)["case3.audio_tokens"].long()[None]
    state = codec.state()
    streamed = torch.cat([codec.decode(part, state) for part in codes.split(cut, dim=2)], dim=1)
    whole = codec.decode(codes)
    assert streamed.shape == whole.shape == (1, codes.shape[2] * FRAME)
    assert (pcm16(streamed) - pcm16(whole)).abs().max() <= 1


def pcm16(waveform: torch.Tensor) -> torch.Tensor:
    return (waveform * 32768).round().clamp(-32768, 32767).int()


def test_files_loaded_by_name_give_what_the_folder_gives(goldens: Path) -> None:
    folder = goldens / "checkpoint"
    loaded = Dia2.from_local(folder / "config.json", folder / "model.safetensors", device="cpu", dtype="float32")
    assert loaded.sample_rate == 24000
    assert loaded.max_context_steps == checkpoint(goldens).config.runtime.max_context_steps
    result = loaded.generate("Hello", config=greedy)
    assert torch.equal(result.audio_tokens[0], expected(goldens)["case12.audio_tokens"].long())


def test_the_published_defaults_are_kept() -> None:
    assert GenerationConfig() == GenerationConfig(
        text=SamplingConfig(0.6, 50),
        audio=SamplingConfig(0.8, 50),
        cfg_scale=2.0,
        cfg_filter_k=50,
        initial_padding=2,
        prefix=None,
        use_cuda_graph=False,
        use_torch_compile=False,
        seed=None,
    )
    assert SamplingConfig() == SamplingConfig(0.8, 50)
    assert PrefixConfig() == PrefixConfig(None, None, include_audio=False)


def test_overrides_replace_what_the_config_says() -> None:
    changed = override(
        GenerationConfig(),
        temp_text=0.1,
        topk_text=2,
        temp_audio=0.3,
        topk_audio=4,
        cfg_scale=5.0,
        cfg_filter_k=6,
        initial_padding=7,
        use_cuda_graph=True,
        use_torch_compile=True,
    )
    text, audio = SamplingConfig(0.1, 2), SamplingConfig(0.3, 4)
    assert changed == GenerationConfig(text, audio, 5.0, 6, 7, use_cuda_graph=True, use_torch_compile=True)
    assert override(GenerationConfig(), cfg_scale=None, temp_text=None) == GenerationConfig()
    assert override(GenerationConfig(), temp_text=0.0).text == SamplingConfig(0.0, 50)


def test_overrides_reach_the_generation_and_unknown_ones_are_refused(goldens: Path) -> None:
    result = dia(goldens).generate(
        "Hello", temp_text=0, temp_audio=0, cfg_scale=1.0, cfg_filter_k=50, initial_padding=0
    )
    assert torch.equal(result.audio_tokens[0], expected(goldens)["case12.audio_tokens"].long())
    with pytest.raises(TypeError, match="top_p"):
        dia(goldens).generate("Hello", top_p=0.9)


def test_a_wav_file_holds_the_waveform_in_pcm16(goldens: Path, tmp_path: Path) -> None:
    saved = dia(goldens).save_wav("Hello", tmp_path / "saved.wav", config=greedy)
    result = dia(goldens).generate("Hello", output_wav=str(tmp_path / "no suffix"), config=greedy)
    for path in (tmp_path / "saved.wav", tmp_path / "no suffix"):
        info = soundfile.info(path)
        assert (info.format, info.subtype, info.channels, info.samplerate) == ("WAV", "PCM_16", 1, 24000)
        assert torch.equal(torch.from_numpy(soundfile.read(path, dtype="int16")[0]).int(), pcm16(result.waveform))
    assert torch.equal(saved.waveform, result.waveform)


def test_a_folder_that_is_not_there_is_told_before_anything_is_generated(tmp_path: Path) -> None:
    closed = Dia2(checkpoint(GOLDENS / "every-option"))
    closed.close()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        closed.save_wav("Hello", tmp_path / "nowhere" / "hello.wav")


def test_a_seed_repeats_and_without_one_torchs_generator_decides(goldens: Path) -> None:
    def tokens(seed: int | None) -> list[int]:
        config = GenerationConfig(seed=seed, cfg_scale=1.0)
        return dia(goldens).generate("Hello there.", config=config).audio_tokens.flatten().tolist()

    assert tokens(7) == tokens(7)
    assert tokens(7) != tokens(8)
    torch.manual_seed(3)
    first, second = tokens(None), tokens(None)
    torch.manual_seed(3)
    assert tokens(None) == first != second


def test_the_second_speakers_clip_needs_the_firsts(goldens: Path) -> None:
    clip = str(goldens / "prefix" / "s2.wav")
    with pytest.raises(ScriptError, match="speaker 1"):
        dia(goldens).generate("Hello", prefix_speaker_2=clip)
    with pytest.raises(ScriptError, match="speaker 1"):
        dia(goldens).generate("Hello", config=GenerationConfig(prefix=PrefixConfig(speaker_2=clip)))


def test_clips_may_come_with_the_config(goldens: Path) -> None:
    case = cases(goldens)["prefix"][0]
    prefix = PrefixConfig(speaker_1=str(goldens / case["speaker_1"]), include_audio=case["include_audio"])
    result = dia(goldens).generate(case["script"], config=replace(configured(case), prefix=prefix))
    assert_golden(result, goldens, case)


def test_a_clip_without_words_is_refused(goldens: Path, tmp_path: Path) -> None:
    clip = tmp_path / "clip.wav"
    clip.write_bytes((goldens / "prefix" / "s1.wav").read_bytes())
    with pytest.raises(ScriptError, match=r"clip\.words\.json"):
        dia(goldens).generate("Hello", prefix_speaker_1=str(clip))
    clip.with_suffix(".words.json").write_text(json.dumps([["Hello", 1, 0]]))
    with pytest.raises(ScriptError, match="0 <= start <= end"):
        dia(goldens).generate("Hello", prefix_speaker_1=str(clip))


def test_a_clip_that_fills_the_context_is_refused(goldens: Path) -> None:
    clip = str(goldens / "prefix" / "s1.wav")
    short = with_config(goldens, runtime={"max_context_steps": 20})
    with pytest.raises(ScriptError, match=r"20 frames long, the context holds 20"):
        short.generate("Hello", prefix_speaker_1=clip)


def test_clips_that_leave_no_room_are_refused_before_they_are_encoded(goldens: Path, tmp_path: Path) -> None:
    loaded = checkpoint(goldens)
    codec = cast(Any, SimpleNamespace(sample_rate=24000, frame_samples=FRAME))  # it cannot encode
    seconds, model = loaded.config.runtime.max_context_steps / 12.5, Dia2(replace(loaded, codec=codec))
    clip = str(tmp_path / "clip.wav")
    (tmp_path / "clip.words.json").write_text('[["Hello", 0, 1]]')
    soundfile.write(clip, np.zeros(round(8000 * (seconds + 1)), np.int16), 8000)
    with pytest.raises(ScriptError, match=rf"is {seconds + 1:g} s long; at most {seconds:g} s are read"):
        model.generate("Hello", prefix_speaker_1=clip)
    soundfile.write(clip, np.zeros(round(8000 * seconds / 2), np.int16), 8000)
    with pytest.raises(ScriptError, match=r"the voice prefix is (\d+) frames long, the context holds \1$"):
        model.generate("Hello", prefix_speaker_1=clip, prefix_speaker_2=clip)


@pytest.mark.parametrize("script", ["", "  ", [], [""], "[S1]", ["[S1]", "[S2]"]], ids=str)
@pytest.mark.parametrize("initial_padding", [0, 2])
def test_a_script_without_words_is_a_moment_without_them(script: Any, initial_padding: int) -> None:
    config = replace(greedy, initial_padding=initial_padding)
    result = dia(GOLDENS / "every-option").generate(script, config=config)
    assert result.timestamps == []
    assert result.audio_tokens.shape[2] == initial_padding + MAX_PADDING + 1


@pytest.mark.parametrize("clip", [False, True], ids=["alone", "after a clip"])
def test_a_script_longer_than_the_context_stops_at_the_limit(goldens: Path, clip: bool) -> None:
    data, limit = checkpoint(goldens).config.data, dia(goldens).max_context_steps
    options = {"prefix_speaker_1": str(goldens / "prefix" / "s1.wav"), "include_prefix": True} if clip else {}
    result = dia(goldens).generate(LONG, config=replace(greedy, audio=SamplingConfig(1.0, 0), seed=1), **options)
    # Step t completes frame t + 1 - longest delay; the last step is limit - 1.
    assert result.audio_tokens.shape[2] == limit + 1 - max(data.delays)
    assert result.audio_tokens.min() >= 0
    assert result.audio_tokens.max() < data.audio_codes
    assert result.waveform.shape == (result.audio_tokens.shape[2] * FRAME,)
    assert limit - 10 < result.timestamps[-1][1] * 12.5 < limit
    assert len(result.timestamps) < len(LONG.split())


def test_without_a_second_stream_the_result_starts_before_the_first_word(goldens: Path) -> None:
    config = replace(greedy, initial_padding=2)
    result = with_config(goldens, data={"second_stream_ahead": 0}).generate(
        '<break time="0.8s"/> Hello you', config=config
    )
    assert result.timestamps[0] == ("Hello", 2 / 12.5)
    shown = dia(goldens).generate('<break time="0.8s"/> Hello you', config=config)
    assert shown.timestamps[0] == ("Hello", 12 / 12.5)


@pytest.mark.parametrize("late", [0, 3])
def test_the_first_code_of_a_codebook_without_a_delay_is_pad_and_adds_nothing(goldens: Path, late: int) -> None:
    data = checkpoint(goldens).config.data
    delays = [late, *[0] * (data.codebooks - 1)]
    result = with_config(goldens, data={"delay_pattern": delays}).generate("Hello you", config=greedy)
    codes = result.audio_tokens[0]
    drawn = torch.tensor(delays)[:, None] + torch.arange(codes.shape[1]) > 0
    assert ((codes < data.audio_codes) == drawn).all()
    assert (codes[~drawn] == data.audio_pad_token_id).all()
    assert result.waveform.shape == (codes.shape[1] * FRAME,)
    assert [word for word, _ in result.timestamps] == ["Hello", "you"]


def test_progress_is_logged_when_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    model = dia(GOLDENS / "every-option")
    with caplog.at_level(logging.INFO, logger="dia2"):
        model.generate("Hello", config=greedy)
        assert caplog.messages == []
        model.generate("Hello", config=greedy, verbose=True)
    assert caplog.messages == ["step 0"]


def test_a_closed_model_says_so(goldens: Path) -> None:
    model = Dia2(checkpoint(goldens))
    model.generate("", config=greedy)
    model.close()
    model.close()
    with pytest.raises(RuntimeError, match="closed"):
        model.generate("Hello")
    with pytest.raises(RuntimeError, match="closed"):
        _ = model.sample_rate
