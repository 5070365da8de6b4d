"""Why a kernel that is made for one GPU and one shape cannot run a model."""

from collections.abc import Mapping

import torch

ARCHITECTURES = {(9, 0): "sm_90a", (10, 0): "sm_100a"}
"""Compute capability -> what the kernels are compiled for. The code of one does not run on the other."""
TRIED = (9, 0)


def gpu_obstacle(device: torch.device, untried: bool) -> str | None:
    """Why the kernels do not run on a GPU; None where they do. untried: also where nobody has run them yet."""
    capability = torch.cuda.get_device_capability(device)
    if capability == TRIED or (untried and capability in ARCHITECTURES):
        return None
    return f"the GPU's compute capability is {capability[0]}.{capability[1]}, the kernel needs 9.0"


def weights_obstacle(dtype: torch.dtype) -> str | None:
    """Why weights are not the kernels'; None where they are. dtype: of those that are never in 8 bits."""
    return None if dtype == torch.bfloat16 else "the kernel is for bfloat16 weights"


def size_obstacle(part: str, wanted: Mapping[str, tuple[int, int]]) -> str | None:
    """The first size that is another; None where all are right. wanted: what the model has and the kernel needs."""
    for name, (has, needs) in wanted.items():
        if has != needs:
            return f"the {part}'s {name} is {has}, the kernel is made for {needs}"
    return None


def activations_obstacle(part: str, gate: str, up: str) -> str | None:
    """Why the MLP's activations are not the kernel's, silu and linear under whatever names; None where they are."""
    if gate not in ("silu", "swish", "swiglu") or up not in ("linear", "identity"):
        return f"the {part}'s activations are {gate} and {up}, the kernel's silu and linear"
    return None
