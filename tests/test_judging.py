"""The parts of scripts/judge that need no model and no recogniser."""

import asyncio
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from dia2.voice.voice import ClipWord
from dia2stream.options import ModelOptions
from dia2stream.protocol.fields import HeardWord
from dia2stream.protocol.messages import Done, Inject, Pause, Paused, Resume, Resumed, Start, WordEvent

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "scripts" / "judging"))
import material  # noqa: E402
import measures  # noqa: E402
import probes  # noqa: E402
import published  # noqa: E402
import report  # noqa: E402
import speaking  # noqa: E402
from alignment import Pair, aligned  # noqa: E402
from words import Errors, Plain, added_in_front  # noqa: E402

RATE = speaking.SAMPLE_RATE


def tone(seconds: float, level: float = 0.3, hertz: float = 220) -> np.ndarray:
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE)).astype(np.float32)


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE), np.float32)


# ---- Words ----


def test_words_are_aligned_the_cheapest_way() -> None:
    said, heard = ["sorry", "what", "is", "the", "time"], ["amber", "sorry", "is", "the", "tide"]
    assert aligned(said, heard) == [
        Pair(None, "amber"),
        Pair("sorry", "sorry"),
        Pair("what", None),
        Pair("is", "is"),
        Pair("the", "the"),
        Pair("time", "tide"),
    ]
    assert aligned([], ["a"]) == [Pair(None, "a")]
    assert aligned(["a"], []) == [Pair("a", None)]


@pytest.mark.parametrize(
    ("heard", "added"),
    [("sorry what", 0), ("amber sorry what", 1), ("story what", 0), ("i will sorry what", 2), ("", 0)],
)
def test_words_in_front_are_counted_and_mistaken_ones_are_not(heard: str, added: int) -> None:
    assert added_in_front(aligned(["sorry", "what"], heard.split())) == added


@pytest.mark.parametrize(
    ("said", "heard", "extra"),
    [
        # Heard after interruptions; the sound was looked at. What is left of a cut word is an extra word,
        ("of course we can", "and of course we can", 1),
        ("sorry what time", "or sorry what time", 1),
        ("sorry what time", "amber sorry what time", 1),
        ("wait i did not", "and wait i did not", 1),
        ("fine but please", "i find that please", 1),
        ("yes i would like", "built yes i would like", 1),
        ("yes i would like", "i guess i would like", 1),
        ("okay come in", "it is okay come in", 2),
        ("nobody told me", "in nobody told me", 1),
        ("nobody told me", "and no do not he told me", 4),
        # and the first word heard as several ones, behind silence, is not.
        ("nobody told me", "no do not he told me", 0),
        ("nobody told me", "no body told me", 0),
        ("nobody told me about", "no each old man out", 0),
        ("how far is it", "now a fire is it", 0),
        ("sorry what time", "story what time", 0),
        ("sorry what time", "", 0),
    ],
)
def test_a_word_is_extra_if_it_sounds_before_the_first_one(said: str, heard: str, extra: int) -> None:
    assert probes.extra_words(said.split(), heard.split(), said.split()) == extra
    assert probes.extra_words(said.split(), heard.split(), heard.split()) == 0  # it is there without an interruption


def test_an_error_rate_counts_mistaken_missed_and_added_words() -> None:
    errors = Errors()
    errors.count(["one", "two", "three", "four"], ["one", "too", "three", "four", "five"])
    errors.count(["six"], [])
    assert (errors.said, errors.wrong, errors.added, errors.rate) == (5, 2, 1, 60.0)
    assert Errors().rate is None


def test_numbers_are_compared_however_they_are_written() -> None:
    plain = Plain()
    assert plain("[S1] It's twenty-five.") == plain("it is 25")
    for heard in ("at 7.30", "at 7:30", "at 730", "at 7 30"):
        assert plain("At seven thirty.") == plain(heard) == ["at", "730"]
    assert plain("Twenty five dollars and fifty cents.") == plain("$25.50") != plain("$25.15")
    assert plain("seven two nine four") == plain("7-2-9-4") != plain("729 for")
    assert plain("at 4:30 on March 3.") == ["at", "430", "on", "march", "3"]


# ---- Sound ----


