"""A safetensors file -> the tensors of a model that is built already.

The model says which tensors it wants: published name -> the part of its weights that the tensor is copied into. The
file must have exactly those, in those shapes. What is missing or too much is refused before anything is copied: a
tensor that is passed over in silence makes a model that speaks badly, and nobody knows why. A matrix may be in 8 bits,
with its rows' scales beside it (int8.py).
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dia2.checkpoint import int8
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
    scales = int8.scales(dtypes, [name for name, target in targets.items() if len(target.shape) > 1])
    wanted = {name: tuple(target.shape) for name, target in targets.items()}
    wanted |= {scale: wanted[name][:-1] for name, scale in scales.items()}
    both = [name for name in wanted if name in shapes]
    problems = {
        "missing": [name for name in wanted if name not in shapes],
        "unexpected": [name for name in shapes if name not in wanted],
        "misshapen": [
            f"{name} {list(shapes[name])} for {list(wanted[name])}" for name in both if shapes[name] != wanted[name]
        ],
        "of another dtype than float": [
            f"{name} {dtypes[name]}" for name in both if dtypes[name] not in _FILE_DTYPES and name not in scales
        ],
    }
    said = [f"{len(names)} {problem}: {listed(names)}" for problem, names in problems.items() if names]
    if said:
        raise CheckpointError(f"{path} does not fit its config: {'; '.join(said)}")


def copy_tensors(path: Path, targets: Mapping[str, Matrix], device: torch.device, progress: Progress | None) -> None:
    """Copies every tensor of the file into the target of its name, cast to the target's dtype; 8 bits become floats.

    Opening maps the file into memory, and what has been read of a mapping counts as used memory. So the file is opened
    anew for every few tensors, and never more than _MAPPED bytes of it are in memory.
    """
    with opened(path) as file:
        names = [name for name in file.offset_keys() if name in targets]  # the others are scales
    total = sum(target.numel() * target.element_size() for target in targets.values())
    done = 0
    for group in _groups(names, targets):
        with opened(path) as file:
            for name in group:
                for into, piece in _pieces(path, name, targets[name], file):
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


def _pieces(path: Path, name: str, target: Matrix, file: Any) -> Iterator[tuple[Matrix, Tensor]]:
    """Target and source cut into pieces of the same rows, at most _CHUNK bytes of the source each."""
    source = file.get_tensor(name)
    row = max(1, source[0].numel() * source.element_size())
    rows = max(1, _CHUNK // row)
    pieces = zip(target.split(rows), source.split(rows), strict=True)
    if source.dtype is not torch.int8:
        yield from pieces
        return
    scale = file.get_tensor(name + int8.SUFFIX)
    check_numbers(path, name + int8.SUFFIX, scale, _LARGEST)
    for (into, piece), factor in zip(pieces, scale.split(rows), strict=True):
        yield into, int8.dequantized(piece, factor)
