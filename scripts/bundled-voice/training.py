"""What trainers for a machine of minutes need: a schedule by the time trained, averaged weights, states on disk."""

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor


class Schedule:
    """How much of the time in all was trained, and what the learning rate is now.

    The rate stays at its peak until the last part of the time. So a later call may change how much time there is in
    all, and a call that is the last one without having been meant so leaves averages that are nearly as good.
    """

    def __init__(
        self,
        seconds: float,
        peak: float,
        warm_up: float,
        spent: float = 0.0,
        cool: float = 0.4,
        first: float = 0.0,
    ) -> None:
        """seconds: in all. spent: of them, by calls before. warm_up, cool: parts of all, at the start and the end.

        first: a part of all before the start, at the peak, in which others learn.
        """
        self.seconds, self.peak, self.warm_up, self.spent, self.cool = seconds, peak, warm_up, spent, cool
        self.first = first

    @property
    def progress(self) -> float:
        """0 to 1."""
        return min(1.0, self.spent / self.seconds)

    @property
    def rate(self) -> float:
        """Up to `peak`, level, and down at last to a hundredth: quickly at first, then ever more slowly."""
        left, since = min(1.0, (1 - self.progress) / self.cool), self.progress - self.first
        rising = 1.0 if since < 0 else min(1.0, (since + 1e-3) / self.warm_up)
        return self.peak * rising * max(0.01, 1 - math.sqrt(1 - left))

    def fill(self, seconds: float) -> None:
        """So many seconds are left in all."""
        self.seconds = self.spent + max(1.0, seconds)

    def cool_down(self) -> None:
        """The last part of the time begins now, if it has not begun."""
        self.spent = max(self.spent, self.seconds * (1 - self.cool))


class Averages:
    """Parameters averaged over the last steps: what is judged and written. Part of a step, also of one in a graph."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        self.parameters = list(parameters)
        self.values = [w.detach().clone() for w in self.parameters]
        self._follow = torch.zeros((), device=self.parameters[0].device)

    def set(self, stays: float, steps: int) -> None:
        """stays: what is left of the last averages after a step; steps: made so far, this one included."""
        # Early on, an average over many steps would be one of weights that know nothing.
        self._follow.fill_(1 - min(stays, steps / (steps + 10)))

    def hold(self) -> None:
        """Steps from here on change nothing, until `set`."""
        self._follow.fill_(0)

    @torch.no_grad()
    def update(self) -> None:
        """After a step of the optimizer."""
        apart = torch._foreach_sub(self.parameters, self.values)
        torch._foreach_mul_(apart, self._follow)
        torch._foreach_add_(self.values, apart)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The parameters are the averages."""
        with torch.no_grad():
            own = [w.clone() for w in self.parameters]
            torch._foreach_copy_(self.parameters, self.values)
        try:
            yield
        finally:
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, own)


def copy_all(into: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
    """Values of some tensors into others, one by one."""
    with torch.no_grad():
        for own, tensor in zip(into, tensors, strict=True):
            own.copy_(tensor)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any], rate: Tensor) -> None:
    """Its state; the learning rate stays the tensor that a graph reads."""
    optimizer.load_state_dict(state)
    for group in optimizer.param_groups:
        group["lr"] = rate


def random_state(device: torch.device) -> Tensor:
    """Of the generator that training on this device draws from."""
    return torch.cuda.get_rng_state() if device.type == "cuda" else torch.get_rng_state()


def set_random_state(device: torch.device, state: Tensor) -> None:
    """What `random_state` gave."""
    (torch.cuda.set_rng_state if device.type == "cuda" else torch.set_rng_state)(state.cpu())


class Learner(Protocol):
    """What two trainers have in common. rate: of the optimizer, on the device."""

    parameters: list[Tensor]
    averages: Averages
    optimizer: torch.optim.Optimizer
    rate: Tensor
    steps: int
    device: torch.device


def state_of(trainer: Learner) -> dict[str, Any]:
    """What a trainer needs to go on as if it had never stopped, for `write_state`."""
    return {
        "weights": [w.detach().cpu() for w in trainer.parameters],
        "averages": [w.cpu() for w in trainer.averages.values],
        "optimizer": trainer.optimizer.state_dict(),
        "steps": trainer.steps,
        "random": random_state(trainer.device),
    }


def go_on_from(trainer: Learner, state: dict[str, Any]) -> None:
    """Puts what `state_of` gave into a trainer."""
    copy_all(trainer.parameters, state["weights"])
    copy_all(trainer.averages.values, state["averages"])
    load_optimizer(trainer.optimizer, state["optimizer"], trainer.rate)
    trainer.steps = state["steps"]
    set_random_state(trainer.device, state["random"])


def write_state(path: Path, told: dict[str, Any]) -> None:
    """The file is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    torch.save(told, partial)
    partial.replace(path)


def read_state(path: Path | None, device: torch.device) -> dict[str, Any] | None:
    """What `write_state` wrote; None where there is none."""
    if path is None or not path.exists():
        return None
    found: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return found


def lighter(told: Any) -> Any:
    """A state to travel: the same, with the optimizers' moments in bfloat16. Reading it back makes float32 of them."""
    if isinstance(told, dict):
        return {
            name: value.bfloat16() if name in ("exp_avg", "exp_avg_sq") else lighter(value)
            for name, value in told.items()
        }
    return told


def halved(path: Path, out: Path) -> None:
    """A half of the codec in float16, but for codebooks: codes must stay what they are."""
    weights = load_file(path)
    save_file({name: w if "codebook" in name else w.half() for name, w in weights.items()}, out)