def test_silence_and_what_sounds_before_a_moment_are_measured() -> None:
    sound = np.concatenate([tone(0.1, 0.03), silence(0.2), tone(1.0), silence(0.4)])
    assert measures.silence_behind(sound) == pytest.approx(400, abs=10)
    assert measures.loudest_before(sound, 0.25) == pytest.approx(-20, abs=1)
    assert measures.loudest_before(sound[RATE // 8 :], 0.1) < -80
    assert measures.loudest_before(sound, 0.0) == -np.inf


def test_a_jump_between_frames_is_a_click_and_a_steady_wave_has_none() -> None:
    steady = tone(1.0)
    assert measures.border_clicks(steady) == 0
    broken = steady.copy()
    broken[5 * speaking.FRAME_SAMPLES :] *= -1
    broken[5 * speaking.FRAME_SAMPLES :] += 0.2
    assert measures.border_clicks(broken) == 1
    assert measures.is_click(broken, 5 * speaking.FRAME_SAMPLES)
    assert not measures.is_click(broken, 4 * speaking.FRAME_SAMPLES)


def test_samples_at_full_scale_are_counted() -> None:
    assert measures.clipped(np.array([0.0, 1.0, -1.0, 0.9], np.float32)) == 0.5


# ---- What was told ----


def word(text: str, start_ms: int, at: int) -> WordEvent:
    return WordEvent("text", text, "S1", start_ms, None, start_ms + 300, at, at + len(text))


def test_spoken_is_right_when_half_words_count_and_close_calls_may_go_either_way() -> None:
    placed = [(word("One", 0, 0), ClipWord("One", 0.0, 0.4)), (word("two", 400, 4), ClipWord("two", 0.4, 0.8))]

    def told(heard_ms: int, *heard: bool) -> Paused:
        places = zip(placed, heard, strict=True)
        words = [HeardWord("text", event.text_start or 0, event.text_end or 0, was) for (event, _), was in places]
        return Paused(heard_ms, "", "", tuple(words))

    assert probes.told_right(told(590, True, False), placed)
    assert not probes.told_right(told(590, True, True), placed)
    assert probes.told_right(told(590, True, True), placed, slack_ms=40)
    assert not probes.told_right(told(450, True, True), placed, slack_ms=40)
    assert not probes.told_right(told(790, False, True), placed, slack_ms=40)


def test_a_written_word_of_several_spoken_ones_is_heard_from_the_first_to_the_last() -> None:
    events = [WordEvent("a", "$5", "S1", 0, "five dollars", 800, 0, 2), word("now", 800, 3)]
    heard = [ClipWord("five", 0.1, 0.4), ClipWord("dollars", 0.4, 0.9), ClipWord("now", 0.9, 1.2)]
    assert probes.events_heard(events, heard) == [
        (events[0], ClipWord("$5", 0.1, 0.9)),
        (events[1], ClipWord("now", 0.9, 1.2)),
    ]
    assert probes.events_heard(events, heard[:2]) is None


# ---- Tasks ----


def test_tasks_are_all_different_and_a_number_of_them_is_the_beginning_of_more() -> None:
    cuts, said = material.interruptions(48), material.sentences(40)
    assert len(set(cuts)) == 48
    assert material.interruptions(8) == cuts[:8]
    assert len({one.task.text for one in said}) == 40
    assert {one.kind for one in said[:6]} == set(material.SENTENCES)
    assert {one.task.text[:4] for one in said} == {"[S1]", "[S2]"}


class ScriptedLine:
    """Answers as an engine does: a frame after each start or inject, and what commands ask for."""

    def __init__(self) -> None:
        self.commands: list[object] = []
        self._items: list[object] = []

    async def send(self, command: object) -> None:
        self.commands.append(command)
        if isinstance(command, Start):
            self._items += [tone(0.08)] * 10 + [Done("text", 800)]
        elif isinstance(command, Pause):
            self._items = [Paused(int(command.played_ms or 0), "One", "two")]
        elif isinstance(command, Inject):
            self._items += [tone(0.08)] * 2 + [Done(command.id or "", 960)]
        elif isinstance(command, Resume):
            self._items.append(Resumed())

    async def receive(self) -> object:
        return self._items.pop(0)


def test_an_interruption_pauses_where_the_listener_is_and_says_the_reply() -> None:
    line = ScriptedLine()
    task = speaking.Task("One two", 1, speaking.Interruption(250, "Sorry."))
    spoken = asyncio.run(speaking.converse(line, task))  # type: ignore[arg-type]
    assert [type(command) for command in line.commands] == [Start, Pause, Inject]
    assert (len(spoken.heard), spoken.cut, len(spoken.reply)) == (6000, 4 * 1920, 2 * 1920)


def test_pauses_are_asked_about_when_all_is_said() -> None:
    line = ScriptedLine()
    spoken = asyncio.run(speaking.converse(line, speaking.Task("One two", 1, pauses=(0.25, 0.5))))  # type: ignore[arg-type]
    assert [paused.heard_ms for paused in spoken.pauses] == [200, 400]


# ---- The report ----


def test_a_figure_passes_within_its_gate_and_fails_when_it_is_missing() -> None:
    assert report.Figure("a", "b", 5).passes
    assert report.Figure("a", "b", 5, most=5).passes
    assert not report.Figure("a", "b", 5.1, most=5).passes
    assert not report.Figure("a", "b", 4, least=5).passes
    assert not report.Figure("a", "b", None, most=5).passes
    assert not report.Figure("a", "b", float("nan"), most=5).passes
    written = report.as_json([report.Figure("a", "b", 5, "ms", most=4)], {"model": "m"})
    assert json.loads(json.dumps(written))["passes"] is False


def test_one_of_few_may_be_wrong_and_two_of_forty_eight() -> None:
    assert [probes.all_but(2, 48, count) for count in (8, 48, 96)] == [87.5, 100 * 46 / 48, 100 * 92 / 96]


def test_percentiles_leave_out_what_is_unknown() -> None:
    assert report.spread([1.0, None, 3.0, float("inf")], 50) == [2.0]
    assert report.spread([None], 50, 95) == [None, None]


@pytest.mark.slow
def test_greedy_tokens_of_another_python_are_compared_with_ours() -> None:
    """This project stands in for the published package: it has its names."""
    model = ModelOptions(model=str(ROOT / "tests" / "goldens" / "published-like" / "checkpoint"), device="cpu")
    figure = published.compare_tokens(sys.executable, model)
    assert (figure.value, figure.passes) == (100.0, True)
    with pytest.raises(RuntimeError, match="could not generate with its dia2"):
        published.compare_tokens(sys.executable, ModelOptions(model="/nowhere/at/all", device="cpu"))
