"""`bench --calls`, `--calls-per-second` and `--crowd` with `--simulate`: the same loads on a machine that is not there.

The report, the table, the gates, `--find` and the picture are those of a measurement.
"""

import json

from dia2stream.bench.load.driver import Kind
from dia2stream.bench.load.report import compare_loads, load_gates, plot_loads, show_loads
from dia2stream.bench.load.run import Plan, hold_all, report_of
from dia2stream.bench.outputs import check_outputs, publish
from dia2stream.bench.report import Report, read
from dia2stream.bench.setting import simulated_setting
from dia2stream.bench.simulate.loads import Crowd, Load, PhoneCalls, Requests
from dia2stream.bench.simulate.machine import Settings, SimulatedMachine
from dia2stream.engine.costs import H100, CostCurve
from dia2stream.errors import Dia2StreamError
from dia2stream.options import BenchOptions, CallOptions, SpeechOptions

CURVES = {"h100": H100}
_SLOTS = 1024  # where no number is given: no machine of today holds as many


def read_curve(name: str) -> CostCurve:
    """A curve by its name, or of a file. Raises Dia2StreamError."""
    if name in CURVES:
        return CURVES[name]
    try:
        return CostCurve.read(name)
    except FileNotFoundError:
        raise Dia2StreamError(f"--simulate takes {', '.join(CURVES)} or a cost curve's file, not {name!r}") from None
    except ValueError as error:
        raise Dia2StreamError(f"--simulate: {error}") from None


def run(speech: SpeechOptions, options: BenchOptions, load: CallOptions) -> None:
    """Simulates and reports. Raises SystemExit(1) when a gate fails."""
    assert load.simulate is not None
    costs, plan = read_curve(load.simulate), Plan.of(load, "cuda")
    old = read(options.compare) if options.compare else None
    check_outputs(options)
    slots = load.slots or _SLOTS
    settings = Settings(slots=slots, max_lead=load.max_lead_ms / 1000, start_lead=load.start_lead_ms / 1000)

    def simulated(amount: float) -> Report:
        calls = _load(plan.kind, amount)
        outcome = SimulatedMachine(calls, costs, settings=settings, seed=speech.seed or 0).run(load.seconds)
        return {"load": amount, "most_at_once": outcome.most_at_once, **outcome.point}

    calls = {**hold_all(simulated, load, plan, float(slots), slots), "costs": json.loads(costs.dump())}
    report = report_of("simulation", speech, simulated_setting(costs.name), calls)
    report["compared"] = compare_loads(report, old) if old else None
    report["gates"] = load_gates(report, plan.max_first_ms, load.find)
    publish(report, options, show_loads, lambda report, path: plot_loads(report, old, path))


def _load(kind: Kind, amount: float) -> Load:
    if kind == "rate":
        return Requests(amount)
    return PhoneCalls(round(amount)) if kind == "phone" else Crowd(round(amount))
