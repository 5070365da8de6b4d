// How a product's input reaches every block.
//
// Every cluster computes a share of the attention's, or of the MLP's, result for all columns of the residual stream.
// The shares go through L2, and their sum is the new stream: cluster 0 has added the old stream to its share. A share's
// floats carry a tag in their two lowest bits, which says in which use of the buffer they were written. So a reader
// needs no flag beside them, and nothing is ever reset: it reads again until all tags are the expected ones.
//
// One buffer for each kind of share is enough. A block writes its next share only when it has the sum of the other
// kind, and that holds shares of all clusters that read this buffer, computed from what they read.
//
// Both kernels use it. A kernel includes the file of its sizes first.
#pragma once
#include "ptx.cuh"

constexpr int QUADS = SLICE / 64;  // of a lane, four columns each

struct Self {  // this thread's place
  u32 thread = threadIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  u32 block = blockIdx.x, rank = blockIdx.x % RANKS, cluster = blockIdx.x / RANKS;
  u32 base;  // shared memory
  // As a summand: the row and the first columns (within the block's slice; the others are 16 and more further) that a lane
  // sums up, and the share that it reads, of which the next is 8 further. It is also the block that the lane sends to.
  u32 row = warp / 4, column = (warp % 4) * (SLICE / 4) + (lane % 4) * 4, share = lane / 4;

  DEVICE explicit Self(const void* memory) : base(shared_address(memory)) {}
  DEVICE u32 stream_column() const { return rank * SLICE + column; }
};

// Tags of the uses of a buffer within a launch: 0, then 1, 2, 3, 1, 2, 3 and so on. So every use differs from the one
// before, the first of a launch from the last of the launch before, and a launch gives the same bits as any other.
struct Tag {
  u32 value = 0;
  DEVICE void advance() { value = value == 3 ? 1 : value + 1; }
};

DEVICE float tagged(float v, Tag tag) { return __uint_as_float((__float_as_uint(v) & ~3u) | tag.value); }

DEVICE bool has_tag(const float4& v, Tag tag) {
  u32 differing = (__float_as_uint(v.x) ^ tag.value) | (__float_as_uint(v.y) ^ tag.value) |
                  (__float_as_uint(v.z) ^ tag.value) | (__float_as_uint(v.w) ^ tag.value);
  return (differing & 3) == 0;
}

