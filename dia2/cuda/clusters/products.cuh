// Products of two rows with weights, and the sums over the warps.
#pragma once
#include "sums.cuh"
#include "weights.cuh"

// This lane's part of a matrix of TILES tiles of outputs, by CHUNKS_ chunks of 32 inputs, in registers.
template <int CHUNKS_, int TILES>
struct Weights {
  Eight<WEIGHT_BYTES>::Type of[CHUNKS_][TILES];

  DEVICE void read(const Self& me, const WeightStore& store) {
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS_; chunk++)
#pragma unroll
      for (int tile = 0; tile < TILES; tile++) of[chunk][tile] = store.tile(me, chunk * TILES + tile);
  }
};

// The phase's input times this warp's SPAN inputs of TILES tiles; `weight` gives a lane's part of each.
template <int TILES, typename Weight>
DEVICE void multiply_input(const Self& me, const Weight& weight, float4 (&sums)[TILES]) {
  const u32 from = input_address(me, place::INPUT, INPUT_PITCH, me.warp * SPAN);
#pragma unroll
  for (int chunk = 0; chunk < CHUNKS; chunk++) {
    const uint4 x = load_shared(from + chunk * 64);
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) multiply_add(sums[tile], sums[tile], x, weight(chunk, tile));
  }
}

// Leaves a warp's part of a product in shared memory, [WARPS][2][8 TILES], for `partial_sum`.
template <int TILES>
DEVICE void leave_partial(const Self& me, char* memory, int area, const float4 (&sums)[TILES]) {
  float* to = (float*)(memory + place::PARTIAL + area * place::PARTIAL_AREA) + (me.warp * ROWS + me.lane / 4) * TILES * 8 + (me.lane % 4) * 2;
  if (me.lane >= 8) return;
#pragma unroll
  for (int tile = 0; tile < TILES; tile++) *(float2*)(to + tile * 8) = make_float2(sums[tile].x, sums[tile].y);
}

// The scales of the columns that a lane stores.
struct ShareScales {
  float2 of[OUT_TILES];

  DEVICE void load(const Self& me, const float* scales) {  // [WIDTH]
    if constexpr (EIGHT_BITS)
#pragma unroll
      for (int tile = 0; tile < OUT_TILES; tile++) {
        const u32 column = me.rank * SLICE + (me.warp * OUT_TILES + tile) * 8 + (me.lane % 4) * 2;
        const uint2 two = load_table((const uint2*)(scales + column));
        of[tile] = make_float2(__uint_as_float(two.x), __uint_as_float(two.y));
      }
  }
  DEVICE float2 times(int tile, float2 v) const {
    if constexpr (EIGHT_BITS) v.x *= of[tile].x, v.y *= of[tile].y;
    return v;
  }
};

// Two rows of bf16 in shared memory, 32 CHUNKS_ wide, times OUT_TILES tiles; stored as this cluster's share.
template <int CHUNKS_>
DEVICE void store_product(
    const Self& me, const char* memory, int area, u32 from, const Weights<OUT_TILES, CHUNKS_>& weights,
    const ShareScales& scales, float* shares, Tag tag) {
#pragma unroll
  for (int tile = 0; tile < OUT_TILES; tile++) {
    float4 sums[4] = {};  // four chains of instructions, which do not wait for each other
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS_; chunk++) {
      const int even = chunk % 2 * 2;
      multiply_add(sums[even], sums[even + 1], load_shared(from + chunk * 64), weights.of[tile][chunk]);
    }
    const float4 sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    const float2 two = scales.times(tile, make_float2(sum.x, sum.y));
    store_share(me, memory, area, shares, tag, tile, two.x, two.y);
  }
}
