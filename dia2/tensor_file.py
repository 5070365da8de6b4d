"""Safetensors files: opened with errors of our own, and held to numbers that a model can compute with."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from dia2.errors import CheckpointError, first_line, plain

FLOATS = ("F64", "F32", "F16", "BF16")


@contextmanager
def opened(path: str | Path) -> Iterator[Any]:
    """An open file, as `safe_open` gives it, on the CPU. Raises CheckpointError for one that cannot be read."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a safetensors file, or cut short: {first_line(error)}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or first_line(error)}") from None


def check_numbers(path: str | Path, name: str, tensor: Tensor, largest: float) -> None:
    """Raises CheckpointError if a tensor of a file holds NaN, infinity, or numbers beyond -largest..largest.

    A single NaN makes all speech noise, or no speech at all, and nothing later says where it came from.
    """
    if tensor.numel():
        low, high = (float(extreme) for extreme in tensor.aminmax())
        if not -largest <= low <= high <= largest:  # false for NaN too
            raise CheckpointError(
                f"{path} is damaged: {name} holds numbers from {low:g} to {high:g}; "
                f"they must be finite and within {largest:g}"
            )


def listed(names: Iterable[str], most: int = 8) -> str:
    """Names of tensors as messages show them: sorted, shortened, and after the eighth only how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(map(plain, ordered[:most])) + more
