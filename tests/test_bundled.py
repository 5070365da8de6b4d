"""The model that comes along: found by its name, without the hub, and what it is is told once.

A stand-in takes its place: the layout, delays, context and half precision of the real one, weights that say nothing.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from conversations import toy
from piping import Pipe
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, normalizers

from dia2 import Dia2
from dia2.checkpoint import load, sources
from dia2.checkpoint.load import LoadOptions, has_bundled, load_checkpoint, load_codec
from dia2.errors import CheckpointError
from dia2.model.sampling import SamplingDefaults
from dia2stream.engine.engine import Engine
from dia2stream.engine.loading import NOISE_MODEL, PUBLISHED_MODEL, default_model
from dia2stream.options import ModelOptions
from dia2stream.protocol.messages import Inject, Pause, Start

ROOT = Path(__file__).parent.parent
STEPS, DELAYS = 750, [8, *[10] * 7]
FILES = {"config.json", "model.safetensors", "dia2_assets.json", "tokenizer.json", "tokenizer_config.json"}
CODEC_FILES = {"config.json", "model.safetensors"}


def make_stand_in(folder: Path) -> Path:
    """A checkpoint of the bundled one's layout, in half precision."""
    shutil.copytree(ROOT / "tests" / "goldens" / "published-like" / "checkpoint", folder)
    config = json.loads((folder / "config.json").read_text())
    config["data"]["delay_pattern"], config["runtime"]["max_context_steps"] = DELAYS, STEPS
    (folder / "config.json").write_text(json.dumps(config))
    for path in (folder / "model.safetensors", folder / "mimi" / "model.safetensors"):
        save_file({name: tensor.half() for name, tensor in load_file(path).items()}, path)
    return folder


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The stand-in, as the bundled model of this build, with the hub out of reach."""
    monkeypatch.setattr(load, "_BUNDLED_FOLDER", make_stand_in(tmp_path / "bundled"))
    monkeypatch.setattr(sources, "download_file", refuse_download)
    return tmp_path / "bundled"


def refuse_download(*arguments: object) -> None:
    raise AssertionError(f"asked the hub: {arguments}")


@pytest.fixture
def nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build without a bundled model."""
    monkeypatch.setattr(load, "_BUNDLED_FOLDER", tmp_path / "nothing")


def test_it_is_loaded_by_its_name_in_half_precision_without_the_hub(stand_in: Path) -> None:
    loaded = load_checkpoint("bundled", LoadOptions(device="cpu"))
    assert (loaded.name, loaded.dtype, loaded.config.runtime.max_context_steps) == ("bundled", torch.float32, STEPS)
    named = load_file(stand_in / "model.safetensors")
    landed = loaded.backbone.checkpoint_tensors() | loaded.depformer.checkpoint_tensors()
    assert {tensor.dtype for tensor in named.values()} == {torch.float16}
    assert all(torch.equal(landed[name], tensor.float()) for name, tensor in named.items())


def test_its_manifest_says_how_it_is_sampled_and_every_client_is_told(stand_in: Path) -> None:
    assets = json.loads((stand_in / "dia2_assets.json").read_text())
    (stand_in / "dia2_assets.json").write_text(json.dumps(assets | {"sampling": {"audio_temperature": 0.3}}))
    before = f"import dia2.checkpoint.load as load, pathlib; load._BUNDLED_FOLDER = pathlib.Path({str(stand_in)!r})"
    for flags, told in ((), {"audio_temperature": 0.3}), (("--audio-temperature", "0.6"), {"audio_temperature": 0.6}):
        with Pipe("--model", "bundled", *flags, before=before) as pipe:
            pipe.send("start", text="[S1] One.", seed=0)
            pipe.end_input()
            assert pipe.wait() == 0
            assert pipe.events[0]["sampling"] == asdict(SamplingDefaults()) | told


def test_its_codec_speaks_and_hears_from_half_precision(stand_in: Path) -> None:
    _, codec = load_codec("bundled", LoadOptions(device="cpu"))
    codes = codec.encode(torch.randn(1, 4 * codec.frame_samples, generator=torch.Generator().manual_seed(0)))
    assert codec.decode(codes.reshape(1, len(DELAYS), -1)).isfinite().all()


def test_the_library_generates_with_it(stand_in: Path) -> None:
    result = Dia2.from_repo("bundled", device="cpu").generate("[S1] One two three.", seed=0)
    assert result.waveform.isfinite().all()
    assert result.waveform.numel() > 0


def test_what_it_is_is_among_the_notes_and_of_no_other_model(stand_in: Path) -> None:
    loaded = load_checkpoint("bundled", LoadOptions(device="cpu"))
    assert loaded.about is not None
    assert loaded.notes.count(loaded.about) == 1
    assert "Flite" in loaded.about
    assert load_checkpoint(stand_in, LoadOptions(device="cpu")).about is None


def test_pipe_tells_what_it_is_once_as_an_event_behind_ready(stand_in: Path) -> None:
    before = f"import dia2.checkpoint.load as load, pathlib; load._BUNDLED_FOLDER = pathlib.Path({str(stand_in)!r})"
    with Pipe("--model", "bundled", before=before) as pipe:
        pipe.send("start", text="[S1] One.", seed=0)
        pipe.end_input()
        assert pipe.wait() == 0
        assert [event["event"] for event in pipe.events][:2] == ["ready", "log"]
        [told] = [event for event in pipe.events if event["event"] == "log"]
    assert (told["level"], told["message"].split(":")[0]) == ("info", "bundled")


