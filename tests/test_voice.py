"""Voices: clips and their words become the goldens' prefix, and what cannot be one is refused by name."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from models import cases, checkpoint, entry, expected

from dia2.errors import ScriptError
from dia2.voice.voice import ClipWord, check_words, load_clip, load_prefix, load_words, make_prefix, plan_words


class Characters:
    """A tokenizer of one token a character."""

    speakers = (1, 2)

    def encode(self, text: str) -> list[int]:
        return [ord(c) for c in text]


class NoEncoder:
    """A codec that must not be asked to encode."""

    sample_rate = 24000


def tone(path: Path, rate: int, seconds: float = 0.5, channels: int = 1, **options: Any) -> Path:
    """Writes a 200 Hz tone; further channels have it ever fainter."""
    wave = np.sin(2 * np.pi * 200 * np.arange(int(rate * seconds)) / rate)
    soundfile.write(path, np.stack([wave / 2**channel for channel in range(channels)], axis=1), rate, **options)
    return path


def test_clips_and_words_become_the_prefix_of_the_goldens(goldens: Path) -> None:
    loaded = checkpoint(goldens)
    for case in cases(goldens)["prefix"]:
        clips = [goldens / case[speaker] for speaker in ("speaker_1", "speaker_2") if case[speaker]]
        prefix = load_prefix(clips, loaded.codec, loaded.tokenizer)
        assert list(prefix.new_word_steps) == case["new_word_steps"]
        assert [(e.tokens, e.text, e.padding) for e in prefix.entries] == [
            (e.tokens, e.text, e.padding) for e in (entry(*raw) for raw in case["entries"])
        ]
        assert torch.equal(prefix.codes, expected(goldens)[f"{case['id']}.prefix_tokens"].long())
        assert prefix.frames == prefix.codes.shape[1]


def test_words_are_placed_on_the_frame_grid() -> None:
    words = [ClipWord("a", 0.0, 0.2), ClipWord("bcd", 0.8, 1.0), ClipWord("ef", 2.0, 2.4)]
    entries, steps = plan_words(words, 1, Characters())
    assert steps == [0, 9, 24]
    assert [e.padding for e in entries] == [8, 14, 4]  # a word pads up to the next, the last to its end
    assert [e.text for e in entries] == ["a", "bcd", "ef"]
    assert entries[0].tokens == tuple(map(ord, "[S1] a"))
    assert entries[1].tokens == tuple(map(ord, "bcd"))


def test_words_too_dense_for_their_tokens_come_one_after_the_other() -> None:
    entries, steps = plan_words(
        [ClipWord("abc", 0.0, 0.1), ClipWord("de", 0.1, 0.2), ClipWord("f", 0.1, 0.2)], 2, Characters()
    )
    assert steps == [0, 9, 12]  # "[S2] abc" has eight tokens
    assert [e.padding for e in entries] == [8, 2, 1]
    assert {e.speaker for e in entries} == {2}


def test_the_second_speaker_comes_after_the_firsts_clip() -> None:
    clips = [(torch.full((4, 10), 1), [ClipWord("a", 0.4, 0.5)]), (torch.full((4, 7), 2), [ClipWord("b", 0.4, 0.5)])]
    prefix = make_prefix(clips, Characters())
    assert prefix.new_word_steps == (4 + 3, 4 + 10)
    assert prefix.frames == 17
    assert prefix.codes[0].tolist() == [1] * 10 + [2] * 7
    assert [e.speaker for e in prefix.entries] == [1, 2]


@pytest.mark.parametrize("rate", [8000, 16000, 24000, 44100, 48000])
def test_a_clip_of_any_rate_is_resampled(tmp_path: Path, rate: int) -> None:
    pcm = load_clip(tone(tmp_path / "clip.wav", rate), 24000)
    assert pcm.dtype == torch.float32
    assert abs(len(pcm) - 12000) <= 2
    wave = torch.sin(2 * torch.pi * 200 * torch.arange(len(pcm)) / 24000)
    assert (pcm - wave)[1000:-1000].abs().max() < 0.01


def test_a_clip_of_several_channels_is_mixed_down(tmp_path: Path) -> None:
    one = load_clip(tone(tmp_path / "one.wav", 24000), 24000)
    two = load_clip(tone(tmp_path / "two.flac", 24000, channels=2), 24000)
    torch.testing.assert_close(two, one * 0.75, rtol=0, atol=1e-3)


def test_a_clip_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("not sound")
    for name in ("text.wav", "missing.wav", "."):
        with pytest.raises(ScriptError, match=r"voice clip .* cannot be read") as error:
            load_clip(tmp_path / name, 24000)
        assert str(tmp_path / name) in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(ScriptError, match="is empty"):
        load_clip(tone(tmp_path / "empty.wav", 24000, seconds=0), 24000)


def test_words_lie_beside_their_clip(tmp_path: Path) -> None:
    (tmp_path / "my.clip.words.json").write_text(json.dumps([["Hi,", 0, 0.5], [" you ", 0.5, 1]]), encoding="utf-8")
    assert load_words(tmp_path / "my.clip.wav") == [ClipWord("Hi,", 0.0, 0.5), ClipWord("you", 0.5, 1.0)]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[", "cannot be read"),
        ("\ufeff[]", "cannot be read"),
        ("{}", "must be a list"),
        ("[]", "must be a list"),
        ('"Hello"', "must be a list"),
        ("[null]", "None is not"),
        ('["Hello"]', "'Hello' is not"),
        ('[["Hello", 0]]', "is not"),
        ('[["Hello", 0, 1, 2]]', "is not"),
        ('[["a", 0, 1], ["  ", 1, 2]]', r"\['  ', 1, 2\] is not"),
        ("[[3, 0, 1]]", "is not"),
        ('[["a", "0", 1]]', "must be seconds"),
        ('[["a", null, 1]]', "must be seconds"),
        ('[["a", false, true]]', "must be seconds"),
        ('[["a", -0.1, 1]]', "0 <= start <= end"),
        ('[["a", 2, 1]]', "0 <= start <= end"),
        ('[["a", NaN, 1]]', "0 <= start <= end"),
        ('[["a", 0, Infinity]]', "0 <= start <= end"),
        pytest.param('[["a", 0, 1' + "0" * 400 + "]]", "0 <= start <= end", id="too large for a float"),
        ('[["a", 800, 640000]]', "0 <= start <= end <= 3600"),
        pytest.param("[" * 100_000, "cannot be read: it is nested too deeply", id="deep"),
        pytest.param("[" * 500 + "]" * 500, r"\[.* is not \[text, start, end\]", id="less deep"),
        pytest.param('[["' + "a" * 10_000 + '", 2, 1]]', "^.{,200} 0 <= start <= end", id="long"),
    ],
)
def test_words_of_another_shape_are_refused_with_what_is_wrong(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "clip.words.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ScriptError, match=complaint) as error:
        load_words(tmp_path / "clip.wav")
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_words_can_be_checked_without_a_file() -> None:
    assert check_words([["a", 0, 1]], "start.words") == [ClipWord("a", 0.0, 1.0)]
    with pytest.raises(ScriptError, match=r"start\.words"):
        check_words([], "start.words")


def test_missing_words_are_told_before_anything_is_encoded(tmp_path: Path) -> None:
    clip = tone(tmp_path / "clip.wav", 24000)
    with pytest.raises(ScriptError, match=r"needs its word timings in clip\.words\.json"):
        load_prefix([clip], NoEncoder(), Characters())
