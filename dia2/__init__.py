"""Dia2, an English dialogue text-to-speech model by Nari Labs: a compact implementation that streams and rewinds.

    from dia2 import Dia2
    dia = Dia2.from_repo("nari-labs/Dia2-2B")
    result = dia.generate("[S1] Hello there.", output_wav="hello.wav")

Names are imported when they are first used, so that `import dia2.errors` does not cost an import of torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dia2.errors import Dia2Error
    from dia2.generate import Dia2, GenerationConfig, GenerationResult, PrefixConfig
    from dia2.model.sampling import SamplingConfig

__all__ = ["Dia2", "Dia2Error", "GenerationConfig", "GenerationResult", "PrefixConfig", "SamplingConfig"]

_HOMES = {
    "Dia2": "dia2.generate",
    "Dia2Error": "dia2.errors",
    "GenerationConfig": "dia2.generate",
    "GenerationResult": "dia2.generate",
    "PrefixConfig": "dia2.generate",
    "SamplingConfig": "dia2.model.sampling",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dia2' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
