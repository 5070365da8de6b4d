// Weights in 8 bits: e4m3 values with a float32 scale for each output (dia2/model/fp8.py). WEIGHT_BYTES, which the host
// defines, says whether a kernel is compiled for them (1) or for bf16 (2).
//
// The ring and the stores hold the 8 bits. A warp makes bf16 of them when it gives them to the matrix unit, which is
// exact, and sums are multiplied with their output's scale in float32. A word holds four values, two in each half. Their
// bits are laid out (words.py) so that this takes few instructions. Of a half, from bit 15 down; a is the first value's,
// b the second value's, s, e and m their signs, exponents and mantissas:
//
//   as be be be bs ae ae ae ae am am am be bm bm bm
//
// The first value's bits stand where bf16 has them. The second value's come there by two shifts.
#pragma once
#include "ptx.cuh"

constexpr bool EIGHT_BITS = WEIGHT_BYTES == 1;
static_assert(WEIGHT_BYTES == 1 || WEIGHT_BYTES == 2, "e4m3 or bf16");

// The exponent of bf16 counts from 127, that of e4m3 from 7. So e4m3's bits in their places mean the value times 2^-120.
// A product with 2^120 is exact, also for e4m3's smallest values, which have no leading 1.
DEVICE u32 rebased(u32 pair) {
  asm("mul.rn.bf16x2 %0, %0, %1;" : "+r"(pair) : "r"(0x7b807b80));
  return pair;
}

// Four values of a word as two registers of the matrix unit: the first value of either half, then the second ones.
DEVICE uint2 widened(u32 word) {
  const u32 second = (word << 4 & 0x80f080f0u) | (word >> 4 & 0x07000700u);
  return make_uint2(rebased(word & 0x87f087f0u), rebased(second));
}

// Eight weights, as a lane reads them.
template <int BYTES>
struct Eight {
  typedef uint4 Type;
  DEVICE static uint4 load(u32 address) { return load_shared(address); }
};
template <>
struct Eight<1> {
  typedef uint2 Type;
  DEVICE static uint2 load(u32 address) { return load_shared_pair(address); }
};

DEVICE void multiply_add(float4& even, float4& odd, const uint4& x, const uint2& eight) {
  const uint2 a = widened(eight.x), b = widened(eight.y);
  multiply_add(even, x.x, x.y, a.x, a.y);
  multiply_add(odd, x.z, x.w, b.x, b.y);
}

// The scales of a block's OUTPUTS, loaded ahead like a norm's gains. A lane has A_LANE neighbours of them, and of both
// rows together in each of some turns. Weights of 16 bits have no scales: nothing is loaded or multiplied.
template <int OUTPUTS, int A_LANE>
struct Scales {
  static constexpr int LANES = OUTPUTS / A_LANE, TURNS = (ROWS * LANES + 31) / 32;

  static_assert(TURNS <= 2, "registers have no index");

  float of[TURNS][A_LANE];

  DEVICE void load(u32 lane, const float* scales) {
    if constexpr (EIGHT_BITS)
#pragma unroll
      for (int turn = 0; turn < TURNS; turn++)
#pragma unroll
        for (int i = 0; i < A_LANE; i += 2) {
          const uint2 two = load_table((const uint2*)(scales + (lane + 32 * turn) % LANES * A_LANE + i));
          of[turn][i] = __uint_as_float(two.x), of[turn][i + 1] = __uint_as_float(two.y);
        }
  }
  // v: the sums of place i, a lane's own or, in the second turn, the one 32 further.
  DEVICE float2 times(int i, float2 v) const {
    if constexpr (EIGHT_BITS) v.x *= scale(i, 0), v.y *= scale(i, 1);
    return v;
  }
  DEVICE float4 times(int i, float4 v) const {
    if constexpr (EIGHT_BITS) v.x *= scale(i, 0), v.y *= scale(i, 1), v.z *= scale(i, 2), v.w *= scale(i, 3);
    return v;
  }

 private:
  DEVICE float scale(int i, int number) const { return i < 32 ? of[0][number] : of[TURNS - 1][number]; }
};
