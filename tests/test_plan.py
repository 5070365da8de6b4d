"""A day of calls on many machines: arrivals, replicas that come and go, first audio, shared parts, the command."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dia2stream.bench.simulate.day import BUSINESS_HOURS, DAY, HOUR, Day
from dia2stream.bench.simulate.fleet import ColdStart, DayOutcome, Fleet, Operations
from dia2stream.bench.simulate.plan import first_audio, first_audio_by_calls, parts
from dia2stream.engine.admission import Load
from dia2stream.engine.costs import H100
from dia2stream.options import PlanOptions

QUIET = Operations(slots=100, days_between_deaths=1e9, loss_hour=None, rollout_hour=None)


def live(calls: float, operations: Operations = QUIET, seed: int = 0, **day: float) -> DayOutcome:
    return Fleet(Day(calls, **day), operations, seed).run()  # type: ignore[arg-type]


# ---- Calls ----


def test_a_day_has_as_many_calls_as_it_is_said_to_have():
    calls = list(Day(20_000, 120.0).arrivals(0.0, DAY, seed=1))
    assert len(calls) == pytest.approx(20_000, rel=0.03)
    assert sum(seconds for _, seconds in calls) / len(calls) == pytest.approx(120, rel=0.05)
    assert [at for at, _ in calls] == sorted(at for at, _ in calls)
    assert all(0 <= at < DAY for at, _ in calls)


def test_calls_come_as_the_hours_say_without_a_jump_between_hours():
    day = Day(1000)
    ten, three = day.rate(10.5 * HOUR), day.rate(3.5 * HOUR)
    assert ten / three == pytest.approx(BUSINESS_HOURS[10] / BUSINESS_HOURS[3])
    assert day.rate(8 * HOUR - 1) == pytest.approx(day.rate(8 * HOUR + 1), rel=0.01)
    assert day.rate(-HOUR / 2) == day.rate(DAY - HOUR / 2)


@pytest.mark.parametrize("hours", [(1.0,) * 23, (0.0,) * 24, (-1.0, *(1.0,) * 23)])
def test_hours_that_are_no_day_are_refused(hours):
    with pytest.raises(ValueError, match="a day has 24"):
        Day(100, hours=hours)


# ---- Replicas ----


def test_every_call_is_served_or_refused_and_costs_gpu_time():
    outcome = live(5000)
    arrived = outcome.served + sum(outcome.refused.values())
    assert arrived == pytest.approx(5000, rel=0.05)
    assert sum(outcome.held.values()) == pytest.approx(outcome.served * 180, rel=0.1)
    assert outcome.gpu_seconds >= 24 * HOUR


def test_no_replica_ever_has_more_calls_than_slots():
    outcome = live(40_000, replace(QUIET, slots=20, max_replicas=3))
    assert max(outcome.held) == 20
    assert outcome.peak_replicas == 3
    assert outcome.refused["all replicas are full"] > 1000


def test_replicas_follow_the_calls():
    outcome = live(40_000)
    busiest = 40_000 * max(BUSINESS_HOURS) / sum(BUSINESS_HOURS) / HOUR * 180
    assert outcome.peak_calls == pytest.approx(busiest * 1.1, rel=0.2)  # the most of many moments
    assert outcome.peak_replicas == pytest.approx(busiest / 70, abs=1.5)
    assert outcome.gpu_seconds < 0.8 * outcome.peak_replicas * DAY
    assert sum(outcome.refused.values()) < 100


def test_where_nothing_is_kept_ready_the_first_call_waits_for_a_cold_start():
    outcome = live(100, replace(QUIET, min_replicas=0, down_seconds=300.0))
    assert outcome.refused["all replicas are full"] > 0
    assert outcome.gpu_seconds < 23 * HOUR


def test_calls_of_a_lost_replica_go_on_at_another():
    outcome = live(10_000, replace(QUIET, min_replicas=2, loss_hour=10.5))
    assert outcome.deaths == 1
    assert outcome.handed_over > 10
    assert outcome.lost == 0
    assert 1.0 <= max(outcome.gaps) <= 2.0


def test_calls_of_the_only_replica_are_lost_with_it():
    outcome = live(10_000, replace(QUIET, loss_hour=10.5))
    assert outcome.lost > 10
    assert outcome.refused["while replicas start"] > 10


def test_a_rollout_replaces_every_replica_and_loses_no_call():
    outcome = live(60_000, replace(QUIET, rollout_hour=14.0))
    still = live(60_000)
    assert outcome.handed_over >= still.handed_over + 100
    assert outcome.lost == 0
    assert outcome.peak_replicas <= 1.25 * still.peak_replicas + 1
    assert sum(outcome.refused.values()) <= sum(still.refused.values()) + 20


def test_the_same_seed_gives_the_same_day():
    assert live(3000, seed=3) == live(3000, seed=3)
    assert live(3000, seed=3) != live(3000, seed=4)


def test_many_replicas_that_start_at_once_share_the_registry():
    cold = ColdStart(node=100, image_gb=5, model_gb=5, node_gbps=5, registry_gbps=20, load=6, warm_up=60)
    assert cold.seconds(1) == 100 + 16 + 6 + 60
    assert cold.seconds(4) == cold.seconds(1)
    assert cold.stages(8)["image"] == 2 * cold.stages(4)["image"] == 16


def test_the_hours_of_a_day_add_up_to_the_day():
    outcome = live(30_000, replace(QUIET, slots=20, max_replicas=20, min_replicas=2))
    assert len(outcome.hours) == 24
    assert outcome.gpu_seconds == pytest.approx(sum(hour.gpu_seconds for hour in outcome.hours))
    assert outcome.hours[10].served > 5 * outcome.hours[3].served > 0
    assert outcome.hours[3].gpu_seconds == 2 * HOUR
    assert outcome.hours[10].gpu_seconds > 3 * HOUR
    assert sum(sum(hour.held.values()) for hour in outcome.hours) == pytest.approx(sum(outcome.held.values()))
    busy = [sum(hour.held.values()) / HOUR for hour in outcome.hours]
    assert busy.index(max(busy)) in (9, 10, 11)


def test_a_loss_is_counted_in_its_hour():
    outcome = live(10_000, replace(QUIET, loss_hour=10.5))
    assert [hour for hour, counted in enumerate(outcome.hours) if counted.lost] == [10]


# ---- First audio and shared parts ----


def test_first_audio_counts_each_number_of_calls_for_as_long_as_it_was_there():
    waits = {10: [0.030] * 10, 20: [0.060] * 50}
    assert first_audio({5: 1.0, 10: 98.0, 15: 1.0}, waits) == {"p50": 30.0, "p95": 30.0, "p99": 30.0}
    assert first_audio({10: 50.0, 20: 40.0, 99: 10.0}, waits) == {"p50": 30.0, "p95": 60.0, "p99": 60.0}
    assert first_audio({}, waits) is None


def test_first_audio_takes_longer_on_a_replica_with_more_calls():
    waits = first_audio_by_calls(H100, Load(0.5, 5.0), slots=160, seed=0)
    assert sorted(waits) == [20, 40, 60, 80, 100, 120, 140, 160]
    means = {level: sum(values) / len(values) for level, values in waits.items()}
    assert means[20] < means[80] < means[160]


def test_the_parts_stand_in_the_order_in_which_they_are_full():
    options, load = PlanOptions(), Load(0.5, 5.0)
    small = parts(Day(100), Operations(200), load, options)
    large = parts(Day(1_000_000), Operations(200), load, options)
    assert [part.name for part in small] == [part.name for part in large]
    assert [part.full_at for part in large] == sorted(part.full_at for part in large)
    assert small[0].full_at == pytest.approx(large[0].full_at, rel=0.01)
    proxy = next(part for part in large if part.name.startswith("proxy"))
    assert proxy.use == pytest.approx(Day(1_000_000).peak * 0.5 * 12.5 * 52e-6, rel=0.001)


# ---- The command ----


def plan(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dia2stream", "plan", *arguments]
    return subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, timeout=120)


def test_the_command_tells_a_day_to_people_and_to_programs(tmp_path):
    picture = tmp_path / "plan.png"
    done = plan("200", "3000", "--slots", "24", "--json", "-", "--plot", str(picture))
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [day["calls"] for day in report["days"]] == [200, 3000]
    assert report["days"][1]["cost_per_call"] < report["days"][0]["cost_per_call"]
    assert report["days"][1]["first_audio_ms"]["p95"] < 100
    assert "GPU h" in done.stderr
    assert "3,000 calls a day" in done.stderr
    assert "a new GPU serves after 179 s: machine 120, image 8, model 12, load 6, warm-up 33" in done.stderr
    assert "longest: the machine" in done.stderr
    for day in report["days"]:
        assert len(day["hours"]) == 24
        assert sum(hour["served"] for hour in day["hours"]) == day["served"]
        assert sum(hour["gpus"] for hour in day["hours"]) == pytest.approx(day["gpu_hours"], abs=0.2)
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert picture.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--speaking", "1.5"], "are shares"),
        (["--node-gbps", "0"], "must be more than 0"),
        (["0"], "Invalid value for 'CALLS'"),
        (["--plot", "no-such-folder/plan.png"], "its folder is not there"),
        (["--costs", "h9"], "takes h100 or a cost curve's file"),
    ],
)
def test_options_that_make_no_day_are_refused(arguments, problem):
    done = plan(*arguments)
    assert done.returncode in (1, 2)
    assert problem in " ".join(done.stderr.split())
