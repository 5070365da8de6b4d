"""Some machines behind a proxy, and calls that come at given moments: what `scripts/check-simulator` holds for real.

A call goes to the machine that has the fewest calls, as a proxy sends it. Where all are full, it is refused.
"""

from collections.abc import Sequence
from typing import Any

from dia2stream.bench.load.results import CallRecord, Usage, summarize
from dia2stream.bench.load.script import PlannedCall
from dia2stream.bench.simulate.loads import FRAMES_A_CHARACTER, Arrival, planned_script
from dia2stream.bench.simulate.machine import Cores, Settings, SimulatedMachine
from dia2stream.engine.costs import CostCurve

_END = 300.0  # seconds that calls have to end after the last one has come


def hold(
    calls: Sequence[PlannedCall],
    costs: Sequence[CostCurve],
    settings: Settings,
    frames_a_character: float = FRAMES_A_CHARACTER,
    seed: int = 0,
    cores: Cores | None = None,
) -> dict[str, Any]:
    """A point of the report, as `bench --calls` has it.

    costs: one curve for each machine. settings: of each. cores: that they share; None: each has its own.
    """
    machines = [
        SimulatedMachine(None, curve, settings=settings, cores=cores, seed=seed + number)
        for number, curve in enumerate(costs)
    ]
    refused: list[CallRecord] = []
    most = 0
    for call in calls:
        _advance(machines, call.at)
        best = min(machines, key=lambda machine: machine.calls)
        if best.calls >= settings.slots:
            refused.append(CallRecord(problem="busy", refused=True))
            continue
        best.receive(Arrival(call.at, planned_script(call.turns, frames_a_character)))
        most = max(most, 1 + sum(machine.calls for machine in machines))
    return {"load": len(calls), "most_at_once": most, **_point(machines, refused, calls[-1].at)}


def _advance(machines: Sequence[SimulatedMachine], end: float) -> None:
    """Lets time pass for all of them. The one that is behind goes on: steps begin in the order of their moments."""
    while (behind := min(machines, key=lambda machine: machine.now)).now < end:
        behind.turn(end)


def _point(machines: Sequence[SimulatedMachine], refused: list[CallRecord], seconds: float) -> dict[str, Any]:
    """seconds: until the last call came; frames and shares are those of that time."""
    outcomes = [machine.outcome for machine in machines]
    steps, rows = sum(sum(each.batches.values()) for each in outcomes), sum(each.rows for each in outcomes)
    frames, busy = sum(each.frames for each in outcomes), sum(each.busy for each in outcomes)
    usage = Usage(steps, rows, frames, busy, busy - sum(each.host for each in outcomes))
    _advance(machines, max(machine.now for machine in machines) + _END)
    records = [record for machine in machines for record in machine.outcome.records]
    return summarize([*records, *refused], seconds, frames, usage)
