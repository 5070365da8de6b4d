"""A checkpoint -> backbone, depformer, tokenizer and codec on a device.

A checkpoint is a hub repo id, a local folder, `bundled`, which is a folder in this package, or the name of a random
model. Loading takes four steps, each of which can refuse before the next one costs anything:

1. find the files: config, weights, tokenizer, codec (sources.py). A hub repo is downloaded file by file, and only what
   is needed (download.py); everything else sees local paths.
2. read the config, and build both transformers on the meta device, which takes no memory;
3. compare the weights file's names, shapes and dtypes with theirs (weights.py), and the bytes that they need with what
   is free (device.py);
4. allocate once, in the target dtype on the target device, and copy the tensors into place one by one.

Nothing from a repo is ever executed: weights are safetensors, and a tokenizer is tokenizer.json.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from dia2.checkpoint import random_models
from dia2.checkpoint.corrections import Corrections, read_corrections
from dia2.checkpoint.device import check_weights_kind, default_dtype, memory_guard, pick_device, pick_dtype, set_up_cuda
from dia2.checkpoint.download import Progress
from dia2.checkpoint.sampling_defaults import read_sampling
from dia2.checkpoint.sources import Folder, ModelFiles, Source, open_source, read_manifest
from dia2.checkpoint.tokenizer import LoadedTokenizer, load_tokenizer
from dia2.checkpoint.weights import check_tensors, copy_tensors
from dia2.codec.mimi import Mimi
from dia2.errors import CheckpointError, ConfigError, first_line
from dia2.model.backbone import Backbone
from dia2.model.config import Dia2Config
from dia2.model.depformer import Depformer
from dia2.model.fp8 import quantize
from dia2.model.layers import allocate
from dia2.model.sampling import SamplingDefaults

BUNDLED = "bundled"
_BUNDLED_FOLDER = Path(__file__).parent.parent / "bundled"
_BUNDLED_ABOUT = (
    "bundled: a small model of our own, taught English by two Flite voices, for trying the product; "
    "for real calls use nari-labs/Dia2-2B on a GPU"
)


@dataclass
class Checkpoint:
    """A loaded model.

    name: as it was asked for. device, dtype: where its weights are and what they are computed in.
    weights: "dtype", or "fp8" when the layers' matrices are kept in 8 bits.
    notes: a line for every choice that the user left open, with its reason, for the log.
    about: what a user of this model should be told once, or None; it is among the notes too.
    corrections: what its manifest says about its sound, for whoever plays it.
    sampling: what it is sampled with where nobody says it.
    """

    name: str
    config: Dia2Config
    backbone: Backbone
    depformer: Depformer
    tokenizer: "LoadedTokenizer"
    codec: Mimi
    device: torch.device
    dtype: torch.dtype
    weights: str = "dtype"
    notes: list[str] = field(default_factory=list)
    about: str | None = None
    corrections: Corrections = field(default_factory=Corrections)
    sampling: SamplingDefaults = field(default_factory=SamplingDefaults)


@dataclass(frozen=True)
class LoadOptions:
    """How to load a model; the defaults take what the model says and what this machine has.

    device: "auto" (CUDA where there is a GPU), "cpu", "cuda" or "cuda:1".
    dtype: "float32", "bfloat16", or "auto": bfloat16 on CUDA, else float32.
    weights: "dtype", or "fp8", which keeps the layers' matrices in 8 bits: half the memory, a little error.
    tokenizer, mimi: folders or repo ids to use in place of the checkpoint's own.
    revision: a branch, tag or commit of the model's repo; other repos that it names are read at their default branch.
    progress: called with a stage's name, the bytes done and the bytes in all, while files are fetched and read.
    """

    device: str = "auto"
    dtype: str = "auto"
    weights: str = "dtype"
    tokenizer: str | None = None
    mimi: str | None = None
    revision: str | None = None
    progress: Progress | None = None


_DEFAULTS = LoadOptions()


def load_checkpoint(model: str | Path, options: LoadOptions = _DEFAULTS) -> Checkpoint:
    """Loads a hub repo id, a local folder, `bundled`, or `random:tiny`, `random:1b`, `random:2b` (`random:2b:7`).

    The number behind a random model is its seed. Raises Dia2Error, in one line: CheckpointError for files that are
    missing or do not fit together, ConfigError for a config that describes no model, DeviceError for a device, dtype
    or amount of memory that is not there.
    """
    name = str(model)
    target = _Placement.of(options)
    if name.startswith(random_models.SCHEME):
        _refuse_for_random(name, tokenizer=options.tokenizer, mimi=options.mimi, revision=options.revision)
        return _load_random(name, target)
    source = _open_model(name, options)
    files = ModelFiles(name, source, read_manifest(source), options.tokenizer, options.mimi, options.progress)
    loaded = _load(files, target)
    if name == BUNDLED:
        loaded.about = _BUNDLED_ABOUT
        loaded.notes.append(_BUNDLED_ABOUT)
    return loaded


def load_files(config_path: str | Path, weights_path: str | Path, options: LoadOptions = _DEFAULTS) -> Checkpoint:
    """Loads two files by their paths; the tokenizer and the codec are looked for from the config's folder on.

    options: as for `load_checkpoint`, without a revision. Raises Dia2Error.
    """
    target = _Placement.of(options)
    config, tensors = Path(config_path), Path(weights_path)
    for path in (config, tensors):
        if not path.is_file():
            raise CheckpointError(f"no such file: {path}")
    source = Folder(config.parent)
    manifest = read_manifest(source) | {"config": config.name, "weights": str(tensors.absolute())}
    files = ModelFiles(str(config.parent), source, manifest, options.tokenizer, options.mimi, options.progress)
    return _load(files, target)


def load_codec(model: str | Path, options: LoadOptions = _DEFAULTS) -> tuple[Dia2Config, Mimi]:
    """A model's sizes and its codec, without the model's weights: enough to make a voice. Raises Dia2Error.

    options: dtype, weights and tokenizer change nothing here; the codec is always float32.
    """
    name, place = str(model), pick_device(options.device, [])
    if name.startswith(random_models.SCHEME):
        _refuse_for_random(name, mimi=options.mimi, revision=options.revision)
        known = random_models.random_model(name)
        return known.config, Mimi.random(known.mimi, known.config.data.codebooks, place, known.seed)
    source = _open_model(name, options)
    files = ModelFiles(name, source, read_manifest(source), None, options.mimi, options.progress)
    config = Dia2Config.from_file(files.config())
    codec = files.mimi_source(config)
    codec.need("model.safetensors")
    return config, _read_codec(codec.need("config.json").parent, config, place)


def has_bundled() -> bool:
    """Whether this installation has the bundled model's weights."""
    return (_BUNDLED_FOLDER / "model.safetensors").is_file()


