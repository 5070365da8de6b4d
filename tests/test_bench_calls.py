"""`bench --calls` and its siblings: options, reports, gates, comparisons, and an engine and a server measured."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from piping import PATIENCE
from serving import Serve
from test_bench import bench, numbers

from dia2stream.bench import report as schema
from dia2stream.bench.load import results
from dia2stream.bench.load.report import LABELS, compare_loads, load_gates, plot_loads, show_loads
from dia2stream.bench.load.results import CallRecord, Usage, summarize
from dia2stream.bench.load.run import Plan, parse_amounts
from dia2stream.errors import Dia2StreamError
from dia2stream.options import CallOptions

TINY = ("--model", "random:tiny", "--device", "cpu", "--cfg-scale", 1)


# ---- Options ----


@pytest.mark.parametrize("given", ["", "0", "-1", "2.5", "4,", "x", "1e9", "nan"])
def test_calls_are_whole_numbers_from_1_on(given: str) -> None:
    with pytest.raises(Dia2StreamError, match=r"--calls takes whole numbers from 1 to 10000, as 16,32,64, not"):
        parse_amounts("--calls", given, whole=True)
    assert parse_amounts("--calls", "16,32", whole=True) == (16.0, 32.0)


@pytest.mark.parametrize("given", ["0", "0.05", "inf", "nan", "one"])
def test_rates_are_numbers_from_a_tenth_on(given: str) -> None:
    with pytest.raises(Dia2StreamError, match=r"--calls-per-second takes numbers from 0\.1 to 10000, as 1,2\.5,4, not"):
        parse_amounts("--calls-per-second", given, whole=False)
    assert parse_amounts("--calls-per-second", "0.5, 4", whole=False) == (0.5, 4.0)


def test_an_engine_gets_as_many_slots_as_the_loads_need() -> None:
    assert Plan.of(CallOptions(calls="8,32"), "cpu") == Plan("phone", (8.0, 32.0), 32, None)
    assert Plan.of(CallOptions(crowd="8", slots=4), "cuda").slots == 4
    assert Plan.of(CallOptions(calls_per_second="1"), "cuda").slots == 64
    assert Plan.of(CallOptions(calls_per_second="1"), "cpu").slots == 16
    found = Plan.of(CallOptions(calls="2", find=True), "cpu")
    assert (found.slots, found.max_first_ms) == (16, 100.0)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--calls", "2", "--crowd", "2"],
        ["--find"],
        ["--max-first-ms", "80"],
        ["--calls", "2", "--max-cold-ms", "80"],
        ["--calls", "2", "--seconds", "0"],
    ],
)
def test_flags_that_exclude_each_other_are_wrong_usage(arguments: list[str]) -> None:
    assert bench(*arguments).returncode == 2


def test_a_load_that_is_none_is_refused_before_a_model_is_loaded() -> None:
    done = bench("--calls", "two", "--model", "no/such/model")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "--calls takes whole numbers" in done.stderr


# ---- Reports ----


def point(load: float, first_ms: float, **fields: Any) -> dict[str, Any]:
    record = CallRecord(first=[first_ms / 1000], heard=[first_ms / 500], connect=0.0, frames=10, **fields)
    return {"load": load, "most_at_once": 1, **summarize([record], 10.0, 10, Usage(10, 10, 10, 1.0, 0.5))}


def made_up(*points: dict[str, Any], kind: str = "phone", **settings: Any) -> dict[str, Any]:
    setting = {"seconds": 10.0, "find": False, "max_first_ms": None, "slots": 64, **settings}
    return {
        "made": "2026-01-01",
        "target": "engine",
        "machine": {"gpu": "a card", "cpu": "a processor", "torch": "2"},
        "model": {"name": "a model", "dtype": "bfloat16"},
        "calls": {"kind": kind, "settings": setting, "points": list(points), "highest": None},
        "compared": None,
    }


def test_a_gate_holds_every_load_to_its_limit() -> None:
    report = made_up(point(8, 40.0), point(16, 90.0), point(32, 70.0, worst_underrun=0.5))
    assert load_gates(report, None, find=False) == []
    gates = load_gates(report, 80.0, find=False)
    assert [gate["passed"] for gate in gates] == [True, False, False]
    assert gates[1]["line"] == (
        "FAILED: 16 phone calls: first audio at p95 90.0 ms, 100.00% of the calls without a gap; "
        "--max-first-ms allows 80 ms at p95 and no gaps"
    )


def test_a_search_passes_if_any_load_holds() -> None:
    report = made_up(point(8, 40.0))
    assert [gate["passed"] for gate in load_gates(report, 80.0, find=True)] == [False]
    report["calls"]["highest"] = 8.0
    [gate] = load_gates(report, 80.0, find=True)
    assert (gate["passed"], gate["value"]) == (True, 8.0)


@pytest.mark.parametrize(
    ("before", "verdict"),
    [
        ((40.0, 80.0), "no change beyond 10%"),
        ((40.0, 40.0), "slower: first audio x 2.00 at 16"),
        ((80.0, 80.0), "faster: first audio x 0.50 at 8"),
    ],
)
def test_reports_are_compared_load_by_load(before: tuple[float, float], verdict: str) -> None:
    new = made_up(point(8, 40.0), point(16, 80.0), point(64, 80.0))
    old = made_up(point(8, before[0]), point(16, before[1]))
    compared = compare_loads(new, old)
    assert compared["verdict"] == verdict
    assert compared["first_audio_p95"].keys() == {"8", "16"}
    assert "none of these loads" in compare_loads(new, made_up(point(8, 40.0), kind="crowd"))["verdict"]
    assert "none of these loads" in compare_loads(new, {**old, "calls": None})["verdict"]


@pytest.mark.parametrize("kind", LABELS)
def test_the_table_fits_into_80_columns_whatever_was_measured(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    full = point(9999, 12345.6, worst_underrun=12.3456, late=10**6)
    empty = {"load": 1, "most_at_once": 0, **summarize([CallRecord(problem="busy", refused=True)], 1.0, 0, None)}
    report = made_up(full, empty, kind=kind, find=True, max_first_ms=80.0)
    report["compared"] = compare_loads(report, report)
    show_loads(report, to_stderr=False)
    told = capsys.readouterr().out
    rows = [line.split() for line in told.splitlines()]
    assert ["9999", *["12346"] * 3, "24691", "0.0", "%", "12346", "0", "1", "5%", "5%"] in rows
    assert ["1", *["-"] * 5, "0", "1", "0", "-", "-"] in rows
    assert "lost at 1: refused busy x 1" in told
    assert "no load holds first audio within 80 ms" in told
    table = told[: told.index(LABELS[kind])]
    assert max(len(line.rstrip()) for line in table.splitlines()) <= 80


def test_a_search_that_ends_at_the_engines_slots_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    for slots, capped in ((16, True), (32, False)):
        report = made_up(point(16, 40.0), find=True, max_first_ms=80.0, slots=slots)
        report["calls"]["highest"] = 16.0
        show_loads(report, to_stderr=False)
        told = capsys.readouterr().out
        assert "holds 16 phone calls with first audio within 80 ms" in told
        assert ("as many as the engine has slots" in told) == capped


@pytest.mark.parametrize("kind", LABELS)
def test_the_curve_is_a_png(kind: str, tmp_path: Path) -> None:
    report = made_up(point(8, 40.0), point(16, 90.0), kind=kind, max_first_ms=80.0)
    plot_loads(report, report, str(tmp_path / "curve.png"))
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


# ---- An engine and a server ----


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("calls")
    outputs = ["--json", folder / "calls.json", "--plot", folder / "calls.png"]
    done = bench(*TINY, "--calls", "1,3", "--seconds", 2, "--max-first-ms", 0.001, *outputs)
    assert done.returncode == 1, done.stderr
    assert "FAILED: 3 phone calls" in done.stderr
    assert (folder / "calls.png").stat().st_size > 1000
    report: dict[str, Any] = json.loads((folder / "calls.json").read_text(encoding="utf-8"))
    return report


def test_a_report_of_calls_has_every_key_of_the_schema(measured: dict[str, Any]) -> None:
    documented = re.findall(r"^ {4}(\w+) {2,}\S", schema.__doc__ or "", re.MULTILINE)
    assert sorted(measured) == sorted(documented)
    assert measured["schema"] == schema.SCHEMA
    assert measured["figures"] is measured["counts"] is measured["floors"] is None
    assert all(math.isfinite(number) for number in numbers(measured))


def test_a_point_has_every_key_that_is_documented(measured: dict[str, Any]) -> None:
    lines = re.findall(r"^ {4}(\w+(?:, \w+)*)(?: {2,}\S|$)", results.__doc__ or "", re.MULTILINE)
    documented = {name for line in lines for name in line.split(", ")}
    assert all(set(found) == documented for found in measured["calls"]["points"])


def test_an_engines_calls_are_measured_with_what_the_engine_did(measured: dict[str, Any]) -> None:
    points = measured["calls"]["points"]
    assert [(p["load"], p["calls"], p["most_at_once"], p["failed"]) for p in points] == [(1, 1, 1, {}), (3, 3, 3, {})]
    for found in points:
        assert found["first_audio_ms"]["count"] >= found["load"]
        assert found["first_audio_ms"]["p50"] > 0
        engine = found["engine"]
        assert 0 < engine["device_share"] + engine["host_share"] < 1.05
        assert engine["host_us_per_frame"] > 0
        assert 1 <= engine["rows_per_step"] <= found["load"]


def test_a_report_of_calls_can_be_compared_with_one_of_latencies(measured: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text(json.dumps(measured), encoding="utf-8")
    done = bench(*TINY, "--calls", "1", "--seconds", 1, "--compare", tmp_path / "old.json", "--json", "-")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["compared"]["first_audio_p95"].keys() == {"1"}


def test_a_search_measures_loads_until_it_knows_the_highest() -> None:
    done = bench(*TINY, "--crowd", "1", "--seconds", 1, "--find", "--slots", 2, "--max-first-ms", 1e9, "--json", "-")
    assert done.returncode == 0, done.stderr
    calls = json.loads(done.stdout)["calls"]
    assert calls["points"][-1]["load"] in (1, 2)
    assert calls["highest"] in (None, 1, 2)
    assert "calls that speak without pause" in done.stderr


def test_a_server_is_measured_by_the_same_calls() -> None:
    with Serve(token="secret") as server:
        target = ["--url", server.url, "--token", "secret"]
        done = bench(*target, "--calls-per-second", "3", "--seconds", 3, "--json", "-")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    [found] = report["calls"]["points"]
    assert report["model"]["name"] == "random:tiny"
    assert found["engine"] is None
    assert found["first_audio_ms"]["count"] + sum(found["refused"].values()) == found["calls"] > 0
    assert found["connect_ms"]["p50"] > 0
    assert "secret" not in done.stdout + done.stderr


# ---- scripts/gpu-calls ----


@pytest.mark.long
def test_the_acceptance_script_holds_every_load_with_guesses_and_without_and_tells_of_slow_starts(
    tmp_path: Path,
) -> None:
    script = Path(__file__).parent.parent / "scripts/gpu-calls"
    small = ["--stand-in", "--slots=3", "--seconds=1", "--budget=200", "--compare=crowd:2,rate:20", "--slow-ms=1"]
    which = ["--only", "crowd,rate", "--crowd", "2", "--rate", "20", "--json", str(tmp_path / "all.jsonl")]
    command = [sys.executable, str(script), *small, *which]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2.5 * PATIENCE)
    assert done.returncode == 0, done.stderr
    reports = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text(encoding="utf-8").splitlines()]
    left_out = done.stdout.count("left out for want of time")
    assert len(reports) + left_out == 4
    assert [found["settings"]["speculate"] for found in reports] == [False, True, False, True][: len(reports)]
    assert re.search(r"rate 20: lost \d+, at most 0$", done.stdout, re.MULTILINE) or left_out
    assert all(len(found["calls"]["points"]) == 1 for found in reports)
    for told in (
        r"^slow start in slot \d",
        r"  one (?:whole )?step .*of [1-3]\b.*, planned \d+\.\d\d ms$",
        r"\d  _carry_out_orders$",
    ):
        assert re.search(told, done.stdout, re.MULTILINE), told
