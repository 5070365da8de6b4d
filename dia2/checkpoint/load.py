"""A checkpoint -> backbone, depformer, tokenizer and codec on a device.

A checkpoint is a hub repo id, a local folder, `bundled`, which is a folder in this package, or the name of a random
model. Loading takes four steps, each of which can refuse before the next one costs anything:

1. find the files: config, weights, tokenizer, codec. A hub repo is downloaded file by file, only what is needed, into
   huggingface_hub's own cache; the rest of this module sees local paths.
2. read the config and build both transformers on the meta device, which takes no memory;
3. compare the weights file's names, shapes and dtypes with theirs, and the bytes they need with what is free;
4. allocate once, in the target dtype on the target device, and copy the tensors into place one by one.

Nothing from a repo is ever executed: weights are safetensors, and a tokenizer is tokenizer.json.
"""

import errno
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from tokenizers import AddedToken
from tokenizers import Tokenizer as TokenizerBackend
from torch import Tensor

from dia2.checkpoint import random_models
from dia2.codec.mimi import Mimi
from dia2.errors import CheckpointError, ConfigError, DeviceError
from dia2.model.backbone import Backbone
from dia2.model.config import Dia2Config
from dia2.model.depformer import Depformer
from dia2.model.fp8 import Matrix, shrink

MANIFEST = "dia2_assets.json"
DEFAULT_MIMI = "kyutai/mimi"
SPEAKER_TAGS = ("[S1]", "[S2]")
BUNDLED = "bundled"

_MANIFEST_DEFAULTS = {"config": "config.json", "weights": "model.safetensors", "tokenizer": None, "mimi": None}
_TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_SLOW_TOKENIZER_FILES = ("vocab.json", "merges.txt")  # what a tokenizer without tokenizer.json is made from
_BUNDLED_FOLDER = Path(__file__).parent.parent / "bundled"
_BUNDLED_ABOUT = (
    "bundled: a small model of our own, taught English by two Flite voices, for trying the product; "
    "for real calls use nari-labs/Dia2-2B on a GPU"
)
_FILE_DTYPES = ("F32", "F16", "BF16")
_CHUNK = 64 << 20  # bytes of weights on their way to another device at once
_MAPPED = 256 << 20  # bytes of a weights file mapped at once


class Progress(Protocol):
    """Told how far a slow stage is: bytes done of bytes in total (0 when not known)."""

    def __call__(self, stage: str, done: int, total: int) -> None: ...


@dataclass
class Checkpoint:
    """A loaded model. `notes` has one line for every choice made without being asked, with its reason.

    weights: "dtype", or "fp8" when the layers' matrices are kept in 8 bits.
    about: what whoever hears it should be told once, if anything; it is among the notes too.
    """

    name: str
    config: Dia2Config
    backbone: Backbone
    depformer: Depformer
    tokenizer: "Tokenizer"
    codec: Mimi
    device: torch.device
    dtype: torch.dtype
    weights: str = "dtype"
    notes: list[str] = field(default_factory=list)
    about: str | None = None


def load_checkpoint(
    model: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    weights: str = "dtype",
    tokenizer: str | None = None,
    mimi: str | None = None,
    revision: str | None = None,
    progress: Progress | None = None,
) -> Checkpoint:
    """Loads a hub repo id, a local folder, `bundled`, or `random:tiny`, `random:1b`, `random:2b` (`random:2b:7`).

    The number behind a random model is its seed. device: "auto", "cpu", "cuda" or "cuda:1".
    dtype: "float32", "bfloat16", or "auto": bfloat16 on CUDA, else float32.
    weights: "dtype", or "fp8", which keeps the layers' matrices in 8 bits: half the memory, a little error.
    tokenizer, mimi: folders or repo ids to use in place of the checkpoint's own.
    revision: a branch, tag or commit of the model's repo; the repos it refers to are always read at their default.
    """
    name = str(model)
    notes: list[str] = []
    place, kind = _pick_device(device, notes), _pick_dtype(dtype)
    _check_weights(weights, notes)
    if name.startswith(random_models.SCHEME):
        _refuse_for_random(name, tokenizer=tokenizer, mimi=mimi, revision=revision)
        return _load_random(name, place, kind or _auto_dtype(place, notes), weights, notes)
    source = _open_model(name, revision, progress)
    files = _Files(name, source, _read_manifest(source), tokenizer, mimi, progress)
    loaded = _load(files, place, kind or _auto_dtype(place, notes), weights, notes)
    if name == BUNDLED:
        loaded.about = _BUNDLED_ABOUT
        loaded.notes.append(_BUNDLED_ABOUT)
    return loaded


