"""Where a model's files are.

A model's own files are in a *source*: a local folder or a hub repo, which answer the same questions. A manifest,
dia2_assets.json, may say that files have other names there, or that the tokenizer and the codec are in other sources.
The caller, the manifest, the config and the default may all say where these are, and count in this order.

A manifest and a config may come from anybody. So the files and folders that they name must be places where a model may
look: inside the checkpoint, or in a hub repo. Only the caller can name another local folder.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Protocol

from dia2.checkpoint.download import Progress, download_file
from dia2.errors import CheckpointError, shown
from dia2.model.config import Dia2Config
from dia2.strict_json import read_object

MANIFEST = "dia2_assets.json"
DEFAULT_MIMI = "kyutai/mimi"
_LONGEST_REFERENCE = 200  # characters
_MANIFEST_DEFAULTS = {"config": "config.json", "weights": "model.safetensors", "tokenizer": None, "mimi": None}


# ---- Where files come from ----


class Source(Protocol):
    """A place with named files. `name` is how messages call it."""

    name: str

    def find(self, file: str) -> Path | None:
        """A local path to the file, None when the place has no such file."""

    def need(self, file: str) -> Path:
        """A local path to the file. Raises CheckpointError when the place has no such file."""

    def inside(self, reference: str) -> "Source | None":
        """The folder in this place that a reference in a manifest or config means; None when it means another place."""


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
    """A repo on the hub, or a folder in it. All files come from the commit that the first one came from."""

    def __init__(self, repo: str, revision: str | None, progress: Progress | None, folder: str = "") -> None:
        self.repo, self.revision, self.progress, self.folder = repo, revision, progress, folder
        self.name = f"{repo}/{folder}".rstrip("/")
        self._found: dict[str, Path | None] = {}

    def find(self, file: str) -> Path | None:
        if file not in self._found:  # the hub is asked once for each file, also for one that is not there
            self._found[file] = self._get(file, required=False)
        return self._found[file]

    def need(self, file: str) -> Path:
        path = self._get(file, required=True)
        if path is None:
            raise _no_file(self.name, file)
        return path

    def _get(self, file: str, required: bool) -> Path | None:
        name = f"{self.folder}{file}"
        path = download_file(self.repo, name, self.revision, self.progress, required)
        if path is not None:
            # The path is .../snapshots/<commit>/<name>. Of a commit, the cache answers without asking the hub again.
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
    """The folder at that path if there is one, else the hub repo of that name. Raises CheckpointError for neither."""
    path = Path(reference).expanduser()
    if reference and path.is_dir():
        if revision is not None:
            raise CheckpointError(
                f"revision {revision!r} cannot be used with {reference}: it is a folder, not a hub repo"
            )
        return Folder(path)
    if path.is_file():
        raise CheckpointError(f"{reference} is a file, not a checkpoint folder")
    if not _is_repo_id(reference):
        raise CheckpointError(f"no such folder: {reference} (and not a hub repo id, which looks like owner/name)")
    return Repo(reference, revision, progress)


def _is_repo_id(reference: str) -> bool:
    name = r"[A-Za-z0-9_](?:[\w.-]*\w)?"
    known = re.fullmatch(rf"{name}(?:/{name})?", reference, re.ASCII) is not None
    return known and len(reference) <= 96 and ".." not in reference and "--" not in reference


def _checked(reference: str, where: str) -> str:
    """A name from a manifest or config, if it can mean a place inside the checkpoint or a hub repo."""
    if not reference.isprintable() or not 0 < len(reference) <= _LONGEST_REFERENCE:
        raise CheckpointError(f"{where} must be a file, folder or repo id, not {shown(reference)}")
    parts = PurePosixPath(reference).parts + PureWindowsPath(reference).parts
    if PurePosixPath(reference).is_absolute() or PureWindowsPath(reference).anchor or {"..", "~"} & set(parts):
        raise CheckpointError(
            f"{where} is {shown(reference)}, outside of the checkpoint: only the caller may name another folder"
        )
    return reference


def read_manifest(source: Source) -> dict[str, str | None]:
    """What dia2_assets.json says, defaults filled in; without the file, the defaults. Raises CheckpointError."""
    path = source.find(MANIFEST)
    raw = {} if path is None else read_object(path)
    given = {key: raw[key] for key in _MANIFEST_DEFAULTS if raw.get(key) is not None}
    for key, value in given.items():
        where = f"{source.name}/{MANIFEST}: {key}"
        if not isinstance(value, str):
            raise CheckpointError(f"{where} must be a file, folder or repo id, not {shown(value)}")
        _checked(value, where)
    return _MANIFEST_DEFAULTS | given


@dataclass(frozen=True)
class ModelFiles:
    """Where each part of one checkpoint is.

    manifest: of the source. tokenizer, mimi: folders or repo ids that the caller wants instead, or None.
    """

    name: str
    source: Source
    manifest: Mapping[str, str | None]
    tokenizer: str | None
    mimi: str | None
    progress: Progress | None

    def config(self) -> Path:
        """The config.json. Raises CheckpointError when it is not there."""
        return self.source.need(str(self.manifest["config"]))

    def weights(self) -> Path:
        """The safetensors file of both transformers, downloaded now if need be. Raises CheckpointError."""
        return self.source.need(str(self.manifest["weights"]))

    def tokenizer_source(self, config: Dia2Config, notes: list[str]) -> Source:
        """Where the tokenizer's files are; a choice that may surprise is told in `notes`."""
        if self.tokenizer is not None:
            return open_source(self.tokenizer, progress=self.progress)
        reference = self.manifest["tokenizer"] or config.assets.tokenizer or config.data.tokenizer_path
        if reference is None:
            return self.source
        _checked(reference, f"{self.name}: the config's tokenizer")
        found = self.source.inside(reference)
        if found is None and isinstance(self.source, Folder) and self.source.find("tokenizer.json"):
            # A repo that was downloaded into a folder still names itself here. It means the file beside the weights.
            notes.append(f"tokenizer from {self.name}: it has its own, so {reference} is not fetched")
            return self.source
        return found or self._elsewhere(reference)

    def mimi_source(self, config: Dia2Config) -> Source:
        """Where the codec's files are."""
        if self.mimi is not None:
            return open_source(self.mimi, progress=self.progress)
        reference = self.manifest["mimi"] or config.assets.mimi or DEFAULT_MIMI
        _checked(reference, f"{self.name}: the config's mimi")
        return self.source.inside(reference) or self._elsewhere(reference)

    def _elsewhere(self, reference: str) -> Source:
        """Another source that a manifest or config names. If it is this very repo, it is read at this revision."""
        if isinstance(self.source, Repo) and reference == self.source.repo:
            return self.source
        if not _is_repo_id(reference):
            raise CheckpointError(
                f"{self.source.name} has no folder {reference} (and that is not a hub repo id, as owner/name)"
            )
        return Repo(reference, None, self.progress)
