"""Words and their times: aligned to a known text, or heard by Whisper."""

import json
import sys
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CLIPS
from whisper import save_whisper

from dia2.errors import ScriptError
from dia2.voice.recording import Recording, read_recording
from dia2.voice.voice import plan_words, read_words
from dia2.voice.word_times import align, transcribe

TEXT = "[S1] She bought three apples and a loaf of bread."


class OneToken:
    """A tokenizer of one token a word, so that nothing hides a difference in time."""

    speakers = (1, 2)

    def encode(self, text: str) -> list[int]:
        return [1]


def clip(name: str) -> Recording:
    return read_recording(CLIPS / f"{name}.flac")


@pytest.mark.parametrize("rate", [16000, 24000])
def test_aligned_words_start_where_the_synthesiser_put_them(rate: int) -> None:
    apart, planned = [], []
    for name in ("flite_slt", "flite_rms", "flite_awb"):
        found, true = align(clip(name).at(rate), TEXT), read_words(CLIPS / f"{name}.words.json")
        assert [word.text for word in found] == [word.text for word in true] == TEXT.split()[1:]
        apart += [abs(f.start - t.start) for f, t in zip(found, true, strict=True)]
        steps = [plan_words(words, 1, OneToken())[1] for words in (found, true)]
        planned += [abs(f - t) <= 1 for f, t in zip(*steps, strict=True)]
    assert np.mean(np.array(apart) <= 0.08) >= 0.95
    assert np.mean(apart) < 0.02
    assert np.mean(planned) >= 0.95


def test_words_are_aligned_as_they_are_written() -> None:
    found = align(clip("kokoro_af_heart"), "[S2] SHE - bought, three... apples & a-loaf of “bread”!")
    assert [word.text for word in found] == ["SHE", "bought,", "three...", "apples", "a-loaf", "of", "“bread”!"]
    assert all(a.end <= b.start + 0.011 for a, b in pairwise(found))
    assert all(word.start < word.end <= clip("kokoro_af_heart").seconds for word in found)


def test_a_word_of_no_dictionary_is_found_by_its_spelling() -> None:
    spelt = align(clip("flite_slt"), TEXT.replace("apples", "apfles").replace("loaf", "löaf"))
    known = align(clip("flite_slt"), TEXT)
    assert [word.text for word in spelt][3] == "apfles"
    assert max(abs(a.start - b.start) for a, b in zip(spelt, known, strict=True)) < 0.08


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "there is no word"),
        ("[S1] ... !", "there is no word"),
        ("She bought 3 apples", "'3' cannot be aligned: write numbers in words"),
        ("東京", "'東京' cannot be aligned: '東' is no letter of English"),
        (" ".join(["constantinople"] * 60), "does not fit .*: give exactly the words"),
    ],
)
def test_a_text_that_cannot_be_aligned_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(ScriptError, match=complaint):
        align(clip("flite_slt"), text)


def test_without_pocketsphinx_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    with pytest.raises(ScriptError, match=r"pip install 'dia2stream\[align\]'") as error:
        align(clip("flite_slt"), TEXT)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_whisper(tmp_path_factory.mktemp("whisper"))


def test_whisper_hears_words_with_their_times(whisper: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        words = transcribe(clip("flite_slt"), str(whisper))
    assert len(words) > 2
    assert set("".join(word.text for word in words)) <= set("abc")
    times = [time for word in words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert 0 <= times[0] <= times[-1] <= clip("flite_slt").seconds


def heard(monkeypatch: pytest.MonkeyPatch, chunks: list[Any]) -> list[Any]:
    """What becomes of the pipeline's words."""

    class Pipeline:
        class model:
            generation_config = None

        def __call__(self, clip: Any, **options: Any) -> Any:
            assert clip["raw"].dtype == np.float32
            assert (clip["sampling_rate"], options["return_timestamps"]) == (16000, "word")
            return {"chunks": [{"text": text, "timestamp": times} for text, times in chunks]}

    monkeypatch.setattr("dia2.voice.word_times._whisper", lambda model: Pipeline())
    return [(word.text, word.start, word.end) for word in transcribe(clip("flite_slt"), "whisper")]


def test_pieces_of_a_word_are_joined_and_open_times_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = [
        (" Five", (0.1, 0.3)),
        (" o", (0.3, 0.5)),
        ("'clock,", (0.5, 0.8)),
        (" ", (0.8, 0.8)),
        (" now.", (0.9, None)),
    ]
    seconds = clip("flite_slt").seconds
    assert heard(monkeypatch, chunks) == [("Five", 0.1, 0.3), ("o'clock,", 0.3, 0.8), ("now.", 0.9, seconds)]
    assert heard(monkeypatch, [("Hi", (None, 9.0))]) == [("Hi", 0.0, seconds)]
    with pytest.raises(ScriptError, match=r"whisper hears no words in .*flite_slt\.flac"):
        heard(monkeypatch, [])


@pytest.mark.parametrize("model", ["/no/such/whisper", "no/such/whisper", "./whisper", "my whisper", ""])
def test_a_transcriber_that_is_neither_a_folder_nor_the_name_of_a_repo_is_told_so(model: str) -> None:
    told = f"could not be transcribed with {model}: no such folder (and not a hub repo id, which looks like owner/name)"
    with pytest.raises(ScriptError) as error:
        transcribe(clip("flite_slt"), model)
    assert str(error.value).endswith(told)


def test_a_transcriber_that_is_none_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "no such thing"}))
    for model in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ScriptError, match="could not be transcribed with") as error:
            transcribe(clip("flite_slt"), str(model))
        assert "\n" not in str(error.value)
