"""The simulator: what the scheduler is meant to hold on an H100, the admission's estimate, and the command."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from math import inf
from pathlib import Path
from random import Random
from typing import Any

import pytest

from dia2stream.bench.load.results import milliseconds
from dia2stream.bench.simulate.loads import Arrival, Crowd, Load, PhoneCalls, Requests, Say, Script, Silence
from dia2stream.bench.simulate.machine import Outcome, Settings, SimulatedMachine
from dia2stream.bench.simulate.run import read_curve
from dia2stream.engine.admission import Admission, need
from dia2stream.engine.admission import Load as Behaviour
from dia2stream.engine.costs import H100, CostCurve
from dia2stream.engine.scheduler import Kind
from dia2stream.errors import Dia2StreamError

HALF_A_SECOND = Settings(max_lead=0.5)


def simulate(load: Load, seconds: float = 30.0, costs: CostCurve = H100, **options: Any) -> Outcome:
    return SimulatedMachine(load, costs, **options).run(seconds)


def first_audio(outcome: Outcome) -> dict[str, float]:
    figures = outcome.point["first_audio_ms"]
    assert figures is not None
    return figures  # type: ignore[no-any-return]


# ---- What one H100 is to hold, as issue 13 has it ----


@pytest.mark.parametrize(("calls", "p50", "p95", "worst"), [(33, 42, 55, 90), (65, 45, 60, 90), (129, 90, 100, 150)])
def test_a_starter_among_calls_that_speak_without_pause(calls, p50, p95, worst):
    outcome = simulate(Crowd(calls), 60.0, settings=HALF_A_SECOND)
    figures = first_audio(outcome)
    assert figures["p50"] <= p50
    assert figures["p95"] <= p95
    assert figures["max"] <= worst
    assert outcome.point["late_frames"] == 0
    assert outcome.point["frames_per_s"] >= 12.5 * (calls - 1)


@pytest.mark.slow
def test_64_calls_speak_for_five_minutes_without_a_late_frame():
    outcome = simulate(Crowd(65), 300.0, settings=HALF_A_SECOND)
    assert outcome.point["late_frames"] == 0
    assert first_audio(outcome)["max"] <= 90


def test_128_phone_calls_with_barge_ins():
    outcome = simulate(PhoneCalls(128))
    assert first_audio(outcome)["p95"] <= 80
    assert outcome.point["continuity"] == 1.0
    assert outcome.wasted > 0


@pytest.mark.parametrize(("rate", "p95"), [(2, 55), (10, 60), (20, 90)])
def test_requests_that_come_at_random(rate, p95):
    outcome = simulate(Requests(rate))
    assert first_audio(outcome)["p95"] <= p95
    assert outcome.point["late_frames"] == 0


def test_a_stall_of_20_ms_each_second_is_not_heard():
    outcome = simulate(Crowd(65), settings=Settings(max_lead=0.5, stall_each=1.0, stall=0.02))
    assert outcome.point["worst_underrun_ms"] <= 20
    assert outcome.point["continuity"] == 1.0


# ---- The model ----


def test_one_call_alone_takes_its_lead_in_its_frame_and_the_way_to_the_listener():
    outcome = simulate(Crowd(1), settings=Settings(jitter=0.0))
    takes = 17 * H100.lead_in(1, 1) + H100.frame(1, 1) + 0.0005
    assert first_audio(outcome)["max"] == pytest.approx(1000 * takes, abs=0.01)


def test_a_lead_in_by_trees_takes_about_three_of_them():
    outcome = simulate(Crowd(1), settings=Settings(jitter=0.0), costs=replace(H100, trees=((1, 0.002),)))
    per_start = outcome.batches[Kind.LEAD_IN, 1] / len(outcome.records[0].first)
    assert 3 <= per_start < 4.5
    rest = (H100.frame(1, 1) + 0.0005, 0.002 + H100.turn + H100.host)
    assert 1000 * (rest[0] + 2 * rest[1]) < first_audio(outcome)["p50"] < 1000 * (rest[0] + 5 * rest[1])


def test_the_same_seed_gives_the_same_outcome():
    first, again, other = (simulate(PhoneCalls(20), 10.0, seed=seed) for seed in (1, 1, 2))
    assert first.point == again.point
    assert first.point != other.point


def test_a_machine_that_is_too_slow_for_its_callers_is_heard_to_be():
    outcome = simulate(Crowd(600), 10.0, settings=Settings(slots=600))
    assert outcome.point["late_frames"] > 0.9 * outcome.frames  # each by some 20 ms
    assert outcome.busy / 10.0 > 0.99


def test_calls_beyond_the_slots_are_refused():
    outcome = simulate(PhoneCalls(10), 5.0, settings=Settings(slots=8))
    assert outcome.most_at_once == 8


def test_contexts_that_fill_up_are_rebuilt_without_a_late_frame():
    outcome = simulate(Crowd(9), 130.0, settings=HALF_A_SECOND)
    assert outcome.rebuilt >= 8
    assert outcome.point["late_frames"] == 0


def test_what_the_caller_says_is_run_while_it_is_said():
    heard, deaf = (simulate(PhoneCalls(8, turn=4.0, listens=listens), seed=3) for listens in (True, False))
    assert heard.batches[Kind.PASS, 1] > 50
    assert heard.batches[Kind.PASS, 1] > deaf.batches[Kind.PASS, 1]
    assert first_audio(heard)["p50"] < first_audio(deaf)["p50"] + 30


class OneCall:
    """A load of one call, for looking at what happens to it."""

    def __init__(self, *actions: Say | Silence) -> None:
        self.actions = actions

    def arrivals(self, random: Random) -> Iterator[Arrival]:
        def script() -> Script:
            yield from self.actions

        yield Arrival(1.0, script())


def test_a_listener_who_interrupts_hears_as_much_as_was_said_until_then():
    call = OneCall(Say(100, heard=1.0), Silence(0.5), Say(10))
    outcome = SimulatedMachine(call, H100).run(20.0, warm_up=0.0)
    (record,) = outcome.records
    assert len(record.first) == 2
    assert record.frames == outcome.frames
    assert outcome.wasted == pytest.approx(62, abs=2)  # five seconds: what is sent ahead, and what the outbox holds


def test_the_texts_of_bench_are_as_long_as_its_calls_speak():
    arrivals = list(islice(Requests(1.0).arrivals(Random(0)), 200))
    said = [action.frames for arrival in arrivals for action in arrival.script if isinstance(action, Say)]
    assert sum(said) / len(said) == pytest.approx(62 + 6, rel=0.05)
    assert arrivals[-1].at == pytest.approx(200, rel=0.3)


def test_phone_turns_last_as_long_as_is_asked_for():
    (arrival,) = PhoneCalls(1, turn=2.5).arrivals(Random(4))
    actions = list(islice(arrival.script, 600))
    spoken = [min((a.frames - 6) * 0.08, a.heard) for a in actions if isinstance(a, Say)]
    silent = [a.seconds for a in actions if isinstance(a, Silence)]
    assert sum(spoken) / len(spoken) == pytest.approx(2.4, abs=0.3)
    assert sum(silent) / len(silent) == pytest.approx(2.4, abs=0.3)
    assert 0.1 < sum(a.heard < inf for a in actions if isinstance(a, Say)) / len(spoken) < 0.3


# ---- The admission ----


@pytest.mark.parametrize(
    ("load", "conversations", "behaviour"),
    [
        (PhoneCalls(32, turn=2.5), 32, Behaviour(0.5, 2.5)),
        (PhoneCalls(128, turn=2.5), 128, Behaviour(0.5, 2.5)),
        (Requests(10), 50, Behaviour(1.0, 5.0)),
        (Requests(20), 100, Behaviour(1.0, 5.0)),
    ],
)
def test_the_admissions_estimate_is_near_what_happens(load, conversations, behaviour):
    waits = [value for seed in range(2) for record in simulate(load, seed=seed).records for value in record.first]
    estimate = 1000 * need(H100, conversations, behaviour).first_audio
    figures = milliseconds(waits)
    assert figures is not None
    assert estimate == pytest.approx(figures["p95"], rel=2 / 5)


def test_with_admission_more_callers_than_can_be_served_are_refused_and_the_others_are_served_well():
    rush = PhoneCalls(400, turn=2.5)
    slots = Settings(slots=400)
    served = simulate(rush, settings=slots, admission=Admission(H100, slots=400))
    flooded = simulate(rush, settings=slots)
    assert first_audio(served)["p95"] <= 130
    assert served.point["continuity"] == 1.0
    assert 100 <= served.most_at_once <= 200
    assert first_audio(flooded)["p95"] > 250


# ---- The command ----


def test_a_curve_can_be_written_and_read_again(tmp_path):
    file = tmp_path / "card.json"
    file.write_text(H100.dump(), encoding="utf-8")
    assert read_curve(str(file)) == H100
    assert read_curve("h100") == H100


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": "x", "backbone": {"1": "fast"}}'])
def test_a_file_that_is_no_curve_is_refused_in_one_line(tmp_path, text):
    file = tmp_path / "card.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(Dia2StreamError, match=r"--simulate: .*card\.json is no cost curve: "):
        read_curve(str(file))


def test_a_curve_that_is_not_there_is_refused_with_the_names_that_there_are():
    with pytest.raises(Dia2StreamError, match="takes h100 or a cost curve's file, not 'a100'"):
        read_curve("a100")


def test_bench_simulates_loads_and_reports_them_as_if_measured(tmp_path):
    report, picture = tmp_path / "calls.json", tmp_path / "calls.png"
    command = ["bench", "--calls", "8,16", "--seconds", "5", "--simulate", "h100", "--max-first-ms", "90"]
    files = ["--json", str(report), "--plot", str(picture)]
    done = subprocess.run(
        [sys.executable, "-m", "dia2stream", *command, *files], cwd=Path(__file__).parent.parent, timeout=120
    )
    assert done.returncode == 0
    calls = json.loads(report.read_text(encoding="utf-8"))["calls"]
    assert [point["load"] for point in calls["points"]] == [8, 16]
    assert calls["points"][1]["most_at_once"] == 16
    assert calls["costs"]["name"] == H100.name
    assert picture.stat().st_size > 1000
