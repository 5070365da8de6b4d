"""What the steps of the front end hand to each other: words, pauses, breaks and speaker tags, with their place."""

from enum import Enum, auto
from typing import NamedTuple


class Kind(Enum):
    """What an item is."""

    WORD = auto()  # text: the word without marks that have no sound
    PAUSE = auto()  # text: seconds of silence that a mark stood for; left out before and after all words
    BREAK = auto()  # text: seconds of silence that was asked for
    TAG = auto()  # text: "[S1]" or "[S2]"
    EDGE = auto()  # no sound; no number goes on over it (an empty line)


class Item(NamedTuple):
    """One of these. start, end: code points of the utterance's text, from its first character to behind its last."""

    kind: Kind
    text: str
    start: int
    end: int


class Notice(NamedTuple):
    """Something in the text was changed or left out, and the caller may not expect it. start: code points."""

    code: str
    message: str
    start: int


WORD, PAUSE, BREAK, TAG, EDGE = Kind

STRUCTURE_SECONDS = 0.4  # before a list item and around a heading
DASH_SECONDS = 0.24  # a dash or dots between two words
