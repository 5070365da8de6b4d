"""CUDA C++ -> machine code, by NVRTC, NVIDIA's compiler as a library; what was compiled is kept on disk.

NVRTC comes with every CUDA build of torch. It knows its own header files only, so our sources include nothing else.
"""

import ctypes
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch

from dia2.cuda.user_cache import cache_folder, keep

_FOLDER = Path(__file__).parent


class CompilerError(Exception):
    """There is no NVRTC here, or it refuses the source; the message is one line."""


def compiled(name: str, architecture: str, defines: Mapping[str, int]) -> bytes:
    """The machine code (cubin) of a source file beside this one, as "depformer.cu", for "sm_90a".

    defines: the preprocessor's names, with their values. The code is read from the cache when the same sources were
    compiled before. Raises CompilerError.
    """
    files = sources()
    compiler = Compiler()
    options = options_for(architecture, defines)
    parts = [name, repr(compiler.version), *options, *files]
    key = hashlib.sha256("\0".join(parts).encode() + b"\0".join(files.values())).hexdigest()[:32]
    kept = cache_folder("kernels") / f"{Path(name).stem}-{architecture}-{key}.cubin"
    try:
        return kept.read_bytes()
    except OSError:
        code, _ = compiler.compile(name, files, options)
    keep(kept, code)
    return code


def sources() -> dict[str, bytes]:
    """The source files beside this one, by their names."""
    return {path.name: path.read_bytes() for path in sorted(_FOLDER.glob("*.cu*"))}


def options_for(architecture: str, defines: Mapping[str, int]) -> list[str]:
    """What NVRTC is told."""
    named = (f"-D{name}={value}" for name, value in defines.items())
    return ["--std=c++17", "--device-as-default-execution-space", f"--gpu-architecture={architecture}", *named]


class Compiler:
    """NVRTC. Its functions that return an error code raise CompilerError here."""

    def __init__(self) -> None:
        self._library = _library()
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self.version = major.value, minor.value

    def compile(self, name: str, sources: Mapping[str, bytes], options: Sequence[str]) -> tuple[bytes, str]:
        """The machine code of the file `name`, and what the compiler said.

        sources: every file by its name; the headers (.cuh) among them can be included.
        """
        headers = {key: text for key, text in sources.items() if key.endswith(".cuh")}
        strings = ctypes.c_char_p * len(headers)
        program = ctypes.c_void_p()
        self._call(
            "nvrtcCreateProgram",
            ctypes.byref(program),
            sources[name],
            name.encode(),
            len(headers),
            strings(*headers.values()),
            strings(*(key.encode() for key in headers)),
        )
        chosen = [option.encode() for option in options]
        try:
            self._call("nvrtcCompileProgram", program, len(chosen), (ctypes.c_char_p * len(chosen))(*chosen))
            return self._read(program, "CUBIN"), self._log(program)
        except CompilerError as error:
            said = self._log(program).split("\n")
            first = next((line for line in said if "error" in line), said[0])
            raise CompilerError(f"{error}: {first}") from None
        finally:
            self._call("nvrtcDestroyProgram", ctypes.byref(program))

    def _log(self, program: ctypes.c_void_p) -> str:
        return self._read(program, "ProgramLog").rstrip(b"\0").decode(errors="replace")

    def _read(self, program: ctypes.c_void_p, what: str) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        into = ctypes.create_string_buffer(size.value)
        self._call(f"nvrtcGet{what}", program, into)
        return into.raw

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            raise CompilerError(f"{name} failed with code {code}")


@cache
def _library() -> ctypes.CDLL:
    """NVRTC from the package that torch uses, or the system's."""
    major = (torch.version.cuda or "13").split(".")[0]
    spec = find_spec("nvidia")
    for folder in (spec and spec.submodule_search_locations) or ():
        for library in Path(folder).glob(f"*/lib/libnvrtc.so.{major}"):
            for part in library.parent.glob(f"libnvrtc-builtins.so.{major}.*"):
                ctypes.CDLL(str(part))  # NVRTC looks for it by its name alone, and so finds it
            return ctypes.CDLL(str(library))
    try:
        return ctypes.CDLL(f"libnvrtc.so.{major}")
    except OSError:
        raise CompilerError(f"there is no NVRTC: pip install 'nvidia-cuda-nvrtc=={major}.*'") from None
