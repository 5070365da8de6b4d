"""`bench`: how soon it speaks and what a frame costs, on the warm engine that pipe and serve use.

Every run is one call, see calls.py. After each call, while nobody speaks, the parts are timed one at a time: a backbone
step, a whole frame, the codec. Beside them stands the least they could cost: the bytes of weights that must be read,
over the speed at which this machine reads memory, which is measured in this process too.

A server is measured by the same calls. Counts of steps and times of parts are known of the engine only.
"""

from dataclasses import asdict

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from dia2stream.bench.calls import PUBLISHED_AHEAD, BenchCall
from dia2stream.bench.clients import EngineClient, ServerClient
from dia2stream.bench.outputs import check_outputs, publish
from dia2stream.bench.parts import Parts, floors, read_bandwidth
from dia2stream.bench.report import FIGURES, LEAD_INS, Report, compare, distribution, gates, plot, rate, read, show
from dia2stream.bench.setting import TimedEngine, engine_setting, head, server_setting
from dia2stream.bench.steps import EngineWatch, expected_steps
from dia2stream.options import BenchOptions, ModelOptions, SpeechOptions
from dia2stream.terminal import load_progress


def run(model: ModelOptions, speech: SpeechOptions, options: BenchOptions) -> None:
    """Measures and reports. Raises SystemExit(1) when a gate fails, Dia2Error when the model cannot be loaded."""
    old = read(options.compare) if options.compare else None
    check_outputs(options)
    report = _server_report(speech, options) if options.url else _engine_report(model, speech, options)
    rate(report)
    report["calls"] = None
    report["compared"] = compare(report, old) if old else None
    report["gates"] = gates(report, options)
    publish(report, options, show, lambda report, path: plot(report, old, path))


def _engine_report(model: ModelOptions, speech: SpeechOptions, options: BenchOptions) -> Report:
    watch = EngineWatch()
    with load_progress() as progress:
        engine = TimedEngine.load(model, progress=progress, speech=speech, observers=[watch])
    try:
        expected, ahead = expected_steps(engine.stepper.delays), engine.stepper.config.data.second_stream_ahead
        with engine.conversation() as session:
            call = BenchCall(EngineClient(engine, session, watch), speech, ahead, watch, expected)
            parts = Parts(engine, session)
            _repeat(options, call, parts)
    finally:
        engine.close()
    setting = engine_setting(engine)  # before the bandwidth is measured, which takes memory
    speed = setting["once"]["read_bytes_per_s"] = read_bandwidth(engine.checkpoint.device)
    return {
        **head("engine", _settings(engine.speech, options)),
        **setting,
        "figures": _figures(call.taken | parts.taken),
        "counts": {"expected": expected, **{name: call.counts[name] for name in LEAD_INS}},
        "floors": floors(engine, speed),
    }


def _server_report(speech: SpeechOptions, options: BenchOptions) -> Report:
    assert options.url is not None
    with ServerClient(options.url, options.token) as client:
        call = BenchCall(client, speech, PUBLISHED_AHEAD, None, {})
        _repeat(options, call)
    return {
        **head(options.url, _settings(speech, options)),
        **server_setting(client.ready),
        "figures": _figures(call.taken),
        "counts": None,
        "floors": None,
    }


def _settings(speech: SpeechOptions, options: BenchOptions) -> Report:
    return {"runs": options.runs, "warmup": options.warmup, **asdict(speech), "seed": speech.seed or 0}


def _figures(times: dict[str, list[float]]) -> Report:
    return {name: distribution(name, times.get(name, [])) for name in FIGURES}


def _repeat(options: BenchOptions, call: BenchCall, parts: Parts | None = None) -> None:
    """Makes all runs. The parts are timed between the calls, so that other work of the machine slows both alike."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    # Without a refreshing thread, which would take time from what is being measured.
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as bar:
        for number in bar.track(range(options.warmup + options.runs), description="measuring"):
            if number == options.warmup:
                call.taken.clear()
                if parts is not None:
                    parts.taken.clear()
            call.run(number)
            if parts is not None:
                parts.measure()