def _open_model(name: str, options: LoadOptions) -> Source:
    """Where a model's own files lie. A tokenizer or codec that a manifest names is found elsewhere (ModelFiles)."""
    if name != BUNDLED:
        return open_source(name, options.revision, options.progress)
    if not has_bundled():
        raise CheckpointError(f"this build has no {BUNDLED} model: name a hub repo, as nari-labs/Dia2-2B, or a folder")
    if options.revision is not None:
        raise CheckpointError(
            f"revision {options.revision!r} cannot be used with {BUNDLED}: it is a part of this package"
        )
    return Folder(_BUNDLED_FOLDER)


# ---- Building and filling ----


@dataclass(frozen=True)
class _Placement:
    """On which device and in which dtype a model is to be, once "auto" is decided; `notes` has the reasons."""

    device: torch.device
    dtype: torch.dtype
    weights: str
    notes: list[str]

    @classmethod
    def of(cls, options: LoadOptions) -> "_Placement":
        notes: list[str] = []
        device, dtype = pick_device(options.device, notes), pick_dtype(options.dtype)
        check_weights_kind(options.weights, notes)
        return cls(device, dtype or default_dtype(device, notes), options.weights, notes)

    def finish(
        self,
        name: str,
        config: Dia2Config,
        backbone: Backbone,
        depformer: Depformer,
        tokenizer: LoadedTokenizer,
        codec: Mimi,
    ) -> Checkpoint:
        set_up_cuda(self.device, self.dtype, self.notes)
        return Checkpoint(
            name, config, backbone, depformer, tokenizer, codec, self.device, self.dtype, self.weights, self.notes
        )


