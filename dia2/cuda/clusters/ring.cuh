// The ring: a block's weights, and the columns of the cache that it reads, on their way through its shared memory.
//
// All that a block reads during a launch is one long row of chunks, known from the start. A warp of its own loads them
// into the slots of the ring, in this order, as soon as a slot is free: while the other warps wait for other blocks,
// the memory goes on reading what they need next. A slot has two barriers: `full`, which counts the bytes that come,
// and `empty`, at which every warp arrives that has read its part. Each lane orders its reads before the copy that
// follows, the warp meets, and one lane arrives for all. Racecheck does not see that the other lanes' reads are done
// then. For it every lane arrives (EVERY_LANE_ARRIVES).
//
// Only a few chunks are on their way at a time. So a store that other blocks wait for is not queued behind all of the
// ring. The loading warp keeps count by waiting for an older chunk before it begins the next one.
#pragma once
#include "eight_bits.cuh"
#include "exchange.cuh"

struct Place {  // in the row of chunks
  u32 slot = 0, phase = 0;

  DEVICE void step() {
    if (++slot == SLOTS) slot = 0, phase ^= 1;
  }
};

struct Ring {
  static constexpr int FULL = place::BARRIERS + 4 * 8, EMPTY = FULL + SLOTS * 8;
#ifdef EVERY_LANE_ARRIVES
  static constexpr int ARRIVING_LANES = 32;
#else
  static constexpr int ARRIVING_LANES = 1;
#endif

  u32 base;
  Place at;

  DEVICE explicit Ring(const Self& me) : base(me.base) {}

  DEVICE static void init(u32 base) {
    for (int i = 0; i < SLOTS; i++)
      barrier_init(base + FULL + 8 * i), barrier_init(base + EMPTY + 8 * i, WARPS * ARRIVING_LANES);
  }
  // The address of the next chunk, once it is there.
  DEVICE u32 wait() const {
    own_barrier_wait(base + FULL + 8 * at.slot, at.phase);
    return address();
  }
  DEVICE u32 address() const { return base + place::RING + at.slot * CHUNK; }
  // All the warp's lanes call it, after their last read of the chunk.
  DEVICE void release(const Self& me) {
    reads_before_copies();
    __syncwarp();
    if (me.lane < ARRIVING_LANES) barrier_arrive(base + EMPTY + 8 * at.slot);
    at.step();
  }
};

// This lane's part of two tiles: of each half of a tile, 16 outputs by 16 inputs, 16 bytes in bf16; in 8 bits, 16 bytes
// of both halves.
struct Tiles {
  uint4 of[PAIR][WEIGHT_BYTES];

  // The next two of the ring; `number` of the pair counts from the first one of a chunk.
  DEVICE void take(const Self& me, Ring& ring, int number = 0) {
    const int pair = number % PAIRS;
    const u32 chunk = pair ? ring.address() : ring.wait();
    const u32 from = chunk + me.warp * WARP_PART + pair * PAIR * TILE + me.lane * 16;
#pragma unroll
    for (int i = 0; i < PAIR; i++)
#pragma unroll
      for (int j = 0; j < WEIGHT_BYTES; j++) of[i][j] = load_shared(from + i * TILE + 512 * j);
    if (pair == PAIRS - 1) ring.release(me);
  }
};

// Where the conversation's context lies in the cache, which is bf16 [layers][blocks][2][HEADS][columns][DIM].
struct Context {
  const Params& params;
  int index = 0;  // the new column's
  bool stored;    // whether there is a conversation at all

  DEVICE explicit Context(const Params& params) : params(params), stored(params.fields[5] >= 0) {
    if (stored) index = (int)params.fields[1];
  }
  // The number of a column in a layer, which begins with the first row's first head of block 0.
  DEVICE int number(int head, int column) const {
    const int block = params.table[params.fields[5] * params.blocks_a_context + column / params.columns];
    return (block * ROWS * HEADS + head) * params.columns + column % params.columns;
  }
  DEVICE i64 columns_a_layer() const { return (i64)params.blocks * columns_a_block(); }
  DEVICE int columns_a_block() const { return ROWS * columns_a_row(); }
  DEVICE int columns_a_row() const { return HEADS * params.columns; }  // the second row's column is so much further

