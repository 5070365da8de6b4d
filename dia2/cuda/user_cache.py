"""Files in the user's cache folder: what takes long to find out and may be found out again."""

import contextlib
import os
import tempfile
from pathlib import Path


def cache_folder(name: str) -> Path:
    """The folder for files of one kind; it need not be there yet."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "dia2" / name


def keep(path: Path, data: bytes) -> None:
    """Writes a file in one step, so that nobody reads a part of it, also where several processes write the same one.

    Where nothing can be written, nothing is kept.
    """
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            written = Path(folder) / path.name
            written.write_bytes(data)
            written.replace(path)
