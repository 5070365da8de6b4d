"""What a caller says, in pieces, on its way into the context: sound -> codes, words -> columns of text.

The columns are those of a voice prefix that holds the same clip, wherever the clip is cut into pieces:

- The codec's encoder goes on where the piece before ended, so that the cut cannot be heard. Only whole frames are
  encoded. The samples of an incomplete frame wait for the next piece.
- The second text stream shows a word while the words before it are said. So the column that takes a word waits until
  the next `ahead` words are known, or the utterance is complete, or `HOLD_FRAMES` frames are waiting.
- The last whole frames wait too, because the next piece's first word may be taken in the last one.

An engine hears many callers: their frames are encoded together, some 40 ms after they came (`unheard`, `heard`), and
the columns are run `AT_ONCE` at a time. When an utterance is complete, what is left is encoded and run at once. Which
columns a command runs depends on the commands alone, never on the time, so a conversation can be computed again.

`CallerSpeech` is one utterance of a caller, `Callers` the utterances that are not in the context yet. Neither knows the
model: `Context.extend` runs the columns.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from copy import copy
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dia2.steps.stepper import TextColumn
from dia2.text.machine import Mark, TextMachine
from dia2.text.script import TextTokenizer
from dia2.voice.recording import Recording
from dia2.voice.voice import ClipWord, plan_words
from dia2.voice.word_times import spread
from dia2stream.conversation.resampling import Resampler
from dia2stream.errors import CommandError
from dia2stream.items import FRAME_MS
from dia2stream.protocol.fields import HALF, shown
from dia2stream.protocol.messages import Listen

MAX_WORDS_A_SECOND = 15

MAX_CALLER_SECONDS = 60  # of one utterance, and of all the utterances that wait for a turn to end

# Frames after which a column stops waiting for the words ahead of it.
HOLD_FRAMES = 125
# Columns that are run at once while the caller speaks, and the frames behind them that wait. They are long encoded when
# their columns are run, and few enough that the reply does not wait for them.
AT_ONCE, BEHIND = 12, 12


class Ear(Protocol):
    """What listening needs of a codec: it encodes one recording after the other."""

    sample_rate: int
    frame_samples: int

    def begin(self) -> None:
        """A new recording."""

    def encode(self, pcm: Tensor) -> Tensor:
        """Whole frames that go on from those before: float32 [n * frame_samples] -> int64 [C, n]."""

    def take(self, codes: Tensor) -> None:
        """Codes int64 [C, n] of frames that somebody else has encoded, together with those of other conversations."""

    @property
    def bare(self) -> "Ear":
        """The ear itself, without what writes its codes down or knows them already."""

    def go_on_from(self, other: "Ear") -> None:
        """Hears the rest of what another one, which is bare, has heard so far."""


class Piece(NamedTuple):
    """What one command brings: float32 samples, and the words in them."""

    pcm: NDArray[np.float32]
    words: list[ClipWord]


class Columns(NamedTuple):
    """Columns that can be run. texts: of the column after each. marks: of the text machine before each."""

    texts: list[TextColumn]
    marks: list[Mark]
    codes: Tensor  # of their frames, int64 [C, n]

    def cut(self, size: int) -> Iterator["Columns"]:
        """The same in parts of at most `size`."""
        for start in range(0, len(self.texts), size):
            part = slice(start, start + size)
            yield Columns(self.texts[part], self.marks[part], self.codes[:, part])


def read_piece(command: Listen) -> Piece:
    """The sound and the words of a command. Raises CommandError for words that do not fit into the sound."""
    pcm = (np.frombuffer(command.pcm, "<i2") / np.float32(32768)).astype(np.float32)
    sound = Recording("audio", pcm, command.sample_rate)
    field = "text" if command.words is None else "words"
    words = (
        spread(sound, HALF.sub("", command.text).replace("\x1b", " "))
        if command.words is None
        else [ClipWord(*word) for word in command.words]
    )
    most = MAX_WORDS_A_SECOND * sound.seconds + 2 if len(pcm) else 0
    late = max(words, key=lambda word: word.start, default=ClipWord("", 0, 0))
    if len(words) > most:
        problem = f"{len(words)} words do not fit into {sound.seconds:.2f} s of audio"
    elif late.start > sound.seconds:
        problem = f"{shown(late.text)} starts at {late.start:g} s, the audio is {sound.seconds:.2f} s long"
    else:
        return Piece(pcm, words)
    raise CommandError("bad_field", f"{field}: {problem}", field=field)


class CallerSpeech:
    """One utterance of a caller while it comes. speaker: 1 or 2. rate: of the sound, samples a second."""

    def __init__(self, ear: Ear, tokenizer: TextTokenizer, machine: TextMachine, speaker: int, rate: int) -> None:
        self.speaker, self.rate, self.closed = speaker, rate, False
        self._ear, self._tokenizer, self._machine = ear, tokenizer, machine
        self._resampler = Resampler(rate, ear.sample_rate) if rate != ear.sample_rate else None
        self._samples = 0  # given so far, at `rate`
        self._pcm = np.zeros(0, np.float32)  # at the codec's rate, from the first frame on that is not encoded
        self._whole = self._encoded = self._ran = 0  # frames
        self._codes: deque[Tensor] = deque()  # not run yet
        self._words: list[ClipWord] = []
        self._state = machine.start()
        self._steps: deque[int] = deque()  # at which the entries in the state's queue are taken

    def copy(self, ear: Ear) -> "CallerSpeech":
        """Another one that stands where this one does, and encodes with this ear."""
        other = copy(self)
        other._ear, other._resampler = ear, None if self._resampler is None else self._resampler.copy()
        other._codes, other._words, other._steps = self._codes.copy(), self._words.copy(), self._steps.copy()
        other._state = self._state.copy()
        return other

    @property
    def seconds(self) -> float:
        """How much sound was given."""
        return self._samples / self.rate

    @property
    def waiting(self) -> int:
        """Frames that were given and have not been run."""
        return round(self.seconds * self._ear.sample_rate / self._ear.frame_samples) - self._ran

    def hear(self, piece: Piece) -> None:
        """Takes a piece at `rate`; the times of its words count from its own start."""
        begun = self.seconds
        self._samples += len(piece.pcm)
        self._take_words([ClipWord(word.text, word.start + begun, word.end + begun) for word in piece.words])
        self._take_sound(piece.pcm)

    def close(self) -> None:
        """The utterance is complete."""
        if not self.closed:
            self.closed = True
            self._take_sound(np.zeros(0, np.float32))
            self._encode(self._whole)

    def unheard(self) -> NDArray[np.float32] | None:
        """The first whole frame that is not encoded yet, float32 [frame_samples]."""
        return self._pcm[: self._ear.frame_samples] if self._whole > self._encoded else None

    def heard(self, codes: Tensor) -> None:
        """The codes of the frame that `unheard` gave, int64 [C]."""
        self._add_codes(codes[:, None], 1)
        self._ear.take(codes[:, None])

    def columns(self) -> Columns:
        """The columns that are to be run now. Each is given once."""
        texts: list[TextColumn] = []
        marks: list[Mark] = []
        ready = self._whole - self._ran - (0 if self.closed else BEHIND)
        if not self.closed and ready < AT_ONCE:
            ready = 0
        while len(texts) < ready:
            takes = bool(self._steps) and self._steps[0] <= self._ran + len(texts)
            late = ready - len(texts) > HOLD_FRAMES
            if takes and not (self.closed or late or self._machine.enough(self._state.queue)):
                break
            if takes:
                self._steps.popleft()
            marks.append(self._state.mark())
            texts.append(self._machine.process(self._state, self._ran + len(texts), int(takes), forced=True))
        self._state.taken.clear()
        self._encode(self._ran + len(texts))
        self._ran += len(texts)
        return Columns(texts, marks, self._take_codes(len(texts)))

    def _take_words(self, words: Sequence[ClipWord]) -> None:
        planned = len(self._words)
        self._words += words
        if words:
            # Only the new words are queued: those planned before stay in the columns that they have.
            entries, steps = plan_words(self._words, self.speaker, self._tokenizer)
            self._state.queue.extend(entries[planned:])
            self._steps.extend(steps[planned:])

    def _take_sound(self, pcm: NDArray[np.float32]) -> None:
        """Takes samples; once the utterance is closed, its last frame is filled up with silence."""
        if self._resampler is not None:
            pcm = self._resampler(pcm, last=self.closed)
        self._pcm = np.concatenate([self._pcm, pcm])
        if self.closed:
            self._pcm = np.concatenate([self._pcm, np.zeros(-len(self._pcm) % self._ear.frame_samples, np.float32)])
        self._whole = self._encoded + len(self._pcm) // self._ear.frame_samples

    def _encode(self, until: int) -> None:
        """Encodes frames up to `until` that nobody has encoded yet."""
        if (count := until - self._encoded) > 0:
            pcm = torch.from_numpy(self._pcm[: count * self._ear.frame_samples])
            self._add_codes(self._ear.encode(pcm), count)

    def _add_codes(self, codes: Tensor, count: int) -> None:
        self._codes.append(codes)
        self._encoded += count
        self._pcm = self._pcm[count * self._ear.frame_samples :]

    def _take_codes(self, count: int) -> Tensor:
        if not count:
            return torch.zeros(0, 0, dtype=torch.int64)
        codes = torch.cat(list(self._codes), dim=1)
        self._codes = deque([codes[:, count:]])
        return codes[:, :count]


class Callers:
    """The caller's utterances that are not in the context yet, oldest first. Only the last one may be open.

    ear: encodes the sound; None where no codec can.
    answering: whether the next word is the first one after the caller's. It then says whose word it is, because the
    model would go on in the caller's voice.
    """

    def __init__(self, ear: Ear | None, tokenizer: TextTokenizer, machine: TextMachine) -> None:
        self.answering = False
        self._ear, self._tokenizer, self._machine = ear, tokenizer, machine
        self._utterances: deque[CallerSpeech] = deque()

    def __bool__(self) -> bool:
        return bool(self._utterances)

    def copy(self, ear: Ear | None) -> "Callers":
        """Another one that stands where this one does, and encodes with this ear."""
        other = Callers(ear, self._tokenizer, self._machine)
        other.answering = self.answering
        if ear is not None:
            other._utterances.extend(utterance.copy(ear) for utterance in self._utterances)
            if self._ear is not None:
                ear.go_on_from(self._ear.bare)
        return other

    def utterance_for(self, command: Listen) -> CallerSpeech:
        """The utterance that a piece belongs to: the open one, or a new one. Raises CommandError.

        A new utterance is not among those that wait until `hear` was called with it.
        """
        if self._ear is None:
            raise CommandError("bad_command", "listen: there is no codec to encode what the caller says")
        speaker = int(command.speaker[1])
        last = self._utterances[-1] if self._utterances else None
        if last is None or last.closed or last.speaker != speaker or last.seconds > MAX_CALLER_SECONDS:
            return CallerSpeech(self._ear, self._tokenizer, self._machine, speaker, command.sample_rate)
        if last.rate != command.sample_rate:
            problem = f"sample_rate must stay {last.rate} until a final piece, not {command.sample_rate}"
            raise CommandError("bad_field", problem, field="sample_rate")
        return last

    def check_room(self, seconds: float) -> None:
        """Raises CommandError when more sound would wait than may."""
        waiting = sum(utterance.waiting for utterance in self._utterances) * FRAME_MS / 1000
        if waiting + seconds > MAX_CALLER_SECONDS:
            problem = f"{waiting:.0f} s of the caller wait until the turn has ended, of at most {MAX_CALLER_SECONDS}"
            raise CommandError("overloaded", problem, field="audio")

    def hear(self, utterance: CallerSpeech, piece: Piece, final: bool) -> None:
        """Takes a piece of an utterance, the last one if `final`."""
        if not (self._utterances and self._utterances[-1] is utterance):
            self.close()
            self._utterances.append(utterance)
            if self._ear is not None:
                self._ear.begin()
        self.answering = True
        utterance.hear(piece)
        if final:
            utterance.close()

    def unheard(self) -> NDArray[np.float32] | None:
        """The next whole frame of the open utterance that is not encoded yet, float32 [frame_samples]."""
        return self._utterances[-1].unheard() if self._utterances else None

    def heard(self, codes: Tensor) -> None:
        """The codes of the frame that `unheard` gave, int64 [C]."""
        self._utterances[-1].heard(codes)

    def close(self) -> None:
        """The open utterance is complete."""
        if self._utterances:
            self._utterances[-1].close()

    def columns(self) -> Iterator[Columns]:
        """All columns that can be run now. An utterance whose columns were all given is forgotten."""
        while self._utterances:
            columns = self._utterances[0].columns()
            if columns.texts:
                yield columns
            if not self._utterances[0].closed:
                return
            self._utterances.popleft()
