"""`bench --calls`: arrivals, scripts, playback, statistics and the search alone, and whole loads in simulated time."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated import simulate

from dia2stream.bench.load.arrivals import poisson_arrivals, spread_arrivals
from dia2stream.bench.load.clients import CallClient
from dia2stream.bench.load.driver import Load, Target, measure, measure_planned
from dia2stream.bench.load.listener import Listener
from dia2stream.bench.load.playback import PlaybackClock
from dia2stream.bench.load.results import CallRecord, Usage, holds, summarize
from dia2stream.bench.load.script import PlannedCall, model_pieces, phone_turns, planned_calls
from dia2stream.bench.load.search import highest_load
from dia2stream.bench.load.sentences import SENTENCES
from dia2stream.errors import CommandError, EngineError
from dia2stream.protocol.messages import (
    Command,
    Done,
    Error,
    Event,
    FirstAudio,
    Inject,
    Pause,
    Paused,
    Reset,
    ResetDone,
    Start,
)

FRAME = 0.08


# ---- Arrivals ----


def test_arrivals_come_at_their_rate_and_each_by_itself() -> None:
    arrivals = poisson_arrivals(20.0, 1000.0, Random(1))
    assert arrivals == sorted(arrivals)
    assert 0 <= arrivals[0] <= arrivals[-1] < 1000
    assert len(arrivals) == pytest.approx(20_000, rel=0.03)
    gaps = [b - a for a, b in itertools.pairwise(arrivals)]
    # Exponential gaps: a share of 1/e is longer than the mean, and their deviation is the mean.
    assert sum(gap > 0.05 for gap in gaps) / len(gaps) == pytest.approx(0.368, abs=0.02)
    assert poisson_arrivals(20.0, 1000.0, Random(1)) == arrivals


def test_planned_calls_come_at_random_and_have_the_turns_of_phone_calls() -> None:
    calls = planned_calls(2.0, 500.0, turns=3.0, seed=1)
    assert len(calls) == pytest.approx(1000, rel=0.1)
    assert [call.at for call in calls] == sorted(call.at for call in calls)
    assert min(len(call.turns) for call in calls) == 1
    assert sum(len(call.turns) for call in calls) / len(calls) == pytest.approx(3.0, rel=0.1)
    assert len({call.turns for call in calls}) == len(calls)
    assert planned_calls(2.0, 500.0, turns=3.0, seed=1) == calls
    assert {len(call.turns) for call in planned_calls(2.0, 20.0, turns=1.0, seed=1)} == {1}


@given(st.integers(1, 300), st.floats(0.1, 100), st.integers(0, 99))
def test_spread_arrivals_are_so_many_and_even(count: int, seconds: float, seed: int) -> None:
    arrivals = spread_arrivals(count, seconds, Random(seed))
    assert len(arrivals) == count
    for number, at in enumerate(arrivals):
        assert number * seconds / count <= at <= (number + 1) * seconds / count


# ---- Scripts ----


def test_sentences_are_different_and_about_as_long_as_five_seconds_of_speech() -> None:
    assert len(set(SENTENCES)) == len(SENTENCES) >= 40
    counts = [len(sentence.split()) for sentence in SENTENCES]
    assert min(counts) >= 12
    assert max(counts) <= 19


def test_phone_turns_repeat_with_their_seed_and_hold_interruptions() -> None:
    turns = list(itertools.islice(phone_turns(Random(3)), 500))
    assert turns == list(itertools.islice(phone_turns(Random(3)), 500))
    interrupted = [turn for turn in turns if turn.barge_in is not None]
    assert len(interrupted) / len(turns) == pytest.approx(0.2, abs=0.06)
    assert sum(turn.reply for turn in turns) / len(turns) == pytest.approx(1.0, abs=0.05)


@given(st.text(max_size=200))
def test_pieces_of_a_text_are_all_of_it_in_order(text: str) -> None:
    pieces = model_pieces(text)
    assert "".join(piece.text for piece in pieces) == text
    assert [piece.at for piece in pieces] == sorted(piece.at for piece in pieces)


# ---- Playback ----


def test_a_listener_who_gets_every_frame_in_time_hears_no_gap() -> None:
    clock = PlaybackClock()
    for number in range(50):
        clock.receive(10 + number * FRAME, FRAME)
    assert (clock.late, clock.worst_underrun) == (0, 0.0)
    assert clock.played(10 + 1.0) == pytest.approx(1.0)
    assert clock.left(10 + 1.0) == pytest.approx(3.0)
    assert clock.played(99.0) == clock.received == pytest.approx(4.0)


def test_a_late_frame_is_an_underrun_and_moves_all_that_follow() -> None:
    clock = PlaybackClock()
    clock.receive(0.0, FRAME)
    clock.receive(0.18, FRAME)  # 100 ms late
    clock.receive(0.26, FRAME)  # in time for a listener who was held up
    clock.receive(0.37, FRAME)  # 30 ms late
    assert clock.late == 2
    assert clock.worst_underrun == pytest.approx(0.1)
    assert clock.played(0.40) == pytest.approx(0.27)


def test_frames_that_came_early_make_up_for_late_ones() -> None:
    clock = PlaybackClock()
    for _ in range(10):
        clock.receive(0.0, FRAME)
    clock.receive(0.8, FRAME)
    assert clock.late == 0
    clock.receive(0.9, FRAME)
    assert (clock.late, clock.worst_underrun) == (1, pytest.approx(0.02))


def test_silence_between_turns_is_no_underrun() -> None:
    clock = PlaybackClock()
    clock.receive(0.0, FRAME)
    clock.begin()
    assert clock.played(5.0) == clock.left(5.0) == 0.0
    clock.receive(5.0, FRAME)
    assert clock.late == 0


def test_a_listener_who_waits_with_the_first_sample_bears_that_much() -> None:
    clock = PlaybackClock(start_lead=0.1)
    clock.receive(0.0, FRAME)
    assert clock.played(0.1) == pytest.approx(0.0)
    clock.receive(0.18, FRAME)
    assert clock.late == 0


@given(st.lists(st.floats(0, 0.5), min_size=1, max_size=50))
def test_the_sum_of_underruns_is_what_playback_is_behind(gaps: list[float]) -> None:
    clock, now, stalls, plays_until = PlaybackClock(), 0.0, [], None
    for gap in gaps:
        now += gap
        if plays_until is not None and now > plays_until + 1 / 24000:
            stalls.append(now - plays_until)
        plays_until = FRAME + (now if plays_until is None else max(now, plays_until))
        clock.receive(now, FRAME)
    assert clock.worst_underrun == pytest.approx(max(stalls, default=0.0))
    assert clock.late == len(stalls)


# ---- Statistics ----


def test_a_point_tells_what_became_of_all_calls() -> None:
    records = [
        CallRecord(first=[0.03, 0.05], pauses=[0.002], connect=0.001, frames=60, late=1, worst_underrun=0.09),
        CallRecord(first=[0.04], connect=0.001, frames=40, late=3, worst_underrun=0.2),
        CallRecord(connect=0.001, problem="internal"),
        CallRecord(problem="busy", refused=True),
    ]
    usage = Usage(steps=100, rows=200, frames=100, step_seconds=1.0, device_seconds=0.8)
    point = summarize(records, 2.0, 90, usage)
    assert (point["calls"], point["refused"], point["failed"]) == (4, {"busy": 1}, {"internal": 1})
    assert (point["first_audio_ms"]["count"], point["first_audio_ms"]["p50"]) == (3, 40.0)
    assert point["first_audio_ms"]["p95"] == point["first_audio_ms"]["max"] == 50.0
    assert point["continuity"] == pytest.approx(1 / 3, abs=1e-6)
    assert (point["worst_underrun_ms"], point["late_frames"], point["frames_per_s"]) == (200.0, 4, 45.0)
    assert point["engine"] == {
        "device_share": 0.4,
        "host_share": 0.1,
        "steps_per_s": 50.0,
        "rows_per_step": 2.0,
        "host_us_per_row": 1000.0,
        "host_us_per_frame": 2000.0,
    }


def test_a_load_holds_only_if_all_is_well() -> None:
    good = summarize([CallRecord(first=[0.05], frames=1)], 1.0, 1, None)
    assert holds(good, 50.0)
    assert not holds(good, 49.9)
    assert not holds(summarize([], 1.0, 0, None), 50.0)
    for bad in (
        CallRecord(first=[0.05], frames=1, worst_underrun=0.11),
        CallRecord(problem="busy", refused=True),
        CallRecord(problem="internal"),
    ):
        assert not holds(summarize([CallRecord(first=[0.05], frames=1), bad], 1.0, 1, None), 50.0)


# ---- The search ----


@given(st.integers(0, 400), st.integers(1, 300), st.integers(1, 256))
def test_the_search_finds_the_highest_whole_load_that_holds(limit: int, start: int, most: int) -> None:
    measured: list[float] = []

    def measure(load: float) -> bool:
        measured.append(load)
        return load <= limit

    found = highest_load(measure, float(start), float(most), whole=True)
    assert len(measured) == len(set(measured)) <= 24
    assert all(load == round(load) and 1 <= load <= most for load in measured)
    reach = min(limit, most)
    assert found is None if reach == 0 else found is not None and reach / 1.05 - 1 <= found <= reach


@given(st.floats(0, 60), st.floats(0.1, 30))
def test_the_search_finds_a_rate_within_5_percent(limit: float, start: float) -> None:
    found = highest_load(lambda rate: rate <= limit, start, 40.0, whole=False)
    if limit < 0.1:
        assert found is None
    else:
        assert found is not None
        assert min(limit, 40.0) * 0.94 - 0.02 <= found <= limit


# ---- Loads, in simulated time ----


@dataclass
class Speaker:
    """What a made-up engine does: first audio after `first` seconds, then frames every `pace`; it holds `slots`."""

    slots: int = 1000
    first: float = 0.04
    pace: float = 0.06
    frames: int = 30  # of an utterance
    breaks_after: int | None = None  # frames of a call
    taken: int = 0
    commands: list[list[Command]] = field(default_factory=list)

    async def connect(self) -> "MadeUpCall":
        if self.taken >= self.slots:
            raise CommandError("busy", "full")
        self.taken += 1
        self.commands.append([])
        return MadeUpCall(self, self.commands[-1])


class MadeUpCall:
    """A conversation with it, at most 3 s ahead of a listener who plays from the first sample."""

    def __init__(self, speaker: Speaker, commands: list[Command]) -> None:
        self.speaker, self.commands = speaker, commands
        self.out: asyncio.Queue[Event | float] = asyncio.Queue()
        self.turn: asyncio.Task[None] | None = None
        self.queued: asyncio.Queue[str] = asyncio.Queue()
        self.texts: dict[str, str] = {}  # by utterance, as far as it has come
        self.total = 0

    async def send(self, command: Command) -> None:
        self.commands.append(command)
        if isinstance(command, Pause):
            self._stop()
            self.out.put_nowait(Paused(0, "", ""))
        elif isinstance(command, Reset):
            self._stop()
            self.out.put_nowait(ResetDone())
        elif isinstance(command, Start | Inject):
            if isinstance(command, Start):
                self._stop()
            self._read(command.id or "", command.text, command.final)
            if self.turn is None or self.turn.done():
                self.turn = asyncio.create_task(self._speak())

    def _read(self, id: str, text: str, final: bool) -> None:
        """An utterance is spoken when three of its words are known, or all of them."""
        before, self.texts[id] = self.texts.get(id, ""), self.texts.get(id, "") + text
        if not self._can_begin(before) and (final or self._can_begin(self.texts[id])):
            self.queued.put_nowait(id)

    @staticmethod
    def _can_begin(text: str) -> bool:
        return len(text.removeprefix("[S1] ").split(" ")) > 3

    def _stop(self) -> None:
        if self.turn is not None:
            self.turn.cancel()
        self.turn, self.queued, self.texts = None, asyncio.Queue(), {}

    async def _speak(self) -> None:
        asked = asyncio.get_running_loop().time()
        id = await self.queued.get()
        waited = asyncio.get_running_loop().time() - asked
        await asyncio.sleep(self.speaker.first)
        self.out.put_nowait(FirstAudio(id, 1000 * (waited + self.speaker.first), 1000 * waited))
        while True:
            for _ in range(self.speaker.frames):
                self.out.put_nowait(FRAME)
                self.total += 1
                if self.total == self.speaker.breaks_after:
                    self.out.put_nowait(Error("internal", "it broke"))
                await asyncio.sleep(self.speaker.pace)
            self.out.put_nowait(Done(id, 0))
            if self.queued.empty():
                return
            id = self.queued.get_nowait()

    async def received(self) -> AsyncIterator[Event | float]:
        while True:
            yield await self.out.get()

    async def close(self) -> None:
        self._stop()
        self.speaker.taken -= 1


def point_of(load: Load, speaker: Speaker, take_usage: Callable[[], Usage] | None = None) -> dict[str, Any]:
    return simulate(measure(load, Target(speaker.connect, Start, take_usage)))


def test_an_open_loop_sends_its_requests_whatever_becomes_of_them() -> None:
    speaker = Speaker()
    point = point_of(Load("rate", 5.0, 100.0), speaker)
    assert point["calls"] == len(speaker.commands) == pytest.approx(500, rel=0.15)
    assert {type(command) for commands in speaker.commands for command in commands} == {Start}
    first = point["first_audio_ms"]
    assert (first["count"], first["p50"], first["max"]) == (point["calls"], pytest.approx(40), pytest.approx(40))
    assert (point["continuity"], point["late_frames"], point["refused"]) == (1.0, 0, {})
    # 30 frames at 60 ms take 1.8 s: about 9 requests are open at once, seldom over 20.
    assert 10 < point["most_at_once"] < 30
    assert point["frames_per_s"] == pytest.approx(150, rel=0.15)
    assert speaker.taken == 0


def test_what_finds_no_slot_is_refused_and_not_waited_for() -> None:
    point = point_of(Load("rate", 5.0, 100.0), Speaker(slots=5))
    assert point["most_at_once"] == 5
    assert 100 < point["refused"]["busy"] < point["calls"]
    assert point["first_audio_ms"]["count"] == point["calls"] - point["refused"]["busy"]
    assert point["continuity"] == 1.0


def test_frames_that_come_too_slowly_break_every_calls_continuity() -> None:
    point = point_of(Load("rate", 2.0, 20.0), Speaker(pace=0.2))
    assert point["continuity"] == 0.0
    assert point["worst_underrun_ms"] == pytest.approx(120)
    point = point_of(Load("rate", 2.0, 20.0, start_lead=4.0), Speaker(pace=0.2))
    assert (point["continuity"], point["late_frames"]) == (1.0, 0)


def test_an_engine_that_never_answers_fails_its_calls() -> None:
    point = point_of(Load("rate", 1.0, 5.0), Speaker(first=1e6))
    assert point["failed"] == {"broken": point["calls"]}
    assert point["first_audio_ms"] is None
    point = point_of(Load("rate", 1.0, 5.0), Speaker(pace=1e5))
    assert point["failed"] == {"broken": point["calls"]}
    assert point["continuity"] == 0.0


def test_phone_calls_take_turns_and_the_agent_speaks_about_half_of_the_time() -> None:
    speaker = Speaker(frames=62)
    point = point_of(Load("phone", 20, 120.0), speaker)
    assert (point["calls"], point["most_at_once"], point["failed"]) == (20, 20, {})
    assert point["first_audio_ms"]["p50"] == pytest.approx(40, abs=0.1)
    assert point["first_audio_ms"]["max"] == pytest.approx(40, abs=0.1)
    assert point["first_heard_ms"]["p50"] > 80  # a language model needs as long for three words
    spoken = point["frames_per_s"] * FRAME / 20
    assert 0.35 < spoken < 0.65
    assert point["pause_ms"]["count"] > 10
    assert point["continuity"] == 1.0
    for commands in speaker.commands:
        kinds = [type(command) for command in commands]
        assert kinds.count(Start) == 1
        assert kinds[0] is Start


def test_a_caller_interrupts_where_the_listener_is_and_the_next_turn_follows() -> None:
    speaker = Speaker(frames=100)
    point_of(Load("phone", 1, 300.0), speaker)
    [commands] = speaker.commands
    pauses = [number for number, command in enumerate(commands) if isinstance(command, Pause)]
    assert pauses
    for number in pauses:
        before = commands[number - 1]
        after = commands[number + 1] if number + 1 < len(commands) else None
        assert isinstance(before, Start | Inject)
        if after is not None:
            assert isinstance(after, Inject)
            assert after.id == str(int(before.id or "") + 1)


def test_of_a_crowd_only_the_starter_is_timed() -> None:
    speaker = Speaker()
    usage = [Usage(1, 1, 1, 9.0, 9.0), Usage(100, 400, 300, 3.0, 2.0)]
    point = point_of(Load("crowd", 8, 60.0), speaker, lambda: usage.pop(0))
    assert point["calls"] == 8
    assert point["first_audio_ms"]["p50"] == pytest.approx(40)
    # A start takes 40 ms and is followed by 0.2 to 0.6 s of silence.
    assert point["first_audio_ms"]["count"] == pytest.approx(60 / 0.44, rel=0.1)
    assert [sum(isinstance(c, Start) for c in commands) == 1 for commands in speaker.commands].count(True) == 7
    assert point["engine"]["device_share"] == pytest.approx(2 / 60, abs=1e-3)


def test_a_monologue_never_falls_silent() -> None:
    speaker = Speaker(pace=FRAME)
    point = point_of(Load("crowd", 2, 60.0), speaker)
    assert point["frames_per_s"] == pytest.approx(12.5, rel=0.2)
    assert point["late_frames"] == 0


def test_a_call_that_breaks_is_told_by_its_code_and_hurts_no_other() -> None:
    point = point_of(Load("phone", 3, 30.0), Speaker(breaks_after=50))
    assert point["failed"] == {"internal": 3}
    assert point["continuity"] == 0.0

    async def refuse() -> Any:
        raise EngineError("no server")

    point = simulate(measure(Load("phone", 3, 5.0), Target(refuse, Start)))
    assert (point["failed"], point["most_at_once"]) == ({"broken": 3}, 0)


def test_the_same_seed_holds_the_same_load() -> None:
    points = [point_of(Load("phone", 5, 60.0, seed=seed), Speaker()) for seed in (1, 1, 2)]
    assert points[0] == points[1] != points[2]


def test_planned_calls_come_at_their_moments_have_all_their_turns_and_end() -> None:
    speaker = Speaker(first=0.05)
    calls = planned_calls(0.5, 100.0, turns=2.0, seed=3)
    point = simulate(measure_planned(calls, Target(speaker.connect, Start)))
    assert point["calls"] == len(calls) == len(speaker.commands)
    assert (point["refused"], point["failed"], speaker.taken) == ({}, {}, 0)
    assert point["first_audio_ms"]["count"] == sum(len(call.turns) for call in calls)
    assert point["first_audio_ms"]["p95"] == pytest.approx(50, abs=1)


def test_planned_calls_for_which_there_is_no_slot_are_refused() -> None:
    turns = planned_calls(1.0, 100.0, turns=1.0, seed=3)[0].turns
    calls = [PlannedCall(at, turns) for at in (0.0, 0.5, 60.0)]
    point = simulate(measure_planned(calls, Target(Speaker(slots=1).connect, Start)))
    assert (point["calls"], point["refused"]) == (3, {"busy": 1})


# ---- The listener ----


class OneEvent:
    """A client to which one event comes, when it is told so."""

    def __init__(self) -> None:
        self.comes = asyncio.Event()

    async def received(self) -> AsyncIterator[Event | float]:
        await self.comes.wait()
        yield Paused(0, "", "")
        await asyncio.Event().wait()


@pytest.mark.parametrize("turns", range(8))
def test_a_call_that_waits_can_be_cancelled_at_any_moment_also_when_something_comes(turns: int) -> None:
    async def cancelled() -> bool:
        client = OneEvent()
        listener = Listener(cast(CallClient, client), CallRecord())
        receiving = asyncio.create_task(listener.receive())
        waiting = asyncio.create_task(listener.until(lambda: False, timeout=10.0))
        await asyncio.sleep(1.0)
        client.comes.set()
        for _ in range(turns):  # of the loop
            await asyncio.sleep(0)
        waiting.cancel()
        receiving.cancel()
        return (await asyncio.wait([waiting], timeout=1.0))[0] == {waiting} and waiting.cancelled()

    assert simulate(cancelled())


def test_a_call_waits_no_longer_than_it_has_patience() -> None:
    async def waited() -> tuple[bool, float]:
        listener = Listener(cast(CallClient, OneEvent()), CallRecord())
        found = await listener.until(lambda: False, timeout=10.0)
        return found, asyncio.get_running_loop().time()

    assert simulate(waited()) == (False, 10.0)
