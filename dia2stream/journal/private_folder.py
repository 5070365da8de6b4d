"""Folders of the user's choice that hold what callers have said."""

import os
from pathlib import Path

from dia2stream.errors import JournalError


def private_folder(option: str, folder: str) -> Path:
    """The folder, made for the user alone where it is not there. Raises JournalError, which names the option."""
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise JournalError(f"{option} {folder}: {error.strerror}") from None
    if not os.access(path, os.W_OK):
        raise JournalError(f"{option} {folder}: nothing can be written there")
    return path
