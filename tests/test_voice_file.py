"""Voice files: a few KB that hold a voice whole, and what is none of this model's is refused by name."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from models import cases, checkpoint

from dia2.errors import ScriptError
from dia2.voice.voice import Clip, ClipWord, Voice, load_prefix, load_words, make_clip
from dia2stream.engine.voices import prefixes, read_voices

WORDS = (ClipWord("Hi,", 0.1, 0.3), ClipWord("“you”", 0.35, 0.8))


def voice(name: str = "ann", frames: int = 30, codebooks: int = 8, speakers: int = 2, most: int = 256) -> Voice:
    codes = torch.randint(most, (codebooks, frames), generator=torch.Generator().manual_seed(frames)).short()
    return Voice(name, (Clip(codes, WORDS),) * speakers, "Ann agreed", {"made": "today"})


def saved(folder: Path, kept: Voice, name: str = "x.voice.safetensors") -> str:
    kept.save(folder / name)
    return str(folder / name)


@pytest.mark.parametrize("speakers", [1, 2])
def test_a_voice_is_loaded_as_it_was_saved(tmp_path: Path, speakers: int) -> None:
    kept = voice(speakers=speakers)
    loaded = Voice.load(saved(tmp_path, kept))
    assert (loaded.name, loaded.licence, loaded.provenance) == (kept.name, kept.licence, kept.provenance)
    assert [clip.words for clip in loaded.clips] == [WORDS] * speakers
    assert all(torch.equal(a.codes, b.codes) for a, b in zip(loaded.clips, kept.clips, strict=True))
    assert loaded.frames == 30 * speakers


def test_the_prefix_of_a_voice_file_is_that_of_its_clips(goldens: Path, tmp_path: Path) -> None:
    """Clips through the codec, saved, loaded and planned: the prefix that the goldens hold for the same clips."""
    loaded = checkpoint(goldens)
    for case in cases(goldens)["prefix"]:
        paths = [goldens / case[speaker] for speaker in ("speaker_1", "speaker_2") if case[speaker]]
        clips = [make_clip(read_pcm(path, loaded.codec.sample_rate), load_words(path), loaded.codec) for path in paths]
        path = saved(tmp_path, Voice("golden", tuple(clips)))
        prefix = prefixes(read_voices([path]), loaded)["golden"]
        direct = load_prefix(paths, loaded.codec, loaded.tokenizer)
        assert list(prefix.new_word_steps) == case["new_word_steps"]
        assert prefix.entries == direct.entries
        assert torch.equal(prefix.codes, direct.codes)
        assert prefix.codes.dtype == torch.int64


def read_pcm(path: Path, rate: int) -> Any:
    from dia2.voice.voice import load_clip

    return load_clip(path, rate)


def test_ten_seconds_take_a_few_kilobytes_and_milliseconds(tmp_path: Path) -> None:
    path = saved(tmp_path, voice(frames=125, codebooks=32))
    assert Path(path).stat().st_size < 18_000
    taken = []
    for _ in range(20):
        started = time.perf_counter()
        Voice.load(path)
        taken.append(time.perf_counter() - started)
    assert min(taken) < 0.02


def test_voices_are_called_by_their_own_name_or_a_given_one(tmp_path: Path) -> None:
    ann, bob = (
        saved(tmp_path, voice("ann"), "a.voice.safetensors"),
        saved(tmp_path, voice("bob"), "b=b.voice.safetensors"),
    )
    assert list(read_voices([ann, bob])) == ["ann", "bob"]
    named = read_voices([f"eve={ann}", bob, f"={ann}"])
    assert list(named) == ["eve", "bob", "ann"]
    assert named["eve"].name == "eve"
    assert read_voices([]) == {}
    with pytest.raises(ScriptError, match="two voices are called 'ann': give one another name, as other=/"):
        read_voices([ann, ann])


def damaged(folder: Path, **changes: Any) -> str:
    """A voice file with other tensors or metadata than `save` writes."""
    content = {"name": "ann", "words": [[["Hi", 0, 1]]], "licence": "", "provenance": {}}
    own = changes.pop("voice", {})
    metadata = {"format": "dia2 voice", "version": "1"}
    metadata["voice"] = own if isinstance(own, str) else json.dumps(content | own)
    tensors = changes.pop("tensors", {"speaker_1": torch.zeros(8, 20, dtype=torch.int16)})
    path = folder / "damaged.voice.safetensors"
    path.write_bytes(safetensors.torch.save(tensors, metadata | changes))
    return str(path)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"format": "other"}, "not a voice; `dia2stream voice make` makes one"),
        ({"version": "2"}, "format version '2'; this dia2stream reads up to 1"),
        ({"version": ""}, "format version ''"),
        ({"version": "²"}, "format version '²'"),
        ({"version": "٣"}, "format version '٣'"),
        ({"version": "1\n"}, r"format version '1\\n'"),
        ({"version": "9" * 5000}, "format version '9{40}'"),
        ({"voice": {"words": [[["H\ud800i", 0, 1]]]}}, r"'H\\ud800i' holds half of a character"),
        ({"voice": {"words": [[["x" * 10**5, 3, 1]]]}}, "'x{10}'"),
        ({"voice": {"licence": "\x1b[31m"}}, r"'\\x1b\[31m' holds control characters"),
        ({"voice": {"name": "\ud800"}}, r"'\\ud800' holds control characters"),
        ({"voice": {"words": None}}, "its metadata is damaged"),
        ({"voice": {"provenance": 3}}, "its metadata is damaged"),
        ({"voice": {"words": [[["Hi", 3, 1]]]}}, r"\['Hi', 3, 1\] must have 0 <= start <= end"),
        ({"voice": {"words": [[["Hi", 0, 1]]] * 2}}, "it has words of 2 speakers and the sound of 1"),
        ({"tensors": {"speaker_2": torch.zeros(8, 20, dtype=torch.int16)}}, "words of 1 speakers and the sound of 1"),
        ({"voice": "[" * 100_000}, "its metadata is damaged: nested too deeply"),
        ({"tensors": {"speaker_1": torch.zeros(8, 20)}}, "must be int16"),
        ({"tensors": {"speaker_1": torch.zeros(8, dtype=torch.int16)}}, "must be int16"),
    ],
)
def test_a_file_that_is_no_voice_is_refused(tmp_path: Path, changes: Any, complaint: str) -> None:
    path = damaged(tmp_path, **changes)
    with pytest.raises(ScriptError, match=complaint) as error:
        Voice.load(path)
    assert str(error.value).startswith(f"voice {path}: ")
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 500


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScriptError, match="missing: no such file"):
        Voice.load(tmp_path / "missing")
    (tmp_path / "text").write_text("not tensors")
    for name in ("text", "."):
        with pytest.raises(ScriptError, match="it cannot be read: ") as error:
            Voice.load(tmp_path / name)
        assert "\n" not in str(error.value)


def test_a_voice_of_another_codec_or_too_long_is_refused() -> None:
    voice().check(8, 256, 120)
    with pytest.raises(ScriptError, match="voice ann has 8 codebooks, the model 32: make it again"):
        voice().check(32, 256, 1500)
    with pytest.raises(ScriptError, match=r"voice ann has codes outside 0\.\.99"):
        voice().check(8, 100, 1500)
    with pytest.raises(ScriptError, match=r"voice ann is 4\.8 s long; half of the model's context is 4\.7 s"):
        voice().check(8, 256, 118)
