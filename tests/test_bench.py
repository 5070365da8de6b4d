"""`bench`: every figure is there, the counts are the design's, gates fail the program, a server is measured too.

No time is held to an absolute limit: how long something takes here says nothing about the code.
"""

import asyncio
import contextlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from piping import PATIENCE, ran
from websockets.asyncio.server import serve

from dia2.checkpoint import random_models
from dia2.model.backbone import Backbone
from dia2.model.depformer import Depformer
from dia2.text.machine import TextMachine
from dia2.text.script import ScriptReader
from dia2stream.bench import report
from dia2stream.bench.bench import run
from dia2stream.bench.calls import PIECES, pieces
from dia2stream.bench.parts import backbone_bytes, depformer_bytes
from dia2stream.bench.report import FIGURES, LEAD_INS, SCHEMA, compare, distribution, gates
from dia2stream.errors import CommandError, Dia2StreamError
from dia2stream.options import BenchOptions, ModelOptions, SpeechOptions

ROOT = Path(__file__).parent.parent
SERVED = ["cold_start", "inject_after_silence", "inject_after_barge_in", "pieces", "inject_during_speech", "pause"]


def bench(*arguments, **options) -> subprocess.CompletedProcess[str]:
    """dia2stream bench, as a process, on the quick model."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("DIA2STREAM_")}
    return ran("bench", *map(str, arguments), timeout=2.5 * PATIENCE, env=environment, **options)


class Measured:
    """One run of the program with everything asked for, of which one gate has to fail."""

    def __init__(self, folder: Path) -> None:
        self.plot, self.json = folder / "report.png", folder / "report.json"
        asked = ["--model", "random:tiny", "--device", "cpu", "--runs", 2, "--warmup", 1]
        limits = ["--max-cold-ms", 0.001, "--max-inject-ms", 1e9, "--max-frame-ratio", 1e9]
        self.done = bench(*asked, *limits, "--json", self.json, "--plot", self.plot)
        self.report = json.loads(self.json.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Measured:
    return Measured(tmp_path_factory.mktemp("bench"))


def numbers(value: object) -> list[float]:
    """Every number in a JSON value."""
    if isinstance(value, dict):
        return numbers(list(value.values()))
    if isinstance(value, list):
        return [number for item in value for number in numbers(item)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


# --- what it writes ---


def test_a_report_has_every_key_of_its_schema(measured):
    documented = re.findall(r"^ {4}(\w+) {2,}\S", report.__doc__, re.MULTILINE)
    assert sorted(measured.report) == sorted(documented)
    assert measured.report["schema"] == SCHEMA


def test_everything_that_can_be_measured_on_a_cpu_is_a_finite_number(measured):
    found = measured.report
    assert all(math.isfinite(number) for number in numbers(found))
    assert all(found["figures"][name] for name in FIGURES)
    nothing = {key for part in ("machine", "once", "ratios") for key, value in found[part].items() if value is None}
    assert nothing - {"triton"} == {"gpu", "gpu_memory_bytes", "cuda", "peak_cuda_bytes"}
    assert found["floors"].keys() == {"backbone", "depformer", "frame"}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_has_the_values_of_every_run_and_percentiles_of_them(measured, name):
    figure = measured.report["figures"][name]
    of_a_run = {"frame_interval": 29} | dict.fromkeys(("backbone_step", "whole_frame", "codec_frame"), 5)
    assert figure["count"] == len(figure["values"]) == 2 * of_a_run.get(name.removesuffix("_late"), 1)
    assert min(figure["values"]) <= figure["p50"] <= figure["p95"] <= figure["p99"] <= figure["max"]
    assert figure["unit"] == FIGURES[name][1]


def test_a_first_sample_takes_17_backbone_steps_and_one_whole_frame_in_all_four_ways(measured):
    expected = {"backbone_steps": 17, "frames": 1}
    assert measured.report["counts"] == {"expected": expected, **dict.fromkeys(LEAD_INS, expected)}


def test_the_table_is_on_stdout_and_names_every_figure(measured):
    assert all(label in measured.done.stdout for label, _ in FIGURES.values())
    assert max(len(line) for line in measured.done.stdout.splitlines()) <= 80


def test_the_plot_is_a_png(measured):
    assert measured.plot.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_json_on_stdout_is_one_line_and_all_there_is(measured):
    done = bench("--model", "random:tiny", "--runs", 1, "--warmup", 0, "--json", "-", "--compare", measured.json)
    [line] = done.stdout.splitlines()
    found = json.loads(line)
    assert (done.returncode, found["passed"]) == (0, True)
    assert set(found) == set(measured.report)
    assert found["compared"]["p50"].keys() == FIGURES.keys() - {"inject_during_speech"}
    assert found["compared"]["verdict"] in done.stderr
    assert "cold start" in done.stderr


# --- gates ---


def test_a_gate_that_fails_ends_the_program_with_1_and_its_line(measured):
    lines = [line for line in measured.done.stderr.splitlines() if ": FAILED: " in line]
    assert measured.done.returncode == 1
    assert len(lines) == 1
    assert lines[0].startswith("dia2stream: FAILED: cold start takes ")
    assert lines[0].endswith("--max-cold-ms allows 0.001 ms")
    assert [gate["passed"] for gate in measured.report["gates"]] == [True, False, True, True]


def report_of(**p50) -> dict:
    """A report with these figures, each of one value, and nothing else of interest."""
    return {
        "made": "2026-01-01T00:00:00+00:00",
        "machine": {"gpu": None, "cpu": "one"},
        "model": {"name": "random:tiny", "dtype": "float32"},
        "figures": {name: distribution(name, [p50[name]] if name in p50 else []) for name in FIGURES},
        "counts": None,
    }


def test_a_latency_is_held_at_p95_and_one_of_twenty_may_be_late():
    found = report_of()
    for late, passed in ((1, True), (2, False)):
        found["figures"]["cold_start"] = distribution("cold_start", [30.0] * (20 - late) + [90.0] * late)
        assert [gate["passed"] for gate in gates(found, BenchOptions(max_cold_ms=45))] == [passed]


def test_the_inject_gate_looks_at_the_slower_of_its_two_figures():
    found = report_of(inject_after_silence=30.0, inject_after_barge_in=50.0)
    [gate] = gates(found, BenchOptions(max_inject_ms=40))
    assert not gate["passed"]
    assert gate["line"] == "FAILED: inject after barge-in takes 50.0 ms at p95, --max-inject-ms allows 40 ms"


def test_the_frame_gate_looks_at_both_ends_of_the_context():
    found = report_of() | {"ratios": {"whole_frame": 1.5, "whole_frame_late": 1.7}, "floors": {"frame": {"ms": 2.0}}}
    assert [gates(found, BenchOptions(max_frame_ratio=limit))[0]["passed"] for limit in (1.6, 1.8)] == [False, True]


def test_a_step_too_many_fails_whatever_was_asked():
    expected = {"backbone_steps": 17, "frames": 1}
    found = report_of() | {"counts": {"expected": expected, "pieces": {"backbone_steps": 18, "frames": 1}}}
    [gate] = gates(found, BenchOptions())
    assert gate["line"] == "FAILED: pieces takes 18 backbone steps and 1 whole, not 17 backbone steps and 1 whole"


# --- comparison ---


@pytest.mark.parametrize(
    ("cold", "codec", "verdict"),
    [
        (41, 1.0, "no change beyond 10%"),
        (80, 1.05, "slower: cold_start x 2.00"),
        (40, 0.5, "faster: codec_frame x 0.50"),
        (20, 2.0, "mixed: slower codec_frame x 2.00; faster cold_start x 0.50"),
    ],
)
def test_the_verdict_says_what_changed(cold, codec, verdict):
    new, old = report_of(cold_start=cold, codec_frame=codec), report_of(cold_start=40.0, codec_frame=1.0)
    assert compare(new, old)["verdict"] == verdict


def test_the_verdict_says_when_it_was_another_machine():
    old = report_of(cold_start=40.0) | {"machine": {"gpu": "another", "cpu": "one"}}
    assert compare(report_of(cold_start=41.0), old)["verdict"].endswith("(another setting: gpu was another)")


def test_percentiles_are_values_that_were_measured():
    figure = distribution("pause", [float(n) for n in range(1, 21)])
    assert [figure[key] for key in ("p50", "p95", "p99", "max")] == [10, 19, 20, 20]


# --- what it is made of ---


def test_floors_count_the_weights_that_a_frame_of_the_2b_model_reads():
    config = random_models.random_model("random:2b").config
    with torch.device("meta"):
        backbone, depformer = Backbone(config, 8), Depformer(config)
    assert backbone_bytes(backbone) / 4 == pytest.approx(1.422e9, rel=1e-3)
    assert depformer_bytes(depformer) / 4 / 31 == pytest.approx(58.73e6, rel=1e-3)


class Letters:
    """A tokenizer of one token a letter."""

    speakers = (1, 2)

    def encode(self, text):
        return [ord(letter) for letter in text]


@pytest.mark.parametrize("ahead", range(4))
def test_the_first_of_the_later_pieces_is_what_makes_enough_words_known(ahead):
    reader = ScriptReader(Letters())
    machine = TextMachine(new_word=2, pad=3, ahead=ahead)
    opening, rest = pieces(PIECES, ahead)
    entries = [entry for piece in opening for entry in reader.feed(piece)]
    assert not machine.enough(entries)
    assert machine.enough(entries + reader.feed(rest[0]))
    assert "".join(opening + rest) == PIECES


# --- a server ---


class Server:
    """Speaks the protocol and makes no sound: what a command asks for is there at once, unless it `leaves`."""

    TOKEN = "secret"

    def __init__(self, leaves=False):
        self.leaves = leaves

    async def talk(self, socket):
        if socket.request.headers.get("Authorization") != f"Bearer {self.TOKEN}":
            return await self.tell(socket, event="error", code="unauthorized", message="a token is needed")
        ready = {"version": "1", "model": "a server's", "device": "cuda", "frame_ms": 80, "voices": []}
        await self.tell(socket, event="ready", sample_rate=24000, encoding="pcm16", **ready)
        async for message in socket:
            if self.leaves:
                return
            command = json.loads(message)
            match command["cmd"]:
                case "start":
                    await self.tell(socket, event="started", id="1", seed=0)
                case "pause":
                    await self.tell(socket, event="paused", heard_ms=0, spoken="", pending="")
                case "reset":
                    await self.tell(socket, event="reset")
                case "prepare":
                    await self.tell(socket, event="prepared", id=command["id"], ready_ms=80)
            if command["cmd"] in ("start", "inject", "end", "commit") and command.get("final", True):
                for _ in range(30):
                    await socket.send((1920).to_bytes(4, "little") + bytes(3840))
                await self.tell(socket, event="done", id="1", audio_ms=2400)

    async def tell(self, socket, **event):
        await socket.send(json.dumps(event))

    @contextlib.contextmanager
    def running(self):
        """Its URL."""
        loop, ready, ports = asyncio.new_event_loop(), threading.Event(), []

        async def listen():
            self.stop = asyncio.Event()
            async with serve(self.talk, "127.0.0.1", 0) as server:
                ports.append(server.sockets[0].getsockname()[1])
                ready.set()
                await self.stop.wait()

        thread = threading.Thread(target=loop.run_until_complete, args=(listen(),))
        thread.start()
        ready.wait()
        try:
            yield f"ws://127.0.0.1:{ports[0]}/"
        finally:
            loop.call_soon_threadsafe(self.stop.set)
            thread.join()
            loop.close()


def of_server(url, token, **options):
    run(ModelOptions(), SpeechOptions(), BenchOptions(url=url, token=token, runs=1, warmup=0, json="-", **options))


def test_a_server_is_measured_by_the_same_calls(capsys):
    with Server().running() as url:
        of_server(f"{url}?encoding=pcm16", "secret", max_cold_ms=1e9)
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["target"], found["model"]["name"], found["model"]["device"]) == (url, "a server's", "cuda")
    assert [found["figures"][name]["count"] for name in SERVED] == [1] * len(SERVED)
    assert found["figures"]["whole_frame"] is found["counts"] is found["floors"] is found["lead_in_ms"] is None
    assert "secret" not in out + err
    assert "cold start" in err


def test_a_server_that_refuses_or_leaves_or_is_not_there_is_one_line():
    with Server().running() as url, pytest.raises(CommandError, match="a token is needed"):
        of_server(url, None)
    with Server(leaves=True).running() as url, pytest.raises(Dia2StreamError, match="closed the connection"):
        of_server(url, "secret")
    with pytest.raises(Dia2StreamError, match="127"):
        of_server(url, None)


# --- usage ---


def test_help_fits_into_80_columns_and_names_every_flag():
    done = bench("--help")
    text, _, examples = done.stdout.partition("  Examples:\n")
    assert max(len(line) for line in text.splitlines()) <= 80
    assert all(flag in text for flag in ("--runs", "--warmup", "--json", "--compare", "--plot", "--url", "--token"))
    assert "dia2stream bench" in examples


@pytest.mark.parametrize(
    "arguments", [["--runs", "0"], ["--max-cold-ms", "-1"], ["--url", "ws://a", "--max-frame-ratio", "2"]]
)
def test_wrong_usage_exits_with_2(arguments):
    assert bench(*arguments).returncode == 2


@pytest.mark.parametrize(
    ("content", "says"),
    [("{", "not JSON"), ("[]", "its schema is None"), ('{"schema": "dia2stream-bench/9"}', "not 'dia2stream-bench/1'")],
)
def test_what_is_no_report_is_refused_before_anything_is_measured(tmp_path, content, says):
    path = tmp_path / "old.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(Dia2StreamError, match=says):
        run(ModelOptions(), SpeechOptions(), BenchOptions(compare=str(path)))


@pytest.mark.parametrize("option", ["json", "plot"])
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(option):
    with pytest.raises(Dia2StreamError, match="its folder is not there"):
        run(ModelOptions(), SpeechOptions(), BenchOptions(**{option: "no/such/folder/report"}))


def test_a_plot_without_matplotlib_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(Dia2StreamError, match=r"pip install 'dia2stream\[plot\]'"):
        run(ModelOptions(), SpeechOptions(), BenchOptions(plot="report.png"))


# --- scripts/bench-ci ---


def test_the_ci_script_keeps_what_was_measured_and_fails_with_it(tmp_path):
    for name, text in {
        "scripts/setup": "#!/bin/sh\n",
        ".venv/bin/dia2stream": '#!/bin/sh\necho "$@ cold $DIA2STREAM_MAX_COLD_MS old $DIA2STREAM_COMPARE"\nexit 3\n',
    }.items():
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    script = shutil.copy(ROOT / "scripts/bench-ci", tmp_path / "scripts/bench-ci")
    environment = {**os.environ, "DIA2STREAM_COMPARE": "none.json", "GITHUB_STEP_SUMMARY": str(tmp_path / "summary")}
    environment.pop("DIA2STREAM_MAX_COLD_MS", None)
    done = subprocess.run([script, "--runs", "5"], capture_output=True, text=True, env=environment, timeout=60)
    told = "bench --json bench-out/report.json --plot bench-out/report.png --runs 5 cold 60 old \n"
    assert (done.returncode, done.stdout, done.stderr) == (3, told, "bench-ci: no none.json yet\n")
    assert (tmp_path / "bench-out/report.txt").read_text(encoding="utf-8") == told
    assert told in (tmp_path / "summary").read_text(encoding="utf-8")


# --- on a GPU ---


@pytest.mark.gpu
def test_on_a_gpu_its_memory_and_bandwidth_are_measured_too(tmp_path):
    done = bench("--model", "random:tiny", "--device", "cuda", "--runs", 2, "--warmup", 1, "--json", "-")
    found = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert found["machine"]["gpu"]
    assert found["once"]["peak_cuda_bytes"] > 0
    assert all(found["figures"][name] for name in FIGURES)
