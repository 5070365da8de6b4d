"""When a word is told as spoken: where it sounds, which may be later than where the model took it.

The text machine lets a model hold for so many steps only (`MAX_PADDING`, and a checkpoint's `pause_padding` behind a
stop) and then gives it the next word, whether it wants it or not. The model goes on as it was: it ends the sentence, is
silent for half a second, and says the word then. So a word that was forced is told once the word before it may be over,
or where the pause behind that word ends.

Example, in ms: "well?" is taken at 880 and sounds until 1450, "Yes," is forced at 1440, and it is silent until 2140.
"Yes," is told as spoken at 2140, and "well?" as over at 1450.

What is known of a frame's sound is its level in every 10 ms. All times here are on the model's own clock: its step n
begins at n x 80 ms. The constants are those of a checkpoint's manifest. Without them, each word begins with its frame.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from copy import copy
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dia2.checkpoint.corrections import Corrections
from dia2.text.machine import MAX_PADDING, QUOTES, STOPS, may_pause_behind
from dia2stream.conversation.level import Gain
from dia2stream.conversation.words import TakenWord
from dia2stream.items import FRAME_MS

WINDOWS = 8  # levels of a frame
WINDOW_MS = FRAME_MS // WINDOWS
UNKNOWN = 255  # stands for a level that was not measured
_FLOOR_DB = 120
_LEAST_MS = 60  # from the beginning of one word to that of the next
_PAUSE_MS = 80  # what is shorter is part of a word, such as the silence before a "t"
# How much later than expected a pause may begin behind the end of a sentence, and behind a part of one. A pause behind
# a comma may be missing: the next silence is then that of another word.
_PAUSE_BEGINS_MS, _PART_PAUSE_BEGINS_MS = 600, 400
_HURRIED = 0.5  # a model that is behind takes at least this share of a word's usual length
_KEPT_FRAMES = 375  # whose levels are remembered for interruptions, half a minute
_BORDER_FRAMES = 2  # how far behind the usual frame an interruption may go on
_BORDER_DB = 8  # how much quieter it must be there
_LONGEST_WAIT_MS = 1500
_BEHIND_MS = 150  # a model that is later than that with a word has fallen behind
_ENDS = tuple(".?!")


def quietness(pcm: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Frames of sound [n, 1920] -> uint8 [n, 8]: how many dB each 10 ms are below full scale, 0 to 120."""
    windows = pcm.reshape(len(pcm), WINDOWS, -1)
    power = np.einsum("nws,nws->nw", windows, windows) / windows.shape[2]
    quiet: NDArray[np.uint8] = np.clip(-10 * np.log10(power + 1e-12), 0, _FLOOR_DB).astype(np.uint8)
    return quiet


def levels_together(pcm: NDArray[np.float32], gains: Sequence[Gain | None]) -> list[bytes]:
    """The levels of several frames of sound [n, 1920] once each has its gain, 8 bytes a frame: see `quietness`."""
    decibels = np.array([0 if gain is None else round(20 * math.log10(max(gain.ends, 1e-6))) for gain in gains])
    quiet = np.clip(quietness(pcm).astype(np.int16) - decibels[:, None], 0, _FLOOR_DB).astype(np.uint8)
    return [row.tobytes() for row in quiet]


class Pause(NamedTuple):
    """Silence from `start` to `end`, in ms."""

    start: float
    end: float


class Pauses:
    """Hears where it is silent: `below_db` under the loudest 10 ms of the conversation so far."""

    def __init__(self, below_db: float) -> None:
        self._below = below_db
        self._loudest = _FLOOR_DB  # dB below full scale
        self.began: float | None = None  # the silence that goes on now
        self.ended: deque[Pause] = deque(maxlen=4)

    def hear(self, begins: float, levels: bytes) -> None:
        """Takes the levels of the frame that begins at a time."""
        self._loudest = min(self._loudest, min(levels))
        limit = self._loudest + self._below
        if self.began is None and max(levels) <= limit:
            return
        for number, level in enumerate(levels):
            time = begins + WINDOW_MS * number
            if level > limit:
                self.began = time if self.began is None else self.began
            elif self.began is not None:
                if time - self.began >= _PAUSE_MS:
                    self.ended.append(Pause(self.began, time))
                self.began = None

    def forget(self) -> None:
        """The sound goes on somewhere else."""
        self.began = None
        self.ended.clear()


