"""Which model is loaded, and how, by the options of the command line."""

import torch

from dia2.checkpoint.download import Progress
from dia2.checkpoint.load import BUNDLED, LoadOptions, has_bundled
from dia2stream.options import CheckpointOptions

PUBLISHED_MODEL = "nari-labs/Dia2-2B"
NOISE_MODEL = "random:tiny"


def load_options(model: CheckpointOptions, progress: Progress | None = None) -> LoadOptions:
    """What the model library needs to know of the command line's options to load the model."""
    names = ("device", "dtype", "weights", "tokenizer", "mimi", "revision")
    return LoadOptions(**{name: getattr(model, name) for name in names}, progress=progress)


def default_model(device: str) -> str:
    """The published model where there is a GPU to run it, else one that needs no download: the bundled one.

    A build without it is left with a model that only makes noise.
    """
    if device != "cpu" and torch.cuda.is_available():
        return PUBLISHED_MODEL
    return BUNDLED if has_bundled() else NOISE_MODEL
