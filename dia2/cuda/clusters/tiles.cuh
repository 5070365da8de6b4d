// Products of two rows with weights from the ring. All warps work on every chunk, each on its own part, and take the
// next tiles before they multiply with those that they have.
#pragma once
#include "ring.cuh"
#include "sums.cuh"

// Waits for all warps but the one that loads.
DEVICE void meet() { asm volatile("bar.sync 1, %0;" ::"n"(THREADS) : "memory"); }

DEVICE void multiply_tile(float4& even, float4& odd, const uint4& x, const uint4 (&weights)[2]) {
  multiply_add(even, weights[0], x.x, x.y);
  multiply_add(odd, weights[1], x.z, x.w);
}

DEVICE void multiply_tile(float4& even, float4& odd, const uint4& x, const uint4 (&eight_bits)[1]) {
  const uint4& w = eight_bits[0];
  const uint2 a = widened(w.x), b = widened(w.y), c = widened(w.z), d = widened(w.w);
  multiply_add(even, make_uint4(a.x, a.y, b.x, b.y), x.x, x.y);
  multiply_add(odd, make_uint4(c.x, c.y, d.x, d.y), x.z, x.w);
}

// Which of a tile's results a lane keeps: all four lanes that share an output have both rows of it and of output + 8.
struct Kept {
  u32 row, output;

  DEVICE explicit Kept(const Self& me) : row(me.lane % 2), output(me.lane / 4 + me.lane % 4 / 2 * 8) {}
};
DEVICE float kept(const Self& me, const float4& sums) {
  const float a = me.lane % 2 ? sums.y : sums.x, b = me.lane % 2 ? sums.w : sums.z;
  return me.lane % 4 / 2 ? b : a;
}

// The phase's input times this warp's SPAN inputs of TILES tiles. Its part is left for `partial_sum`.
template <int TILES>
DEVICE void multiply_input(const Self& me, char* memory, int area, Ring& ring) {
  // How many times 32 inputs a turn has, so that it takes whole chunks of the ring.
  constexpr int INPUTS = TILES % PER_CHUNK ? PER_CHUNK : 1;
  constexpr int TURNS = SPAN / 32 / INPUTS;
  float4 sums[TILES] = {};
  u32 from = input_address(me, place::INPUT, INPUT_PITCH, me.warp * SPAN);
  Tiles tiles, next;
  tiles.take(me, ring);
#pragma unroll 1
  for (int turn = 0; turn < TURNS; turn++, from += INPUTS * 64) {
    uint4 x[INPUTS];
#pragma unroll
    for (int i = 0; i < INPUTS; i++) x[i] = load_shared(from + i * 64);
#pragma unroll
    for (int i = 0; i < INPUTS * TILES; i += PAIR) {
      if (turn < TURNS - 1 || i + PAIR < INPUTS * TILES) next.take(me, ring, i / PAIR + 1);
#pragma unroll
      for (int j = i; j < i + PAIR; j++)
        multiply_tile(sums[j % TILES], sums[j % TILES], x[j / TILES], tiles.of[j - i]);
      tiles = next;
    }
  }
  const Kept at(me);
  float* to = (float*)(memory + place::PARTIAL + area * place::PARTIAL_AREA) + (me.warp * ROWS + at.row) * TILES * 16 +
              at.output;
#pragma unroll
  for (int tile = 0; tile < TILES; tile++) to[tile * 16] = kept(me, sums[tile]);
}

// The scales of the columns that a lane stores.
struct ShareScales {
  float of[OUT_TILES];

  DEVICE void load(const Self& me, const float* scales) {  // [WIDTH]
    if constexpr (EIGHT_BITS)
#pragma unroll
      for (int tile = 0; tile < OUT_TILES; tile++) {
        const u32 column = me.rank * SLICE + (me.warp * OUT_TILES + tile) * 16 + Kept(me).output;
        of[tile] = __uint_as_float(load_table((const u32*)scales + column));
      }
  }
  DEVICE float times(int tile, float v) const {
    if constexpr (EIGHT_BITS) v *= of[tile];
    return v;
  }
};

// Two rows of bf16 in shared memory, 32 INPUTS wide, times this warp's outputs; stored as this cluster's share.
template <int INPUTS>
DEVICE void store_product(const Self& me, const char* memory, int area, u32 from, Ring& ring, const ShareScales& scales,
                          float* shares, Tag tag) {
  float4 sums[OUT_TILES][2] = {};
  Tiles tiles, next;
  tiles.take(me, ring);
#pragma unroll 2
  for (int i = 0; i < INPUTS; i++) {
    const uint4 x = load_shared(from + i * 64);
    if (i < INPUTS - 1) next.take(me, ring, i + 1);
#pragma unroll
    for (int tile = 0; tile < OUT_TILES; tile++) multiply_tile(sums[tile][0], sums[tile][1], x, tiles.of[tile]);
    tiles = next;
  }
  const Kept at(me);
  const float* stream = (const float*)(memory + place::STREAM + area * place::STREAM_AREA) + at.row * SLICE;
  float* to = shares + (me.cluster * ROWS + at.row) * WIDTH + me.rank * SLICE;
#pragma unroll
  for (int tile = 0; tile < OUT_TILES; tile++) {
    const u32 column = (me.warp * OUT_TILES + tile) * 16 + at.output;
    float v = scales.times(tile, kept(me, sums[tile][0] + sums[tile][1]));
    if (me.cluster == 0) v += stream[column];
    store_fresh(to + column, tagged(v, tag));
  }
}
