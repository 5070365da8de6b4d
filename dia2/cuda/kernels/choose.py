"""The kernel by which a step that was begun before the host knows the action of the one before finds its text."""

import triton
import triton.language as tl
from torch import Tensor

from dia2.cuda.kernels.launch import STEP_FIELDS, launch, next_power_of_2


@triton.jit
def _choose_kernel(choices_ptr, action_ptr, fields_ptr, new_word, FIELDS: tl.constexpr, BLOCK: tl.constexpr):
    """fields = choices[whether the action starts a word], for one line. The rule is that of TextMachine."""
    i = tl.arange(0, BLOCK)
    action = tl.load(action_ptr)
    starts_word = (action == 1) | ((action == new_word) & (action != 0))
    chosen = tl.load(choices_ptr + tl.where(starts_word, FIELDS, 0) + i, mask=i < FIELDS, other=0)
    tl.store(fields_ptr + i, chosen, mask=i < FIELDS)


def choose(choices: Tensor, action: Tensor, new_word: int, fields: Tensor) -> None:
    """Writes choices[0] into fields where the action is to hold, choices[1] where it starts a word.

    choices: int64 [2, STEP_FIELDS]. action: int64 [1]. fields: int64 [STEP_FIELDS].

    The next kernel starts when this one has ended, not before: kernels of a step read its fields before they wait for
    the kernel ahead of them.
    """
    shape = {"FIELDS": STEP_FIELDS, "BLOCK": next_power_of_2(STEP_FIELDS)}
    launch(_choose_kernel, (1,), choices, action, fields, new_word, num_warps=1, **shape)
