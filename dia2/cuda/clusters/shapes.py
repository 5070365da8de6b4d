"""Why a kernel that is made for one shape cannot run a model."""

from collections.abc import Mapping


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
