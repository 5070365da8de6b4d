"""Simulated machines behind a proxy, and the program that holds the same calls with real servers."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tools import needs

from dia2stream.bench.load.script import PlannedCall, Turn, planned_calls
from dia2stream.bench.simulate.machine import Cores, Settings
from dia2stream.bench.simulate.replicas import hold
from dia2stream.engine.costs import H100

SCRIPT = Path(__file__).parent.parent / "scripts" / "check-simulator"
TALK = (Turn("a" * 75, None, 1.0),)  # some five seconds, and as long for the answer


def at(*moments: float) -> list[PlannedCall]:
    return [PlannedCall(moment, TALK) for moment in moments]


def test_every_call_has_all_its_turns_at_one_of_the_machines() -> None:
    calls = planned_calls(4.0, 60.0, turns=2.5, seed=1)
    point = hold(calls, [H100] * 3, Settings(slots=64))
    assert (point["calls"], point["refused"], point["failed"]) == (len(calls), {}, {})
    assert point["first_audio_ms"]["count"] == sum(len(call.turns) for call in calls)
    assert point["continuity"] == 1.0
    assert 30 < point["most_at_once"] < 192


def test_calls_beyond_the_slots_of_all_machines_are_refused_and_others_come_when_one_has_ended() -> None:
    point = hold(at(0.0, 0.1, 0.2, 0.3, 0.4, 30.0), [H100] * 2, Settings(slots=2))
    assert (point["refused"], point["most_at_once"]) == ({"busy": 1}, 4)


def test_a_call_goes_to_the_machine_with_the_fewest() -> None:
    exact = Settings(slots=4, jitter=0.0)
    alone, spread, crowded = (
        hold(calls, [H100] * machines, exact)["first_audio_ms"]["max"]
        for calls, machines in ((at(1.0), 1), (at(1.0, 1.02), 2), (at(1.0, 1.02), 1))
    )
    assert spread == pytest.approx(alone, abs=0.01)
    assert crowded > 1.1 * alone


def test_what_more_machines_want_than_there_are_cores_takes_longer() -> None:
    exact, calls = Settings(slots=4, jitter=0.0), at(1.0, 1.001, 1.002)
    own, enough, few = (
        hold(calls, [H100] * 3, exact, cores=cores)["first_audio_ms"] for cores in (None, Cores(3), Cores(1))
    )
    assert enough == own
    assert few["p50"] > 2 * own["p50"]


def test_a_step_takes_as_many_times_longer_as_there_is_more_to_do_than_cores() -> None:
    cores = Cores(2, besides=0.5)
    assert [cores.work(0.0, 1.0, frames=0) for _ in range(3)] == [1.0, 1.0, 1.5]
    assert cores.work(1.2, 1.0, frames=2) == 1.0  # two: the third one is still under way
    assert cores.work(2.5, 1.0, frames=0) == 1.0  # two: this one, and the event loop for one second
    assert cores.work(2.6, 1.0, frames=0) == 1.5
    assert cores.work(5.0, 1.0, frames=0) == 1.0


def test_a_model_that_speaks_slowly_keeps_its_slots_for_longer() -> None:
    calls = planned_calls(1.0, 60.0, turns=2.0, seed=1)
    refused = [hold(calls, [H100], Settings(slots=20), pace)["refused"].get("busy", 0) for pace in (0.5, 1.5)]
    assert refused[0] < refused[1]


def test_the_same_seed_gives_the_same_calls() -> None:
    calls = planned_calls(2.0, 30.0, turns=2.0, seed=1)
    points = [hold(calls, [H100] * 2, Settings(slots=20), seed=seed) for seed in (1, 1, 2)]
    assert points[0] == points[1] != points[2]


@needs("haproxy")
@pytest.mark.slow
def test_real_servers_and_simulated_ones_are_held_to_the_same_calls(tmp_path: Path) -> None:
    file = tmp_path / "both.json"
    held = ["--servers", "2", "--slots", "2", "--rate", "0.5", "--seconds", "20", "--turns", "1.5"]
    done = subprocess.run([sys.executable, str(SCRIPT), *held, "--json", str(file)], timeout=240)
    assert done.returncode == 0
    found = json.loads(file.read_text())
    real, simulated = found["real"], found["simulated"]
    assert real["calls"] == simulated["calls"] > 5
    assert real["failed"] == simulated["failed"] == {}
    assert real["most_at_once"] <= 4
    assert {costs["name"] for costs in found["costs"]} == {"random:tiny on cpu"}
    assert found["slower"] > 0
    assert 0 < found["besides"] < 0.2
    assert 0 < found["on_the_way"] < 1
    for point in (real, simulated, found["shared"]):
        assert point["first_audio_ms"]["p50"] > 0
