"""Loading local folders, single files and random models: everything lands, and everything wrong is one line."""

import json
import random
import re
import resource
import shutil
import string
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dia2 import Dia2, GenerationConfig
from dia2.checkpoint import random_models
from dia2.checkpoint.corrections import Corrections
from dia2.checkpoint.load import Checkpoint, LoadOptions, _build, load_checkpoint, load_codec, load_files
from dia2.checkpoint.sampling_defaults import read_sampling
from dia2.checkpoint.sources import Folder, ModelFiles, Repo, read_manifest
from dia2.checkpoint.tokenizer import LoadedTokenizer, load_tokenizer
from dia2.errors import CheckpointError, ConfigError, DeviceError
from dia2.model.config import DecoderConfig, DepformerConfig
from dia2.model.kv_cache import KVCache
from dia2.model.sampling import SamplingDefaults
from dia2.model.slots import SlotIndex

GOLDENS = Path(__file__).parent / "goldens"
CPU = LoadOptions(device="cpu")
TAG = "transformer.text_embed.embedding.weight"


def load(model: str | Path, **options: Any) -> Checkpoint:
    return load_checkpoint(model, LoadOptions(device="cpu", **options))


def tensors(loaded: Checkpoint) -> dict[str, Tensor]:
    return loaded.backbone.checkpoint_tensors() | loaded.depformer.checkpoint_tensors()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint that a test may break."""
    return Path(shutil.copytree(GOLDENS / "published-like" / "checkpoint", tmp_path / "checkpoint"))


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes a JSON file or the tensors of a safetensors file."""
    if path.suffix == ".json":
        raw = json.loads(path.read_text()) if path.exists() else {}
        change(raw)
        path.write_text(json.dumps(raw))
    else:
        raw = load_file(path)
        change(raw)
        save_file(raw, path)


def refusal(model: str | Path, kind: type[Exception] = CheckpointError, **options: Any) -> str:
    """The one line a load is refused with."""
    with pytest.raises(kind) as caught:
        load_checkpoint(model, LoadOptions(**{"device": "cpu"} | options))
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# ---- Tensors ----


def test_every_tensor_of_the_file_lands_and_no_weight_is_left_over(goldens: Path) -> None:
    loaded, expected = load(goldens / "checkpoint"), load_file(goldens / "checkpoint" / "model.safetensors")
    landed = tensors(loaded)
    assert landed.keys() == expected.keys()
    assert all(torch.equal(landed[name], expected[name]) for name in expected)
    modules = (loaded.backbone, loaded.depformer)
    assert sum(w.numel() for m in modules for w in m.parameters()) == sum(t.numel() for t in expected.values())
    assert not any(t.is_meta for m in modules for t in (*m.parameters(), *m.buffers()))