  // How many chunks of columns the block of a rank reads: every eighth of all.
  DEVICE int chunks(int rank) const {
    const int all = (index + COLUMNS - 1) / COLUMNS;
    return all > rank ? (all - rank + RANKS - 1) / RANKS : 0;
  }
  DEVICE static int first_column(int rank, int chunk) { return (chunk * RANKS + rank) * COLUMNS; }
  DEVICE int count_from(int column) const { return min(COLUMNS, index - column); }
};

// What the loading warp does, all of it by one lane.
class Loader {
  const Params& params_;
  const Self me_;
  const Context context_;
  const int column_chunks_;
  const int* numbers_;  // of their first columns: looked up once, as they are the same in every layer
  const u64 passing_ = leave_first();
  Ring ring_;
  Place behind_;  // the chunk that must be there before the next one is begun
  int under_way_ = 0;

 public:
  DEVICE Loader(const Params& params, char* memory)
      : params_(params),
        me_(memory),
        context_(params),
        column_chunks_(context_.chunks(me_.rank)),
        numbers_((const int*)(memory + place::TABLE)),
        ring_(me_) {
    int* numbers = (int*)(memory + place::TABLE);
    if (me_.block < HEAD_BLOCKS)
      for (int i = me_.lane; i < column_chunks_; i += 32)
        numbers[i] = context_.number(me_.cluster, Context::first_column(me_.rank, i));
    __syncwarp();
  }

  DEVICE void run() {
    if (me_.lane) return;
    if (me_.block < HEAD_BLOCKS) load<true>(params_.head_stream + (i64)me_.block * CHUNKS_BESIDE * CHUNK);
    else load<false>(params_.other_stream + (i64)(me_.block - HEAD_BLOCKS) * CHUNKS_ALONE * CHUNK);
  }

 private:
  // All layers of a block whose first chunk is `from`.
  template <bool HAS_HEAD>
  DEVICE void load(const char* from) {
    constexpr int CHUNKS = HAS_HEAD ? CHUNKS_BESIDE : CHUNKS_ALONE, BLOCKS = HAS_HEAD ? HEAD_BLOCKS : OTHER_BLOCKS;
#pragma unroll 1
    for (int layer = 0; layer < params_.layers; layer++, from += (i64)BLOCKS * CHUNKS * CHUNK) {
      if (HAS_HEAD) {
        weights(from, 0, QKV_CHUNKS);
        columns(layer);
      }
      weights(from, HAS_HEAD ? QKV_CHUNKS : 0, CHUNKS);
    }
  }

  // Where the next chunk goes, and the barrier that counts its bytes.
  struct Slot {
    u32 address, barrier;
  };
  DEVICE Slot next(int bytes) {
    own_barrier_wait(ring_.base + Ring::EMPTY + 8 * ring_.at.slot, ring_.at.phase ^ 1);
    if (under_way_ == IN_FLIGHT) {
      own_barrier_wait(ring_.base + Ring::FULL + 8 * behind_.slot, behind_.phase);
      behind_.step();
    } else {
      under_way_++;
    }
    const Slot slot = {ring_.base + place::RING + ring_.at.slot * CHUNK, ring_.base + Ring::FULL + 8 * ring_.at.slot};
    barrier_expect(slot.barrier, bytes);
    ring_.at.step();
    return slot;
  }
  DEVICE void weights(const char* from, int first, int end) {
#pragma unroll 1
    for (int i = first; i < end; i++) {
      const Slot slot = next(CHUNK);
      bulk_copy(slot.address, from + (i64)i * CHUNK, CHUNK, slot.barrier, passing_);
    }
  }
  // The columns before the new one that this block reads: keys of both rows, then values.
  DEVICE void columns(int layer) {
    const i64 first = layer * context_.columns_a_layer();
    const char *keys = (const char*)(params_.keys + first * DIM), *values = (const char*)(params_.values + first * DIM);
    const i64 second_row = (i64)context_.columns_a_row() * COLUMN;
#pragma unroll 1
    for (int i = 0; i < column_chunks_; i++) {
      const int bytes = context_.count_from(Context::first_column(me_.rank, i)) * COLUMN;
      const i64 from = (i64)numbers_[i] * COLUMN;
      const Slot slot = next(2 * ROWS * bytes);
#pragma unroll
      for (int row = 0; row < ROWS; row++) {
        const u32 to = slot.address + row * COLUMNS * COLUMN;
        bulk_copy(to, keys + from + row * second_row, bytes, slot.barrier, passing_);
        bulk_copy(to + CHUNK / 2, values + from + row * second_row, bytes, slot.barrier, passing_);
      }
    }
  }
};
