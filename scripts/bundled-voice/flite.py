"""Flite's good voices through its C library: text in, 16 kHz sound and the times of its words out.

The library is Debian's `flite` (CMU licence). It is found where the system keeps it, or in the folder FLITE_LIB.
"""

import ctypes
import os
from ctypes import POINTER, c_char_p, c_float, c_int, c_short, c_void_p
from pathlib import Path

import numpy as np

RATE = 16_000
VOICES = ("slt", "rms", "awb")  # [S1] a woman, [S2] a man; and another man, whom only guests sound like

_FIRST_SOUND = b"daughter1.R:SylStructure.daughter1.daughter1.R:Segment.p.end"
_LAST_SOUND = b"daughtern.R:SylStructure.daughtern.daughtern.R:Segment.end"


class _Wave(ctypes.Structure):
    _fields_ = [
        ("type", c_char_p),
        ("rate", c_int),
        ("samples", c_int),
        ("channels", c_int),
        ("values", POINTER(c_short)),
    ]


class _Voice(ctypes.Structure):
    _fields_ = [("name", c_char_p), ("features", c_void_p)]


def _library(name: str) -> ctypes.CDLL:
    folder = os.environ.get("FLITE_LIB")
    file = f"{name}.so.1"
    return ctypes.CDLL(str(Path(folder) / file) if folder else file, mode=ctypes.RTLD_GLOBAL)


def _function(library, name, result, *arguments):  # type: ignore[no-untyped-def]
    function = getattr(library, name)
    function.restype, function.argtypes = result, arguments
    return function


class Flite:
    """The library, with all voices loaded."""

    def __init__(self) -> None:
        core = _library("libflite")
        _library("libflite_usenglish"), _library("libflite_cmulex")
        core.flite_init()
        self._synthesise = _function(core, "flite_synth_text", c_void_p, c_char_p, c_void_p)
        self._wave = _function(core, "utt_wave", POINTER(_Wave), c_void_p)
        self._relation = _function(core, "utt_relation", c_void_p, c_void_p, c_char_p)
        self._head = _function(core, "relation_head", c_void_p, c_void_p)
        self._next = _function(core, "item_next", c_void_p, c_void_p)
        self._float = _function(core, "ffeature_float", c_float, c_void_p, c_char_p)
        self._delete = _function(core, "delete_utterance", None, c_void_p)
        self._set = _function(core, "flite_feat_set_float", None, c_void_p, c_char_p, c_float)
        self._voices = []
        for name in VOICES:
            register = _function(
                _library(f"libflite_cmu_us_{name}"), f"register_cmu_us_{name}", POINTER(_Voice), c_char_p
            )
            self._voices.append(register(None))

    def speak(self, voice: int, text: str, stretch: float = 1.0) -> tuple[np.ndarray, list[tuple[float, float]]]:
        """int16 samples, and start and end in seconds of everything between spaces in `text`.

        Raises ValueError where Flite splits the text otherwise than at its spaces, or reads a part as nothing.
        """
        self._set(self._voices[voice].contents.features, b"duration_stretch", stretch)
        utterance = self._synthesise(text.encode("ascii"), self._voices[voice])
        try:
            wave = self._wave(utterance).contents
            sound = np.frombuffer(ctypes.string_at(wave.values, 2 * wave.samples), "<i2").copy()
            times = []
            token = self._head(self._relation(utterance, b"Token"))
            while token:
                times.append((self._float(token, _FIRST_SOUND), self._float(token, _LAST_SOUND)))
                token = self._next(token)
        finally:
            self._delete(utterance)
        if len(times) != len(text.split()) or any(end <= start for start, end in times):
            raise ValueError(f"words do not fit: {text}")
        return sound, times
