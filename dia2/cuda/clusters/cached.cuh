// A layer's attention over the cache: every cluster has a KV head, with the query heads that share it, of both rows.
//
// Its blocks compute queries, key and value together, and send them to each other. Then each has every eighth group of
// 16 columns of the cache, which come through its ring. A warp takes one row of every fourth of them and keeps, as in
// any softmax that is computed in pieces, the largest score, the sum of weights and the weighted sum of values. Those
// are put together first in the block, then, after one more exchange, in the cluster.
#pragma once
#include "rotation.cuh"
#include "tiles.cuh"

constexpr int QKV_BYTES = ROWS * QKV * 2;
constexpr int PARTS_BYTES = RANKS * ROWS * GROUP * (DIM * 4 + 8);
constexpr int NEW_COLUMN_RANK = RANKS - 1;  // of the block that has the new column too, as it has the fewest others

constexpr int OUTPUTS = QKV / RANKS;  // of a block

// Sends this block's outputs of q, k and v to all blocks of the cluster, once every warp has left its part of them.
DEVICE void send_qkv(const Self& me, const char* memory, int area, float2 factors, const Scales<OUTPUTS, 4>& scales,
                     const Inbox& inbox) {
  static_assert(ROWS * OUTPUTS == 4 * 32, "four outputs a lane");
  const int row = me.lane / (OUTPUTS / 4), output = me.lane % (OUTPUTS / 4) * 4;
  const float4 sum = scales.times(me.lane, partial_sum<OUTPUTS, float4>(memory, area, row, output));
  const float factor = row ? factors.y : factors.x;
  const u32 to = me.base + place::QKVS + (row * QKV + me.rank * OUTPUTS + output) * 2;
  send(to, inbox.barrier, me.warp, packed(sum.x * factor, sum.y * factor), packed(sum.z * factor, sum.w * factor));
}

// A warp's part of attention, for one row: of all heads of the group, and of a lane's dims 4 l to 4 l + 3.
struct Part {
  float best[GROUP], total[GROUP];
  float4 mix[GROUP];

  DEVICE Part() {
#pragma unroll
    for (int head = 0; head < GROUP; head++) best[head] = -INF, total[head] = 0, mix[head] = make_float4(0, 0, 0, 0);
  }
};

DEVICE float4 unpacked(const uint2& four) {
  const float2 a = unpacked(four.x), b = unpacked(four.y);
  return make_float4(a.x, a.y, b.x, b.y);
}
DEVICE float4 scaled(const float4& v, float by) { return make_float4(v.x * by, v.y * by, v.z * by, v.w * by); }
DEVICE float dot(const float4& a, const float4& b) { return a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w; }

class CachedAttention {
  const Params& params_;
  const Self me_;
  char* memory_;
  const Context context_;
  Angle angle_;
  u32 norm_[2];     // gains of what this warp turns
  int new_number_;  // the new column's in a layer, its first row

 public:
  DEVICE CachedAttention(const Params& params, char* memory)
      : params_(params), me_(memory), memory_(memory), context_(params) {
    const i64 angles = params.fields[0] * (DIM / 2);  // of the column's position
    angle_.load(me_, params.cos + angles, params.sin + angles);
    new_number_ = context_.stored ? context_.number(me_.cluster, context_.index) : 0;
  }

  DEVICE void load_gains(int layer) {
    const u32* gains = (const u32*)((me_.warp < ROWS * GROUP ? params_.q_norm : params_.k_norm) + layer * DIM);
    norm_[0] = load_table(gains + me_.lane), norm_[1] = load_table(gains + 32 + me_.lane);
  }

  // Norms and rotates; a warp has a row's query head, or a row's key. Writes the new key and value to the cache.
  DEVICE void turn_heads(int layer) const {
    if (me_.warp >= ROWS * (GROUP + 1)) return;
    const bool is_key = me_.warp >= ROWS * GROUP;
    const int row = is_key ? me_.warp - ROWS * GROUP : me_.warp / GROUP, head = is_key ? GROUP : me_.warp % GROUP;
    const u32* from = (const u32*)(memory_ + place::QKVS) + (row * QKV + head * DIM) / 2;
    float2 a = unpacked(from[me_.lane]), b = unpacked(from[32 + me_.lane]);
    turn(a, b, norm_, angle_, params_.eps);
    u32* to = (u32*)(memory_ + place::TURNED) + me_.warp * TURNED_PITCH / 2;
    const u32 low = packed(a.x, a.y), high = packed(b.x, b.y);
    to[me_.lane] = low, to[32 + me_.lane] = high;
    if (!is_key || me_.rank != NEW_COLUMN_RANK || !context_.stored) return;
    const i64 offset = (layer * context_.columns_a_layer() + new_number_ + row * context_.columns_a_row()) * DIM;
    u32* key = (u32*)(params_.keys + offset);
    key[me_.lane] = low, key[32 + me_.lane] = high;
    ((uint2*)(params_.values + offset))[me_.lane] = new_value(row);
  }

