// The norm and the rotation of a head's query or key. A warp has one head; a lane dims 2 l, 2 l + 1 and those 64 further.
#pragma once
#include "exchange.cuh"

struct Angle {  // of a lane's dims
  float2 cos, sin;

  DEVICE void load(const Self& me, const float* cosines, const float* sines) {  // [DIM / 2] each
    const uint2 c = load_table((const uint2*)cosines + me.lane), s = load_table((const uint2*)sines + me.lane);
    cos = make_float2(__uint_as_float(c.x), __uint_as_float(c.y));
    sin = make_float2(__uint_as_float(s.x), __uint_as_float(s.y));
  }
};

DEVICE float warp_sum(float v) {
#pragma unroll
  for (int mask = 16; mask; mask /= 2) v += from_lane(v, mask);
  return v;
}

// A head's norm and rotation. a, b: dims 2 l, 2 l + 1 and those 64 further; they come back rounded to bf16.
DEVICE void turn(float2& a, float2& b, const u32 (&norm)[2], const Angle& angle, float eps) {
  const float factor = rsqrtf(warp_sum(a.x * a.x + a.y * a.y + b.x * b.x + b.y * b.y) * (1.f / DIM) + eps);
  const float2 g = unpacked(norm[0]), h = unpacked(norm[1]), c = angle.cos, s = angle.sin;
  const float ax = rounded(a.x * factor * g.x), ay = rounded(a.y * factor * g.y);
  const float bx = rounded(b.x * factor * h.x), by = rounded(b.y * factor * h.y);
  a = make_float2(rounded(ax * c.x - bx * s.x), rounded(ay * c.y - by * s.y));
  b = make_float2(rounded(bx * c.x + ax * s.x), rounded(by * c.y + ay * s.y));
}
