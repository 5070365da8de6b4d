"""A stepper takes the form that was timed to be the fastest, of those that compute what the layers compute."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from tools import require

require("triton")

from triton.runtime.errors import OutOfResources

from dia2.backend import make_stepper
from dia2.checkpoint.load import Checkpoint, LoadOptions, load_checkpoint
from dia2.cuda import forms
from dia2.cuda.choice import Chooser, Key
from dia2.cuda.forms import FORMS, LAYERS, forms_for
from dia2.cuda.programs import KernelProgram, LayerProgram, StepProgram
from dia2.cuda.stepper import GraphStepper

KEY = Key("a card", "8.9", "13.0", "2.11.0", "3.6.0", "a1", "float32", "dtype", "b2")


@cache
def loaded() -> Checkpoint:
    return load_checkpoint("random:tiny", LoadOptions(device="cpu", dtype="float32"))


@pytest.fixture(autouse=True)
def exact() -> None:
    loaded()  # chooses TF32
    torch.set_float32_matmul_precision("highest")


def timer(*milliseconds: float) -> Callable[[object], float]:
    """Says these times, one for each form that it is asked for, and runs nothing."""
    times: Iterator[float] = iter(milliseconds)
    return lambda step: next(times)


def chosen(folder: Path, *milliseconds: float, slots: int = 1) -> GraphStepper:
    chooser = Chooser(folder, KEY, timer(*milliseconds), seconds=1e9)
    return GraphStepper(loaded(), slots, plain=False, chooser=chooser)


def test_layers_are_a_form_only_where_no_larger_batch_leaves_their_hidden_states() -> None:
    assert forms_for((1,)) == (*FORMS, LAYERS)
    assert forms_for((1, 2, 4)) == FORMS


def test_without_a_chooser_the_rule_holds_and_nothing_is_timed() -> None:
    stepper = GraphStepper(loaded(), 1, plain=False)
    assert (stepper.form, stepper.form_reason) == (FORMS[0], "by the rule, not timed")
    assert stepper.backbone_kind == "a kernel a product"


@pytest.fixture
def off(monkeypatch: pytest.MonkeyPatch) -> dict[type, float]:
    """By kind of program: how far its logits are said to be from the layers' own. Triton's interpreter is slow."""
    found: dict[type, float] = {KernelProgram: 0.01, LayerProgram: 0.0}
    monkeypatch.setattr("dia2.cuda.stepper.farthest", lambda program, plain, given: found[type(program)])
    return found


def test_the_fastest_form_is_taken_for_one_conversation_and_the_next_start_times_nothing(
    tmp_path: Path, off: dict[type, float]
) -> None:
    stepper = chosen(tmp_path, 5.0, 4.9, 4.0, 4.5, 9.0)
    off.clear()  # the next start must not ask
    for each in (stepper, chosen(tmp_path)):
        assert each.form.name == "kernels in tiles of 2"
        program = each.programs[1]
        assert isinstance(program, KernelProgram)
        assert program.tiles.of("linear", 4096, 2048).outputs == 2
    assert "clusters: a kernel a product" in stepper.form_reason


def test_a_trial_leaves_no_conversation_and_no_blocks_behind(tmp_path: Path, off: dict[type, float]) -> None:
    stepper = chosen(tmp_path, 5.0, 4.9, 4.0, 4.5, slots=2)
    fresh = GraphStepper(loaded(), 2, plain=False)
    assert stepper.slots == fresh.slots
    assert stepper.cache.table.tolist() == fresh.cache.table.tolist()


def test_a_form_that_computes_something_else_is_not_taken_however_fast_it_is(
    tmp_path: Path, off: dict[type, float]
) -> None:
    off[KernelProgram] = 0.1
    stepper = chosen(tmp_path, 7.0)
    assert stepper.form is LAYERS
    assert isinstance(stepper.programs[1], LayerProgram)
    assert "kernels: its logits are 0.1 from those of the layers, 0.03 is the most" in stepper.form_reason


def test_a_form_that_is_too_large_for_the_card_is_left_out_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(program: StepProgram, plain: StepProgram, given: torch.Tensor) -> float:
        if isinstance(program, KernelProgram) and program.tiles.usual.outputs > 2:
            raise OutOfResources(180_000, 101_376, "shared memory")
        return 0.0

    monkeypatch.setattr("dia2.cuda.stepper.farthest", run)
    stepper = chosen(tmp_path, 4.0, 9.0)
    assert stepper.form.name == "kernels in tiles of 2"
    assert "kernels in tiles of 8: out of resource: shared memory, Required: 180000" in stepper.form_reason


@pytest.mark.slow
def test_the_logits_of_the_kernels_are_those_of_the_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []

    def seen(program: StepProgram, plain: StepProgram, given: torch.Tensor) -> float:
        found.append(forms.farthest(program, plain, given))
        return found[-1]

    monkeypatch.setattr("dia2.cuda.stepper.farthest", seen)
    monkeypatch.setattr("dia2.cuda.stepper.TRIAL_COLUMN", 20)
    monkeypatch.setattr("dia2.cuda.stepper.forms_for", lambda sizes: (FORMS[1],))
    chosen(tmp_path, 5.0)
    assert 0 < found[0] < 1e-4


@pytest.mark.parametrize(
    ("other", "off"), [(lambda x: x, 0.0), (lambda x: x * 1.5, 0.5), (lambda x: x + torch.nan, torch.inf)]
)
def test_how_far_a_program_is_off_counts_its_worst_logits(other: Callable[..., torch.Tensor], off: float) -> None:
    right = Logits(lambda x: x)
    assert forms.farthest(Logits(other), right, torch.zeros(3)) == pytest.approx(off)  # type: ignore[arg-type]


class Logits:
    """A program of two stages, the second of which is another's changed."""

    def __init__(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._change = change

    def column_logits(self) -> torch.Tensor:
        return torch.ones(2, 5)

    def codes_after(self, given: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.ones(2, 4), self._change(torch.ones(2, 4))])


