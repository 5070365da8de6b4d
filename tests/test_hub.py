"""Loading from the hub: against a stand-in server, in processes of their own."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hub as stand_in
import pytest
import torch
from hub import Hub, etag, folder
from safetensors.torch import load_file, save

from dia2.checkpoint.load import LoadOptions, load_checkpoint

GOLDENS = Path(__file__).parent / "goldens"
CHECKPOINT = GOLDENS / "published-like" / "checkpoint"
OTHER = GOLDENS / "every-option" / "checkpoint"
MODEL, MIMI = "someone/dia2-small", "kyutai/mimi"


def model_files(path: Path = CHECKPOINT, manifest: bytes | None = None) -> dict[str, bytes]:
    """A repo as the published ones are: the codec elsewhere, and much that loading does not need."""
    files = {name: content for name, content in folder(path).items() if not name.startswith("mimi/")}
    files |= dict.fromkeys(("README.md", "vocab.json", "merges.txt", "pytorch_model.bin", "code.py"), b"not needed")
    del files["dia2_assets.json"]
    return files if manifest is None else files | {"dia2_assets.json": manifest}


def fill(hub: Hub) -> None:
    """A hub with the model and the codec on it, as the published pair."""
    hub.push(MODEL, model_files(manifest=json.dumps({"tokenizer": MODEL, "mimi": MIMI}).encode()))
    hub.push(MIMI, folder(CHECKPOINT / "mimi") | {"preprocessor_config.json": b"{}"})


@pytest.fixture
def hub() -> Iterator[Hub]:
    with stand_in.serving() as hub:
        fill(hub)
        yield hub


@dataclass
class Warm:
    """A hub with three repos, the cache that loading them has left, and what loading them said."""

    hub: Hub
    home: Path
    models: list[str]
    first: list[dict[str, Any]]
    asked: list[str]
    served: list[str]


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    with stand_in.serving() as hub:
        fill(hub)
        hub.push("someone/plain", model_files(OTHER))  # no manifest
        hub.push("someone/whole", folder(CHECKPOINT))  # a manifest that points to folders of the repo
        home, models = tmp_path_factory.mktemp("home"), [MODEL, "someone/plain", "someone/whole"]
        first = hub.load(*({"model": model} for model in models), home=home).jobs
        warm = Warm(hub, home, models, first, hub.asked(), hub.served())
        hub.requests.clear()
        yield warm


def weights_sum(path: Path) -> float:
    loaded = load_checkpoint(path, LoadOptions(device="cpu"))
    return sum(w.double().sum().item() for m in (loaded.backbone, loaded.depformer) for w in m.parameters())


def test_what_is_downloaded_is_what_the_repo_holds(warm: Warm) -> None:
    sums = [job["sum"] for job in warm.first]
    assert sums == [weights_sum(CHECKPOINT), weights_sum(OTHER), weights_sum(CHECKPOINT)]


def test_only_the_files_that_loading_needs_are_downloaded(warm: Warm) -> None:
    needed = ["dia2_assets.json", "config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]
    optional = ["special_tokens_map.json", "added_tokens.json"]
    of_model = [name.removeprefix(f"{MODEL}/") for name in warm.asked if name.startswith(MODEL)]
    assert sorted(of_model) == sorted(needed + optional)
    assert sorted(name for name in warm.served if name.startswith(MODEL)) == sorted(f"{MODEL}/{f}" for f in needed)
    of_codec = [name.removeprefix(f"{MIMI}/") for name in warm.asked if name.startswith(MIMI)]
    assert of_codec == ["config.json", "model.safetensors"]


def test_without_a_manifest_the_published_defaults_hold(warm: Warm) -> None:
    served = [name.removeprefix("someone/plain/") for name in warm.served if name.startswith("someone/plain/")]
    assert served == ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]


def test_a_repo_may_hold_its_codec_in_a_folder_of_its_own(warm: Warm) -> None:
    assert "someone/whole/mimi/model.safetensors" in warm.served


def test_progress_is_told_for_downloading_and_for_loading(warm: Warm) -> None:
    size = (CHECKPOINT / "model.safetensors").stat().st_size
    assert warm.first[0]["stages"]["downloading model.safetensors"] == [size, size]
    done, total = warm.first[0]["stages"]["loading the weights"]
    assert done == total > 0.9 * size


def test_a_second_load_downloads_nothing(warm: Warm) -> None:
    jobs = warm.hub.load(*({"model": model} for model in warm.models), home=warm.home).jobs
    looks = [request for request in warm.hub.requests if "/resolve/" in request.path]
    served = warm.hub.served()
    warm.hub.requests.clear()
    assert [job["sum"] for job in jobs] == [job["sum"] for job in warm.first]
    assert not served
    assert len(looks) <= 2 * len(warm.models), "one look at each repo for a newer commit"


def test_offline_the_cache_is_enough(warm: Warm) -> None:
    jobs = warm.hub.load(*({"model": model} for model in warm.models), home=warm.home, HF_HUB_OFFLINE="1").jobs
    assert [job["sum"] for job in jobs] == [job["sum"] for job in warm.first]
    assert not warm.hub.requests


def test_offline_the_line_says_what_the_cache_lacks_and_the_mend(warm: Warm, tmp_path: Path) -> None:
    shutil.copytree(warm.home, tmp_path / "home", symlinks=True)
    cache = tmp_path / "home" / "hub"
    (weights,) = cache.glob("*dia2-small/snapshots/*/model.safetensors")
    weights.unlink()
    jobs = [{"model": "someone/absent"}, {"model": MODEL}]
    absent, broken = warm.hub.load(*jobs, home=tmp_path / "home", HF_HUB_OFFLINE="1").jobs
    start = "offline (HF_HUB_OFFLINE is set) and"
    assert absent["error"] == f"{start} someone/absent is not in {cache}; run once online"
    where = f"{MODEL}/model.safetensors at revision {weights.parent.name}"
    assert broken["error"] == f"{start} {where} is not in {cache}; run once online"


def larger(path: Path, rows: int) -> dict[str, bytes]:
    """The checkpoint with a text vocabulary of that many rows, so that its file is worth resuming."""
    config = json.loads((path / "config.json").read_text())
    config["data"]["text_vocab_size"] = rows
    tensors = load_file(path / "model.safetensors")
    name = "transformer.text_embed.embedding.weight"
    tensors[name] = torch.randn(rows, tensors[name].shape[1], generator=torch.Generator().manual_seed(0))
    return model_files(path) | {"config.json": json.dumps(config).encode(), "model.safetensors": save(tensors)}


def test_a_cut_connection_is_resumed_where_it_broke(hub: Hub, tmp_path: Path) -> None:
    files = larger(CHECKPOINT, 60_000)
    hub.push("someone/larger", files)
    content = files["model.safetensors"]
    hub.cut[etag(content)] = 12_000_000
    hub.load({"model": "someone/larger"}, home=tmp_path)
    first, second = [r for r in hub.requests if r.path.endswith(etag(content)) and r.method == "GET"]
    assert (first.range, first.sent) == (None, 12_000_000)
    start = int(str(second.range).removeprefix("bytes=").removesuffix("-"))
    assert 10_000_000 < start <= 12_000_000, "the hub's library keeps whole pieces of 10 MiB"
    assert second.sent == len(content) - start
    stored = next(path for path in tmp_path.rglob("model.safetensors") if "larger" in str(path))
    assert stored.read_bytes() == content


def test_a_pinned_revision_is_loaded_and_only_the_models_repo_has_it(hub: Hub, tmp_path: Path) -> None:
    manifest = json.dumps({"mimi": MIMI}).encode()
    old = hub.push("someone/two", model_files(OTHER, manifest), tag="v1")
    hub.push("someone/two", model_files(CHECKPOINT, manifest))
    jobs = [{"model": "someone/two", "revision": r, "mimi": str(OTHER / "mimi")} for r in ("v1", old)]
    by_tag, by_commit, newest = hub.load(*jobs, {"model": "someone/two"}, home=tmp_path).jobs
    assert by_tag["sum"] == by_commit["sum"] == weights_sum(OTHER)
    assert newest["sum"] == weights_sum(CHECKPOINT)
    assert not [r for r in hub.requests if r.path.startswith(f"/{MIMI}/resolve/v1")]


def test_the_token_is_sent_to_the_hub_and_not_to_its_store(hub: Hub, tmp_path: Path) -> None:
    hub.repos[MODEL].token = "hf_good"
    loaded = hub.load({"model": MODEL}, home=tmp_path, HF_TOKEN="hf_good")
    assert loaded.jobs[0]["sum"] == weights_sum(CHECKPOINT)
    assert {r.token for r in hub.requests if MODEL in r.path} == {"Bearer hf_good"}


def test_what_the_hub_refuses_is_one_line(hub: Hub, tmp_path: Path) -> None:
    hub.push("someone/private", model_files())
    hub.repos["someone/private"].token = "hf_other"
    hub.push("someone/gated", model_files())
    hub.repos["someone/gated"].gated = True
    hub.push("someone/else", {"config.txt": b"{}"})
    hub.push("someone/no-weights", model_files(manifest=b'{"weights": "weights.safetensors", "mimi": "kyutai/mimi"}'))
    hub.push(
        "someone/no-tokenizer", {k: v for k, v in model_files().items() if k not in ("tokenizer.json", "merges.txt")}
    )
    wrong = {
        "someone/absent": "no such repo or folder: someone/absent; if it is a private repo, set HF_TOKEN to its token",
        "someone/private": "someone/private may not be read (the hub answered 403): "
        "set HF_TOKEN to a token that may read it",
        "someone/gated": "someone/gated may not be read (it is gated): "
        "set HF_TOKEN to a token that may read it, once its terms are accepted on its page",
        "someone/else": "not a Dia2 checkpoint: no config.json in someone/else",
        "someone/no-weights": "no weights.safetensors in someone/no-weights",
        "someone/no-tokenizer": "no tokenizer.json in someone/no-tokenizer",
    }
    jobs = [{"model": model} for model in wrong] + [{"model": MODEL, "revision": "v9"}]
    loaded = hub.load(*jobs, home=tmp_path, HF_TOKEN="hf_wrong")
    assert [job["error"] for job in loaded.jobs] == [*wrong.values(), f"{MODEL} has no revision 'v9'"]
    assert {job["kind"] for job in loaded.jobs} == {"CheckpointError"}
    assert not [path for path in hub.served() if path.endswith("model.safetensors") and MIMI not in path]


def test_a_private_repo_looks_absent_without_a_token(hub: Hub, tmp_path: Path) -> None:
    hub.repos[MODEL].token = "hf_good"
    assert hub.load({"model": MODEL}, home=tmp_path).error.startswith(f"no such repo or folder: {MODEL}; if it is a ")


@pytest.mark.slow  # the hub is asked again for some seconds
def test_without_a_network_the_line_names_the_repo_and_the_cause_and_comes_soon(tmp_path: Path) -> None:
    began = time.monotonic()
    error = stand_in.load({"model": MODEL}, home=tmp_path, HF_ENDPOINT="http://127.0.0.1:9").error
    assert time.monotonic() - began < 15, "huggingface_hub alone waits for 23 s between its tries"
    assert error.startswith(f"{MODEL} is not in {tmp_path / 'hub'}, and the hub cannot be reached: ")
    assert "refused" in error


def test_a_hub_that_hangs_up_on_the_first_two_requests_is_asked_again(hub: Hub, tmp_path: Path) -> None:
    hub.deaf = 2
    assert hub.load({"model": MODEL}, home=tmp_path).jobs[0]["sum"] == weights_sum(CHECKPOINT)
    assert hub.deaf == 0


@pytest.mark.slow
def test_a_proxy_that_is_not_there_is_named_without_its_password(tmp_path: Path) -> None:
    error = stand_in.load(
        {"model": MODEL},
        home=tmp_path,
        HF_ENDPOINT="http://hub.invalid",
        http_proxy="http://me:secret@127.0.0.1:9",
        NO_PROXY="",
    ).error
    assert "the hub cannot be reached through the proxy http://127.0.0.1:9: " in error
    assert "refused" in error
    assert "secret" not in error


def test_a_file_that_cannot_be_written_to_its_end_is_a_full_disk(hub: Hub, tmp_path: Path) -> None:
    # The kernel stops the write half way through the weights, as a full disk or a quota does.
    error = hub.load({"model": MODEL}, home=tmp_path, file_limit=700_000).error
    assert error.startswith(f"disk full: no room for {MODEL}/model.safetensors in {tmp_path / 'hub'} (File too large, ")
    assert error.endswith(" free); free some, or set HF_HOME elsewhere")
    assert not list(tmp_path.rglob("*.incomplete"))


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1.2 MB, where mounting one is allowed."""
    path = tmp_path / "tiny"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1200k", "tmpfs", str(path)], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting a file system is not allowed here")
    yield path
    subprocess.run(["umount", str(path)], check=True)


@pytest.mark.parametrize("length_known", [True, False], ids=["refused beforehand", "full half way"])
def test_a_full_disk_is_one_line_with_what_is_free(hub: Hub, tiny_disk: Path, length_known: bool) -> None:
    hub.hide_length = not length_known
    error = hub.load({"model": MODEL}, home=tiny_disk).error
    why = "it takes 1.1 MB" if length_known else "No space left on device"
    assert error.startswith(f"disk full: no room for {MODEL}/model.safetensors in {tiny_disk / 'hub'} ({why}, ")