def test_bfloat16_is_the_file_rounded_once(goldens: Path) -> None:
    loaded, expected = (
        load(goldens / "checkpoint", dtype="bfloat16"),
        load_file(goldens / "checkpoint" / "model.safetensors"),
    )
    assert loaded.dtype == torch.bfloat16
    assert all(torch.equal(tensor, expected[name].bfloat16()) for name, tensor in tensors(loaded).items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_files_of_shorter_floats_are_read_too(folder: Path, dtype: torch.dtype) -> None:
    edit(folder / "model.safetensors", lambda raw: raw.update({name: t.to(dtype) for name, t in raw.items()}))
    expected = load_file(folder / "model.safetensors")
    assert all(torch.equal(tensor, expected[name].float()) for name, tensor in tensors(load(folder)).items())


def test_everything_wrong_with_the_tensors_is_one_error(folder: Path) -> None:
    def change(raw: dict[str, Tensor]) -> None:
        del raw["transformer.norm.weight"], raw["depformer.logits.3.weight"]
        raw["transformer.layers.2.pre_norm.weight"] = torch.ones(64)
        raw["transformer.action_head.weight"] = torch.ones(64, 2)
        raw["depformer.norm.weight"] = torch.ones(48, dtype=torch.int32)

    edit(folder / "model.safetensors", change)
    assert refusal(folder) == (
        f"{folder / 'model.safetensors'} does not fit its config: "
        "2 missing: depformer.logits.3.weight, transformer.norm.weight; "
        "1 unexpected: transformer.layers.2.pre_norm.weight; "
        "1 misshapen: transformer.action_head.weight [64, 2] for [2, 64]; "
        "1 of another dtype than float: depformer.norm.weight I32"
    )


def test_long_lists_of_tensors_are_cut_short(folder: Path) -> None:
    def change(raw: dict[str, Tensor]) -> None:
        for name in [name for name in raw if name.startswith("transformer.layers")]:
            del raw[name]

    edit(folder / "model.safetensors", change)
    assert re.search(r"20 missing: (transformer\.layers\.\S+, ){7}\S+ and 12 more$", refusal(folder))


@pytest.mark.parametrize("keep", [0, 5, 3000, 1_000_000], ids=["empty", "5 bytes", "in the header", "in the tensors"])
def test_a_file_cut_short_is_said_to_be(folder: Path, keep: int) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    assert refusal(folder).startswith(f"{weights}: not a safetensors file, or cut short: ")


def test_a_file_of_another_kind_is_refused(folder: Path) -> None:
    torch.save({"weight": torch.ones(3)}, folder / "model.safetensors")
    assert refusal(folder).startswith(f"{folder / 'model.safetensors'}: not a safetensors file")


# ---- Folders, manifests and references ----


def test_a_folder_without_a_config_is_not_a_checkpoint(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"not a Dia2 checkpoint: no config.json in {tmp_path}"


def test_a_folder_without_weights_names_them(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert refusal(folder) == f"no model.safetensors in {folder}"


NOWHERE = ["/no/such/folder", "./none", "../none", "a/b/c", "~/none-of-this", "", "a b", "a--b/c"]


@pytest.mark.parametrize("name", NOWHERE)
def test_what_is_neither_a_folder_nor_a_repo_id_is_refused_without_asking_the_hub(name: str) -> None:
    assert refusal(name) == f"no such folder: {name} (and not a hub repo id, which looks like owner/name)"


def test_a_file_is_not_a_checkpoint_folder(folder: Path) -> None:
    assert refusal(folder / "config.json") == f"{folder / 'config.json'} is a file, not a checkpoint folder"


def test_a_folder_has_no_revisions(folder: Path) -> None:
    assert "revision 'v1' cannot be used with" in refusal(folder, revision="v1")


def test_a_bad_config_is_a_config_error_that_names_the_file(folder: Path) -> None:
    edit(folder / "config.json", lambda raw: raw["data"].update(chanels=3))
    assert refusal(folder, ConfigError).startswith(f"{folder / 'config.json'}: unknown data.chanels")


def test_the_manifest_names_config_and_weights(folder: Path) -> None:
    (folder / "config.json").rename(folder / "dia.json")
    (folder / "weights").mkdir()
    (folder / "model.safetensors").rename(folder / "weights" / "dia.safetensors")
    edit(folder / "dia2_assets.json", lambda raw: raw.update(config="dia.json", weights="weights/dia.safetensors"))
    assert len(tensors(load(folder))) == 76


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON: "),
        ("[" * 10**5, "not JSON: "),
        ("[]", "must hold a JSON object, not list"),
        ('{"mimi": 3}', "mimi must be a file, folder or repo id, not 3"),
        ('{"tokenizer": ""}', "tokenizer must be a file, folder or repo id, not ''"),
    ],
    ids=["cut short", "deep", "a list", "a number", "an empty name"],
)
def test_a_bad_manifest_is_refused(folder: Path, text: str, message: str) -> None:
    (folder / "dia2_assets.json").write_text(text)
    error = refusal(folder)
    assert "dia2_assets.json" in error
    assert message in error


@pytest.mark.parametrize("key", ["config", "weights", "tokenizer", "mimi"])
@pytest.mark.parametrize("outside", ["../../etc", "/etc", "mimi/../..", "~/models", "C:\\models", "..\\x"])
def test_a_manifest_names_nothing_outside_of_its_checkpoint(folder: Path, key: str, outside: str) -> None:
    edit(folder / "dia2_assets.json", lambda raw: raw.update({key: outside}))
    assert f"dia2_assets.json: {key} is {outside!r}, outside of the checkpoint" in refusal(folder)


@pytest.mark.parametrize("key", ["tokenizer", "mimi"])
def test_a_config_names_nothing_outside_of_its_checkpoint(folder: Path, key: str) -> None:
    (folder / "dia2_assets.json").unlink()
    edit(folder / "config.json", lambda raw: raw.update(assets={"mimi": "mimi"} | {key: "../../etc"}))
    assert f"the config's {key} is '../../etc', outside of the checkpoint" in refusal(folder)


@pytest.mark.parametrize("name", ["", "\ud800", "a\x00b", "\x1b[31m", "x" * 10**5])
def test_a_manifest_names_only_what_can_be_a_name(folder: Path, name: str) -> None:
    edit(folder / "dia2_assets.json", lambda raw: raw.update(mimi=name))
    error = refusal(folder)
    assert "must be a file, folder or repo id" in error or "not JSON" in error
    assert error.isprintable()
    assert len(error) < 500


def test_a_manifest_cannot_name_a_folder_of_the_callers(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """A repo id means the hub, also where a folder of that name is in the working directory."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder / "mimi", tmp_path / "someone" / "mimi")
    edit(folder / "dia2_assets.json", lambda raw: raw.update(mimi="someone/mimi"))
    assert load(folder, mimi="someone/mimi").codec.codebooks == 8
    opened = ModelFiles(str(folder), Folder(folder), read_manifest(Folder(folder)), None, None, None)
    assert isinstance(opened.mimi_source(load(folder, mimi="someone/mimi").config), Repo)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_weights_that_are_not_finite_are_refused_by_name(folder: Path, value: float) -> None:
    edit(folder / "model.safetensors", lambda raw: raw[TAG].view(-1)[5:6].fill_(value))
    error = refusal(folder)
    assert f"{folder / 'model.safetensors'} is damaged: {TAG} holds numbers from " in error
    assert error.endswith("they must be finite and within 65504")


def test_null_in_the_manifest_is_the_default(folder: Path) -> None:
    edit(folder / "dia2_assets.json", lambda raw: raw.update(config=None, weights=None, tokenizer=None))
    assert load(folder).tokenizer.speakers == (400, 401)


def test_without_a_manifest_the_config_says_where_the_codec_is(folder: Path) -> None:
    (folder / "dia2_assets.json").unlink()
    edit(folder / "config.json", lambda raw: raw.update(assets={"mimi": "mimi"}))
    assert load(folder).codec.codebooks == 8


@pytest.mark.parametrize("key", ["assets", "data"])
def test_without_a_manifest_the_config_says_where_the_tokenizer_is(folder: Path, key: str) -> None:
    edit(folder / "dia2_assets.json", lambda raw: raw.pop("tokenizer"))
    (folder / "text").mkdir()
    for file in folder.glob("tokenizer*"):
        file.rename(folder / "text" / file.name)
    reference = {"tokenizer": "text"} if key == "assets" else {"tokenizer_path": "text"}
    edit(folder / "config.json", lambda raw: raw.setdefault(key, {}).update(reference))
    assert load(folder).tokenizer.speakers == (400, 401)


def test_the_manifest_goes_before_the_config_and_the_caller_before_both(folder: Path, tmp_path: Path) -> None:
    edit(folder / "config.json", lambda raw: raw.update(assets={"tokenizer": "nowhere", "mimi": "nowhere"}))
    assert load(folder).tokenizer.bos == 1
    edit(folder / "dia2_assets.json", lambda raw: raw.update(tokenizer="./nowhere", mimi="./nowhere"))
    elsewhere = str(GOLDENS / "published-like" / "checkpoint")
    assert load(folder, tokenizer=elsewhere, mimi=f"{elsewhere}/mimi").tokenizer.bos == 1
    assert refusal(folder, tokenizer=elsewhere).startswith(f"{folder} has no folder ./nowhere")
    assert refusal(folder, tokenizer=str(tmp_path)) == f"no tokenizer.json in {tmp_path}"


def test_a_downloaded_repo_uses_the_tokenizer_beside_its_weights_and_says_so(folder: Path) -> None:
    edit(folder / "dia2_assets.json", lambda raw: raw.update(tokenizer="someone/dia2"))
    note = f"tokenizer from {folder}: it has its own, so someone/dia2 is not fetched"
    assert note in load(folder).notes


def test_a_codec_with_too_few_codebooks_or_no_weights_is_refused(folder: Path) -> None:
    other = GOLDENS / "every-option" / "checkpoint" / "mimi"
    assert refusal(folder, mimi=str(other)) == f"{other}: the codec has 6 codebooks, 8 are needed"
    (folder / "mimi" / "model.safetensors").unlink()
    assert refusal(folder) == f"no model.safetensors in {folder / 'mimi'}"


def test_a_codec_with_fewer_codes_than_the_model_draws_is_refused(folder: Path) -> None:
    edit(folder / "config.json", lambda raw: raw["data"].update(audio_vocab_size=130, audio_pad_token_id=129))
    edit(folder / "config.json", lambda raw: raw["data"].update(audio_bos_token_id=128))
    with pytest.raises(CheckpointError, match=r"mimi: the codec's codebooks have 64 codes, 128 are needed$"):
        load_codec(folder, CPU)


def test_two_explicit_files_load_what_lies_beside_the_config(folder: Path, tmp_path: Path) -> None:
    weights = (folder / "model.safetensors").rename(tmp_path / "other.safetensors")
    loaded = load_files(folder / "config.json", weights, LoadOptions(device="cpu", dtype="bfloat16"))
    assert (loaded.name, loaded.dtype, loaded.tokenizer.speakers) == (str(folder), torch.bfloat16, (400, 401))
    with pytest.raises(CheckpointError, match=r"^no such file: .*model\.safetensors$"):
        load_files(folder / "config.json", folder / "model.safetensors", CPU)


def test_two_explicit_files_take_the_callers_tokenizer_and_codec(tmp_path: Path) -> None:
    whole = GOLDENS / "published-like" / "checkpoint"
    config = Path(shutil.copy(whole / "config.json", tmp_path))
    options = {"tokenizer": str(whole), "mimi": str(whole / "mimi")}
    assert load_files(config, whole / "model.safetensors", LoadOptions(device="cpu", **options)).codec.codebooks == 8
    with pytest.raises(CheckpointError, match=f"^no tokenizer.json in {tmp_path}$"):
        load_files(config, whole / "model.safetensors", LoadOptions(device="cpu", mimi=options["mimi"]))


# ---- Devices, dtypes, memory ----


def test_every_automatic_choice_is_noted_with_its_reason(goldens: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device to choose")
    loaded = load_checkpoint(goldens / "checkpoint")
    assert loaded.notes == ["device cpu: auto, no CUDA device here", "dtype float32: auto on the CPU"]
    assert load_checkpoint(goldens / "checkpoint", LoadOptions(device="cpu", dtype="float32")).notes == []


@pytest.mark.parametrize("device", ["tpu", "cpu:1", "cuda:", "cuda:x", "", "mps"])
def test_an_unknown_device_is_refused(device: str) -> None:
    message = f"device must be auto, cpu, cuda or cuda:N, not {device!r}"
    assert refusal("random:tiny", DeviceError, device=device) == message


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_cuda_device_that_is_not_there_is_refused(device: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    said = refusal("random:tiny", DeviceError, device=device)
    assert said == f"device {device}: no CUDA device here; use cpu, or auto to take what there is"


def test_an_unknown_dtype_is_refused() -> None:
    assert refusal("random:tiny", DeviceError, dtype="fp8") == "dtype must be auto, float32 or bfloat16, not 'fp8'"


def test_unknown_weights_are_refused() -> None:
    assert refusal("random:tiny", DeviceError, weights="int4") == "weights must be dtype or fp8, not 'int4'"


def test_a_model_that_cannot_fit_is_refused_before_anything_is_allocated(folder: Path) -> None:
    edit(folder / "config.json", lambda raw: raw["data"].update(text_vocab_size=10**11))
    needs = rf"out of memory: {folder} needs 25600\.\d GB in float32, \d+\.\d [GM]B free on cpu; "
    assert re.fullmatch(needs + "use --dtype bfloat16 or a smaller model", refusal(folder, DeviceError))
    needs = needs.replace("25600", "12800").replace("float32", "bfloat16")
    assert re.fullmatch(needs + "use --weights fp8 or a smaller model", refusal(folder, DeviceError, dtype="bfloat16"))
    needs = needs.replace("bfloat16", "fp8")
    assert re.fullmatch(needs + "use a smaller model", refusal(folder, DeviceError, dtype="bfloat16", weights="fp8"))


@pytest.mark.parametrize("size", [10**18, 10**30])
def test_sizes_beyond_any_memory_are_a_bad_config(folder: Path, size: int) -> None:
    edit(folder / "config.json", lambda raw: raw["data"].update(text_vocab_size=size))
    assert refusal(folder, ConfigError).startswith("the config's sizes are beyond any memory: ")


def test_a_conversation_beyond_any_memory_is_refused(folder: Path) -> None:
    edit(folder / "config.json", lambda raw: raw["runtime"].update(max_context_steps=10**400))
    assert refusal(folder, DeviceError).startswith(f"out of memory: {folder} needs over 10^12 GB in float32, ")


def _load_in_less_memory() -> None:
    used = int(re.findall(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[0]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (used + (300 << 20), -1))
    print(refusal("random:1b", DeviceError, dtype="bfloat16"))


def test_running_out_of_memory_half_way_is_one_line_too() -> None:
    said = hub.forked(_load_in_less_memory)
    needs = r"out of memory: random:1b needs \d\.\d GB in bfloat16"
    there = r"(more than it is given|\d+\.\d [GM]B free) on cpu"
    assert re.fullmatch(f"{needs}, {there}; use --weights fp8 or a smaller model\n", said)


def _big_checkpoint(folder: Path) -> None:
    """About 700 MB in float32, the largest tensor 200 MB; its codec and tokenizer are a golden's."""
    config = random_models._config(
        49_280, 62, 8, 1, DecoderConfig(4, 1024, 6144, 16, 8, 128), DepformerConfig(1, 64, 64, 2, 2, 32)
    )
    backbone, depformer = _build(config, torch.float32)
    stored: dict[str, Tensor] = {}
    for module in (backbone.to_empty(device="cpu"), depformer.to_empty(device="cpu")):
        stored |= {name: torch.zeros_like(tensor) for name, tensor in module.checkpoint_tensors().items()}
    save_file(stored, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config.to_dict()))


def _peak_of_loading(folder: str) -> None:
    """Prints by how many bytes memory peaked above what the process and the loaded model take."""

    def status(field: str) -> int:
        return int(re.findall(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[0]) * 1024

    load("random:tiny", dtype="bfloat16")
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
    loaded = load(folder, dtype="bfloat16")
    weights = sum(w.numel() * w.element_size() for m in (loaded.backbone, loaded.depformer) for w in m.parameters())
    print(status("VmHWM") - before - weights)


def _loads_without_sympy() -> None:
    """Prints whether loading a model imported sympy."""
    load("random:tiny")
    print("sympy" in sys.modules)


def test_loading_a_model_imports_no_sympy_which_takes_half_a_second() -> None:
    assert hub.forked(_loads_without_sympy) == "False\n"


def test_loading_takes_little_more_memory_than_the_model(folder: Path) -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("this system does not say how much memory a process took")
    _big_checkpoint(folder)
    size = (folder / "model.safetensors").stat().st_size
    peak = int(hub.forked(_peak_of_loading, str(folder)))
    assert size > 600e6
    assert peak < 350e6, "256 MiB of the file are mapped at a time"


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_on_cuda_a_model_is_allocated_once(dtype: str) -> None:
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    loaded = load_checkpoint("random:1b", LoadOptions(device="cuda", dtype=dtype))
    final, peak = torch.cuda.memory_allocated() - before, torch.cuda.max_memory_allocated() - before
    assert peak < 1.1 * final
    assert any("TF32" in note for note in loaded.notes) == (dtype == "float32")
    assert loaded.backbone.cb0_head.device == torch.device("cuda", 0)


@pytest.mark.gpu
def test_on_cuda_the_files_tensors_land_and_the_dtype_is_bfloat16(goldens: Path) -> None:
    loaded, expected = load_checkpoint(goldens / "checkpoint"), load_file(goldens / "checkpoint" / "model.safetensors")
    assert loaded.notes == ["device cuda: auto, a CUDA device is there", "dtype bfloat16: auto on CUDA"]
    assert all(torch.equal(tensor.cpu(), expected[name].bfloat16()) for name, tensor in tensors(loaded).items())


@pytest.mark.gpu
def test_on_cuda_too_little_memory_and_an_absent_device_are_refused() -> None:
    count = torch.cuda.device_count()
    assert refusal("random:tiny", DeviceError, device=f"cuda:{count}").startswith(f"device cuda:{count}: no such CUDA")
    torch.cuda.set_per_process_memory_fraction(0.005)
    try:
        said = refusal("random:2b", DeviceError, device="cuda", dtype="float32")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert said.startswith("out of memory: random:2b needs 8.8 GB in float32, ")


# ---- The tokenizer ----


def awkward_words() -> list[str]:
    """Words as scripts hold them, and worse, each with and without a speaker's tag."""
    words = ["hello", "Hello", "HELLO", "it's", "don't", "2024", "12,345.67", "café", "naïve", "你好", "🙂", "e-mail"]
    words += ["a/b", "<|im_start|>", "[S1]x", "x[S2]", "[S3]", "½"]
    drawn = random.Random(0)
    letters = string.printable[:95] + "éüß’ \u00a0"  # noqa: RUF001
    words += ["".join(drawn.choices(letters, k=drawn.randint(1, 12))) for _ in range(1000)]
    return words + [f"[S{1 + i % 2}] {word}" for i, word in enumerate(words)]


BOS = {"__type": "AddedToken", "content": "<|im_start|>", "special": True, "normalized": False}


def published_tokenizer(folder: Path, place: str) -> None:
    """The files of a repo with the published tokenizer's class, digits split, and its tags in one of three places."""
    raw = json.loads(random_models.train_tokenizer().to_str())
    digits = {"type": "Digits", "individual_digits": True}
    raw["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, raw["pre_tokenizer"]]}
    settings: dict[str, Any] = {"tokenizer_class": "GPT2Tokenizer", "bos_token": BOS}
    tags = [token for token in raw["added_tokens"] if token["content"] in ("[S1]", "[S2]")]
    if place != "tokenizer.json":
        raw["added_tokens"] = [token for token in raw["added_tokens"] if token not in tags]
    if place == "tokenizer_config.json":
        settings["added_tokens_decoder"] = {str(tag["id"]): tag for tag in tags}
    if place == "added_tokens.json":
        (folder / place).write_text(json.dumps({tag["content"]: tag["id"] for tag in tags}))
    (folder / "tokenizer.json").write_text(json.dumps(raw))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "vocab.json").write_text(json.dumps(raw["model"]["vocab"]))
    (folder / "merges.txt").write_text("".join(f"{left} {right}\n" for left, right in raw["model"]["merges"]))


def read_tokenizer(folder: Path, vocabulary: int = 1024) -> LoadedTokenizer:
    return load_tokenizer(Folder(folder), vocabulary)


def assert_equals_transformers(folder: Path) -> None:
    from transformers import AutoTokenizer

    ours, theirs = read_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    for word in awkward_words():
        assert ours.encode(word) == theirs.encode(word, add_special_tokens=False), word
    assert ours.bos == theirs.bos_token_id
    assert ours.speakers == tuple(theirs.convert_tokens_to_ids(["[S1]", "[S2]"]))


def test_the_goldens_tokenizer_encodes_as_transformers_does(goldens: Path) -> None:
    assert_equals_transformers(goldens / "checkpoint")


@pytest.mark.parametrize("place", ["tokenizer.json", "tokenizer_config.json", "added_tokens.json"])
def test_the_published_tokenizer_encodes_as_transformers_does(tmp_path: Path, place: str) -> None:
    published_tokenizer(tmp_path, place)
    assert_equals_transformers(tmp_path)


def test_without_tokenizer_json_transformers_reads_the_older_files(tmp_path: Path) -> None:
    published_tokenizer(tmp_path, "added_tokens.json")
    whole = read_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    older = read_tokenizer(tmp_path)
    assert (older.bos, older.speakers) == (whole.bos, whole.speakers)
    assert older.encode("[S1] hello there") == whole.encode("[S1] hello there")


@pytest.mark.parametrize(
    ("bos", "expected"),
    [("<|im_end|>", 2), ({"content": "<|im_end|>"}, 2), ("<|endoftext|>", 1), (None, 1), ("<none>", 1)],
)
def test_bos_is_the_tokenizers_or_1_when_it_has_none_or_0(folder: Path, bos: object, expected: int) -> None:
    edit(folder / "tokenizer_config.json", lambda raw: raw.update(bos_token=bos))
    assert read_tokenizer(folder).bos == expected


def test_bos_may_stand_in_the_special_tokens_map(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", lambda raw: raw.pop("bos_token"))
    edit(folder / "special_tokens_map.json", lambda raw: raw.update(bos_token="<|im_end|>"))
    assert read_tokenizer(folder).bos == 2


def test_a_tokenizer_without_speaker_tags_is_refused(folder: Path) -> None:
    edit(folder / "tokenizer.json", lambda raw: raw["added_tokens"].pop())
    assert refusal(folder) == f"tokenizer {folder} has no [S2]: not a Dia2 tokenizer"
    edit(folder / "tokenizer.json", lambda raw: raw["added_tokens"].pop())
    assert refusal(folder) == f"tokenizer {folder} has no [S1] and no [S2]: not a Dia2 tokenizer"


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has ids up to 401, the model only 401 text ids$"):
        read_tokenizer(folder, 401)


@pytest.mark.parametrize("content", ["", "{}", '{"model": 3}'])
def test_a_broken_tokenizer_is_refused(folder: Path, content: str) -> None:
    (folder / "tokenizer.json").write_text(content)
    assert refusal(folder).startswith(f"{folder / 'tokenizer.json'}: not a tokenizer: ")


@pytest.mark.parametrize("prefix", ["-1", "\u0663", "\x1b[31m"])
def test_a_tokenizer_at_which_the_library_would_panic_is_refused(folder: Path, capfd: Any, prefix: str) -> None:
    edit(folder / "tokenizer.json", lambda raw: raw["model"].update(continuing_subword_prefix=prefix))
    assert refusal(folder).startswith(f"{folder / 'tokenizer.json'}: its merges have a continuing_subword_prefix")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("prefix", ["-1", "\x1b[31m"])
def test_a_panic_of_the_library_is_one_line_too(folder: Path, prefix: str) -> None:
    """Written so that we do not see beforehand what the library will meet."""
    edit(folder / "tokenizer.json", lambda raw: raw["model"].update(a_subword_prefix=prefix))
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace('"a_subword_prefix"', r'"\u0063ontinuing_subword_prefix"'))
    assert refusal(folder).startswith(f"{path}: not a tokenizer: ")


@pytest.mark.parametrize("added", [3, {"x": {}}, {"500": "[S9]"}])
def test_added_tokens_that_are_none_are_refused(folder: Path, added: object) -> None:
    edit(folder / "tokenizer_config.json", lambda raw: raw.update(added_tokens_decoder=added))
    assert refusal(folder).startswith(f"tokenizer {folder}: its added tokens are damaged: ")


# ---- Random models ----


def test_a_random_model_is_the_same_for_a_seed_in_every_dtype() -> None:
    first, again, other = (tensors(load(name)) for name in ("random:tiny", "random:tiny:0", "random:tiny:1"))
    rounded = tensors(load("random:tiny", dtype="bfloat16"))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(torch.equal(first[name].bfloat16(), rounded[name]) for name in first)
    assert not torch.equal(first[TAG], other[TAG])
    codes = torch.zeros(1, 8, 2, dtype=torch.int64)
    assert torch.equal(load("random:tiny").codec.decode(codes), load("random:tiny").codec.decode(codes))


@pytest.mark.parametrize("name", ["random:", "random:3b", "random:tiny:", "random:tiny:x", "random:tiny:-1"])
def test_an_unknown_random_model_is_refused_with_those_that_exist(name: str) -> None:
    assert refusal(name) == (
        f"no such random model: {name}; there are random:tiny, random:1b, random:2b, each with :SEED if you like"
    )


@pytest.mark.parametrize("option", ["tokenizer", "mimi", "revision"])
def test_a_random_model_takes_no_files(option: str) -> None:
    assert refusal("random:tiny", **{option: "x"}).startswith(f"random:tiny brings its own files: {option} 'x' cannot")


@pytest.mark.parametrize(("name", "published_bytes"), [("random:1b", 4_309_852_127), ("random:2b", 7_683_100_734)])
def test_the_large_random_models_have_the_published_sizes(name: str, published_bytes: int) -> None:
    modules = _build(random_models.random_model(name).config, torch.float32)
    stored = sum(tensor.numel() * 4 for module in modules for tensor in module.checkpoint_tensors().values())
    assert 4e6 < published_bytes - stored < 6e6, "the rest is the tokenizer's files"


def test_random_models_step_as_the_published_ones_do() -> None:
    for size in ("tiny", "1b", "2b"):
        config = random_models.random_model(f"random:{size}").config
        assert config.data.delays == (16, *[18] * (config.data.codebooks - 1))
        assert (config.data.second_stream_ahead, config.runtime.max_context_steps) == (2, 1500)
    assert len(set(random_models.random_model("random:2b").config.schedule)) == 5


def test_random_logits_are_neither_flat_nor_certain() -> None:
    loaded, steps = load("random:tiny"), 30
    data = loaded.config.data
    drawn = torch.Generator().manual_seed(0)
    text = torch.randint(10, data.text_vocab_size, (1, steps, 2), generator=drawn)
    codes = torch.randint(data.audio_codes, (1, steps, data.codebooks), generator=drawn)
    index = torch.arange(steps)[None]
    with torch.inference_mode():
        cache = KVCache(loaded.config, 1, 1, steps, loaded.device, loaded.dtype).view(
            SlotIndex.of([0], loaded.device), 1
        )
        hidden = loaded.backbone(torch.cat((text, codes), -1), index, index, cache, steps)
        cb0, action = loaded.backbone.cb0_logits(hidden), loaded.backbone.action_logits(hidden)
        stage = loaded.depformer.stage(0, hidden[:, -1], codes[:, -1, 0], None, loaded.depformer.new_cache(1))
    assert 0.1 < action.argmax(-1).float().mean() < 0.9, "both actions happen"
    for logits in (cb0, stage):
        likeliest = logits.softmax(-1).amax(-1)
        assert 5 / logits.shape[-1] < likeliest.mean() < 0.5
    assert cb0.argmax(-1).unique().numel() > steps / 2, "what comes depends on what was"


def test_the_random_tokenizer_knows_common_words_and_can_say_any() -> None:
    loaded = load("random:tiny")
    assert loaded.tokenizer.bos == 1
    assert all(token < loaded.config.data.text_vocab_size for token in loaded.tokenizer.speakers)
    common = ["Hello,", "how", "are", "you", "doing", "today?", "weather", "please.", "don't", "appointment"]
    assert all(1 <= len(loaded.tokenizer.encode(word)) <= 3 for word in common)
    assert loaded.tokenizer.encode("[S2] thanks")[0] == loaded.tokenizer.speakers[1]
    assert len(loaded.tokenizer.encode("Übermäßig🙂")) > 5


# ---- Corrections ----


def test_the_manifest_corrects_what_is_told_and_the_default_is_nothing(folder: Path) -> None:
    assert load(folder).corrections == Corrections()
    edit(
        folder / "dia2_assets.json",
        lambda raw: raw.update(word_delay_ms=56, speaker_gain_db=[-1.9, 3], letter_ms=50, pause_db=35),
    )
    assert load(folder).corrections == Corrections(
        word_delay_ms=56.0, speaker_gain_db=(-1.9, 3.0), letter_ms=50, pause_db=35
    )
    edit(folder / "dia2_assets.json", lambda raw: raw.update(silence=[*range(8)]))
    assert load(folder).corrections.silence == tuple(range(8))
    edit(folder / "dia2_assets.json", lambda raw: raw.update(word_delay_ms=None, speaker_gain_db=None, silence=None))
    assert load(folder).corrections == Corrections(letter_ms=50, pause_db=35)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('"word_delay_ms": "56"', "word_delay_ms must be a number from -1000 to 1000, not '56'"),
        ('"word_delay_ms": true', "word_delay_ms must be a number from -1000 to 1000, not True"),
        ('"word_delay_ms": 1001', "word_delay_ms must be a number from -1000 to 1000, not 1001"),
        ('"letter_ms": -1', "letter_ms must be a number from 0 to 500, not -1"),
        ('"pause_db": 121', "pause_db must be a number from 0 to 120, not 121"),
        ('"speaker_gain_db": 3', "speaker_gain_db must be two numbers, one for each speaker, not 3"),
        ('"speaker_gain_db": [3]', "speaker_gain_db must be two numbers, one for each speaker, not [3]"),
        ('"speaker_gain_db": [0, -31]', "speaker_gain_db must be a number from -30 to 30, not -31"),
        ('"silence": 3', "silence must be 8 whole numbers from 0 to 63, a code of each codebook, not 3"),
        ('"silence": [1, 2]', "silence must be 8 whole numbers from 0 to 63, a code of each codebook, not [1, 2]"),
        ('"silence": [1, 2, 3, 4, 5, 6, 7, 64]', "a code of each codebook, not [1, 2, 3, 4, 5, 6, 7, 64]"),
        ('"silence": [1, 2, 3, 4, 5, 6, 7, true]', "a code of each codebook, not [1, 2, 3, 4, 5, 6, 7, True]"),
    ],
)
def test_a_correction_that_cannot_be_is_refused(folder: Path, text: str, message: str) -> None:
    (folder / "dia2_assets.json").write_text(f"{{{text}}}")
    assert message in refusal(folder)


