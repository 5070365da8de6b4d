// A layer's attention: every cluster has one head. Its blocks compute q, k and v together, 48 outputs each, and send them
// to each other; then each of them does the whole head's attention, because to divide it would cost another exchange.
// A block's columns of the out projection are its own again.
#pragma once
#include "products.cuh"
#include "rotation.cuh"

constexpr int KEYS_A_WARP = MOST_STAGES / 4;
constexpr int QKV_BYTES = ROWS * 3 * DIM * 2;

// What attention needs beside its input and weights, loaded a phase ahead. Four warps share a row, and each of them has
// the stages of its own number, then every fourth. A lane has dims 2 l, 2 l + 1 and 64 further of keys, 4 l to 4 l + 3 of
// values.
struct Ahead {
  u32 q_norm[2], k_norm[2], keys[KEYS_A_WARP][2];
  uint2 values[KEYS_A_WARP];
  Angle angle;

  DEVICE void load_angles(const Params& params, const Self& me, int stage) {
    if (stage >= params.stages) return;
    angle.load(me, params.cos + stage * DIM / 2, params.sin + stage * DIM / 2);
  }

  DEVICE void load(const Params& params, const Self& me, int stage, int layer) {
    if (stage >= params.stages) return;
    const u32 *q = (const u32*)(params.q_norm + layer * DIM), *k = (const u32*)(params.k_norm + layer * DIM);
    q_norm[0] = load_table(q + me.lane), q_norm[1] = load_table(q + 32 + me.lane);
    k_norm[0] = load_table(k + me.lane), k_norm[1] = load_table(k + 32 + me.lane);
#pragma unroll
    for (int i = 0; i < KEYS_A_WARP; i++) {
      const int at = me.warp % 4 + 4 * i;
      keys[i][0] = keys[i][1] = 0, values[i] = make_uint2(0, 0);
      if (at < stage) {
        const u32* k = cached_key(params, me, layer, at);
        keys[i][0] = load_fresh(k), keys[i][1] = load_fresh(k + 32);
        values[i] = load_fresh(cached_value(params, me, layer, at));
      }
    }
  }

  // Keys and values of a column: bf16 [layers][2][HEADS][MOST_STAGES][DIM] each. Block 0 of a head's cluster writes them.
  // The others read them in a later stage, and between two stages all blocks of a cluster wait for each other.
  static DEVICE i64 cached(const Self& me, int layer, int stage) {
    return (((i64)layer * ROWS + me.row) * HEADS + me.cluster) * MOST_STAGES * DIM + stage * DIM;
  }
  static DEVICE u32* cached_key(const Params& params, const Self& me, int layer, int stage) {
    return (u32*)(params.keys + cached(me, layer, stage)) + me.lane;
  }
  static DEVICE uint2* cached_value(const Params& params, const Self& me, int layer, int stage) {
    return (uint2*)(params.values + cached(me, layer, stage)) + me.lane;
  }
};

// Sums eight values over all lanes at once: afterwards lane l has the sum of value l / 4.
DEVICE float sums_of_eight(const Self& me, float (&v)[8]) {
#pragma unroll
  for (int half = 4, mask = 16; half; half /= 2, mask /= 2) {
    const bool upper = me.lane & mask;
#pragma unroll
    for (int i = 0; i < half; i++) {
      const float sent = upper ? v[i] : v[i + half];
      v[i] = (upper ? v[i + half] : v[i]) + from_lane(sent, mask);
    }
  }
  v[0] += from_lane(v[0], 2);
  return v[0] + from_lane(v[0], 1);
}

