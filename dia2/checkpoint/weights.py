"""A safetensors file -> the tensors of a model that is built already.

The model says which tensors it wants: published name -> the part of its weights that the tensor is copied into. The
file must have exactly those, in those shapes. What is missing or too much is refused before anything is copied: a
tensor that is passed over in silence makes a model that speaks badly, and nobody knows why.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from dia2.checkpoint.download import Progress
from dia2.errors import CheckpointError
from dia2.model.fp8 import Matrix
from dia2.tensor_file import check_numbers, listed, opened

_FILE_DTYPES = ("F32", "F16", "BF16")
_CHUNK = 64 << 20  # bytes of weights on their way to another device at once
_MAPPED = 256 << 20  # bytes of a weights file mapped at once
_LARGEST = 65504.0  # a weight beyond what float16 holds is damage: no training leaves one


def check_tensors(path: Path, targets: Mapping[str, Matrix]) -> None:
    """Raises CheckpointError, naming all of them, for tensors that are missing, unexpected, misshapen or no floats."""
    with opened(path) as file:
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
    said = [f"{len(names)} {problem}: {listed(names)}" for problem, names in problems.items() if names]
    if said:
        raise CheckpointError(f"{path} does not fit its config: {'; '.join(said)}")


def copy_tensors(path: Path, targets: Mapping[str, Matrix], device: torch.device, progress: Progress | None) -> None:
    """Copies every tensor of the file into the target of its name, cast to the target's dtype.

    Opening maps the file into memory, and what has been read of a mapping counts as used memory. So the file is opened
    anew for every few tensors, and never more than _MAPPED bytes of it are in memory.
    """
    with opened(path) as file:
        names = list(file.offset_keys())
    total = sum(target.numel() * target.element_size() for target in targets.values())
    done = 0
    for group in _groups(names, targets):
        with opened(path) as file:
            for name in group:
                for into, piece in _pieces(targets[name], file.get_tensor(name)):
                    # On a GPU, casting after the copy costs nothing; on a CPU, `copy_` casts while it copies.
                    moved = piece.to(device)
                    check_numbers(path, name, moved, _LARGEST)
                    into.copy_(moved)
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
    """Target and source cut into pieces of the same rows, at most _CHUNK bytes of the source each."""
    row = max(1, source[0].numel() * source.element_size())
    rows = max(1, _CHUNK // row)
    return zip(target.split(rows), source.split(rows), strict=True)
