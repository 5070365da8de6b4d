"""Memory that nobody uses any more, back to the system.

The codec's encoder works in large tensors of changing sizes. glibc keeps what they leave between smaller blocks: a
hundred megabytes after a caller who spoke for long. Mapping each tensor by itself would avoid that, and take twice as
long.
"""

import ctypes


def give_back() -> None:
    """Returns the free memory of the C library, where it has a way to. Takes milliseconds."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
