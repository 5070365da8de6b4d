"""The golden checkpoints and what is expected of them, each loaded once a process, and conversations to drive."""

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from dia2 import Dia2
from dia2.checkpoint.load import Checkpoint, LoadOptions, load_checkpoint
from dia2.model.fp8 import Fp8Matrix
from dia2.model.sampling import SamplingConfig, SlotSettings
from dia2.steps.stepper import Stepper, TextColumn
from dia2.text.machine import TextMachine
from dia2.text.script import Entry, read_script

GREEDY = SamplingConfig(temperature=0.0, top_k=0)


@cache
def cases(goldens: Path) -> dict[str, Any]:
    """cases.json."""
    read: dict[str, Any] = json.loads((goldens / "cases.json").read_text(encoding="utf-8"))
    return read


@cache
def expected(goldens: Path) -> dict[str, Tensor]:
    """expected.safetensors."""
    return load_file(goldens / "expected.safetensors")


@cache
def checkpoint(goldens: Path) -> Checkpoint:
    """The checkpoint on the CPU in float32. Shared: leave it as it is."""
    return load_checkpoint(goldens / "checkpoint", LoadOptions(device="cpu", dtype="float32"))


@cache
def dia(goldens: Path) -> Dia2:
    """The checkpoint as the public class."""
    return Dia2(checkpoint(goldens))


def dequantized(matrix: Fp8Matrix) -> Tensor:
    """An 8-bit matrix as it is computed with, float32."""
    return matrix.values.float() * matrix.scale.unsqueeze(-1)


def entry(tokens: Sequence[int], text: str, padding: int) -> Entry:
    """An entry as the goldens write it."""
    return Entry(tuple(tokens), text, padding)


class Talk:
    """One script spoken in one slot of a stepper, by the bare loop: act, text machine, complete."""

    def __init__(
        self, loaded: Checkpoint, stepper: Stepper, slot: int, script: str, settings: SlotSettings, seed: int = 0
    ) -> None:
        self.stepper, self.slot = stepper, slot
        self.machine = TextMachine.of(loaded.config.data)
        self.state = self.machine.start()
        self.state.append(read_script(script, loaded.tokenizer))
        self.texts = [stepper.opening]  # of every column so far
        stepper.begin(slot, settings, seed)

    def say(self, action: int) -> TextColumn:
        """The text of the next column."""
        column = self.stepper.slots[self.slot].column
        self.texts[column + 1 :] = [self.machine.process(self.state, column, action)]
        return self.texts[-1]

    @property
    def codes(self) -> Tensor:
        """The columns known so far, int64 [C, columns]."""
        return self.stepper.codes[self.slot, :, : len(self.texts)].clone()


def step(*talks: Talk) -> list[int]:
    """One step of several talks of one stepper, in any order of slots. Returns the actions drawn."""
    stepper = talks[0].stepper
    actions = stepper.act([talk.slot for talk in talks])
    stepper.complete([talk.say(action) for talk, action in zip(talks, actions, strict=True)])
    return actions