def load_files(
    config_path: str | Path,
    weights_path: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    weights: str = "dtype",
    tokenizer: str | None = None,
    mimi: str | None = None,
    progress: Progress | None = None,
) -> Checkpoint:
    """Loads explicit paths; the tokenizer and the codec are looked for from the config's folder."""
    notes: list[str] = []
    place, kind = _pick_device(device, notes), _pick_dtype(dtype)
    _check_weights(weights, notes)
    config, tensors = Path(config_path), Path(weights_path)
    for path in (config, tensors):
        if not path.is_file():
            raise CheckpointError(f"no such file: {path}")
    source = Folder(config.parent)
    manifest = _read_manifest(source) | {"config": config.name, "weights": str(tensors.absolute())}
    files = _Files(str(config.parent), source, manifest, tokenizer, mimi, progress)
    return _load(files, place, kind or _auto_dtype(place, notes), weights, notes)


def load_codec(
    model: str | Path,
    *,
    device: str = "auto",
    mimi: str | None = None,
    revision: str | None = None,
    progress: Progress | None = None,
) -> tuple[Dia2Config, Mimi]:
    """A model's sizes and codec without its weights: enough to make a voice. Arguments are those of load_checkpoint."""
    name, place = str(model), _pick_device(device, [])
    if name.startswith(random_models.SCHEME):
        _refuse_for_random(name, mimi=mimi, revision=revision)
        known = random_models.named(name)
        return known.config, Mimi.random(known.mimi, known.config.data.codebooks, place, known.seed)
    source = _open_model(name, revision, progress)
    files = _Files(name, source, _read_manifest(source), None, mimi, progress)
    config = Dia2Config.from_file(files.config())
    codec = files.mimi_source(config)
    codec.need("model.safetensors")
    return config, _read_codec(codec.need("config.json").parent, config, place)


# ---- Choosing a device and a dtype ----


def _pick_device(device: str, notes: list[str]) -> torch.device:
    if device == "auto":
        if torch.cuda.is_available():
            notes.append("device cuda: auto, a CUDA device is there")
            return torch.device("cuda", torch.cuda.current_device())
        notes.append("device cpu: auto, no CUDA device here")
        return torch.device("cpu")
    match = re.fullmatch(r"(cpu|cuda)(?::(\d+))?", device)
    if match is None or match.group(0).startswith("cpu:"):
        raise DeviceError(f"device must be auto, cpu, cuda or cuda:N, not {device!r}")
    if match[1] == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise DeviceError(f"device {device}: no CUDA device here; use cpu, or auto to take what there is")
    number, count = int(match[2] or torch.cuda.current_device()), torch.cuda.device_count()
    if number >= count:
        there = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise DeviceError(f"device {device}: no such CUDA device; there is {there}")
    return torch.device("cuda", number)