def _load(files: ModelFiles, target: _Placement) -> Checkpoint:
    """Loads small files first: a checkpoint that cannot be used is refused before its weights are downloaded."""
    config = Dia2Config.from_file(files.config())
    corrections, sampling = read_corrections(files.source, config.data), read_sampling(files.source)
    tokenizer = load_tokenizer(files.tokenizer_source(config, target.notes), config.data.text_vocab_size)
    mimi_source = files.mimi_source(config)
    mimi_folder = mimi_source.need("config.json").parent
    mimi_bytes = mimi_source.need("model.safetensors").stat().st_size
    backbone, depformer = _build(config, target.dtype)
    if target.weights == "fp8":
        quantize(backbone)
        quantize(depformer)
    with memory_guard(files.name, config, (backbone, depformer), target.dtype, target.device, mimi_bytes):
        path = files.weights()
        check_tensors(path, backbone.checkpoint_tensors() | depformer.checkpoint_tensors())
        allocate(backbone, target.device)
        allocate(depformer, target.device)
        tensors = backbone.checkpoint_tensors() | depformer.checkpoint_tensors()
        copy_tensors(path, tensors, target.device, files.progress)
        backbone.prepare()
        depformer.prepare()
        codec = _read_codec(mimi_folder, config, target.device)
    loaded = target.finish(files.name, config, backbone, depformer, tokenizer, codec)
    loaded.corrections, loaded.sampling = corrections, sampling
    return loaded


def _read_codec(folder: Path, config: Dia2Config, device: torch.device) -> Mimi:
    """The codec. Raises CheckpointError when the model may draw codes that it does not have."""
    codec = Mimi.from_folder(folder, config.data.codebooks, device)
    has, needed = codec.config.codebook_size, config.data.audio_codes
    if has < needed:
        raise CheckpointError(f"{folder}: the codec's codebooks have {has} codes, {needed} are needed")
    return codec


def _load_random(name: str, target: _Placement) -> Checkpoint:
    model = random_models.random_model(name)
    config = model.config
    tokenizer = LoadedTokenizer(random_models.train_tokenizer(), random_models.BOS, config.data.text_vocab_size, name)
    backbone, depformer = _build(config, target.dtype)
    modules: tuple[Backbone | Depformer, ...] = (backbone, depformer)
    with memory_guard(name, config, modules, target.dtype, target.device, model.mimi_bytes):
        for number, module in enumerate(modules):
            allocate(module, target.device)
            random_models.randomize(module, model.seed + number)
            if target.weights == "fp8":
                quantize(module)
            module.prepare()
        codec = Mimi.random(model.mimi, config.data.codebooks, target.device, model.seed)
    loaded = target.finish(name, config, backbone, depformer, tokenizer, codec)
    loaded.notes.append(f"{name}: random weights, it only makes noise")
    return loaded


def _refuse_for_random(name: str, **options: str | None) -> None:
    for option, value in options.items():
        if value is not None:
            raise CheckpointError(f"{name} brings its own files: {option} {value!r} cannot be used with it")


def _build(config: Dia2Config, dtype: torch.dtype) -> tuple[Backbone, Depformer]:
    """Both transformers without memory: shapes and dtype only.

    There is one rotary position more than the context has steps, because the published voice prefix runs its last
    column twice.
    """
    try:
        with torch.device("meta"):
            backbone = Backbone(config, config.runtime.max_context_steps + 1)
            depformer = Depformer(config)
    except (RuntimeError, TypeError) as error:  # a size that no integer of torch's holds
        raise ConfigError(f"the config's sizes are beyond any memory: {first_line(error)}") from None
    return backbone.to(dtype), depformer.to(dtype)