  // All columns of this block: leaves float [WARPS][GROUP][DIM] and their states, by warp.
  DEVICE void mix_columns(Ring& ring) const {
    const int row = me_.warp % ROWS, turn = me_.warp / ROWS, chunks = context_.chunks(me_.rank);
    Part part;
    if (me_.rank == NEW_COLUMN_RANK && turn == 0) begin_with_new_column(row, part);
    const u32 queries = input_address(me_, place::TURNED, TURNED_PITCH, row * GROUP * TURNED_PITCH);
#pragma unroll 1
    for (int chunk = 0; chunk < chunks; chunk++) {
      const u32 from = ring.wait() + row * COLUMNS * COLUMN;
      if (chunk % (WARPS / ROWS) == turn)
        add(part, queries, from, context_.count_from(Context::first_column(me_.rank, chunk)));
      ring.release(me_);
    }
#pragma unroll
    for (int head = 0; head < GROUP; head++) {
      ((float4*)(memory_ + place::MIXES))[(me_.warp * GROUP + head) * 32 + me_.lane] = part.mix[head];
      if (me_.lane == 0)
        ((float2*)(memory_ + place::STATES))[me_.warp * GROUP + head] = make_float2(part.best[head], part.total[head]);
    }
  }

  // Sends this block's part, put together from its warps', to all blocks of the cluster: half of the threads to half of
  // the blocks.
  DEVICE void send_part(const Inbox& inbox) const {
    const u32 quad = me_.thread % (THREADS / 2), row = quad / (GROUP * 32), head = quad / 32 % GROUP,
              first = me_.thread / (THREADS / 2);
    const float2* states = (const float2*)(memory_ + place::STATES);
    const float4* mixes = (const float4*)(memory_ + place::MIXES) + quad % 32;
    float best = -INF;
#pragma unroll
    for (int i = row; i < WARPS; i += ROWS) best = fmaxf(best, states[i * GROUP + head].x);
    float total = 0;
    float4 mix = {};
#pragma unroll
    for (int i = 0; i < WARPS / ROWS; i++) {
      const int warp = row + i * ROWS;
      const float2 state = states[warp * GROUP + head];
      const float shrink = state.y > 0 ? __expf(state.x - best) : 0.f;
      mix = mix + scaled(mixes[(warp * GROUP + head) * 32], shrink);
      total += shrink * state.y;
    }
    const u32 number = (me_.rank * ROWS + row) * GROUP + head;
#pragma unroll
    for (int i = 0; i < RANKS / 2; i++) {
      const u32 rank = first * (RANKS / 2) + i;
      send(me_.base + place::PARTS + (number * DIM + quad % 32 * 4) * 4, inbox.barrier, rank, mix);
      if (quad % 32 == 0)
        send(me_.base + place::PART_STATES + number * 8, inbox.barrier, rank, __float_as_uint(best),
             __float_as_uint(total));
    }
  }

  // All blocks' parts put together: bf16 [2][MIXED_PITCH]. A thread has two neighbouring dims.
  DEVICE void mix_parts() const {
    static_assert(ROWS * GROUP * DIM == 2 * THREADS, "two dims a thread");
    const u32 head = me_.thread / (DIM / 2), dims = me_.thread % (DIM / 2);  // of both rows: [2][GROUP]
    const float2* states = (const float2*)(memory_ + place::PART_STATES) + head;
    const float2* mixes = (const float2*)(memory_ + place::PARTS) + head * (DIM / 2) + dims;
    float best = -INF;
#pragma unroll
    for (int rank = 0; rank < RANKS; rank++) best = fmaxf(best, states[rank * ROWS * GROUP].x);
    float2 mix = {};
    float total = 0;
#pragma unroll
    for (int rank = 0; rank < RANKS; rank++) {
      const float2 state = states[rank * ROWS * GROUP], part = mixes[rank * ROWS * GROUP * DIM / 2];
      const float shrink = state.y > 0 ? __expf(state.x - best) : 0.f;
      mix.x += shrink * part.x, mix.y += shrink * part.y;
      total += shrink * state.y;
    }
    u32* to = (u32*)(memory_ + place::MIXED) + (head / GROUP * MIXED_PITCH + head % GROUP * DIM) / 2 + dims;
    *to = packed(mix.x / total, mix.y / total);
  }

