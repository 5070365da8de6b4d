"""Drawing a token from logits, in one kernel: guidance, filter, temperature, top k, and the inverse CDF of a uniform.

It does what Guidance and Draws of dia2/model/sampling.py do, for each line of the step with the settings of its slot.
The k largest of a row are found without sorting: `_kth` searches for the value that has exactly k values at or above
it.
"""

from dataclasses import dataclass

import triton
import triton.language as tl
from torch import Tensor

from dia2.cuda.kernels.launch import STEP_FIELDS, launch, launch_options, next_power_of_2, wait_for_previous


@triton.jit
def _kth(values, k):
    """A threshold: exactly the k largest of `values` are at or above it, or more, where several equal the k-th largest.

    Each round cuts the range in which the threshold lies into four, and counts the values above all three cuts in one
    sum of packed counters.
    """
    low = tl.min(tl.where(values > float("-inf"), values, float("inf")), axis=0)  # at least k are at or above it
    high = tl.max(values, axis=0)  # fewer than k are, or it is the one
    low = tl.where(tl.sum((values >= high).to(tl.int32), axis=0) >= k, high, low)
    going = (low < high).to(tl.int32)
    while going > 0:
        quarter = (high - low) * 0.25
        a, b, c = low + quarter, low + 2 * quarter, low + 3 * quarter
        ones = (values >= a).to(tl.int64) + ((values >= b).to(tl.int64) << 20) + ((values >= c).to(tl.int64) << 40)
        counts = tl.sum(ones, axis=0)
        above_a, above_b, above_c = counts & 0xFFFFF, (counts >> 20) & 0xFFFFF, counts >> 40
        new_low = tl.where(above_c >= k, c, tl.where(above_b >= k, b, tl.where(above_a >= k, a, low)))
        new_high = tl.where(above_c >= k, high, tl.where(above_b >= k, c, tl.where(above_a >= k, b, a)))
        found = (above_a == k) | (above_b == k) | (above_c == k)
        going = ((new_low > low) | (new_high < high)).to(tl.int32) * (1 - found.to(tl.int32))
        low, high = new_low, new_high
    return low


@triton.jit(do_not_specialize=["stream", "codebook", "delay", "banned", "also_banned"])
def _draw_kernel(
    logits_ptr,
    scale_ptr,
    filter_ptr,
    temperature_ptr,
    top_k_ptr,
    uniforms_ptr,
    step_ptr,
    token_ptr,
    codes_ptr,
    V,
    banned,
    also_banned,
    stream,
    codebook,
    delay,
    logits_stride,
    token_stride,
    capacity,
    streams,
    codebooks,
    FIELDS: tl.constexpr,
    BLOCK: tl.constexpr,
    WRITE: tl.constexpr,
    PDL: tl.constexpr,
):
    """One draw a line of the step: guidance, filter, temperature, top k, inverse CDF in the vocabulary's order.

    The token goes to token[line]; with WRITE also to the codes of the slot's next column, unless its frame is known.
    """
    line = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    inside = i < V
    wait_for_previous(PDL)
    slot = tl.maximum(tl.load(step_ptr + line * FIELDS + 5), 0)
    scale = tl.load(scale_ptr + slot)
    filter_k = tl.load(filter_ptr + slot).to(tl.int32)
    temperature = tl.load(temperature_ptr + slot)
    top_k = tl.load(top_k_ptr + slot).to(tl.int32)
    column = tl.load(step_ptr + line * FIELDS)
    uniform = tl.load(uniforms_ptr + (slot * capacity + column) * streams + stream)
    row = logits_ptr + 2 * line * logits_stride + i
    all_logits = tl.load(row, mask=inside, other=0.0)
    logits = all_logits
    if (filter_k > 0) & (filter_k < V):
        other = tl.load(row + logits_stride, mask=inside, other=0.0)
        guided = tl.where(inside, other + scale * (logits - other), float("-inf"))
        logits = tl.where(guided >= _kth(guided, filter_k), logits, float("-inf"))
    allowed = inside & (i != banned) & (i != also_banned)
    logits = tl.where(allowed, logits, float("-inf"))
    # A narrow filter may have kept only banned tokens. Then all others are candidates.
    kept = tl.max(logits, axis=0) > float("-inf")
    logits = tl.where(kept, logits, tl.where(allowed, all_logits, float("-inf")))
    most = tl.max(logits, axis=0)
    if temperature > 0:
        scaled = logits / tl.maximum(temperature, 1e-4)
        candidates = tl.sum((logits > float("-inf")).to(tl.int32), axis=0)
        if (top_k > 0) & (top_k < candidates):
            scaled = tl.where(scaled >= _kth(scaled, top_k), scaled, float("-inf"))
        weights = tl.exp(scaled - most / tl.maximum(temperature, 1e-4))
        # In fixed point: parallel sums of floats may differ where they should be equal, and a uniform between two such
        # sums would draw an impossible token.
        cdf = tl.cumsum((weights * 4294967296.0).to(tl.int64), axis=0)
        drawn = (uniform.to(tl.float64) * tl.max(cdf, axis=0).to(tl.float64)).to(tl.int64)
        token = tl.sum((cdf <= drawn).to(tl.int32), axis=0)
    else:
        token = tl.min(tl.where(logits == most, i, BLOCK), axis=0)
    tl.store(token_ptr + line * token_stride, token.to(tl.int64))
    if WRITE:
        new = column + 1 - delay >= tl.load(step_ptr + line * FIELDS + 2)
        into = codes_ptr + (slot * codebooks + codebook) * capacity + column + 1
        tl.store(into, token.to(tl.int64), mask=new)


@dataclass(frozen=True)
class Sampler:
    """One kind of draw: its settings, [slots] each, and the uniforms [slots, capacity, streams] of all kinds."""

    scale: Tensor
    filter_k: Tensor
    temperature: Tensor
    top_k: Tensor
    uniforms: Tensor

    def __call__(
        self,
        logits: Tensor,
        fields: Tensor,
        stream: int,
        token: Tensor,
        *,
        banned: tuple[int, int] = (-1, -1),
        codes: Tensor | None = None,
        codebook: int = 0,
        delay: int = 0,
    ) -> None:
        """Draws for n lines of the step's fields: logits float32 [2 n, V], rows of any stride -> token int64 [n].

        token may have any stride. With codes [slots, C, capacity], the token is also stored as that codebook of the
        slot's next column, unless the column's frame of this codebook, which has this delay, is known.
        """
        into = token if codes is None else codes
        launch(
            _draw_kernel,
            (token.shape[0],),
            logits,
            self.scale,
            self.filter_k,
            self.temperature,
            self.top_k,
            self.uniforms,
            fields,
            token,
            into,
            logits.shape[1],
            *banned,
            stream,
            codebook,
            delay,
            logits.stride(0),
            token.stride(0),
            self.uniforms.shape[1],
            self.uniforms.shape[2],
            into.shape[1] if codes is not None else 0,
            FIELDS=STEP_FIELDS,
            BLOCK=next_power_of_2(logits.shape[1]),
            WRITE=codes is not None,
            num_warps=4,
            **launch_options(),
        )
