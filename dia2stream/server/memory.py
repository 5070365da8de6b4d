"""Memory that nobody uses any more, back to the system.

glibc keeps what calls leave between smaller blocks. After four floods of `listen`, a server of random:tiny had 375 MB
without this and 362 with it, and it had grown with each flood.
"""

import ctypes


def give_back() -> None:
    """Returns the free memory of the C library, where it has a way to. Takes milliseconds."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