def _pick_dtype(dtype: str) -> torch.dtype | None:
    """The dtype by name, None for "auto"."""
    try:
        return {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
    except KeyError:
        raise DeviceError(f"dtype must be auto, float32 or bfloat16, not {dtype!r}") from None


def _check_weights(weights: str, notes: list[str]) -> None:
    if weights not in ("dtype", "fp8"):
        raise DeviceError(f"weights must be dtype or fp8, not {weights!r}")
    if weights == "fp8":
        notes.append("weights fp8: the layers' matrices are rounded to 8 bits, with a scale for each output")


def _auto_dtype(device: torch.device, notes: list[str]) -> torch.dtype:
    if device.type == "cpu":
        notes.append("dtype float32: auto on the CPU")
        return torch.float32
    with torch.cuda.device(device):
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    notes.append("dtype bfloat16: auto on CUDA" if native else "dtype float32: auto, this CUDA device has no bfloat16")
    return torch.bfloat16 if native else torch.float32


def _set_up_cuda(device: torch.device, dtype: torch.dtype, notes: list[str]) -> None:
    """Two of torch's process-wide switches.

    cuDNN's attention compiles for every new shape, up to a second each: a conversation, which has many lengths, would
    meet new ones for ever. torch has others.

    float32 on CUDA means what it means in the published code: float32 values, TF32 matrix products. The newer
    per-backend spelling of that switch makes everyone who still reads the old one (torch.compile among them) fail.
    """
    if device.type != "cuda":
        return
    torch.backends.cuda.enable_cudnn_sdp(False)
    if dtype == torch.float32:
        torch.set_float32_matmul_precision("high")
        notes.append("TF32 matrix products: float32 on CUDA, as the published code computes it")


# ---- Where files come from ----


class Source(Protocol):
    """A place with named files."""

    name: str

    def find(self, file: str) -> Path | None:
        """A local path to the file, None when the place has no such file."""

    def need(self, file: str) -> Path:
        """A local path to the file; CheckpointError when there is none."""

    def inside(self, reference: str) -> "Source | None":
        """The place a relative reference in a manifest or config means, None when it means none in here."""


class Folder:
    """A local folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = str(path)

    def find(self, file: str) -> Path | None:
        path = self.path / file
        return path if path.is_file() else None

    def need(self, file: str) -> Path:
        path = self.find(file)
        if path is None:
            raise _no_file(self.name, file)
        return path

    def inside(self, reference: str) -> "Source | None":
        path = self.path / reference
        return Folder(path) if path.is_dir() else None


class Repo:
    """A repo on the hub, or a folder in it. The first file fetched pins the commit that all others come from."""

    def __init__(self, repo: str, revision: str | None, progress: Progress | None, folder: str = "") -> None:
        self.repo, self.revision, self.progress, self.folder = repo, revision, progress, folder
        self.name = f"{repo}/{folder}".rstrip("/")

    def find(self, file: str) -> Path | None:
        return self._get(file, required=False)

    def need(self, file: str) -> Path:
        path = self._get(file, required=True)
        if path is None:
            raise _no_file(self.name, file)
        return path

    def _get(self, file: str, required: bool) -> Path | None:
        name = f"{self.folder}{file}"
        path = _download(self.repo, name, self.revision, self.progress, required)
        if path is not None:
            # .../snapshots/<commit>/<name>. What the cache has of a commit is never asked for again.
            self.revision = path.parents[name.count("/")].name
        return path

    def inside(self, reference: str) -> "Source | None":
        if reference in (".", "./"):
            return self
        if reference.startswith("./") or "/" not in reference:
            folder = Repo(self.repo, self.revision, self.progress, f"{self.folder}{reference.removeprefix('./')}/")
            if folder.find("config.json") or folder.find("tokenizer.json"):
                return folder
        return None


def _no_file(place: str, file: str) -> CheckpointError:
    what = "not a Dia2 checkpoint: " if file == "config.json" else ""
    return CheckpointError(f"{what}no {file} in {place}")


def open_source(reference: str, revision: str | None = None, progress: Progress | None = None) -> Source:
    """The folder at that path if there is one, else the hub repo of that name."""
    path = Path(reference).expanduser()
    if reference and path.is_dir():
        if revision is not None:
            raise CheckpointError(
                f"revision {revision!r} cannot be used with {reference}: it is a folder, not a hub repo"
            )
        return Folder(path)
    if path.is_file():
        raise CheckpointError(f"{reference} is a file, not a checkpoint folder")
    name = r"[A-Za-z0-9_](?:[\w.-]*\w)?"
    if not re.fullmatch(rf"{name}(?:/{name})?", reference, re.ASCII) or ".." in reference or "--" in reference:
        raise CheckpointError(f"no such folder: {reference} (and not a hub repo id, which looks like owner/name)")
    return Repo(reference, revision, progress)


def has_bundled() -> bool:
    """Whether this build brings a model along: a clone may have been made before there was one."""
    return (_BUNDLED_FOLDER / "model.safetensors").is_file()


def _open_model(name: str, revision: str | None, progress: Progress | None) -> Source:
    """Where a model's files lie. What a model refers to is not looked for here: that is never the bundled one."""
    if name != BUNDLED:
        return open_source(name, revision=revision, progress=progress)
    if not has_bundled():
        raise CheckpointError(f"this build has no {BUNDLED} model: name a hub repo, as nari-labs/Dia2-2B, or a folder")
    if revision is not None:
        raise CheckpointError(f"revision {revision!r} cannot be used with {BUNDLED}: it is a part of this package")
    return Folder(_BUNDLED_FOLDER)


def _read_manifest(source: Source) -> dict[str, str | None]:
    """dia2_assets.json with its defaults filled in; it need not exist."""
    path = source.find(MANIFEST)
    raw = {} if path is None else _read_json(path)
    given = {key: raw[key] for key in _MANIFEST_DEFAULTS if raw.get(key) is not None}
    for key, value in given.items():
        if not (isinstance(value, str) and value):
            raise CheckpointError(f"{source.name}/{MANIFEST}: {key} must be a file, folder or repo id, not {value!r}")
    return _MANIFEST_DEFAULTS | given


def _read_json(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path} must hold a JSON object, not {type(raw).__name__}")
    return raw


@dataclass(frozen=True)
class _Files:
    """Where everything of one checkpoint is, or is to be looked for. `tokenizer` and `mimi` are the caller's."""

    name: str
    source: Source
    manifest: Mapping[str, str | None]
    tokenizer: str | None
    mimi: str | None
    progress: Progress | None

    def config(self) -> Path:
        return self.source.need(str(self.manifest["config"]))

    def weights(self) -> Path:
        return self.source.need(str(self.manifest["weights"]))

    def tokenizer_source(self, config: Dia2Config, notes: list[str]) -> Source:
        if self.tokenizer is not None:
            return open_source(self.tokenizer, progress=self.progress)
        reference = self.manifest["tokenizer"] or config.assets.tokenizer or config.data.tokenizer_path
        if reference is None:
            return self.source
        found = self.source.inside(reference)
        if found is None and isinstance(self.source, Folder) and self.source.find("tokenizer.json"):
            # A repo that was downloaded into a folder names itself; what lies beside the weights is what it means.
            notes.append(f"tokenizer from {self.name}: it has its own, so {reference} is not fetched")
            return self.source
        return found or self._elsewhere(reference)

    def mimi_source(self, config: Dia2Config) -> Source:
        if self.mimi is not None:
            return open_source(self.mimi, progress=self.progress)
        reference = self.manifest["mimi"] or config.assets.mimi or DEFAULT_MIMI
        return self.source.inside(reference) or self._elsewhere(reference)

    def _elsewhere(self, reference: str) -> Source:
        """What a manifest or config names outside the checkpoint: a repo, the checkpoint's own at its own revision."""
        if isinstance(self.source, Repo) and reference == self.source.repo:
            return self.source
        return open_source(reference, progress=self.progress)


# ---- Downloading ----


def _download(repo: str, file: str, revision: str | None, progress: Progress | None, required: bool) -> Path | None:
    """One file of a repo, from the cache or the hub; None when the repo has no such file.

    Without the hub, a file that is not required and not in the cache counts as one that the repo does not have, if the
    cache knows the repo at all.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError

    cached = try_to_load_from_cache(repo, file, revision=revision)
    if cached is not None and not isinstance(cached, str) and _is_commit(revision):
        return None  # the cache remembers that this commit has no such file
    try:
        bar: Any = _bar(progress, f"downloading {file}")
        return Path(hf_hub_download(repo, file, revision=revision, tqdm_class=bar))
    except RemoteEntryNotFoundError:
        return None
    except LocalEntryNotFoundError as error:
        if not required and _is_cached(repo):
            return None
        raise _explain_download(error, repo, file, revision) from error
    except Exception as error:  # the one place where whatever the network stack raises becomes a line for the user
        raise _explain_download(error, repo, file, revision) from error


def _is_commit(revision: str | None) -> bool:
    return revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision) is not None


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _is_cached(repo: str) -> bool:
    """Whether the cache has anything of the repo."""
    return Path(_cache(), f"models--{repo.replace('/', '--')}", "snapshots").is_dir()


def _free_disk(path: Path) -> int:
    there = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    return shutil.disk_usage(there).free


def _bar(progress: Progress | None, stage: str) -> type:
    """What huggingface_hub takes for a tqdm class; it draws nothing and tells `progress`."""

    class Bar:
        def __init__(self, total: int | None = None, initial: int = 0, **_: object) -> None:
            self.total, self.n = total, initial
            if (total or 0) - initial > _free_disk(_cache()):  # rather now than after most of it
                raise OSError(errno.ENOSPC, f"it takes {_size(total or 0)}")

        def update(self, n: float | None = 1) -> None:
            self.n += int(n or 0)
            if progress is not None:
                progress(stage, self.n, self.total or 0)

        def ignore(self, *_: object, **__: object) -> None:
            """Everything else a bar can do."""

        # Having `update_transfer` makes the hub's fast downloader report to one bar, not to two.
        update_transfer = set_transfer_postfix_str = set_postfix_str = set_description = refresh = close = ignore

        def __enter__(self) -> "Bar":
            return self

        def __exit__(self, *_: object) -> None:
            """Nothing was drawn."""

    return Bar


def _explain_download(error: Exception, repo: str, file: str, revision: str | None) -> CheckpointError:
    """The one line a failed download deserves."""
    from huggingface_hub import constants, errors

    chain = list(_causes(error))
    full = next((e for e in chain if isinstance(e, OSError) and e.errno in _NO_SPACE), None)
    if full is not None:
        why = f"{full.strerror}, {_size(_free_disk(_cache()))} free"
        return CheckpointError(
            f"disk full: no room for {repo}/{file} in {_cache()} ({why}); free some, or set HF_HOME elsewhere"
        )
    denied = f"{repo} may not be read{{}}: set HF_TOKEN to a token that may read it"
    if isinstance(error, errors.GatedRepoError):
        return CheckpointError(denied.format(" (it is gated)") + ", once its terms are accepted on its page")
    if isinstance(error, errors.RepositoryNotFoundError):
        return CheckpointError(f"no such repo or folder: {repo}; if it is a private repo, set HF_TOKEN to its token")
    if isinstance(error, errors.RevisionNotFoundError):
        return CheckpointError(f"{repo} has no revision {revision!r}")
    statuses = [e.response.status_code for e in chain if isinstance(e, errors.HfHubHTTPError)]
    if 401 in statuses or 403 in statuses:
        return CheckpointError(denied.format(f" (the hub answered {statuses[0]})"))
    if not isinstance(error, errors.LocalEntryNotFoundError):
        return CheckpointError(f"{repo}/{file} cannot be downloaded: {_first_line(chain[-1])}")
    missing = (f"{repo}/{file}" if _is_cached(repo) else repo) + (f" at revision {revision}" if revision else "")
    if constants.is_offline_mode():
        return CheckpointError(f"offline (HF_HUB_OFFLINE is set) and {missing} is not in {_cache()}; run once online")
    if statuses:
        return CheckpointError(f"{missing} is not in {_cache()}, and the hub answers {statuses[0]}; try again later")
    return CheckpointError(f"{missing} is not in {_cache()}, and the hub cannot be reached: {_first_line(chain[-1])}")


_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what caused it, outermost first."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


# ---- The tokenizer ----


class Tokenizer:
    """Text -> ids, without special tokens around them.

    bos: what column 0 reads as its main token; 1 when the tokenizer has none, or has 0.
    speakers: ids of [S1] and [S2].
    """

    def __init__(self, backend: TokenizerBackend, bos: int | None, vocabulary: int, name: str) -> None:
        backend.no_truncation()
        backend.no_padding()
        self._backend = backend
        self.bos = bos or 1
        self.speakers = self._speakers(name)
        largest = max(backend.get_vocab(with_added_tokens=True).values(), default=0)
        if largest >= vocabulary:
            raise CheckpointError(f"tokenizer {name} has ids up to {largest}, the model only {vocabulary} text ids")

    def _speakers(self, name: str) -> tuple[int, int]:
        first, second = (self._backend.token_to_id(tag) for tag in SPEAKER_TAGS)
        if first is None or second is None:
            missing = [tag for tag, token in zip(SPEAKER_TAGS, (first, second), strict=True) if token is None]
            raise CheckpointError(f"tokenizer {name} has no {' and no '.join(missing)}: not a Dia2 tokenizer")
        return first, second

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids


def _load_tokenizer(source: Source, vocabulary: int) -> Tokenizer:
    """From tokenizer.json; from vocab.json and merges.txt, through transformers, when there is none.

    tokenizer.json is all that a fast tokenizer is, so it is read with the `tokenizers` library: the same ids (a test
    compares) without the seconds that importing transformers takes.
    """
    path = source.find("tokenizer.json")
    side = {name: found for name in _TOKENIZER_FILES if (found := source.find(name)) is not None}
    if path is None:
        return _load_slow_tokenizer(source, vocabulary)
    try:
        backend = TokenizerBackend.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError(f"{path}: not a tokenizer: {_first_line(error)}") from None
    settings = {name: _read_json(found) for name, found in side.items()}
    config = settings.get("tokenizer_config.json", {})
    try:
        _add_tokens(backend, config.get("added_tokens_decoder", {}), settings.get("added_tokens.json", {}))
    except (AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(f"tokenizer {source.name}: its added tokens are damaged: {_first_line(error)}") from None
    bos = _token_text(config.get("bos_token") or settings.get("special_tokens_map.json", {}).get("bos_token"))
    return Tokenizer(backend, backend.token_to_id(bos) if bos else None, vocabulary, source.name)


def _token_text(token: object) -> str | None:
    """A special token is written as a string, or as an object with its content."""
    text = token.get("content") if isinstance(token, Mapping) else token
    return text if isinstance(text, str) else None


def _add_tokens(backend: TokenizerBackend, by_id: Mapping[str, Any], by_text: Mapping[str, int]) -> None:
    """Adds, in the order of their ids, the tokens that only the older files beside tokenizer.json know."""
    tokens = {int(number): (token, True) for number, token in by_id.items()}
    tokens |= {number: ({"content": text}, False) for text, number in by_text.items() if number not in tokens}
    for _, (token, special) in sorted(tokens.items()):
        text = _token_text(token)
        if text is not None and backend.token_to_id(text) is None:
            flags = {k: bool(token.get(k, False)) for k in ("single_word", "lstrip", "rstrip", "normalized")}
            added = AddedToken(text, special=bool(token.get("special", special)), **flags)
            backend.add_tokens([added])


def _load_slow_tokenizer(source: Source, vocabulary: int) -> Tokenizer:
    if any(source.find(name) is None for name in _SLOW_TOKENIZER_FILES):
        source.need("tokenizer.json")  # raises, and knows why
    folder = source.need("vocab.json").parent
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False)
        backend, bos = loaded.backend_tokenizer, loaded.bos_token_id
    except Exception as error:  # whatever transformers meets in the files
        raise CheckpointError(f"tokenizer {source.name} cannot be loaded: {_first_line(error)}") from None
    return Tokenizer(backend, bos, vocabulary, source.name)


# ---- Building and filling ----


def _load(files: _Files, device: torch.device, dtype: torch.dtype, weights: str, notes: list[str]) -> Checkpoint:
    """Small files first: a checkpoint that cannot be used is refused before its weights are downloaded."""
    config = Dia2Config.from_file(files.config())
    tokenizer = _load_tokenizer(files.tokenizer_source(config, notes), config.data.text_vocab_size)
    mimi_source = files.mimi_source(config)
    mimi_folder = mimi_source.need("config.json").parent
    mimi_bytes = mimi_source.need("model.safetensors").stat().st_size
    backbone, depformer = _build(config, dtype)
    if weights == "fp8":
        shrink(backbone)
        shrink(depformer)
    with _room_for(files.name, config, (backbone, depformer), dtype, device, mimi_bytes):
        path = files.weights()
        _compare(path, backbone.checkpoint_tensors() | depformer.checkpoint_tensors())
        backbone.to_empty(device=device)
        depformer.to_empty(device=device)
        targets = backbone.checkpoint_tensors() | depformer.checkpoint_tensors()
        _fill(path, targets, device, files.progress)
        backbone.prepare()
        depformer.prepare()
        codec = _read_codec(mimi_folder, config, device)
    _set_up_cuda(device, dtype, notes)
    return Checkpoint(files.name, config, backbone, depformer, tokenizer, codec, device, dtype, weights, notes)


def _read_codec(folder: Path, config: Dia2Config, device: torch.device) -> Mimi:
    """The codec, if it has all the codes that the model may draw."""
    codec = Mimi.from_folder(folder, config.data.codebooks, device)
    has, needed = codec.config.codebook_size, config.data.audio_codes
    if has < needed:
        raise CheckpointError(f"{folder}: the codec's codebooks have {has} codes, {needed} are needed")
    return codec


def _load_random(name: str, device: torch.device, dtype: torch.dtype, weights: str, notes: list[str]) -> Checkpoint:
    model = random_models.named(name)
    config = model.config
    tokenizer = Tokenizer(random_models.tokenizer(), random_models.BOS, config.data.text_vocab_size, name)
    backbone, depformer = _build(config, dtype)
    modules: tuple[Backbone | Depformer, ...] = (backbone, depformer)
    with _room_for(name, config, modules, dtype, device, model.mimi_bytes):
        for number, module in enumerate(modules):
            module.to_empty(device=device)
            random_models.fill(module, model.seed + number)
            if weights == "fp8":
                shrink(module)
            module.prepare()
        codec = Mimi.random(model.mimi, config.data.codebooks, device, model.seed)
    _set_up_cuda(device, dtype, notes)
    notes.append(f"{name}: random weights, it only makes noise")
    return Checkpoint(name, config, backbone, depformer, tokenizer, codec, device, dtype, weights, notes)


def _refuse_for_random(name: str, **options: str | None) -> None:
    for option, value in options.items():
        if value is not None:
            raise CheckpointError(f"{name} brings its own files: {option} {value!r} cannot be used with it")


def _build(config: Dia2Config, dtype: torch.dtype) -> tuple[Backbone, Depformer]:
    """Both transformers without memory: shapes and dtype only.

    One rotary position to spare: the published voice prefix writes its last column twice.
    """
    try:
        with torch.device("meta"):
            backbone = Backbone(config, config.runtime.max_context_steps + 1)
            depformer = Depformer(config)
    except (RuntimeError, TypeError) as error:  # a size that no integer of torch's holds
        raise ConfigError(f"the config's sizes are beyond any memory: {_first_line(error)}") from None
    return backbone.to(dtype), depformer.to(dtype)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a safetensors file, or cut short: {_first_line(error)}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or _first_line(error)}") from None


def _compare(path: Path, targets: Mapping[str, Matrix]) -> None:
    """Every tensor must be there, be expected, and have its shape: one error names all that are not."""
    with _opened(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
        dtypes = {name: part.get_dtype() for name, part in slices.items()}
    both = [name for name in targets if name in shapes]
    problems = {
        "missing": [name for name in targets if name not in shapes],
        "unexpected": [name for name in shapes if name not in targets],
        "misshapen": [
            f"{name} {list(shapes[name])} for {list(targets[name].shape)}"
            for name in both
            if shapes[name] != tuple(targets[name].shape)
        ],
        "of another dtype than float": [f"{name} {dtypes[name]}" for name in both if dtypes[name] not in _FILE_DTYPES],
    }
    said = [f"{len(names)} {problem}: {_shortened(names)}" for problem, names in problems.items() if names]
    if said:
        raise CheckpointError(f"{path} does not fit its config: {'; '.join(said)}")


def _shortened(names: list[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(sorted(names)[:most]) + more


def _fill(path: Path, targets: Mapping[str, Matrix], device: torch.device, progress: Progress | None) -> None:
    """Copies every tensor of the file into place.

    Opening maps the file into memory, and what has been read of a mapping counts as memory used. So the file is
    opened anew for every few tensors, and the rest of it stays on the disk.
    """
    with _opened(path) as file:
        names = list(file.offset_keys())
    total = sum(target.numel() * target.element_size() for target in targets.values())
    done = 0
    for group in _groups(names, targets):
        with _opened(path) as file:
            for name in group:
                for into, piece in _pieces(targets[name], file.get_tensor(name)):
                    # Casting happens on the device, where it is free; on the CPU, while copying.
                    into.copy_(piece.to(device))
                    done += into.numel() * into.element_size()
                    if progress is not None:
                        progress("loading the weights", done, total)


def _groups(names: Iterable[str], targets: Mapping[str, Matrix]) -> Iterator[list[str]]:
    """Neighbouring tensors that are at most _MAPPED bytes together in float32, or one that is larger alone."""
    group: list[str] = []
    room = _MAPPED
    for name in names:
        size = targets[name].numel() * 4
        if group and size > room:
            yield group
            group, room = [], _MAPPED
        group.append(name)
        room -= size
    if group:
        yield group


def _pieces(target: Matrix, source: Tensor) -> Iterator[tuple[Matrix, Tensor]]:
    """Both cut into the same rows, at most _CHUNK bytes of the source each."""
    row = max(1, source[0].numel() * source.element_size())
    rows = max(1, _CHUNK // row)
    return zip(target.split(rows), source.split(rows), strict=True)


# ---- Memory ----


@contextmanager
def _room_for(
    name: str,
    config: Dia2Config,
    modules: tuple[torch.nn.Module, ...],
    dtype: torch.dtype,
    device: torch.device,
    mimi_bytes: int,
) -> Iterator[None]:
    """Refuses before anything is allocated when the device has too little free, and says so when it runs out anyway."""
    weights = sum(weight.numel() * weight.element_size() for module in modules for weight in module.parameters())
    needed = weights + mimi_bytes + _cache_bytes(config, dtype)
    free = _free_bytes(device)
    if free is not None and needed > free:
        raise _too_large(name, needed, free, device, modules)
    try:
        yield
    except torch.OutOfMemoryError:
        raise _too_large(name, needed, _free_bytes(device), device, modules) from None
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):  # how torch says it on the CPU
            raise
        raise _too_large(name, needed, _free_bytes(device), device, modules) from None


def _cache_bytes(config: Dia2Config, dtype: torch.dtype) -> int:
    """The backbone's keys and values of one conversation with guidance: two rows."""
    sizes = config.model.decoder
    column = 2 * sizes.n_layer * sizes.kv_heads * sizes.gqa_head_dim * dtype.itemsize
    return 2 * column * (config.runtime.max_context_steps + 1)


def _too_large(
    name: str, needed: int, free: int | None, device: torch.device, modules: tuple[torch.nn.Module, ...]
) -> DeviceError:
    kinds = {weight.dtype for module in modules for weight in module.parameters()}
    fp8 = torch.float8_e4m3fn in kinds
    kind = "fp8" if fp8 else str(kinds.pop()).removeprefix("torch.")
    # A limit on this process, or memory in pieces: there can be enough free and still none to be had.
    there = f"{_size(free)} free" if free is not None and free < needed else "more than it is given"
    mend = {"float32": "--dtype bfloat16 or ", "bfloat16": "--weights fp8 or "}.get(kind, "") + "a smaller model"
    return DeviceError(f"out of memory: {name} needs {_size(needed)} in {kind}, {there} on {device}; use {mend}")


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _free_bytes(device: torch.device) -> int | None:
    """Memory a new tensor could have; None where nobody says."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    limits = [limit for limit in (_available_bytes(), _cgroup_bytes()) if limit is not None]
    return min(limits, default=None)


def _available_bytes() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux
        return None
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return kilobytes[0] * 1024 if kilobytes else None


def _cgroup_bytes(root: str = "/sys/fs/cgroup") -> int | None:
    """What a container's limit leaves; its page cache counts as used but is given back on demand."""
    try:
        limit = int(Path(root, "memory.max").read_text())
        used = int(Path(root, "memory.current").read_text())
        stat = dict(line.split() for line in Path(root, "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no cgroup v2, or "max": no limit
        return None
    return limit - used + int(stat.get("file", 0))