def test_the_kernels_version_is_that_of_every_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forms, "__file__", str(tmp_path / "forms.py"))
    found = set()
    for change in (("a.py", "1"), ("a.py", "2"), ("deep/b.cu", "1"), ("deep/c.cuh", "1"), ("notes.md", "1")):
        path = tmp_path / change[0]
        path.parent.mkdir(exist_ok=True)
        path.write_text(change[1])
        found.add(forms.sources_digest())
    assert len(found) == 4  # notes are no source


def test_asked_for_on_a_gpu_it_is_made_for_the_card_and_its_reason_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a device that is no GPU: the key and what the stepper does with a choice are what they would be on one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("dia2.backend.obstacle_to_graphs", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA L40S")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 9))
    monkeypatch.setattr(forms, "driver_version", lambda: "13.0")
    monkeypatch.setattr(GraphStepper, "__init__", fake_stepper)
    for kernels, said in (("timed", "kernels: of whole steps"), ("retimed", "kernels: of whole steps"), ("auto", None)):
        stepper, reason = make_stepper(loaded(), kernels=kernels)  # type: ignore[arg-type]
        assert isinstance(stepper, GraphStepper)
        assert ("the form is" in reason) == (said is not None)
        assert said is None or said in reason
    key = forms.key_for(loaded())
    assert (key.card, key.capability, key.driver, key.weights) == ("NVIDIA L40S", "8.9", "13.0", "dtype")
    assert not list(tmp_path.iterdir())  # nothing was timed, so nothing is kept


@pytest.mark.parametrize(
    ("slots", "asked", "made"),
    [(1, None, True), (64, None, True), (64, True, True), (1, False, False), (64, False, False)],
)
def test_on_a_gpu_lead_ins_are_trees_for_any_number_of_slots_unless_somebody_asks_for_steps(
    slots: int, asked: bool | None, made: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[object] = []

    def stepper(self: GraphStepper, *_: object, speculate: bool, **__: object) -> None:
        fake_stepper(self, loaded(), chooser=None)
        found.append(speculate)

    monkeypatch.setattr("dia2.backend.obstacle_to_graphs", lambda device: None)
    monkeypatch.setattr(GraphStepper, "__init__", stepper)
    monkeypatch.setattr(loaded(), "device", torch.device("cuda"))
    make_stepper(loaded(), slots, speculate=asked)
    assert found == [made]


def fake_stepper(self: GraphStepper, checkpoint: Checkpoint, *_: object, chooser: Chooser | None, **__: object) -> None:
    self.kind = self.backbone_kind = self.depformer_kind = "kernels"
    self.form, self.form_reason = FORMS[1], "of whole steps timed"
    assert chooser is None or "dia2/forms" in chooser.path.as_posix()