DEVICE float4 operator+(const float4& a, const float4& b) {
  return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

DEVICE float4 from_lane(const float4& v, int mask) {
  return make_float4(from_lane(v.x, mask), from_lane(v.y, mask), from_lane(v.z, mask), from_lane(v.w, mask));
}

// The sum of all SHARES [SHARES][2][WIDTH] at this lane's columns; every lane of the 8 that have them gets it.
template <int SHARES>
DEVICE void sum_shares(const Self& me, const float* shares, Tag tag, float4 (&x)[QUADS]) {
  constexpr int NEXT = 8 * ROWS * WIDTH;
  const float* from = shares + (me.share * ROWS + me.row) * WIDTH + me.stream_column();
  const bool two = me.share + 8 < SHARES;
  float4 more[QUADS] = {};
  u32 tries = 0;
  bool all;
  do {
    all = true;
#pragma unroll
    for (int i = 0; i < QUADS; i++) x[i] = load_fresh(from + 16 * i);
    if (SHARES > 8 && two)
#pragma unroll
      for (int i = 0; i < QUADS; i++) more[i] = load_fresh(from + NEXT + 16 * i);
#pragma unroll
    for (int i = 0; i < QUADS; i++) all = all && has_tag(x[i], tag) && (SHARES <= 8 || !two || has_tag(more[i], tag));
    give_up_after(tries);
  } while (!__all_sync(~0u, all));  // the warp stays together: lanes that went ahead would wait for each load alone
#pragma unroll
  for (int i = 0; i < QUADS; i++) {
    if (SHARES > 8) x[i] = x[i] + more[i];
#pragma unroll
    for (int mask = 4; mask <= 16; mask *= 2) x[i] = x[i] + from_lane(x[i], mask);
  }
}

// The norm's gains at this lane's columns.
struct Gains {
  uint2 of[QUADS];

  DEVICE void load(const Self& me, const bf16* norm) {
#pragma unroll
    for (int i = 0; i < QUADS; i++) of[i] = load_table((const uint2*)(norm + me.stream_column() + 16 * i));
  }
};

// A barrier that counts the messages of one kind, and the phase that is under way.
struct Inbox {
  u32 barrier, phase = 0;
  int bytes;

  DEVICE Inbox(u32 barrier, int bytes) : barrier(barrier), bytes(bytes) {}
  DEVICE void open() const { barrier_expect(barrier, bytes); }
  DEVICE void wait(const Self& me) {
    barrier_wait(barrier, phase);
    phase ^= 1;
    if (me.thread == 0) open();
  }
};

constexpr int INPUT_BYTES = ROWS * WIDTH * 2 + ROWS * 32 * 4;

// Sends this lane's columns of the stream to all blocks of the cluster, times the norm's gains. The norm's other factor
// is the same for all columns, so it waits until after the product (`norm_factors`).
DEVICE void send_input(const Self& me, const float4 (&x)[QUADS], const Gains& gains, const Inbox& inbox) {
  float squares = 0;
#pragma unroll
  for (int i = 0; i < QUADS; i++) {
    const float2 a = unpacked(gains.of[i].x), b = unpacked(gains.of[i].y);
    const u32 to = me.base + place::INPUT + (me.row * INPUT_PITCH + me.stream_column() + 16 * i) * 2;
    send(to, inbox.barrier, me.share, packed(x[i].x * a.x, x[i].y * a.y), packed(x[i].z * b.x, x[i].w * b.y));
    squares += x[i].x * x[i].x + x[i].y * x[i].y + x[i].z * x[i].z + x[i].w * x[i].w;
  }
  squares += from_lane(squares, 1);
  squares += from_lane(squares, 2);
  const u32 to = me.base + place::SQUARES + (me.row * 32 + me.rank * 4 + me.warp % 4) * 4;
  if (me.lane % 4 == 0) send(to, inbox.barrier, me.share, __float_as_uint(squares));
}

// 1 / rms of both rows' input, once it is there.
DEVICE float2 norm_factors(const Self& me, const char* memory, float eps) {
  const float* squares = (const float*)(memory + place::SQUARES);
  float a = squares[me.lane], b = squares[32 + me.lane];
#pragma unroll
  for (int mask = 16; mask; mask /= 2) a += from_lane(a, mask), b += from_lane(b, mask);
  return make_float2(rsqrtf(a * (1.f / WIDTH) + eps), rsqrtf(b * (1.f / WIDTH) + eps));
}

// Cluster 0 keeps its columns of the stream, to add them to its next share.
DEVICE void keep_stream(const Self& me, char* memory, int area, const float4 (&x)[QUADS]) {
  float* stream = (float*)(memory + place::STREAM + area * place::STREAM_AREA) + me.row * SLICE + me.column;
  if (me.cluster == 0 && me.share == 0)
#pragma unroll
    for (int i = 0; i < QUADS; i++) *(float4*)(stream + 16 * i) = x[i];
}

// Two neighbouring columns of this cluster's share: lane i < 8 has them, of row i / 4, from a product's tile.
DEVICE void store_share(
    const Self& me, const char* memory, int area, float* shares, Tag tag, int tile, float a, float b) {
  const u32 row = me.lane / 4, column = (me.warp * OUT_TILES + tile) * 8 + (me.lane % 4) * 2;
  if (me.lane >= 8) return;
  if (me.cluster == 0) {
    const float* stream = (const float*)(memory + place::STREAM + area * place::STREAM_AREA);
    const float2 old = *(const float2*)(stream + row * SLICE + column);
    a += old.x, b += old.y;
  }
  float* to = shares + (me.cluster * ROWS + row) * WIDTH + me.rank * SLICE + column;
  store_fresh(to, tagged(a, tag), tagged(b, tag));
}