// This warp's stages of its row: softmax and weighted sum, as far as one warp can. Writes the new key and value.
DEVICE void mix_own_stages(const Params& params, const Self& me, char* memory, Ahead& ahead, int stage, int layer) {
  static_assert(KEYS_A_WARP == 8, "as many as sums_of_eight sums up");
  const u32* qkv = (const u32*)(memory + place::QKV) + me.row * 3 * DIM / 2;
  float2 q0 = unpacked(qkv[me.lane]), q1 = unpacked(qkv[32 + me.lane]);
  float2 k0 = unpacked(qkv[64 + me.lane]), k1 = unpacked(qkv[96 + me.lane]);
  const uint2 value = ((const uint2*)(qkv + 128))[me.lane];
  turn(q0, q1, ahead.q_norm, ahead.angle, params.eps);
  turn(k0, k1, ahead.k_norm, ahead.angle, params.eps);
  const u32 key[2] = {packed(k0.x, k0.y), packed(k1.x, k1.y)};
  if (me.rank == 0 && me.warp % 4 == 0) {
    u32* k = Ahead::cached_key(params, me, layer, stage);
    store_fresh(k, key[0]), store_fresh(k + 32, key[1]);
    store_fresh(Ahead::cached_value(params, me, layer, stage), value);
  }
  float scores[8];
#pragma unroll
  for (int i = 0; i < 8; i++) {
    const bool is_new = me.warp % 4 + 4 * i == stage;
    const float2 a = unpacked(is_new ? key[0] : ahead.keys[i][0]), b = unpacked(is_new ? key[1] : ahead.keys[i][1]);
    if (is_new) ahead.values[i] = value;
    scores[i] = q0.x * a.x + q0.y * a.y + q1.x * b.x + q1.y * b.y;
  }
  const float mine = sums_of_eight(me, scores);  // of stage warp % 4 + 4 (lane / 4)
  const float score = me.warp % 4 + 4 * (me.lane / 4) <= stage ? mine : -INF;
  float most = score;
#pragma unroll
  for (int mask = 4; mask <= 16; mask *= 2) most = fmaxf(most, from_lane(most, mask));
  const float weight = score == -INF ? 0.f : __expf(score - most);
  float total = weight;
#pragma unroll
  for (int mask = 4; mask <= 16; mask *= 2) total += from_lane(total, mask);
  float4 mix = {};
#pragma unroll
  for (int i = 0; i < 8; i++) {
    const float w = __shfl_sync(~0u, weight, 4 * i);
    const float2 a = unpacked(ahead.values[i].x), b = unpacked(ahead.values[i].y);
    mix = mix + make_float4(w * a.x, w * a.y, w * b.x, w * b.y);
  }
  ((float4*)(memory + place::MIXES))[me.warp * 32 + me.lane] = mix;
  if (me.lane == 0) ((float2*)(memory + place::SOFTMAX))[me.warp] = make_float2(most, total);
}

// The four warps of a row put together: bf16 [2][MIXED_PITCH].
DEVICE void mix_all_stages(const Self& me, char* memory) {
  const u32 row = me.thread / DIM, dim = me.thread % DIM;
  const float2* softmax = (const float2*)(memory + place::SOFTMAX) + row * 4;
  const float* mixes = (const float*)(memory + place::MIXES) + row * 4 * DIM + dim;
  const float most = fmaxf(fmaxf(softmax[0].x, softmax[1].x), fmaxf(softmax[2].x, softmax[3].x));
  float mix = 0, total = 0;
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const float shrink = __expf(softmax[i].x - most);
    mix += shrink * mixes[i * DIM], total += shrink * softmax[i].y;
  }
  ((bf16*)(memory + place::MIXED))[row * MIXED_PITCH + dim] = (bf16)packed(mix / total, 0.f);
}

constexpr int OUTPUTS = QKV_TILES * 8;  // of a block

// Sends this block's outputs of q, k and v to all blocks of the cluster, once every warp has left its part of them.
DEVICE void send_qkv(
    const Self& me, char* memory, int area, float2 factors, const Scales<OUTPUTS, 2>& scales, const Inbox& inbox) {
#pragma unroll
  for (int i = me.lane; i < ROWS * OUTPUTS / 2; i += 32) {
    const int row = i / (OUTPUTS / 2), output = i % (OUTPUTS / 2) * 2;
    const float2 sum = scales.times(i, partial_sum<OUTPUTS, float2>(memory, area, row, output));
    const float factor = row ? factors.y : factors.x;
    const u32 to = me.base + place::QKV + (row * 3 * DIM + me.rank * OUTPUTS + output) * 2;
    send(to, inbox.barrier, me.warp, packed(sum.x * factor, sum.y * factor));
  }
}
