"""Which device and dtype a model gets, and whether it fits there.

What the user leaves open is chosen here, and every such choice adds a line with its reason to `notes`, for the log.
Memory is compared with what is needed before anything is allocated: a model that does not fit is refused at once, in
a line that says what it needs, what is free and what would help.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from dia2.checkpoint.download import readable_size
from dia2.errors import DeviceError
from dia2.model.config import Dia2Config
from dia2.model.kv_cache import context_columns

# ---- Choosing a device and a dtype ----


def pick_device(device: str, notes: list[str]) -> torch.device:
    """The device by name: "auto", "cpu", "cuda" or "cuda:N". Raises DeviceError for another name, or an absent one."""
    if device == "auto":
        if torch.cuda.is_available():
            notes.append("device cuda: auto, a CUDA device is there")
            return torch.device("cuda", torch.cuda.current_device())
        notes.append("device cpu: auto, no CUDA device here")
        return torch.device("cpu")
    match = re.fullmatch(r"(cpu|cuda)(?::(\d+))?", device)
    if match is None or match.group(0).startswith("cpu:"):
        raise DeviceError(f"device must be auto, cpu, cuda or cuda:N, not {device!r}")
    if match[1] == "cpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise DeviceError(f"device {device}: no CUDA device here; use cpu, or auto to take what there is")
    number, count = int(match[2] or torch.cuda.current_device()), torch.cuda.device_count()
    if number >= count:
        there = "cuda:0" if count == 1 else f"cuda:0 to cuda:{count - 1}"
        raise DeviceError(f"device {device}: no such CUDA device; there is {there}")
    return torch.device("cuda", number)


def pick_dtype(dtype: str) -> torch.dtype | None:
    """The dtype by name, "float32" or "bfloat16"; None for "auto". Raises DeviceError for another name."""
    try:
        return {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
    except KeyError:
        raise DeviceError(f"dtype must be auto, float32 or bfloat16, not {dtype!r}") from None


def check_weights_kind(weights: str, notes: list[str]) -> None:
    """Raises DeviceError unless `weights` is "dtype" or "fp8"."""
    if weights not in ("dtype", "fp8"):
        raise DeviceError(f"weights must be dtype or fp8, not {weights!r}")
    if weights == "fp8":
        notes.append("weights fp8: the layers' matrices are rounded to 8 bits, with a scale for each output")


def default_dtype(device: torch.device, notes: list[str]) -> torch.dtype:
    """bfloat16 on a CUDA device that computes in it, else float32."""
    if device.type == "cpu":
        notes.append("dtype float32: auto on the CPU")
        return torch.float32
    with torch.cuda.device(device):
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    notes.append("dtype bfloat16: auto on CUDA" if native else "dtype float32: auto, this CUDA device has no bfloat16")
    return torch.bfloat16 if native else torch.float32


def set_up_cuda(device: torch.device, dtype: torch.dtype, notes: list[str]) -> None:
    """Sets two switches of torch that hold for the whole process.

    cuDNN's attention is switched off: it compiles for every new shape, for up to a second, and a conversation goes
    through many lengths. torch has other kernels for attention.

    float32 on CUDA is computed as in the published code: float32 values, matrix products in TF32. torch has a newer way
    to say this, for each backend, but then code that reads the old switch raises an error, torch.compile for example.
    """
    if device.type != "cuda":
        return
    torch.backends.cuda.enable_cudnn_sdp(False)
    if dtype == torch.float32:
        torch.set_float32_matmul_precision("high")
        notes.append("TF32 matrix products: float32 on CUDA, as the published code computes it")


# ---- Memory ----


@contextmanager
def memory_guard(
    name: str,
    config: Dia2Config,
    modules: tuple[torch.nn.Module, ...],
    dtype: torch.dtype,
    device: torch.device,
    mimi_bytes: int,
) -> Iterator[None]:
    """Around the allocation of a model: raises DeviceError if the device has too little memory, before or during it.

    Needed are the weights, the codec, and the keys and values of one conversation.
    """
    weights = sum(weight.numel() * weight.element_size() for module in modules for weight in module.parameters())
    needed = weights + mimi_bytes + column_bytes(config, dtype) * context_columns(config)
    free = free_bytes(device)
    if free is not None and needed > free:
        raise _too_large(name, needed, free, device, modules)
    try:
        yield
    except torch.OutOfMemoryError:
        raise _too_large(name, needed, free_bytes(device), device, modules) from None
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):  # how torch says it on the CPU
            raise
        raise _too_large(name, needed, free_bytes(device), device, modules) from None


def column_bytes(config: Dia2Config, dtype: torch.dtype) -> int:
    """The backbone's keys and values of one column of a conversation with guidance: two rows."""
    sizes = config.model.decoder
    return 2 * 2 * sizes.n_layer * sizes.kv_heads * sizes.gqa_head_dim * dtype.itemsize


def _too_large(
    name: str, needed: int, free: int | None, device: torch.device, modules: tuple[torch.nn.Module, ...]
) -> DeviceError:
    kinds = {weight.dtype for module in modules for weight in module.parameters()}
    fp8 = torch.float8_e4m3fn in kinds
    kind = "fp8" if fp8 else str(kinds.pop()).removeprefix("torch.")
    # Enough may be free and still not be given to this process, because of a limit, or because it is in pieces.
    there = f"{readable_size(free)} free" if free is not None and free < needed else "more than it is given"
    mend = {"float32": "--dtype bfloat16 or ", "bfloat16": "--weights fp8 or "}.get(kind, "") + "a smaller model"
    return DeviceError(
        f"out of memory: {name} needs {readable_size(needed)} in {kind}, {there} on {device}; use {mend}"
    )


def free_bytes(device: torch.device) -> int | None:
    """Memory that a new tensor could have; None where the system does not say."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    limits = [limit for limit in (_available_bytes(), _cgroup_bytes()) if limit is not None]
    return min(limits, default=None)


def _available_bytes() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:  # not Linux
        return None
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return kilobytes[0] * 1024 if kilobytes else None


def _cgroup_bytes(root: str = "/sys/fs/cgroup") -> int | None:
    """What a container's limit leaves free. Its page cache counts as used, but the kernel gives it back on demand."""
    try:
        limit = int(Path(root, "memory.max").read_text())
        used = int(Path(root, "memory.current").read_text())
        stat = dict(line.split() for line in Path(root, "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no cgroup v2, or "max": no limit
        return None
    return limit - used + int(stat.get("file", 0))
