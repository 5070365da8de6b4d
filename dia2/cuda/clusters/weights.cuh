// Weights on their way: every warp has its own part of shared memory for the weights that it will multiply, and fills it
// again as soon as it has read it. So the memory is never idle, and no warp waits for another one's weights.
//
// When a part is filled again matters as much as how: what other blocks wait for must be stored first, because stores
// queue behind bulk copies that were begun before them (2.4 us of them, measured).
#pragma once
#include "eight_bits.cuh"
#include "exchange.cuh"

struct WeightStore {
  u32 part, barrier, phase = 0;

  DEVICE WeightStore(u32 part, u32 barrier) : part(part), barrier(barrier) {}

  // Begins to fill the part. All the warp's lanes call it, after their last read of what was there.
  DEVICE void fill(const Self& me, const char* from, int bytes, u64 policy) {
    reads_before_copies();
    __syncwarp();
    if (me.lane == 0) {
      barrier_expect(barrier, bytes);
      bulk_copy(part, from, bytes, barrier, policy);
    }
  }

  DEVICE void wait() {
    own_barrier_wait(barrier, phase);
    phase ^= 1;
  }

  // This lane's eight weights of a tile, whose weights have so many bytes.
  template <int BYTES = WEIGHT_BYTES>
  DEVICE typename Eight<BYTES>::Type tile(const Self& me, int number) const {
    return Eight<BYTES>::load(part + number * 256 * BYTES + me.lane * 8 * BYTES);
  }
};

// Which piece a warp takes next. Pieces lie one after the other: by layer, group or stage, then block, then warp.
struct Pieces {
  const Params& params;
  const Self me;  // a copy: a pointer into the block's own object would keep that out of registers
  const u64 passing = leave_first(), kept = stay();

  DEVICE Pieces(const Params& params, const Self& me) : params(params), me(me) {}

  DEVICE const char* piece(const char* first, i64 number, int blocks, u32 block, int bytes) const {
    return first + ((number * blocks + block) * WARPS + me.warp) * bytes;
  }
  DEVICE int of_group(int stage, int layer) const { return layer * params.groups + params.group[stage]; }

  DEVICE void qkv(WeightStore& to, int stage, int layer) const {
    if (stage >= params.stages) return;
    to.fill(me, piece(params.qkv, of_group(stage, layer), HEAD_BLOCKS, me.block, QKV_PIECE), QKV_PIECE, passing);
  }
  DEVICE void out(WeightStore& to, int stage, int layer) const {
    if (stage >= params.stages) return;
    to.fill(me, piece(params.out, of_group(stage, layer), HEAD_BLOCKS, me.block, OUT_PIECE), OUT_PIECE, passing);
  }
  DEVICE void head(WeightStore& to, int stage) const {
    to.fill(me, piece(params.heads, stage, HEAD_BLOCKS, me.block, HEAD_PIECE), HEAD_PIECE, passing);
  }
  template <int UNITS>
  DEVICE void gate_up(WeightStore& to, int layer) const {
    constexpr int bytes = gate_up_piece(UNITS);
    if constexpr (UNITS == UNITS_BESIDE)
      to.fill(me, piece(params.gate_up_beside, layer, HEAD_BLOCKS, me.block, bytes), bytes, passing);
    else
      to.fill(me, piece(params.gate_up_alone, layer, OTHER_BLOCKS, me.block - HEAD_BLOCKS, bytes), bytes, passing);
  }
  // The down projections, 25 MB, stay in L2 for the next stage.
  template <int UNITS>
  DEVICE void down(WeightStore& to, int layer) const {
    constexpr int bytes = down_piece(UNITS);
    if constexpr (UNITS == UNITS_BESIDE)
      to.fill(me, piece(params.down_beside, layer, HEAD_BLOCKS, me.block, bytes), bytes, kept);
    else
      to.fill(me, piece(params.down_alone, layer, OTHER_BLOCKS, me.block - HEAD_BLOCKS, bytes), bytes, kept);
  }
};
