"""The form of a step is chosen by its time, once for a card, and the file of the choice is not believed blindly."""

import json
import logging
import multiprocessing
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from dia2.cuda.choice import SECONDS, Candidate, Choice, Chooser, Key, LeftOut, Step, Timed

KEY = Key("NVIDIA L40S", "8.9", "13.0", "2.11.0", "3.6.0", "a1", "bfloat16", "dtype", "b2")


class Machine:
    """Forms whose steps take so many milliseconds, or that cannot be used, and seconds that pass in making them."""

    def __init__(self, forms: dict[str, float | str], seconds: float = 1.0) -> None:
        self.forms, self.seconds = forms, seconds
        self.now, self.made = 0.0, list[str]()
        self._stepped = ""

    def candidates(self) -> list[Candidate]:
        return [Candidate(name, self._maker(name)) for name in self.forms]

    def _maker(self, name: str) -> Callable[[], Step | str]:
        def make() -> Step | str:
            self.now += self.seconds
            self.made.append(name)
            found = self.forms[name]
            return found if isinstance(found, str) else lambda: setattr(self, "_stepped", name)

        return make

    def timer(self, step: Step) -> float:
        step()
        found = self.forms[self._stepped]
        assert isinstance(found, float)
        return found

    def chooser(self, folder: Path, key: Key = KEY, *, again: bool = False) -> Chooser:
        return Chooser(folder, key, self.timer, again=again, clock=lambda: self.now)

    def choose(self, folder: Path, key: Key = KEY, *, again: bool = False) -> str:
        return self.chooser(folder, key, again=again).choose(self.candidates())[0]


def test_the_fastest_form_is_taken_and_the_reason_has_every_time(tmp_path: Path) -> None:
    machine = Machine({"clusters": "the GPU has none", "kernels": 5.0, "tiles of 8": 4.5, "layers": 9.0})
    name, reason = machine.chooser(tmp_path).choose(machine.candidates())
    assert name == "tiles of 8"
    assert reason.startswith("of whole steps timed: kernels 5.000 ms, tiles of 8 4.500 ms, layers 9.000 ms; ")
    assert "; clusters: the GPU has none; kept in " in reason


@pytest.mark.parametrize(("other", "chosen"), [(4.95, "kernels"), (4.85, "tiles of 8")])
def test_the_usual_form_stays_unless_another_is_clearly_faster(tmp_path: Path, other: float, chosen: str) -> None:
    assert Machine({"kernels": 5.0, "tiles of 8": other}).choose(tmp_path) == chosen


def test_a_second_start_reads_the_file_and_times_nothing(tmp_path: Path) -> None:
    Machine({"kernels": 5.0, "tiles of 8": 4.0}).choose(tmp_path)
    later = Machine({"kernels": 1.0, "tiles of 8": 4.0})
    name, reason = later.chooser(tmp_path).choose(later.candidates())
    assert name == "tiles of 8"
    assert "read from" in reason
    assert later.made == []


def test_asked_to_time_again_it_does_and_keeps_what_it_finds(tmp_path: Path) -> None:
    Machine({"kernels": 5.0, "tiles of 8": 4.0}).choose(tmp_path)
    assert Machine({"kernels": 1.0, "tiles of 8": 4.0}).choose(tmp_path, again=True) == "kernels"
    assert Machine({"kernels": 5.0, "tiles of 8": 4.0}).choose(tmp_path) == "kernels"


@pytest.mark.parametrize("field", list(asdict(KEY)))
def test_another_card_driver_model_or_kernel_has_a_choice_of_its_own(tmp_path: Path, field: str) -> None:
    Machine({"kernels": 5.0, "tiles of 8": 4.0}).choose(tmp_path)
    other = Machine({"kernels": 1.0, "tiles of 8": 4.0})
    assert other.choose(tmp_path, replace(KEY, **{field: "other"})) == "kernels"
    assert len(list(tmp_path.iterdir())) == 2


GOOD = Choice(KEY, "kernels", (Timed("kernels", 1.0),), (LeftOut("clusters", "none"),))


def spoilt(**changes: object) -> bytes:
    return json.dumps(asdict(GOOD) | changes).encode()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not JSON"),
        (b"[]", "must hold a JSON object"),
        (spoilt()[:-9], "not JSON"),
        (spoilt(form=3), "form must be a string, not 3"),
        (spoilt(form="one of the past"), "form is 'one of the past', it must be one of kernels, tiles of 8"),
        (spoilt(more=1), "unknown more"),
        (spoilt(timed=[{"form": "kernels", "milliseconds": "fast"}]), "milliseconds must be a number"),
        (spoilt(key=asdict(KEY) | {"card": "another"}), "key.card is another"),
        (json.dumps({"form": "kernels"}).encode(), "missing"),
        (b"\xff\xfe", "not JSON"),
    ],
)
def test_a_broken_file_is_one_line_in_the_log_and_timed_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes, said: str
) -> None:
    machine = Machine({"kernels": 5.0, "tiles of 8": 4.0})
    machine.chooser(tmp_path).path.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert machine.choose(tmp_path) == "tiles of 8"
    [line] = caplog.messages
    assert said in line
    assert "\n" not in line
    assert Machine({"kernels": 1.0, "tiles of 8": 4.0}).choose(tmp_path) == "tiles of 8"  # it is whole again


def test_a_whole_file_is_taken_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine({"kernels": 5.0, "tiles of 8": 4.0})
    machine.chooser(tmp_path).path.write_bytes(spoilt())
    assert machine.choose(tmp_path) == "kernels"
    assert (machine.made, caplog.messages) == ([], [])


def test_when_its_time_is_over_no_further_form_is_begun(tmp_path: Path) -> None:
    machine = Machine({"a": 5.0, "b": 4.0, "c": 3.0, "d": 2.0, "e": 1.0}, seconds=SECONDS * 0.6)
    name, reason = machine.chooser(tmp_path).choose(machine.candidates())
    assert (name, machine.made) == ("c", ["a", "b", "c"])
    assert "d: not tried, 6 s were over; e: not tried, 6 s were over" in reason


def test_its_time_begins_behind_the_first_form_that_works(tmp_path: Path) -> None:
    machine = Machine({"a": "no", "b": "no", "c": 3.0, "d": 2.0, "e": 1.0}, seconds=SECONDS * 1.1)
    assert machine.choose(tmp_path) == "d"


def test_where_no_form_works_it_says_why_of_each(tmp_path: Path) -> None:
    machine = Machine({"a": "too large", "b": "too small"})
    with pytest.raises(RuntimeError, match="a: too large; b: too small"):
        machine.choose(tmp_path)
    assert not list(tmp_path.iterdir())


def test_where_nothing_can_be_written_the_choice_holds_for_this_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file where a folder should be")
    assert Machine({"kernels": 5.0, "tiles of 8": 4.0}).choose(tmp_path / "file" / "forms") == "tiles of 8"


def _choose_often(folder: Path) -> None:
    for _ in range(40):
        assert Machine({"kernels": 5.0, "tiles of 8": 4.0}).choose(folder, again=True) == "tiles of 8"
        assert Machine({"kernels": 5.0, "tiles of 8": 4.0}).chooser(folder).kept(["kernels", "tiles of 8"]) is not None


def test_processes_that_choose_at_the_same_time_leave_a_whole_file_and_no_other(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_choose_often, args=(tmp_path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(list(tmp_path.iterdir())) == 1
