"""How near what was heard is to what was to be said, by the sounds of both.

Whisper writes a sentence that was said badly in other words, and the words sound alike: "It takes about twenty minutes
to cook the rice" was once heard as "It takes some outs when eating and it's to coat the rice". Of the nine words eight
are wrong, and of the 32 sounds a quarter. Of another sentence more than half of the sounds are wrong, and half a
sentence has too few of them.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dia2stream.text.front_end import TextFrontEnd

sys.path.append(str(Path(__file__).parent.parent / "scripts" / "judging"))
from words import sounds_of as sounds_of_words

# Sounds of a group are taken for each other more easily than for those of another group.
GROUPS = {
    sound: group
    for group, sounds in {
        "vowels": "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW",
        "stops": "B D G K P T",
        "fricatives": "CH DH F HH JH S SH TH V Z ZH",
        "nasals": "M N NG",
        "glides": "L R W Y",
    }.items()
    for sound in sounds.split()
}
_WITHIN_GROUP = 0.5  # what a sound costs that was taken for another one of its group; any other mistake costs 1

# In shares of the sounds that were to be said. Of 60 sentences that the bundled voice said, the worst had 0.34 of its
# sounds wrong, and 0.16 too few. A sentence of other words has 0.5 wrong at least; half a sentence is 0.25 shorter.
MOST_WRONG = 0.5
MOST_LONGER = 0.2
_SOUNDS_OF_A_WORD = 6  # a short text may be a word longer or shorter: the one at which speech was cut off


class Likeness(NamedTuple):
    """What was heard beside what was to be said.

    sounds: how many were to be said, 1 or more. wrong: what mistaken, missed and added sounds cost. longer: how many
    sounds more were heard than were to be said, negative for fewer.
    """

    sounds: int
    wrong: float
    longer: int

    @property
    def is_said(self) -> bool:
        """Whether the text was said, be it badly: not another one, not nothing, not a part, and nothing besides."""
        longer = max(_SOUNDS_OF_A_WORD, MOST_LONGER * self.sounds)
        return self.wrong <= MOST_WRONG * self.sounds and abs(self.longer) <= longer


def likeness(said: str, heard: str) -> Likeness:
    """Two texts, the first of which says something."""
    wanted, got = sounds_of(said), sounds_of(heard)
    return Likeness(len(wanted), _distance(wanted, got), len(got) - len(wanted))


def sounds_of(text: str) -> list[str]:
    """The sounds of a text by PocketSphinx's dictionary; those of other words are guessed from their letters."""
    front_end = TextFrontEnd("spoken")
    pieces = front_end.feed(text) + front_end.flush()
    words = re.findall(r"[a-z]+(?:'[a-z]+)*", " ".join(piece.said for piece in pieces if piece.said[:1] != "[").lower())
    return sounds_of_words(words)


def _distance(wanted: Sequence[str], got: Sequence[str]) -> float:
    """What the cheapest way costs to make one row of sounds of the other; a sound missed or added costs 1."""
    costs = [float(j) for j in range(len(got) + 1)]
    for i, sound in enumerate(wanted, 1):
        last, costs = costs, [float(i)]
        for j, other in enumerate(got, 1):
            costs.append(min(last[j] + 1, costs[-1] + 1, last[j - 1] + _mistake(sound, other)))
    return costs[-1]


def _mistake(sound: str, other: str) -> float:
    return 0.0 if sound == other else _WITHIN_GROUP if GROUPS[sound] == GROUPS[other] else 1.0
