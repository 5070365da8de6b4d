"""Loading machine code and launching it as thread-block clusters, by CUDA's driver: torch has no call for either."""

import ctypes
from collections.abc import Mapping
from functools import cache
from typing import Any, ClassVar

import torch

_MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
_COOPERATIVE, _CLUSTER = 2, 4  # CU_LAUNCH_ATTRIBUTE_COOPERATIVE, ..._CLUSTER_DIMENSION


class DriverError(Exception):
    """A call of the driver failed; the message is one line."""


class _Attribute(ctypes.Structure):
    """CUlaunchAttribute: which, then a union of 64 bytes."""

    _fields_: ClassVar = [("id", ctypes.c_int), ("pad", ctypes.c_int), ("value", ctypes.c_uint * 16)]


class _Config(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_: ClassVar = [
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("count", ctypes.c_uint),
    ]


class ClusterKernel:
    """A kernel whose grid is clusters of blocks, all of them running at once.

    The launch is cooperative: the driver starts all of the grid or nothing, also beside other kernels of this kind. So
    no block waits for one that has no room.
    """

    def __init__(self, code: bytes, name: str, grid: int, cluster: int, threads: int, shared: int) -> None:
        """code: a cubin. grid: blocks in all, cluster: blocks a cluster. shared: bytes of shared memory a block."""
        torch.cuda.current_stream().query()  # the driver's calls are for the context that torch has made current
        self._module, self._function = ctypes.c_void_p(), ctypes.c_void_p()
        _call("cuModuleLoadData", ctypes.byref(self._module), code)
        _call("cuModuleGetFunction", ctypes.byref(self._function), self._module, name.encode())
        _call("cuFuncSetAttribute", self._function, _MAX_DYNAMIC_SHARED, shared)
        self._attributes = (_Attribute * 2)()
        self._attributes[0].id, self._attributes[0].value[:3] = _CLUSTER, [cluster, 1, 1]
        self._attributes[1].id, self._attributes[1].value[0] = _COOPERATIVE, 1
        self._config = _Config((grid, 1, 1), (threads, 1, 1), shared, None, self._attributes, 2)

    def clusters_at_once(self) -> int:
        """How many of its clusters this GPU runs at once."""
        count = ctypes.c_int()
        _call("cuOccupancyMaxActiveClusters", ctypes.byref(count), self._function, ctypes.byref(self._config))
        return count.value

    def launch(self, params: ctypes.Structure) -> None:
        """Launches it on the current stream; params, the kernel's only argument, are copied."""
        self._config.stream = torch.cuda.current_stream().cuda_stream
        arguments = (ctypes.c_void_p * 1)(ctypes.addressof(params))
        _call("cuLaunchKernelEx", ctypes.byref(self._config), self._function, arguments, None)


def driver_version() -> str:
    """The newest CUDA that the driver runs, as "13.0"."""
    version = ctypes.c_int()
    _call("cuDriverGetVersion", ctypes.byref(version))
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def _call(name: str, *arguments: Any) -> None:
    code = getattr(_driver(), name)(*arguments)
    if code:
        text = ctypes.c_char_p()
        _driver().cuGetErrorName(code, ctypes.byref(text))
        raise DriverError(f"{name} failed: {(text.value or b'unknown error').decode()} ({code})")


@cache
def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


def structure(name: str, fields: Mapping[str, Any]) -> type[ctypes.Structure]:
    """A C struct of these fields, in this order."""
    return type(name, (ctypes.Structure,), {"_fields_": list(fields.items())})