@pytest.mark.parametrize(("has_cuda", "device"), [(False, "auto"), (True, "cpu"), (False, "cpu")])
def test_it_is_the_default_without_a_cuda_device(stand_in: Path, monkeypatch: Any, has_cuda: bool, device: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    assert default_model(device) == "bundled"


def test_with_a_cuda_device_the_published_model_stays_the_default(stand_in: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert default_model("auto") == PUBLISHED_MODEL


def test_a_build_without_it_makes_noise_by_default(nothing: None, monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert default_model("auto") == NOISE_MODEL


@pytest.mark.parametrize("load", [load_checkpoint, load_codec])
def test_a_build_without_it_says_so_in_one_line(nothing: None, load: Callable[..., object]) -> None:
    with pytest.raises(CheckpointError, match=r"^this build has no bundled model: name a hub repo, .* or a folder$"):
        load("bundled", LoadOptions(device="cpu"))


def test_it_has_no_revisions(stand_in: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^revision 'main' cannot be used with bundled: it is a part of this"):
        load_checkpoint("bundled", LoadOptions(device="cpu", revision="main"))


def test_an_engine_counts_the_lead_in_of_its_delays(stand_in: Path) -> None:
    """Nothing has the published delays in it: the first frame is there after the longest one."""
    one = Engine.load(ModelOptions(model="bundled", device="cpu"))
    try:
        with one.conversation() as session:
            context = session.conversation.context
            assert (context.lead_in, context.columns.limit) == (max(DELAYS), STEPS)
        assert (one.text.rules, one.text.auto, one.text.makes_sounds) == ("spoken", "spoken", False)
    finally:
        one.close()


@pytest.mark.parametrize("limit", [STEPS, 1500])
def test_a_context_that_was_rebuilt_has_room_for_several_turns(limit: int) -> None:
    """30 s of history are half of the small context: what is left must not be too little for each turn anew."""
    rig = toy(limit=limit, history=375).do(Start(" ".join(f"w{number}" for number in range(1000))))
    while not rig.context.rollovers:
        rig.run(1)
    rig.do(Pause(rig.sent * 80))
    for _ in range(4):
        rig.do(Inject("Yes.")).run()
    assert rig.context.rollovers == 1


@pytest.mark.skipif(not has_bundled(), reason="this build has no bundled model")
def test_the_real_one_has_its_files_and_at_most_40_mb() -> None:
    folder = ROOT / "dia2" / "bundled"
    there = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    assert set(there) == FILES | {f"mimi/{name}" for name in CODEC_FILES}
    assert sum(there.values()) <= 40_000_000
    about = load_checkpoint("bundled", LoadOptions(device="cpu"))
    assert (about.codec.sample_rate, about.codec.frame_samples) == (24_000, 1920)


@pytest.mark.skipif(not has_bundled(), reason="this build has no bundled model")
def test_the_real_one_ends_in_silence() -> None:
    said = Dia2.from_repo("bundled", device="cpu").generate("[S1] The train to the coast leaves at noon.", seed=1)
    *_, before, last = said.audio_tokens[0].T.tolist()
    assert last == before
    assert said.waveform.abs().max() > 0.1
    assert said.waveform[-1920:].abs().max() < 1e-3


# ---- Its tokenizer ----


@pytest.fixture(scope="module")
def tokenizers() -> tuple[Any, Any]:
    """The real one, and the same without what it does to characters that it was not taught."""
    path = str(ROOT / "dia2" / "bundled" / "tokenizer.json")
    plain = Tokenizer.from_file(path)
    plain.normalizer = normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()])
    return Tokenizer.from_file(path), plain


@pytest.mark.parametrize("name", ["test-20.txt", "test-100.txt"])
def test_ordinary_text_has_the_tokens_that_the_voice_was_taught(tokenizers: tuple[Any, Any], name: str) -> None:
    real, plain = tokenizers
    words = (ROOT / "scripts" / "bundled-voice" / name).read_text(encoding="utf-8").split()
    more = ["well-known", "$5", "50%", "dogs'", "'tis", "Wait...", "What?!", "[S1] Hi", "na\u00efve", "caf\u00e9,"]
    assert words
    assert [real.encode(word).ids for word in [*words, *more]] == [plain.encode(word).ids for word in [*words, *more]]


@pytest.mark.parametrize(
    ("word", "like"),
    [
        ('"hello"', "hello"),
        ("\u201chello\u201d", "hello"),
        ("**hello**,", "hello,"),
        ("it\u2019s", "it's"),
        ("well\u2014known", "well-known"),
        ("and/or", "and-or"),
        ("so;", "so,"),
        ("Stra\u00dfe", "strasse"),
        ("hello\U0001f600", "hello"),
        ("\U0001f600", ""),
        ("no!!!!!!!!", "no!!!!"),
        ("[S2] (yes)", "[S2] yes"),
        ("\u65e5\u672c", ""),
    ],
)
def test_characters_that_it_was_not_taught_are_dropped_or_become_some_that_it_was(
    tokenizers: tuple[Any, Any], word: str, like: str
) -> None:
    real, plain = tokenizers
    assert real.encode(word).ids == plain.encode(like).ids
