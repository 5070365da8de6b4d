"""How many CPU threads torch uses for one operation, and why.

Torch takes every core by default. The threads of one operation then wait for each other at its end, and a thread that
waits keeps its core busy. For a small model this costs more than the threads save. It costs most where another program
uses the cores too: one thread that has lost its core holds up all others, dozens of times in a step.
"""

from pathlib import Path

import torch

from dia2.checkpoint.load import Checkpoint

# A model with fewer weights than this takes one thread. The bundled voice has 13 million: with two threads on two idle
# cores, its steps are already slower than with one. Billions of weights are read from memory, where cores do help.
ONE_THREAD_WEIGHTS = 50_000_000


def set_threads(threads: int | None, checkpoint: Checkpoint) -> str:
    """Sets torch's number of threads for this process and returns one line that says which number, and why.

    threads: the number, at least 1; None chooses one for the model and its device.
    """
    if threads is None:
        threads, reason = _choose(checkpoint)
    else:
        reason = "as asked"
    torch.set_num_threads(threads)
    return f"threads {threads}: {reason}"


def _choose(checkpoint: Checkpoint) -> tuple[int, str]:
    if checkpoint.device.type != "cpu":
        return 1, f"auto, the steps run on {checkpoint.device}"
    modules = checkpoint.backbone, checkpoint.depformer
    weights = sum(weight.numel() for module in modules for weight in module.parameters())
    if weights < ONE_THREAD_WEIGHTS:
        return 1, f"auto, more would slow down a model of {weights:,} weights"
    # Torch's own default is the number of cores, or OMP_NUM_THREADS.
    limit = cgroup_cores()
    cores = torch.get_num_threads() if limit is None else min(torch.get_num_threads(), limit)
    return cores, "auto, the cores that this process may use"


def cgroup_cores(root: str = "/sys/fs/cgroup") -> int | None:
    """The cores that a container's CPU limit amounts to, at least 1; None without a limit."""
    try:
        quota, period = map(int, Path(root, "cpu.max").read_text().split())
    except (OSError, ValueError):  # no cgroup v2, or "max": no limit
        return None
    return max(1, quota // period)
