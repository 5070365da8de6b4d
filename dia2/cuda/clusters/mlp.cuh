// A layer's MLP: a block computes UNITS hidden units and sends them to the blocks of its cluster. Then each has its own
// columns of the down projection, from all hidden units of the cluster.
#pragma once
#include "eight_bits.cuh"
#include "sums.cuh"

template <int UNITS>
constexpr int hidden_bytes() { return ROWS * RANKS * UNITS * 2; }

DEVICE float silu(float v) {
  return __fdividef(v, 1.f + __expf(-v));
}

// The first of a block's hidden units.
template <int UNITS>
DEVICE int first_unit(const Self& me) {
  if constexpr (UNITS == UNITS_BESIDE) return me.block * UNITS;
  else return HEAD_BLOCKS * UNITS_BESIDE + (me.block - HEAD_BLOCKS) * UNITS;
}

// Sends this block's hidden units: gate and up are neighbours in the product, two units a lane.
template <int UNITS>
DEVICE void send_hidden(
    const Self& me, char* memory, int area, float2 factors, const Scales<2 * UNITS, 4>& scales, const Inbox& inbox) {
#pragma unroll
  for (int i = me.lane; i < UNITS; i += 32) {
    const int row = i / (UNITS / 2), unit = i % (UNITS / 2) * 2;
    const float4 sum = scales.times(i, partial_sum<2 * UNITS, float4>(memory, area, row, 2 * unit));
    const float factor = row ? factors.y : factors.x;
    const u32 to = me.base + place::HIDDEN + (row * hidden_pitch(UNITS) + me.rank * UNITS + unit) * 2;
    const float a = silu(sum.x * factor) * (sum.y * factor), b = silu(sum.z * factor) * (sum.w * factor);
    send(to, inbox.barrier, me.warp, packed(a, b));
  }
}
