"""Room for what drafts overwrite of their slots (draft.py), shared by all slots of a model."""

import math


class DraftRefused(Exception):
    """A draft would overwrite what cannot be put back: the work is done when it counts, and not before."""


class AsideRoom:
    """So many bytes of the device's memory, for all slots together."""

    def __init__(self, most_bytes: float = math.inf) -> None:
        self.most_bytes = most_bytes
        self.taken = 0

    def take(self, count: int) -> None:
        """Takes so many bytes. Raises DraftRefused when they are not there."""
        if self.taken + count > self.most_bytes:
            raise DraftRefused(f"{count} bytes are not free: drafts have taken {self.taken} of {self.most_bytes}")
        self.taken += count

    def give_back(self, count: int) -> None:
        """Gives them back."""
        self.taken -= count
