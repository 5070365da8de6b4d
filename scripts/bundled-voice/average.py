"""Averages language models that learnt from a common beginning: `average.py OUT WEIGHTS WEIGHTS... [--shares 1 1 2]`.

WEIGHTS: what lm.py wrote, a file or a folder of parts; or a checkpoint folder, as dia2/bundled. What each learnt by
chance falls out; the bundled voice's README has what that is worth. export.py takes OUT.
"""

import argparse
from pathlib import Path

import lm_net
import recover
from torch import Tensor

CHECKPOINT = "model.safetensors"


def average(models: list[dict[str, Tensor]], shares: list[float]) -> dict[str, Tensor]:
    """The mean of tensors of the same names and shapes; shares: what each model counts, above 0.

    Raises ValueError where names differ, or a share is missing.
    """
    if len(shares) != len(models):
        raise ValueError(f"{len(shares)} shares for {len(models)} models")
    for model in models:
        if strange := set(model) ^ set(models[0]):
            raise ValueError(f"not the same tensors: {sorted(strange)[:8]}")
    return {
        name: sum(share * model[name] for share, model in zip(shares, models, strict=True)) / sum(shares)
        for name in models[0]
    }


def read(path: Path) -> dict[str, Tensor]:
    """Weights in float32 from any of what the top names."""
    return recover.weights_of(path / CHECKPOINT) if (path / CHECKPOINT).exists() else lm_net.read(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("weights", type=Path, nargs="+")
    parser.add_argument("--shares", type=float, nargs="+", help="what each counts; all the same")
    given = parser.parse_args()
    lm_net.save(average([read(path) for path in given.weights], given.shares or [1.0] * len(given.weights)), given.out)


if __name__ == "__main__":
    main()