# ---- Sampling ----


def test_the_manifest_says_how_to_sample_and_the_usual_defaults_stand_in_for_the_rest(folder: Path) -> None:
    assert load(folder).sampling == SamplingDefaults()
    edit(folder / "dia2_assets.json", lambda raw: raw.update(sampling={"audio_temperature": 0.3, "text_top_k": 7}))
    assert load(folder).sampling == SamplingDefaults(audio_temperature=0.3, text_top_k=7)
    edit(folder / "dia2_assets.json", lambda raw: raw.update(sampling=None))
    assert load(folder).sampling == SamplingDefaults()
    (folder / "dia2_assets.json").unlink()
    assert read_sampling(Folder(folder)) == SamplingDefaults()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3", "sampling must be a JSON object, not int"),
        ('{"temperature": 0.3}', "unknown sampling.temperature; sampling may have cfg_scale, cfg_filter_k, text_temp"),
        ('{"audio_temperature": "0.3"}', "sampling.audio_temperature must be a number, not '0.3'"),
        ('{"audio_temperature": 2.5}', "sampling.audio_temperature must be a number from 0 to 2, not 2.5"),
        ('{"audio_temperature": NaN}', "sampling.audio_temperature must be a number, not"),
        ('{"audio_top_k": 0}', "sampling.audio_top_k must be a number from 1 to 2048, not 0"),
        ('{"audio_top_k": 8.5}', "sampling.audio_top_k must be a whole number, not 8.5"),
        ('{"cfg_scale": null}', "sampling.cfg_scale must be a number, not"),
    ],
)
def test_sampling_that_cannot_be_is_refused(folder: Path, text: str, message: str) -> None:
    (folder / "dia2_assets.json").write_text(f'{{"sampling": {text}}}')
    assert message in refusal(folder)


def test_generate_keeps_the_published_defaults_whatever_the_manifest_says(folder: Path) -> None:
    greedy = {"text_temperature": 0, "audio_temperature": 0, "cfg_scale": 1}
    spoken = [Dia2.from_repo(str(folder), device="cpu").generate("[S1] Hello.", config=GenerationConfig(seed=1))]
    edit(folder / "dia2_assets.json", lambda raw: raw.update(sampling=greedy))
    spoken.append(Dia2.from_repo(str(folder), device="cpu").generate("[S1] Hello.", config=GenerationConfig(seed=1)))
    assert torch.equal(spoken[0].audio_tokens, spoken[1].audio_tokens)
