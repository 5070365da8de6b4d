"""What is measured of sentences and of interruptions: what was spoken goes in, figures come out."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from alignment import aligned
from listeners import Hearing, word_times
from material import Said
from measures import border_clicks, clipped, is_click, loudest_before, silence_behind
from report import Figure, spread
from speaking import FRAME_SAMPLES, SAMPLE_RATE, Interruption, Sound, Spoken
from words import Errors, Plain, added_in_front, sounds_in_front, spoken_text

from dia2.voice.loudness import TARGET_LUFS, loudness
from dia2.voice.voice import ClipWord
from dia2stream.protocol.messages import Paused, WordEvent

SOUND_BEFORE_DB = -35.0  # against speech: what is louder before the first new word is something that one hears
CLOSE_MS = 40.0  # half a frame: a model places words no better, and PocketSphinx hardly
_ONSET_SECONDS = 0.03  # PocketSphinx may place a word's beginning so much late


# ---- Sentences ----


@dataclass
class Times:
    """late: of each word, when it was told that it begins, less when it was heard, in ms.

    pauses, close_pauses: whether `spoken` was right, to half a word, and to half a word give or take CLOSE_MS.
    """

    late: list[float] = field(default_factory=list)
    pauses: list[bool] = field(default_factory=list)
    close_pauses: list[bool] = field(default_factory=list)


@dataclass
class SentenceResults:
    """What was found in all sentences. Times in ms."""

    by_kind: dict[str, Errors] = field(default_factory=lambda: defaultdict(Errors))
    by_speaker: dict[str, Errors] = field(default_factory=lambda: defaultdict(Errors))
    sounds: dict[str, list[Sound]] = field(default_factory=lambda: defaultdict(list))
    before: list[float] = field(default_factory=list)
    behind: list[float] = field(default_factory=list)
    alone: Times = field(default_factory=Times)
    in_dialogues: Times = field(default_factory=Times)
    seconds: float = 0.0
    frames: int = 0
    clicks: int = 0
    clipped: list[float] = field(default_factory=list)
    unplaced: int = 0  # sentences whose words PocketSphinx could not find

    @property
    def times(self) -> Times:
        """Of all sentences."""
        one, two = self.alone, self.in_dialogues
        return Times(one.late + two.late, one.pauses + two.pauses, one.close_pauses + two.close_pauses)


class SentenceProbe:
    """Listens to sentences, one at a time."""

    def __init__(self, ear: Hearing, plain: Plain) -> None:
        self.results = SentenceResults()
        self._ear, self._plain = ear, plain

    def listen(self, said: Said, spoken: Spoken) -> None:
        """Takes one sentence."""
        results, sound = self.results, spoken.sound
        text, heard = self._plain(spoken_text(spoken.words)), self._plain(self._ear.hear(sound))
        speakers = {word.speaker for word in spoken.words}
        speaker = speakers.pop() if len(speakers) == 1 else "both"
        for errors in (results.by_kind[said.kind], results.by_speaker[speaker]):
            errors.count(text, heard)
        if text != heard:
            results.by_kind[said.kind].examples.append(f"{' '.join(text)} -> {' '.join(heard)}")
        results.sounds[speaker].append(sound)
        results.seconds += len(sound) / SAMPLE_RATE
        results.frames += len(sound) // FRAME_SAMPLES
        results.clicks += border_clicks(sound)
        results.clipped.append(clipped(sound))
        results.behind.append(silence_behind(sound))
        found = word_times(sound, spoken_text(spoken.words))
        placed = events_heard(spoken.words, found) if found else None
        if placed is None:
            results.unplaced += 1
            return
        results.before.append(placed[0][1].start * 1000)
        times = results.in_dialogues if speaker == "both" else results.alone
        times.late += [event.start_ms - heard.start * 1000 for event, heard in placed]
        for paused in spoken.pauses:
            times.pauses.append(told_right(paused, placed))
            times.close_pauses.append(told_right(paused, placed, CLOSE_MS))

    def figures(self) -> list[Figure]:
        """All that was found."""
        return [*self._errors(), *self._silence(), *self._times(), *self._sound()]

    def _errors(self) -> Iterable[Figure]:
        total = Errors()
        for errors in self.results.by_speaker.values():
            total.said, total.wrong, total.added = (
                total.said + errors.said,
                total.wrong + errors.wrong,
                total.added + errors.added,
            )
        yield Figure("words heard wrong", "all", total.rate, "%", most=25, detail=f"of {total.said} words")
        for kind, errors in {**self.results.by_kind, **self.results.by_speaker}.items():
            yield Figure("words heard wrong", kind, errors.rate, "%", detail=f"of {errors.said}")

    def _silence(self) -> Iterable[Figure]:
        for name, values in (("before speech", self.results.before), ("behind speech", self.results.behind)):
            middle, most = spread(values, 50, 95)
            yield Figure("silence", f"{name}, p50", middle, "ms")
            yield Figure("silence", f"{name}, p95", most, "ms")

    def _times(self) -> Iterable[Figure]:
        times, dialogues = self.results.times, self.results.in_dialogues
        bias, error, most = _errors_of(times.late)
        count = f"of {len(times.late)}; {self.results.unplaced} sentences not placed"
        yield Figure("word times", "bias (below 0: told too early)", bias, "ms", -10, 10, count)
        yield Figure("word times", "mean error", error, "ms")
        yield Figure("word times", "error, p95", most, "ms", most=130)
        bias, _, most = _errors_of(dialogues.late)
        yield Figure("word times", "in dialogues: bias", bias, "ms", detail=f"of {len(dialogues.late)}")
        yield Figure("word times", "in dialogues: error, p95", most, "ms")
        close, exact = times.close_pauses, times.pauses
        name, least = f"right to half a word, {CLOSE_MS:.0f} ms either way", all_but(2, 48, len(close))
        yield Figure("`spoken`", name, _share(close), "%", least, detail=f"{sum(close)} of {len(close)} pauses")
        yield Figure("`spoken`", "right to half a word", _share(exact), "%", detail=f"{sum(exact)}")
        yield Figure("`spoken`", "the same in dialogues", _share(dialogues.pauses), "%")

    def _sound(self) -> Iterable[Figure]:
        levels = {speaker: _loudness(sounds) for speaker, sounds in sorted(self.results.sounds.items())}
        for speaker in ("S1", "S2"):
            yield Figure("level", speaker, levels.get(speaker), "LUFS", TARGET_LUFS - 1.5, TARGET_LUFS + 1.5)
        worst = 100 * max(self.results.clipped, default=0.0)
        yield Figure("level", "samples at full scale, worst sentence", worst, "%", most=0.1)
        detail = f"at {self.results.frames} borders between frames"
        yield Figure("clicks", "in speech", self.results.clicks, most=0, detail=detail)


def events_heard(events: Sequence[WordEvent], times: Sequence[ClipWord]) -> list[tuple[WordEvent, ClipWord]] | None:
    """Each word told and when it was heard, first part to last; None when the two do not match word for word."""
    rest, pairs = list(times), []
    for event in events:
        parts = [part for part in (event.said or event.word).split() if any(letter.isalpha() for letter in part)]
        own, rest = rest[: len(parts)], rest[len(parts) :]
        if len(own) < len(parts):
            return None
        if own:
            pairs.append((event, ClipWord(event.word, own[0].start, own[-1].end)))
    return pairs if pairs and not rest else None


def told_right(paused: Paused, placed: Sequence[tuple[WordEvent, ClipWord]], slack_ms: float = 0.0) -> bool:
    """Whether `spoken` has the words of which half or more had sounded, and no other.

    slack_ms: a word whose half is so near may be told either way.
    """
    told = {(word.text_start, word.text_end): word.heard for word in paused.words}
    for event, word in placed:
        behind_half = paused.heard_ms - 500 * (word.start + word.end)
        if abs(behind_half) > slack_ms and told.get((event.text_start, event.text_end)) != (behind_half >= 0):
            return False
    return True


# ---- Interruptions ----


def extra_words(said: list[str], heard: list[str], usual: list[str]) -> int:
    """How many words sound before the first one of a reply, and do not where it is spoken by itself.

    heard: after an interruption. usual: by itself. Where no sound stands before the first word's own, that word was
    mistaken for several ones, and nothing was added.
    """
    if sounds_in_front(said, heard) <= sounds_in_front(said, usual):
        return 0
    return max(0, added_in_front(aligned(said, heard)) - added_in_front(aligned(said, usual)))


@dataclass(frozen=True)
class InterruptionResult:
    """silence_ms: from the cut to the first new word, None where it could not be found.

    added: words heard before it that were not asked for. before_db: the loudest sound before it, against speech.
    """

    silence_ms: float | None
    added: int
    before_db: float
    clicks: bool
    example: str


class InterruptionProbe:
    """Listens to replies after interruptions, and to the same replies when nothing was interrupted."""

    def __init__(self, ear: Hearing, plain: Plain) -> None:
        self.results: list[InterruptionResult] = []
        self._ear, self._plain = ear, plain

    def listen(self, spoken: Spoken, control: Spoken) -> None:
        """Takes one interruption. control: its reply by itself, of the same seed."""
        assert isinstance(spoken.task.interruption, Interruption)
        text = spoken.task.interruption.text
        said, heard = self._plain(text), self._plain(self._ear.hear(spoken.reply))
        usual = self._plain(self._ear.hear(control.sound))
        added = extra_words(said, heard, usual)
        times = word_times(spoken.reply, text)
        first = times[0].start if times else None
        before = loudest_before(spoken.reply, (first or 0.0) - _ONSET_SECONDS)
        # A player that is emptied cuts the sound anywhere. One that plays on gets whole frames, and must not click.
        frames = spoken.sound[: len(spoken.heard) // FRAME_SAMPLES * FRAME_SAMPLES]
        clicks = is_click(np.concatenate([frames, spoken.reply]), len(frames))
        example = f"{spoken.pauses[0].spoken[-20:]} | {' '.join(said)} -> {' '.join(heard)}"
        silence = None if first is None else max(0.0, first * 1000)
        self.results.append(InterruptionResult(silence, added, before, clicks, example))

    def figures(self) -> list[Figure]:
        """All that was found."""
        results, count = self.results, len(self.results)
        middle, most = spread((result.silence_ms for result in results), 50, 95)
        added = sum(result.added > 0 for result in results)
        sounding = sum(result.before_db > SOUND_BEFORE_DB for result in results)
        group, of = "barge-in", f"of {count}"
        return [
            Figure(group, "an extra word is heard", added, most=max(1, count // 48), detail=of),
            Figure(group, "silence before the new word, p50", middle, "ms", most=80),
            Figure(group, "silence before the new word, p95", most, "ms", most=160),
            Figure(group, f"sound over {SOUND_BEFORE_DB:.0f} dB before the new word", sounding, detail=of),
            Figure(group, "clicks where the reply begins", sum(result.clicks for result in results), most=0, detail=of),
        ]


def _errors_of(late: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """Bias, mean error and the error's 95th percentile."""
    if not late:
        return None, None, None
    errors = np.abs(late)
    return float(np.mean(late)), float(np.mean(errors)), float(np.percentile(errors, 95))


def all_but(most: int, of: int, count: int) -> float:
    """The least share, in percent, where so many of so many may be wrong; one may be wrong of few."""
    return 100 * (count - max(1, most * count // of)) / max(1, count)


def _share(right: Sequence[bool]) -> float | None:
    return 100 * sum(right) / len(right) if right else None


def _loudness(sounds: Sequence[Sound]) -> float | None:
    found = loudness(np.concatenate(sounds), SAMPLE_RATE) if sounds else -np.inf
    return found if np.isfinite(found) else None