 private:
  DEVICE uint2 new_value(int row) const {
    return ((const uint2*)(memory_ + place::QKVS))[(row * QKV + (GROUP + 1) * DIM) / 4 + me_.lane];
  }
  DEVICE float4 turned(int number) const {
    return unpacked(((const uint2*)(memory_ + place::TURNED))[number * TURNED_PITCH / 4 + me_.lane]);
  }

  DEVICE void begin_with_new_column(int row, Part& part) const {
    const float4 key = turned(ROWS * GROUP + row), value = unpacked(new_value(row));
#pragma unroll
    for (int head = 0; head < GROUP; head++) {
      part.best[head] = warp_sum(dot(turned(row * GROUP + head), key));
      part.total[head] = 1, part.mix[head] = value;
    }
  }

  // Adds a row's columns of a chunk, of which `count` are there. In a lane's scores, as in its results of a product,
  // are columns lane / 4 and 8 further, of both heads.
  DEVICE void add(Part& part, u32 queries, u32 from, int count) const {
    static_assert(GROUP == ROWS, "heads stand where the rows of a product do");
    const u32 first_key = from + me_.lane / 4 * COLUMN + me_.lane % 4 * 16;
    float4 sums[4] = {};  // four chains of instructions, which do not wait for each other
#pragma unroll
    for (int half = 0; half < DIM / 32; half += 2) {
      uint4 query[2], keys[2][2];
#pragma unroll
      for (int i = 0; i < 2; i++)
        query[i] = load_shared(queries + (half + i) * 64), keys[i][0] = load_shared(first_key + (half + i) * 64),
        keys[i][1] = load_shared(first_key + 8 * COLUMN + (half + i) * 64);
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const uint4 &a = keys[i][0], &b = keys[i][1], &q = query[i];
        multiply_add(sums[2 * i], make_uint4(a.x, b.x, a.y, b.y), q.x, q.y);
        multiply_add(sums[2 * i + 1], make_uint4(a.z, b.z, a.w, b.w), q.z, q.w);
      }
    }
    uint2 values[COLUMNS / 2];
    load_values(values, from, 0);
    const float4 sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
    const bool first = (int)me_.lane / 4 < count, second = (int)me_.lane / 4 + 8 < count;
    const float scores[GROUP][2] = {{first ? sum.x : -INF, second ? sum.z : -INF},
                                    {first ? sum.y : -INF, second ? sum.w : -INF}};
    float weights[GROUP][2];
#pragma unroll
    for (int head = 0; head < GROUP; head++) {
      float most = fmaxf(scores[head][0], scores[head][1]);
#pragma unroll
      for (int mask = 4; mask <= 16; mask *= 2) most = fmaxf(most, from_lane(most, mask));
      const float best = fmaxf(part.best[head], most), shrink = __expf(part.best[head] - best);
      weights[head][0] = __expf(scores[head][0] - best), weights[head][1] = __expf(scores[head][1] - best);
      float sum = weights[head][0] + weights[head][1];
#pragma unroll
      for (int mask = 4; mask <= 16; mask *= 2) sum += from_lane(sum, mask);
      part.best[head] = best, part.total[head] = part.total[head] * shrink + sum;
      part.mix[head] = scaled(part.mix[head], shrink);
    }
#pragma unroll
    for (int column = 0; column < COLUMNS; column++) {
      if (column == COLUMNS / 2) load_values(values, from, column);
      // What lies behind the last column may be anything, and anything times a weight of 0 need not be 0.
      const float4 value = column < count ? unpacked(values[column % (COLUMNS / 2)]) : make_float4(0, 0, 0, 0);
#pragma unroll
      for (int head = 0; head < GROUP; head++)
        part.mix[head] = part.mix[head] + scaled(value, __shfl_sync(~0u, weights[head][column / 8], column % 8 * 4));
    }
  }

  // This lane's dims of half of a chunk's columns.
  DEVICE void load_values(uint2 (&values)[COLUMNS / 2], u32 from, int first) const {
#pragma unroll
    for (int i = 0; i < COLUMNS / 2; i++)
      values[i] = load_shared_pair(from + CHUNK / 2 + (first + i) * COLUMN + me_.lane * 8);
  }
};