class WordTimes:
    """When the words of one conversation begin and end to sound. Fills in `start` and `end` of a `TakenWord`.

    pause_padding: the text machine's, which tells what words were forced on the model.
    levels: of the frame that was heard last, 8 bytes, or none where they are not known.
    """

    def __init__(self, corrections: Corrections, pause_padding: int = 0) -> None:
        self._pause_padding = pause_padding
        self._delay, self._letter = round(corrections.word_delay_ms), corrections.letter_ms
        self._pauses = Pauses(corrections.pause_db) if corrections.pause_db else None
        self._waiting: deque[TakenWord] = deque()
        self._last: TakenWord | None = None
        self._heard: deque[tuple[int, bytes]] = deque(maxlen=_KEPT_FRAMES)  # frames and their levels, oldest first
        self.levels = b""

    def copy(self, words: Mapping[TakenWord, TakenWord]) -> "WordTimes":
        """Another one that has heard the same. words: of each word that was taken for a frame, its copy."""
        other = copy(self)
        other._waiting = deque(words[word] for word in self._waiting)
        other._heard = self._heard.copy()
        other._last = None if self._last is None else words.get(self._last, self._last)
        if self._pauses is not None:
            other._pauses = copy(self._pauses)
            other._pauses.ended = self._pauses.ended.copy()
        return other

    @property
    def listens(self) -> bool:
        """Whether it wants to know the levels of the sound."""
        return self._pauses is not None

    def hear(self, frame: int, levels: bytes, words: Sequence[TakenWord]) -> list[TakenWord]:
        """A frame of the model, and the words that were taken for it. Returns those that are to be told before it."""
        self.levels, begins = levels, frame * FRAME_MS
        if self._pauses is not None and levels:
            self._pauses.hear(begins, levels)
            self._heard.append((frame, levels))
        self._waiting.extend(words)
        told = []
        while self._waiting:
            start = self._start(self._waiting[0], begins + FRAME_MS)
            if start is None:
                break
            told.append(self._begin(start))
        self._see_end(begins + FRAME_MS)
        return told

    def flush(self) -> list[TakenWord]:
        """All words that wait for their sound: they are to be told now, because what follows them cannot wait."""
        return [self._begin(self.expected(self._last, self._waiting[0])) for _ in range(len(self._waiting))]

    def go_back(self, step: int, last: TakenWord | None) -> None:
        """An interruption: the model goes on at this step. last: the last word that was heard."""
        self._waiting.clear()
        while self._heard and self._heard[-1][0] >= step:
            self._heard.pop()
        self._last = last
        if self._pauses is not None:
            self._pauses.forget()

    def expected(self, last: TakenWord | None, word: TakenWord) -> float:
        """When a word begins as far as its text tells. last: the word before it."""
        begins = float(word.step * FRAME_MS + self._delay)
        if last is None or last.start is None:
            return begins
        takes = _LEAST_MS if self._letter else 0.0
        if self._is_forced(last, word):
            takes = max(takes, self.length(last))
        elif last.start - last.step * FRAME_MS - self._delay > _BEHIND_MS:
            takes = max(takes, _HURRIED * self.length(last))
        return max(begins, last.start + takes)

    def end(self, word: TakenWord, following: TakenWord | None, last_end: int | None) -> float:
        """When a word that was told is over. following: the word behind it. last_end: where the words ended, a step."""
        if following is not None:
            over = self.expected(word, following) if following.start is None else following.start
            return over if word.end is None else min(over, word.end)
        if word.end is not None:
            return word.end
        return self.over_at(last_end or word.step + max(1, word.word.padding), word)

    def over_at(self, step: int, word: TakenWord) -> float:
        """When a word that was told is over, as far as the step tells at which the model takes what follows it."""
        return max(float(step * FRAME_MS + self._delay), (word.start or 0.0) + self.length(word))

    def half_heard(self, until: float, word: TakenWord, following: TakenWord | None, last_end: int | None) -> bool:
        """Whether half of a word had sounded at a time. following, last_end: as for `end`."""
        if word.start is None:
            return False
        return until - word.start >= (self.end(word, following, last_end) - word.start) / 2

    def being_said(self, taken: Sequence[TakenWord], at: float, ended: bool) -> Sequence[TakenWord]:
        """The words of which something may still have to sound at a time, the latest first; empty between words.

        taken: all words before that time, the latest first. ended: whether the text has no more words behind them. The
        first word is the one that sounds, and goes on until the next one, or a break, begins. A word that the model was
        behind with had been taken before the word before it was over, so that one belongs to it.
        """
        if not taken or not taken[0].word.tokens:
            return ()
        silent = taken[0].end
        if ended and (not self.listens or (silent is not None and silent <= at)):
            return ()
        count = 1
        for word, before in pairwise(taken):
            on_time = float(word.step * FRAME_MS + self._delay + _BEHIND_MS)
            if word.start is None or word.start > at:
                on_time = min(on_time, at)  # it does not sound yet: the word before may be the one that does
            if not before.word.tokens or (before.start is not None and self.end(before, word, None) <= on_time):
                break
            count += 1
        return taken[:count]

    def border(self, cut: TakenWord, heard: int) -> int:
        """The step that an interruption goes back to, which cuts this word; the frames before it are remembered.

        heard: frames before it were heard. The first frame of the word is remembered too, because the word before may
        still sound in it. Where it is clearly quieter up to two frames later, what is remembered ends there: a model
        that remembers the beginning of a sound goes on with it.
        """
        usual = min(cut.step + 1, heard)
        # Frames that were not heard do not count: whether they are made already is chance.
        levels = {frame: levels for frame, levels in self._heard if usual - 1 <= frame < heard}

        def quiet(step: int) -> float:
            around = [*levels.get(step - 1, b"")[-2:], *levels.get(step, b"")[:2]]
            return sum(around) / len(around) if around else 0.0

        best = max(range(usual, min(heard, usual + _BORDER_FRAMES) + 1), key=lambda step: (quiet(step), step))
        return best if quiet(best) >= quiet(usual) + _BORDER_DB else usual

    def length(self, word: TakenWord) -> float:
        """How long a word may take; 0 where a checkpoint does not say how long a letter does."""
        letters = sum(map(str.isalnum, word.word.text))
        return self._letter * (letters + 2)

    def _is_forced(self, last: TakenWord, word: TakenWord) -> bool:
        longest = MAX_PADDING + (self._pause_padding if may_pause_behind(last.word.text) else 0)
        return bool(self._letter and last.word.tokens) and word.step - last.step == longest + 1

    def _start(self, word: TakenWord, until: float) -> float | None:
        """When a word begins, by what was heard until now; None when that is not known yet."""
        last, begins = self._last, self.expected(self._last, word)
        if self._pauses is None:
            return begins if begins < until or not self._letter else None
        latest = begins + self._pause_may_begin(last, word)
        pause = next((p for p in self._pauses.ended if p.start <= latest and p.end > begins), None)
        if pause is not None:
            return pause.end
        if self._pauses.began is not None and self._pauses.began <= latest:
            return None if until - begins < _LONGEST_WAIT_MS else until - FRAME_MS
        return begins if latest < until else None

    def _pause_may_begin(self, last: TakenWord | None, word: TakenWord) -> int:
        """How much later than a word is expected the pause before it may begin, in ms. last: the word before."""
        text = "" if last is None or not self._is_forced(last, word) else last.word.text.rstrip(QUOTES)
        if text.endswith(_ENDS):
            return _PAUSE_BEGINS_MS
        return _PART_PAUSE_BEGINS_MS if text.endswith(STOPS) else 0

    def _begin(self, start: float) -> TakenWord:
        word, before = self._waiting.popleft(), self._last
        if before is not None and before.start is not None and self._pauses is not None:
            silent = next((p.start for p in self._pauses.ended if p.end == start and p.start > before.start), None)
            before.end = before.end if silent is None else silent
        word.start, self._last = start, word
        return word

    def _see_end(self, until: float) -> None:
        """Notes that the last word seems to be over, or that it goes on."""
        if self._pauses is None or self._last is None or self._last.start is None:
            return
        silent = self._pauses.began
        if silent is None:
            self._last.end = None
        elif silent > self._last.start and until - silent >= _PAUSE_MS:
            self._last.end = silent
