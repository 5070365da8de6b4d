"""CUDA C++ at run time: NVRTC, which every CUDA build of torch brings, compiles; the driver loads and launches.

Whatever is missing or goes wrong is a `DeviceCodeError` that says so in one line: callers have something else to fall
back on. Knows nothing about what it compiles.
"""

import ctypes
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from dia2.errors import DeviceError

_SHARED_MEMORY = 97  # CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
_COOPERATIVE = 95  # CU_DEVICE_ATTRIBUTE_COOPERATIVE_LAUNCH
_DYNAMIC_SHARED_MEMORY = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_REGISTERS, _LOCAL = 4, 3  # CU_FUNC_ATTRIBUTE_NUM_REGS, _LOCAL_SIZE_BYTES


class DeviceCodeError(DeviceError):
    """Device code could not be compiled, loaded or launched."""


@cache
def _nvrtc() -> Any:
    """The NVRTC that goes with torch's CUDA."""
    if torch.version.cuda is None:
        raise DeviceCodeError("this torch has no CUDA")
    name = f"libnvrtc.so.{torch.version.cuda.split('.')[0]}"
    for candidate in (name, *_installed(name)):
        try:
            return ctypes.CDLL(candidate)
        except OSError:
            continue
    raise DeviceCodeError(f"{name} is not installed")


def _installed(name: str) -> Iterator[str]:
    """Where pip puts the library: beside torch, or in a package of its own."""
    for folder in dict.fromkeys([str(Path(torch.__file__).parent.parent), *sys.path]):
        for pattern in (f"nvidia/*/lib/{name}*", f"torch/lib/{name}*", "torch/lib/libnvrtc-*.so*"):
            yield from (str(path) for path in sorted(Path(folder or ".").glob(pattern)))


@cache
def _driver() -> Any:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise DeviceCodeError(f"the CUDA driver cannot be loaded: {error}") from None


def _check(status: int, what: str) -> None:
    if status:
        text = ctypes.c_char_p()
        _driver().cuGetErrorString(status, ctypes.byref(text))
        raise DeviceCodeError(f"{what}: {(text.value or b'unknown error').decode()}")


def attribute(device: torch.device, number: int) -> int:
    """One of the driver's CU_DEVICE_ATTRIBUTE_* figures."""
    value = ctypes.c_int()
    index = torch.cuda.current_device() if device.index is None else device.index
    _check(_driver().cuDeviceGetAttribute(ctypes.byref(value), number, index), "cuDeviceGetAttribute")
    return value.value


def shared_memory(device: torch.device) -> int:
    """Bytes of shared memory one block may have."""
    return attribute(device, _SHARED_MEMORY)


def cooperative(device: torch.device) -> bool:
    """Whether a grid can be launched so that all its blocks run at once."""
    return bool(attribute(device, _COOPERATIVE))


def compiled(source: str, name: str, device: torch.device) -> bytes:
    """`source` as machine code for the device's own architecture."""
    library = _nvrtc()
    major, minor = torch.cuda.get_device_capability(device)
    program = ctypes.c_void_p()
    if library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), f"{name}.cu".encode(), 0, None, None):
        raise DeviceCodeError("NVRTC refused the program")
    options = [f"--gpu-architecture=sm_{major}{minor}", "--std=c++17", "--fmad=true"]
    given = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
    try:
        failed = library.nvrtcCompileProgram(program, len(options), given)
        if failed:
            log = _text(library.nvrtcGetProgramLogSize, library.nvrtcGetProgramLog, program)
            raise DeviceCodeError(f"NVRTC cannot compile {name} (error {failed}): {log.decode(errors='replace')}")
        return _text(library.nvrtcGetCUBINSize, library.nvrtcGetCUBIN, program)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _text(size: Any, content: Any, program: ctypes.c_void_p) -> bytes:
    """What a pair of NVRTC functions gives: a size, then as many bytes."""
    count = ctypes.c_size_t()
    size(program, ctypes.byref(count))
    buffer = ctypes.create_string_buffer(count.value)
    content(program, buffer)
    return buffer.raw


class Kernel:
    """A kernel of compiled code that takes one address, launched so that all its blocks run at once."""

    def __init__(self, code: bytes, name: str, grid: int, threads: int, shared: int) -> None:
        driver = _driver()
        self.grid, self.threads, self.shared = grid, threads, shared
        torch.cuda.current_stream()  # makes torch's context current
        self._code, self._module, self._function = code, ctypes.c_void_p(), ctypes.c_void_p()
        _check(driver.cuModuleLoadData(ctypes.byref(self._module), code), f"loading {name}")
        _check(driver.cuModuleGetFunction(ctypes.byref(self._function), self._module, name.encode()), name)
        _check(driver.cuFuncSetAttribute(self._function, _DYNAMIC_SHARED_MEMORY, shared), f"{shared} bytes for {name}")

    def __call__(self, address: int) -> None:
        """Launches on torch's current stream."""
        value = ctypes.c_uint64(address)
        arguments = (ctypes.c_void_p * 1)(ctypes.cast(ctypes.byref(value), ctypes.c_void_p))
        stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
        sizes: Sequence[int] = (self.grid, 1, 1, self.threads, 1, 1, self.shared)
        _check(_driver().cuLaunchCooperativeKernel(self._function, *sizes, stream, arguments), "launching")

    @property
    def registers(self) -> tuple[int, int]:
        """Registers a thread, and bytes of local memory (spills)."""
        found = []
        for number in (_REGISTERS, _LOCAL):
            value = ctypes.c_int()
            _check(_driver().cuFuncGetAttribute(ctypes.byref(value), number, self._function), "cuFuncGetAttribute")
            found.append(value.value)
        return found[0], found[1]
