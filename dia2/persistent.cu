// A whole transformer step as one kernel: `column` (the backbone) and `codes` (the depformer, every stage and draw).
//
// Launched one block a multiprocessor, all at once (cooperative), and alive for the whole step, it is built on two ideas:
//
// - The weights stream. Which weights a block will read, and in which order, is known before it starts. So one warp of
//   each block does nothing but copy them through a ring of slots in shared memory, as far ahead as the ring is long
//   (some 200 KB a block, 26 MB in all), and never waits for what the others compute. Memory reads on while
//   activations travel.
// - Data is its own signal. What a block hands to the others, it stores as (value, tag) in one 8-byte word, and readers
//   poll the very words they need until the tag is this exchange's. There is no grid barrier and no fence: one trip
//   through L2 is all that an exchange costs. Buffers are reused only after exchanges that every reader has fed, so a
//   word is never overwritten before it is read (see `Exchanges`, below).
//
// Every product has the weights in 8-row units, which go round the blocks. The columns are cut over a block's warps
// (matrix units, float32 sums) and their sums added up in one fixed order: the same bits every time.
// Rounding is where dia2/layers.py rounds. Every wait gives up after a while and sets `ERROR`: a fault is an error on
// the host, not a hung device.
//
// The host defines the sizes (see persistent.py). Compiled by NVRTC; the tests compile it for the CPU (EMULATED), where
// threads are fibres and the few hardware instructions below have plain twins.

typedef unsigned int u32;
typedef unsigned long long u64;
typedef unsigned short u16;

// ---- Hardware ----

#ifndef EMULATED

#define PAUSE()

__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

__device__ __forceinline__ ulonglong2 peek2(const u64* p) {
  ulonglong2 v;
  asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];" : "=l"(v.x), "=l"(v.y) : "l"(p) : "memory");
  return v;
}

__device__ __forceinline__ u64 peek(const u64* p) {
  u64 v;
  asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(v) : "l"(p) : "memory");
  return v;
}

__device__ __forceinline__ void poke(u64* p, u64 v) {
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(p), "l"(v) : "memory");
}

// Two floats, rounded to bfloat16: the first in the low half.
__device__ __forceinline__ u32 pack(float low, float high) {
  u32 both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}

// c [16 x 8] += a [16 x 16] b [16 x 8], of which rows 8.. of a are zero.
__device__ __forceinline__ void multiply_add(float (&c)[4], u32 a0, u32 a2, u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %5}, {%7, %8}, {%0, %1, %2, "
      "%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a0), "r"(0), "r"(a2), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void gate_init(u64* gate, u32 count) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(shared_address(gate)), "r"(count) : "memory");
}

__device__ __forceinline__ void gate_arrive(u64* gate) {
  asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(shared_address(gate)) : "memory");
}

__device__ __forceinline__ void gate_expect(u64* gate, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(shared_address(gate)), "r"(bytes) : "memory");
}

__device__ __forceinline__ bool gate_passed(u64* gate, u32 parity) {
  u32 passed;
  asm volatile(
      "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
      : "=r"(passed)
      : "r"(shared_address(gate)), "r"(parity)
      : "memory");
  return passed;
}

__device__ __forceinline__ void copy_in(void* to, const void* from, u32 bytes, u64* gate) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(to)),
               "l"(from), "r"(bytes), "r"(shared_address(gate))
               : "memory");
}

__device__ __forceinline__ void gates_ready() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

#define SYNC() asm volatile("bar.sync 1, %0;" ::"n"(THREADS) : "memory")  // of the warps that compute

#endif

// ---- Sizes ----

// From the host: ROWS, WARPS, GRID, SLOTS (of the ring), RED, and of the model what stands in persistent.py.
#define THREADS (32 * WARPS)            // that compute; one more warp copies
#define CHUNK (64 * WARPS)              // columns of a weight in one slot
#define PITCH (2 * CHUNK + 64)          // bytes from row to row in a slot: 8 rows then lie in different banks
#define SLOT (8 * PITCH)                // bytes
#define UNIT (ROWS * 8)                 // outputs of a unit: 8 rows of a weight for every row of activations
#define CEIL(a, b) (((a) + (b)-1) / (b))
#define UNITS(n) CEIL(CEIL(n, 8), GRID)  // of n outputs, at most, in one block

#ifndef PATIENCE
#define PATIENCE (1u << 20)  // polls: half a second or so
#endif

struct Shared {
  u64 full[SLOTS], empty[SLOTS];
  float red[RED];  // partial sums: [unit][warp][row, output]; also the parts of attention
  float squares[WARPS * ROWS];
  float residual[RESIDUAL * UNIT];  // this block's own outputs of the stream between the layers
  __attribute__((aligned(16))) float head[HEAD_FLOATS];  // query heads, key and value of one row
  float angles[CEIL(ROWS, 2)][HEAD_DIM];  // of the position at hand: cosines, sines; of every slot, in the backbone
  float most[WARPS * 4], total[WARPS * 4];
  uint2 counts[2][WARPS];
  u64 best[WARPS], sums[WARPS];
  u32 candidates[WARPS];
  int token[CEIL(ROWS, 2)], drawn;
};

#define RING ((sizeof(Shared) + 127) / 128 * 128)
static_assert(RING + SLOTS * SLOT <= SHARED_BYTES, "the host counts too little shared memory");

__device__ __forceinline__ float low_half(u32 both) { return __uint_as_float(both << 16); }
__device__ __forceinline__ float high_half(u32 both) { return __uint_as_float(both & 0xffff0000u); }
__device__ __forceinline__ float rounded(float x) { return low_half(pack(x, 0.0f)); }

__device__ __forceinline__ void unpack(uint4 from, float* to) {
  to[0] = low_half(from.x), to[1] = high_half(from.x), to[2] = low_half(from.y), to[3] = high_half(from.y);
  to[4] = low_half(from.z), to[5] = high_half(from.z), to[6] = low_half(from.w), to[7] = high_half(from.w);
}

__device__ __forceinline__ float activate(float x, int kind) {
  if (kind == 1) return x / (1.0f + __expf(-x));
  if (kind == 2) return 0.5f * x * (1.0f + erff(x * 0.7071067811865476f));
  if (kind == 3) return fmaxf(x, 0.0f);
  return x;
}

// ---- Where a thread stands ----

#ifdef TIMES  // for measuring: cycles of block 0's first thread between marks, added up a mark
__device__ long long times[64], last_time;
#define MARK(i) \
  if (threadIdx.x == 0 && blockIdx.x == TIMES) { \
    long long now = clock64(); \
    times[i] += now - last_time; \
    last_time = now; \
  }
#else
#define MARK(i)
#endif

struct Block {
  Shared& s;
  char* ring;
  u32* error;
  u32 patience, slot, parity;
  int tid, lane, warp, cta;

  __device__ __forceinline__ void give_up() {
    *(volatile u32*)error = 1;
    patience = 0;  // what follows is garbage: get through it
  }

  __device__ __forceinline__ void wait(u64* gate, u32 parity) {
    for (u32 tries = 0; !gate_passed(gate, parity); tries++) {
      PAUSE();
      if (tries >= patience) return give_up();
    }
  }

  __device__ __forceinline__ void next() {
    if (++slot == SLOTS) slot = 0, parity ^= 1;
  }

  // One value that another block sends.
  __device__ __forceinline__ u32 receive(const u64* word, u32 tag) {
    u64 v = peek(word);
    for (u32 tries = 0; (u32)(v >> 32) != tag; v = peek(word)) {
      PAUSE();
      if (tries++ >= patience) {
        give_up();
        break;
      }
    }
    return (u32)v;
  }
};

__device__ __forceinline__ void send(u64* word, u32 value, u32 tag) { poke(word, (u64)tag << 32 | value); }

// ---- The stream of weights ----

// The copying warp's half of a product: this block's units of a weight [n, k], slot by slot.
__device__ __forceinline__ void feed(Block& b, const u16* weight, int n, int k, const u16* paired = nullptr) {
#pragma unroll 1
  for (int unit = b.cta; unit * 8 < n; unit += GRID)
    for (int half = 0; half < (paired ? 2 : 1); half++) {
      const u16* from = (half ? paired : weight) + (u64)unit * 8 * k;
      int rows = min(8, n - unit * 8);
#pragma unroll 1
      for (int column = 0; column < k; column += CHUNK) {
        b.wait(&b.s.empty[b.slot], b.parity ^ 1);
        if (b.lane == 0) gate_expect(&b.s.full[b.slot], rows * CHUNK * 2);
        __syncwarp();
        if (b.lane < rows)
          copy_in(b.ring + b.slot * SLOT + b.lane * PITCH, from + (u64)b.lane * k + column, CHUNK * 2,
                  &b.s.full[b.slot]);
        b.next();
      }
    }
}

// ---- Products ----

// What a lane multiplies: of row lane / 4, columns chunk * CHUNK + warp * 64 + j * 32 + lane % 4 * 8 .. + 8, j = 0, 1.
template <int K>
struct Operand {
  static const int chunks = K / CHUNK;
  u32 a[chunks][8];

  __device__ static int column(const Block& b, int chunk, int j) {
    return chunk * CHUNK + b.warp * 64 + j * 32 + b.lane % 4 * 8;
  }
};

template <int K>
__device__ __forceinline__ void clear(Operand<K>& x) {
  for (int chunk = 0; chunk < K / CHUNK; chunk++)
    for (int i = 0; i < 8; i++) x.a[chunk][i] = 0;
}

// words [ROWS][K / 2]: pairs of columns, as other blocks send them.
template <int K>
__device__ __forceinline__ void receive(Block& b, Operand<K>& x, const u64* words, u32 tag) {
  const int chunks = K / CHUNK, batch = chunks % 3 == 0 ? 3 : chunks % 2 == 0 ? 2 : 1;
  clear(x);
  int row = b.lane / 4;
  if (row < ROWS) {
#pragma unroll
    for (int start = 0; start < chunks; start += batch) {
      const u64* from = words + (row * K + Operand<K>::column(b, start, 0)) / 2;
      for (u32 tries = 0;; tries++) {
        bool come = true;
        ulonglong2 got[batch][4];
#pragma unroll
        for (int i = 0; i < batch * 4; i++)
          got[i / 4][i % 4] = peek2(from + i / 4 * (CHUNK / 2) + i % 4 / 2 * 16 + i % 2 * 2);
#pragma unroll
        for (int i = 0; i < batch * 4; i++) {
          ulonglong2 v = got[i / 4][i % 4];
          come &= (u32)(v.x >> 32) == tag && (u32)(v.y >> 32) == tag;
          x.a[start + i / 4][i % 4 * 2] = (u32)v.x;
          x.a[start + i / 4][i % 4 * 2 + 1] = (u32)v.y;
        }
        if (come) break;
        PAUSE();
        if (tries >= b.patience) {
          b.give_up();
          break;
        }
      }
    }
  }
  __syncwarp();
}

// The gains of a norm, for the columns a lane multiplies.
template <int K>
struct Gain {
  uint4 g[K / CHUNK][2];
  __device__ __forceinline__ Gain(const Block& b, const u16* gain) {
#pragma unroll
    for (int i = 0; i < K / CHUNK * 2; i++) g[i / 2][i % 2] = *(const uint4*)(gain + Operand<K>::column(b, i / 2, i % 2));
  }
};

// x = norm(x) * gain, over all warps.
template <int K>
__device__ __forceinline__ void normalise(Block& b, Operand<K>& x, const Gain<K>& gain) {
  float sum = 0.0f;
#pragma unroll
  for (int chunk = 0; chunk < K / CHUNK; chunk++)
#pragma unroll
    for (int i = 0; i < 8; i++) {
      float low = low_half(x.a[chunk][i]), high = high_half(x.a[chunk][i]);
      sum += low * low + high * high;
    }
  sum += __shfl_xor_sync(~0u, sum, 1);
  sum += __shfl_xor_sync(~0u, sum, 2);
  int row = b.lane / 4;
  if (b.lane % 4 == 0 && row < ROWS) b.s.squares[row * WARPS + b.warp] = sum;
  SYNC();
  if (row < ROWS) {
    sum = 0.0f;
#pragma unroll
    for (int warp = 0; warp < WARPS; warp++) sum += b.s.squares[row * WARPS + warp];
    float scale = rsqrtf(sum / K + EPS);
#pragma unroll
    for (int chunk = 0; chunk < K / CHUNK; chunk++)
#pragma unroll
      for (int i = 0; i < 8; i++) {
        uint4 four = gain.g[chunk][i / 4];
        u32 g = i % 4 == 0 ? four.x : i % 4 == 1 ? four.y : i % 4 == 2 ? four.z : four.w;
        u32 v = x.a[chunk][i];
        x.a[chunk][i] = pack(low_half(v) * scale * low_half(g), high_half(v) * scale * high_half(g));
      }
  }
}

// Takes this block's `units` of a weight [n, K] off the ring and leaves every warp's sums in `red`.
template <int K>
__device__ __forceinline__ void multiply(Block& b, const Operand<K>& x, int units) {
  const int chunks = K / CHUNK;
#pragma unroll 1
  for (int i = 0; i < units; i++) {
    float c[2][4] = {};
#pragma unroll
    for (int chunk = 0; chunk < chunks; chunk++) {
      b.wait(&b.s.full[b.slot], b.parity);
      const char* at = b.ring + b.slot * SLOT + b.lane / 4 * PITCH + (b.warp * 64 + b.lane % 4 * 8) * 2;
      uint4 w = *(const uint4*)at, v = *(const uint4*)(at + 64);
      const u32* a = x.a[chunk];
      multiply_add(c[0], a[0], a[1], w.x, w.y);
      multiply_add(c[1], a[2], a[3], w.z, w.w);
      multiply_add(c[0], a[4], a[5], v.x, v.y);
      multiply_add(c[1], a[6], a[7], v.z, v.w);
      __syncwarp();
      if (b.lane == 0) gate_arrive(&b.s.empty[b.slot]);
      b.next();
    }
    if (b.lane / 4 < ROWS)
      *(float2*)&b.s.red[(i * WARPS + b.warp) * UNIT + b.lane / 4 * 8 + b.lane % 4 * 2] =
          make_float2(c[0][0] + c[1][0], c[0][1] + c[1][1]);
  }
  SYNC();
}

__device__ __forceinline__ int units_of(const Block& b, int n) {
  int units = CEIL(n, 8);
  return b.cta < units ? (units - b.cta + GRID - 1) / GRID : 0;
}

__device__ __forceinline__ float sum_of(const Block& b, int unit, int at) {
  float sum[4] = {};
#pragma unroll
  for (int warp = 0; warp < WARPS; warp++) sum[warp % 4] += b.s.red[(unit * WARPS + warp) * UNIT + at];
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

// An output of this block: unit i of its own, activations' row, column of the result.
struct Place {
  bool live;
  int i, at, row, column;
};

// Calls work(place) for every output of this block's units, whole warps at a time.
template <typename Work>
__device__ __forceinline__ void each_output(Block& b, int units, Work work) {
  for (int o = b.tid; o - b.lane < units * UNIT; o += THREADS) {
    Place p;
    p.live = o < units * UNIT, p.i = o / UNIT, p.at = o % UNIT, p.row = p.at / 8;
    p.column = (b.cta + p.i * GRID) * 8 + p.at % 8;
    work(p);
  }
}

// Sends a value of every output of a result [ROWS, n], two columns a word.
__device__ __forceinline__ void send_pair(const Block& b, const Place& p, u64* words, int n, float value, u32 tag) {
  float beside = __shfl_xor_sync(~0u, value, 1);
  if (p.live && p.column % 2 == 0) send(words + (p.row * n + p.column) / 2, pack(value, beside), tag);
}

__device__ __forceinline__ void send_product(Block& b, int units, u64* words, int n, u32 tag) {
  each_output(b, units, [&](const Place& p) { send_pair(b, p, words, n, p.live ? sum_of(b, p.i, p.at) : 0.0f, tag); });
}

// residual += product, sent; `plain` too, if given.
__device__ __forceinline__ void send_added(Block& b, int units, u64* words, int n, u32 tag, u16* plain = nullptr) {
  each_output(b, units, [&](const Place& p) {
    float y = 0.0f;
    if (p.live) {
      y = rounded(rounded(sum_of(b, p.i, p.at)) + b.s.residual[p.i * UNIT + p.at]);
      b.s.residual[p.i * UNIT + p.at] = y;
      if (plain) plain[p.row * n + p.column] = (u16)(__float_as_uint(y) >> 16);
    }
    send_pair(b, p, words, n, y, tag);
  });
}

// act(gate) * act(up), of units that come in pairs.
__device__ __forceinline__ void send_gated(Block& b, int units, u64* words, int n, u32 tag) {
  each_output(b, units, [&](const Place& p) {
    float y = 0.0f;
    if (p.live) {
      float gate = rounded(activate(rounded(sum_of(b, 2 * p.i, p.at)), GATE));
      float up = rounded(activate(rounded(sum_of(b, 2 * p.i + 1, p.at)), UP));
      y = gate * up;
    }
    send_pair(b, p, words, n, y, tag);
  });
}

// Logits [ROWS, n], one a word, and for whoever looks later in plain.
__device__ __forceinline__ void send_logits(Block& b, int units, u64* words, float* plain, int n, u32 tag) {
  each_output(b, units, [&](const Place& p) {
    if (!p.live || p.column >= n) return;
    float y = sum_of(b, p.i, p.at);
    send(words + p.row * n + p.column, __float_as_uint(y), tag);
    plain[p.row * n + p.column] = y;
  });
}

// ---- Attention ----

// A head of HEAD_DIM is held by SHARE lanes: the pairs that rotate together, dims 8 l .. 8 l + 8 and as many from the
// half on. So a warp works on 32 / SHARE positions at once: a lane group is one position.
#define HALF (HEAD_DIM / 2)
#define SHARE (HEAD_DIM / 16)
#define GROUPS (WARPS * 32 / SHARE)

__device__ __forceinline__ void load_head(const float* from, int l, float (&to)[16]) {
#pragma unroll
  for (int i = 0; i < 8; i++) to[i] = from[l * 8 + i], to[8 + i] = from[HALF + l * 8 + i];
}

__device__ __forceinline__ void unpack_head(uint4 low, uint4 high, float (&to)[16]) {
  unpack(low, to);
  unpack(high, to + 8);
}

// Norm and rotation of a head, rounded after each.
__device__ __forceinline__ void turn(float (&x)[16], uint4 gain_low, uint4 gain_high, const float* angles, int l) {
  float gain[16], sum = 0.0f;
  unpack_head(gain_low, gain_high, gain);
#pragma unroll
  for (int i = 0; i < 16; i++) sum += x[i] * x[i];
#pragma unroll
  for (int step = 1; step < SHARE; step *= 2) sum += __shfl_xor_sync(~0u, sum, step);
  float scale = rsqrtf(sum / HEAD_DIM + EPS);
#pragma unroll
  for (int i = 0; i < 16; i++) x[i] = rounded(x[i] * scale * gain[i]);
#if ROPE
#pragma unroll
  for (int i = 0; i < 8; i++) {
    float cos = angles[l * 8 + i], sin = angles[HALF + l * 8 + i];
    float first = x[i] * cos - x[8 + i] * sin, second = x[8 + i] * cos + x[i] * sin;
    x[i] = rounded(first), x[8 + i] = rounded(second);
  }
#endif
}

__device__ __forceinline__ uint4 pack8(const float* x) {
  return make_uint4(pack(x[0], x[1]), pack(x[2], x[3]), pack(x[4], x[5]), pack(x[6], x[7]));
}

__device__ __forceinline__ float dot(const float (&x)[16], const float (&y)[16]) {
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < 16; i++) sum += x[i] * y[i];
#pragma unroll
  for (int step = 1; step < SHARE; step *= 2) sum += __shfl_xor_sync(~0u, sum, step);
  return sum;
}

#define NOTHING __uint_as_float(0xff800000u)  // -inf

// A lane group's softmax so far: the highest score, the sum of weights, and the weighted sum of values.
struct Mix {
  float most, total, sum[16];

  __device__ void clear() {
    most = NOTHING, total = 0.0f;
    for (int i = 0; i < 16; i++) sum[i] = 0.0f;
  }

  __device__ void add(float score, const float (&value)[16]) {
    float higher = fmaxf(most, score), shrink = __expf(most - higher), weight = __expf(score - higher);
    total = total * shrink + weight;
#pragma unroll
    for (int i = 0; i < 16; i++) sum[i] = sum[i] * shrink + weight * value[i];
    most = higher;
  }

  // Adds up a warp's groups and leaves the warp's part in shared memory: row `part` of [.., HEAD_DIM] in `red`.
  __device__ void leave(Block& b, int part) {
    float higher = most;
#pragma unroll
    for (int step = SHARE; step < 32; step *= 2) higher = fmaxf(higher, __shfl_xor_sync(~0u, higher, step));
    float shrink = most == NOTHING ? 0.0f : __expf(most - higher);
    total *= shrink;
#pragma unroll
    for (int i = 0; i < 16; i++) sum[i] *= shrink;
#pragma unroll
    for (int step = SHARE; step < 32; step *= 2) {
      total += __shfl_xor_sync(~0u, total, step);
#pragma unroll
      for (int i = 0; i < 16; i++) sum[i] += __shfl_xor_sync(~0u, sum[i], step);
    }
    if (b.lane >= SHARE) return;
    if (b.lane == 0) b.s.most[part] = higher, b.s.total[part] = total;
    float* to = b.s.red + part * HEAD_DIM + b.lane * 8;
#pragma unroll
    for (int i = 0; i < 16; i += 4)
      *(float4*)(to + (i < 8 ? i : HALF + i - 8)) = make_float4(sum[i], sum[i + 1], sum[i + 2], sum[i + 3]);
  }
};

// ---- Draws ----

__device__ __forceinline__ u32 ordered(float x) {  // in the order of the floats, -0.0 below 0.0
  u32 bits = __float_as_uint(x);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

// A key that exactly k of the block's keys reach, or the k-th largest where ties forbid that. Eighths, then eighths of
// those: the counts of seven thresholds travel as bytes.
template <int PER>
__device__ __forceinline__ u32 kth_largest(Block& b, const u32 (&key)[PER], u32 k, int& flip) {
  u64 low = 0;
  int bits = 32;  // what is sought lies in low .. low + 2^bits
  while (bits > 0) {
    int shift = bits > 3 ? bits - 3 : 0;
    u32 first = 0, rest = 0;  // thresholds 1-4 and 5-7
#pragma unroll
    for (int i = 0; i < PER; i++) {
      if (key[i] < low) continue;
      u64 bucket = (key[i] - low) >> shift;
      first += bucket >= 4 ? 0x01010101u : 0x01010101u & ((1u << 8 * bucket) - 1);
      rest += bucket >= 7 ? 0x00010101u : bucket > 4 ? 0x00010101u & ((1u << 8 * (bucket - 4)) - 1) : 0u;
    }
    first = __reduce_add_sync(~0u, first), rest = __reduce_add_sync(~0u, rest);
    flip ^= 1;
    if (b.lane == 0) b.s.counts[flip][b.warp] = make_uint2(first, rest);
    SYNC();
    uint2 of_warp = b.lane < WARPS ? b.s.counts[flip][b.lane] : make_uint2(0, 0);
    u32 odd = __reduce_add_sync(~0u, of_warp.x & 0x00ff00ffu), even = __reduce_add_sync(~0u, of_warp.x >> 8 & 0x00ff00ffu);
    u32 odd2 = __reduce_add_sync(~0u, of_warp.y & 0x00ff00ffu), even2 = __reduce_add_sync(~0u, of_warp.y >> 8 & 0x00ffu);
    u32 count[8] = {~0u, odd & 0xffff, even & 0xffff, odd >> 16, even >> 16, odd2 & 0xffff, even2, odd2 >> 16};
    int chosen = 0;
    u32 reached = ~0u;
#pragma unroll
    for (int i = 1; i < 8; i++)
      if (count[i] >= k) chosen = i, reached = count[i];
    low += (u64)chosen << shift;
    if (reached == k) break;
    bits = shift;
  }
  return (u32)low;
}

struct Settings {
  float scale, temperature, uniform;
  u32 filter_k, top_k;
};

// One draw by the whole block: guidance, filter, temperature, top k, inverse CDF in the vocabulary's order.
// words: logits as they were sent, of the conditional row; those of the other row are `stride` further on.
template <int V>
__device__ __forceinline__ int draw(Block& b, const u64* words, int stride, u32 tag, const Settings& set, int banned, int also_banned) {
  const int PER = CEIL(V, THREADS);
  int flip = 0;
  float raw[PER], logit[PER];
  u32 key[PER];
  bool filtered = set.filter_k > 0 && set.filter_k < V;
#pragma unroll
  for (int e = 0; e < PER; e++) {
    int i = b.tid * PER + e;
    raw[e] = i < V ? __uint_as_float(b.receive(words + i, tag)) : NOTHING;
    float other = i < V && filtered ? __uint_as_float(b.receive(words + stride + i, tag)) : raw[e];
    key[e] = i < V ? ordered(__fadd_rn(other, __fmul_rn(set.scale, __fsub_rn(raw[e], other)))) : 0;
  }
  __syncwarp();
  MARK(20)
  u32 least = filtered ? kth_largest(b, key, set.filter_k, flip) : 0;
  MARK(21)
  u64 best;
  u32 candidates;
  for (int round = 0;; round++) {
    best = 0, candidates = 0;
#pragma unroll
    for (int e = 0; e < PER; e++) {
      int i = b.tid * PER + e;
      bool kept = i != banned && i != also_banned && i < V && (round || key[e] >= least);
      logit[e] = kept ? raw[e] : NOTHING;
      candidates += logit[e] > NOTHING;
      u64 rank = (u64)ordered(logit[e]) << 32 | (0xffffffffu - i);
      best = rank > best ? rank : best;
    }
    candidates = __reduce_add_sync(~0u, candidates);
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      u64 beside = __shfl_xor_sync(~0u, best, step);
      best = beside > best ? beside : best;
    }
    if (b.lane == 0) b.s.best[b.warp] = best, b.s.candidates[b.warp] = candidates;
    SYNC();
    candidates = 0;
#pragma unroll
    for (int warp = 0; warp < WARPS; warp++) {
      best = b.s.best[warp] > best ? b.s.best[warp] : best;
      candidates += b.s.candidates[warp];
    }
    if (candidates || round) break;
    SYNC();  // the filter left only what may not be drawn: then all the others are candidates
  }
  int token = (int)(0xffffffffu - (u32)best);
  if (set.temperature > 0.0f) {
    float warmth = fmaxf(set.temperature, 1e-4f);
    u32 bits = (u32)(best >> 32);
    float most = __fdiv_rn(__uint_as_float(bits >> 31 ? bits & 0x7fffffffu : ~bits), warmth);
#pragma unroll
    for (int e = 0; e < PER; e++) {
      logit[e] = __fdiv_rn(logit[e], warmth);
      key[e] = b.tid * PER + e < V ? ordered(logit[e]) : 0;
    }
    if (set.top_k > 0 && set.top_k < candidates) {
      u32 floor = kth_largest(b, key, set.top_k, flip);
#pragma unroll
      for (int e = 0; e < PER; e++)
        if (key[e] < floor) logit[e] = NOTHING;
    }
    // In fixed point: sums of floats taken in parallel need not rise.
    u64 weight[PER], mine = 0;
#pragma unroll
    for (int e = 0; e < PER; e++) {
      weight[e] = (u64)(__expf(logit[e] - most) * 4294967296.0f);
      mine += weight[e];
    }
    u64 upto = mine;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      u64 before = __shfl_up_sync(~0u, upto, step);
      if (b.lane >= step) upto += before;
    }
    if (b.lane == 31) b.s.sums[b.warp] = upto;
    SYNC();
    u64 total = 0;
    upto -= mine;
#pragma unroll
    for (int warp = 0; warp < WARPS; warp++) {
      if (warp < b.warp) upto += b.s.sums[warp];
      total += b.s.sums[warp];
    }
    u64 drawn = (u64)((double)set.uniform * (double)total);
#pragma unroll
    for (int e = 0; e < PER; e++) {
      if (upto <= drawn && drawn < upto + weight[e]) b.s.drawn = b.tid * PER + e;
      upto += weight[e];
    }
    SYNC();
    token = b.s.drawn;
  }
  SYNC();
  MARK(22)
  return token < 0 ? 0 : token < V ? token : V - 1;  // garbage logits must not become a wild address
}

// ---- What the host tells ----

// The table: addresses, in this order. Those of layer n start at LAYERS + n * PER_LAYER.
enum {
  STATE, WORDS, X, NORM, HEADS, COS, SIN, K_CACHE, V_CACHE, FIELDS, DRAWN, CODES, UNIFORMS, SCALE, FILTER,
  TEMPERATURE, TOP_K, TEXT_TEMPERATURE, TEXT_TOP_K, LOGITS, PROJECT_IN, VIEW_NORM, EMBED,
  GROUP, DELAY, LAYERS
};
enum { PRE_NORM, QKV, Q_NORM, K_NORM, OUT, POST_NORM, WI, WO, PER_LAYER };
#define STEP_FIELDS 5  // of a slot, int64: column, cache index, known frames, main, second

struct Table {
  const u64* at;
  template <typename T>
  __device__ T* get(int i) const {
    return (T*)__ldg(at + i);
  }
  __device__ const u16* layer(int n, int i) const { return get<const u16>(LAYERS + n * PER_LAYER + i); }
};

__device__ __forceinline__ Settings settings(const Table& t, int slot, int stream, bool text) {
  Settings set;
  int column = (int)t.get<const long long>(FIELDS)[slot * STEP_FIELDS];
  set.scale = t.get<const float>(SCALE)[slot];
  set.filter_k = (u32)t.get<const long long>(FILTER)[slot];
  set.temperature = t.get<const float>(text ? TEXT_TEMPERATURE : TEMPERATURE)[slot];
  set.top_k = (u32)t.get<const long long>(text ? TEXT_TOP_K : TOP_K)[slot];
  set.uniform = t.get<const float>(UNIFORMS)[((u64)slot * CAPACITY + column) * STREAMS + stream];
  return set;
}

// Keeps a code: as drawn, and in the next column unless its frame is known.
__device__ __forceinline__ void keep(const Table& t, int slot, int codebook, int token) {
  const long long* fields = t.get<const long long>(FIELDS) + slot * STEP_FIELDS;
  t.get<long long>(DRAWN)[slot * (CODEBOOKS + 1) + codebook] = token;
  if (fields[0] + 1 - t.get<const long long>(DELAY)[codebook] >= fields[2])
    t.get<long long>(CODES)[((u64)slot * CODEBOOKS + codebook) * CAPACITY + fields[0] + 1] = token;
}

__device__ __forceinline__ Block start(char* bytes, const Table& t) {
  Shared& s = *(Shared*)bytes;
  Block b = {s, bytes + RING, t.get<u32>(STATE) + 1, PATIENCE, 0, 0, (int)threadIdx.x, (int)threadIdx.x % 32,
             (int)threadIdx.x / 32, (int)blockIdx.x};
  if (b.tid == 0) {
    for (int i = 0; i < SLOTS; i++) gate_init(&s.full[i], 1), gate_init(&s.empty[i], WARPS);
    gates_ready();
  }
  __syncthreads();
  return b;
}

// ---- Exchanges ----
//
// An exchange is a buffer of words and a tag; tags count up through all launches. Words are reused by the next layer (or
// stage), five exchanges later. That is safe because each exchange is read by every block that has units in the next
// product, before it sends its part of that; the next layer's words cannot be sent before all those parts have come.

#define AT_QKV 0
#define AT_PARTS (AT_QKV + ROWS * QKV_WIDTH / 2)
#define AT_MIXED (AT_PARTS + PARTS)
#define AT_MIDDLE (AT_MIXED + ROWS * MIXED_WIDTH / 2)
#define AT_HIDDEN (AT_MIDDLE + ROWS * WIDTH / 2)
#define AT_STREAM (AT_HIDDEN + ROWS * MLP_WIDTH / 2)
#define AT_LOGITS (AT_STREAM + ROWS * WIDTH / 2)
#define AT_PROJECTED (AT_LOGITS + ROWS * LOGIT_WIDTH)

__device__ __forceinline__ void load_angles(Block& b, const Table& t, int slot, int position) {
#if ROPE
  for (int i = b.tid; i < HEAD_DIM; i += THREADS)
    b.s.angles[slot][i] = __ldg(t.get<const float>(i < HALF ? COS : SIN) + position * HALF + i % HALF);
#endif
}

// What follows attention in a layer: out projection, MLP. `tag` is attention's; takes four more.
__device__ __forceinline__ void after_attention(Block& b, const Table& t, int layer, u32& tag, u64* words,
                                                u16* plain = nullptr) {
  int narrow = units_of(b, WIDTH), wide = units_of(b, MLP_WIDTH);
  if (narrow) {
    Operand<MIXED_WIDTH> x;
    receive(b, x, words + AT_MIXED, tag);
    MARK(0)
    SYNC();  // `red` is free
    multiply(b, x, narrow);
    MARK(1)
    send_added(b, narrow, words + AT_MIDDLE, WIDTH, tag + 1);
    MARK(2)
  }
  if (wide) {
    Gain<WIDTH> gain(b, t.layer(layer, POST_NORM));
    Operand<WIDTH> x;
    receive(b, x, words + AT_MIDDLE, tag + 1);
    MARK(3)
    normalise(b, x, gain);
    MARK(4)
    multiply(b, x, 2 * wide);
    MARK(5)
    send_gated(b, wide, words + AT_HIDDEN, MLP_WIDTH, tag + 2);
    MARK(6)
  }
  if (narrow) {
    Operand<MLP_WIDTH> x;
    receive(b, x, words + AT_HIDDEN, tag + 2);
    MARK(7)
    SYNC();
    multiply(b, x, narrow);
    MARK(8)
    send_added(b, narrow, words + AT_STREAM, WIDTH, tag + 3, plain);
    MARK(9)
  }
  tag += 3;
}

__device__ __forceinline__ void feed_after_attention(Block& b, const Table& t, int layer, const u16* out) {
  feed(b, out, WIDTH, MIXED_WIDTH);
  const u16* wi = t.layer(layer, WI);
  feed(b, wi, MLP_WIDTH, WIDTH, wi + (u64)MLP_WIDTH * WIDTH);
  feed(b, t.layer(layer, WO), WIDTH, MLP_WIDTH);
}

// The launch is over for block 0 when all others have read where the tags begin.
__device__ __forceinline__ void finish(Block& b, const Table& t, u32 tag) {
  if (b.cta == 0 && b.tid == 0) *t.get<u32>(STATE) = tag;
}

#ifdef COLUMN

// ---- The backbone ----

#define GROUPED (QUERY_HEADS / KV_HEADS)
#define PAIRS (ROWS * KV_HEADS)
#define PART (HEAD_DIM + 2)  // of a query head and split: the highest score, the sum of weights, the sum of values

// The columns before the new one, cut into splits: at least one, none of them short without need.
struct Splits {
  int index, length, live;
  __device__ Splits(const Table& t, int row) {
    index = (int)t.get<const long long>(FIELDS)[row / 2 * STEP_FIELDS + 1];
    length = max(CEIL(CEIL(index, SPLITS), 16) * 16, 32);
    live = max(CEIL(index, length), 1);
  }
};

__device__ __forceinline__ void feed_columns(Block& b, const u16* from, int count) {
  b.wait(&b.s.empty[b.slot], b.parity ^ 1);
  if (b.lane == 0) {
    gate_expect(&b.s.full[b.slot], count * HEAD_DIM * 2);
    copy_in(b.ring + b.slot * SLOT, from, count * HEAD_DIM * 2, &b.s.full[b.slot]);
  }
  __syncwarp();
  b.next();
}

// This block's split of a row's key/value head.
__device__ __forceinline__ void attend(Block& b, const Table& t, int layer, u32 tag, u64* words) {
  int pair = b.cta / SPLITS, split = b.cta % SPLITS, row = pair / KV_HEADS, kv = pair % KV_HEADS;
  Splits splits(t, row);
  if (pair >= PAIRS || split >= splits.live) return;
  int l = b.lane % SHARE, group = b.tid / SHARE;
  const float* angles = b.s.angles[row / 2];
  const uint4* q_gain = (const uint4*)t.layer(layer, Q_NORM);
  const uint4* k_gain = (const uint4*)t.layer(layer, K_NORM);
  uint4 q_low = q_gain[l], q_high = q_gain[HALF / 8 + l], k_low = k_gain[l], k_high = k_gain[HALF / 8 + l];
  // Query heads, key and value of this row, in that order.
  for (int c = b.tid; c < (GROUPED + 2) * HALF; c += THREADS) {
    int head = c / HALF, from = head < GROUPED ? kv * GROUPED + head : QUERY_HEADS + (head - GROUPED) * KV_HEADS + kv;
    u32 both = b.receive(words + AT_QKV + (row * QKV_WIDTH + from * HEAD_DIM) / 2 + c % HALF, tag);
    *(float2*)&b.s.head[2 * c] = make_float2(low_half(both), high_half(both));
  }
  SYNC();
  MARK(15)
  float q[GROUPED][16];
  Mix mix[GROUPED];
  for (int g = 0; g < GROUPED; g++) {
    load_head(b.s.head + g * HEAD_DIM, l, q[g]);
    turn(q[g], q_low, q_high, angles, l);
    mix[g].clear();
  }
  int stop = min((split + 1) * splits.length, splits.index);
  for (int at = split * splits.length; at < stop; at += GROUPS) {
    bool mine = at + group < stop;
    float x[16], score[GROUPED];
    b.wait(&b.s.full[b.slot], b.parity);
    const uint4* k = (const uint4*)(b.ring + b.slot * SLOT + (mine ? group : 0) * HEAD_DIM * 2);
    unpack_head(k[l], k[HALF / 8 + l], x);
    __syncwarp();
    if (b.lane == 0) gate_arrive(&b.s.empty[b.slot]);
    b.next();
    for (int g = 0; g < GROUPED; g++) score[g] = dot(q[g], x);
    b.wait(&b.s.full[b.slot], b.parity);
    const uint4* v = (const uint4*)(b.ring + b.slot * SLOT + (mine ? group : 0) * HEAD_DIM * 2);
    unpack_head(v[l], v[HALF / 8 + l], x);
    __syncwarp();
    if (b.lane == 0) gate_arrive(&b.s.empty[b.slot]);
    b.next();
    if (mine)
      for (int g = 0; g < GROUPED; g++) mix[g].add(score[g], x);
  }
  if (split == splits.live - 1 && b.warp == WARPS - 1) {  // the new column, by the last group
    float k[16], v[16], score[GROUPED];
    load_head(b.s.head + GROUPED * HEAD_DIM, l, k);
    load_head(b.s.head + (GROUPED + 1) * HEAD_DIM, l, v);
    turn(k, k_low, k_high, angles, l);
    for (int g = 0; g < GROUPED; g++) score[g] = dot(q[g], k);
    if (group == GROUPS - 1) {
      for (int g = 0; g < GROUPED; g++) mix[g].add(score[g], v);
      u64 where = (((u64)layer * PAIRS + pair) * CAPACITY + splits.index) * HEAD_DIM;
      uint4 *to_k = (uint4*)(t.get<u16>(K_CACHE) + where), *to_v = (uint4*)(t.get<u16>(V_CACHE) + where);
      to_k[l] = pack8(k), to_k[HALF / 8 + l] = pack8(k + 8);
      to_v[l] = pack8(v), to_v[HALF / 8 + l] = pack8(v + 8);
    }
    __syncwarp();
  }
  for (int g = 0; g < GROUPED; g++) mix[g].leave(b, g * WARPS + b.warp);
  SYNC();
  u64* parts = words + AT_PARTS + (pair * GROUPED * SPLITS + split) * PART;
  for (int c = b.tid; c < GROUPED * HEAD_DIM; c += THREADS) {
    int g = c / HEAD_DIM, d = c % HEAD_DIM;
    float most = NOTHING, total = 0.0f, sum = 0.0f;
    for (int warp = 0; warp < WARPS; warp++) most = fmaxf(most, b.s.most[g * WARPS + warp]);
    for (int warp = 0; warp < WARPS; warp++) {
      float shrink = __expf(b.s.most[g * WARPS + warp] - most);
      total += b.s.total[g * WARPS + warp] * shrink;
      sum += b.s.red[(g * WARPS + warp) * HEAD_DIM + d] * shrink;
    }
    u64* to = parts + g * SPLITS * PART;
    if (d == 0) send(to, __float_as_uint(most), tag + 1), send(to + 1, __float_as_uint(total), tag + 1);
    send(to + 2 + d, __float_as_uint(sum), tag + 1);
  }
}

// Adds up the splits of a row's query head.
__device__ __forceinline__ void combine(Block& b, const Table& t, u32 tag, u64* words) {
  for (int item = GRID - 1 - b.cta; item < ROWS * QUERY_HEADS; item += GRID) {
    int row = item / QUERY_HEADS, head = item % QUERY_HEADS, live = Splits(t, row).live;
    const u64* parts = words + AT_PARTS + item * SPLITS * PART;
    for (int d = b.tid; d - b.lane < HEAD_DIM; d += THREADS) {
      float most = NOTHING, total = 0.0f, sum = 0.0f;
      for (int split = 0; split < live; split++) {
        const u64* from = parts + split * PART;
        u64 first = peek(from), second = peek(from + 1), third = peek(from + 2 + d);  // all three on their way at once
        float its = __uint_as_float((u32)(first >> 32) == tag ? (u32)first : b.receive(from, tag));
        float weight = __uint_as_float((u32)(second >> 32) == tag ? (u32)second : b.receive(from + 1, tag));
        float value = __uint_as_float((u32)(third >> 32) == tag ? (u32)third : b.receive(from + 2 + d, tag));
        float higher = fmaxf(most, its), old = __expf(most - higher), fresh = __expf(its - higher);
        total = total * old + weight * fresh, sum = sum * old + value * fresh, most = higher;
      }
      __syncwarp();
      float y = sum / total, beside = __shfl_xor_sync(~0u, y, 1);
      if (d % 2 == 0)
        send(words + AT_MIXED + (row * MIXED_WIDTH + head * HEAD_DIM + d) / 2, pack(y, beside), tag + 1);
    }
  }
}

__device__ __forceinline__ void feed_column(Block& b, const Table& t) {
  int pair = b.cta / SPLITS, split = b.cta % SPLITS;
  Splits splits(t, min(pair, PAIRS - 1) / KV_HEADS);
  int begin = split * splits.length, stop = min(begin + splits.length, splits.index);
  if (pair >= PAIRS || split >= splits.live) stop = begin;
#pragma unroll 1
  for (int layer = 0; layer < LAYER_COUNT; layer++) {
    feed(b, t.layer(layer, QKV), QKV_WIDTH, WIDTH);
    for (int at = begin; at < stop; at += GROUPS) {
      u64 from = (((u64)layer * PAIRS + pair) * CAPACITY + at) * HEAD_DIM;
      feed_columns(b, t.get<const u16>(K_CACHE) + from, min(GROUPS, stop - at));
      feed_columns(b, t.get<const u16>(V_CACHE) + from, min(GROUPS, stop - at));
    }
    feed_after_attention(b, t, layer, t.layer(layer, OUT));
  }
  feed(b, t.get<const u16>(HEADS), LOGIT_WIDTH, WIDTH);
}

// X [ROWS, WIDTH], the embedded columns -> X, the last layer's; LOGITS; the action and codebook 0, drawn.
extern "C" __global__ void __launch_bounds__(THREADS + 32, 1) column(const u64* table) {
#ifndef EMULATED
  extern __shared__ __align__(128) char memory[];
#endif
  Table t = {table};
  Block b = start(memory, t);
  if (b.warp == WARPS) return feed_column(b, t);
  u32 tag = *t.get<volatile u32>(STATE);
  u64* words = t.get<u64>(WORDS);
  u16* plain = t.get<u16>(X);
  int projections = units_of(b, QKV_WIDTH), narrow = units_of(b, WIDTH), logits = units_of(b, LOGIT_WIDTH);
  each_output(b, narrow, [&](const Place& p) {
    if (p.live) b.s.residual[p.i * UNIT + p.at] = low_half(plain[p.row * WIDTH + p.column]);
  });
#pragma unroll 1
  for (int slot = 0; slot < ROWS / 2; slot++)
    load_angles(b, t, slot, (int)t.get<const long long>(FIELDS)[slot * STEP_FIELDS]);
#pragma unroll 1
  for (int layer = 0; layer < LAYER_COUNT; layer++) {
    if (projections) {
      Gain<WIDTH> gain(b, t.layer(layer, PRE_NORM));
      Operand<WIDTH> x;
      if (layer == 0) {
        clear(x);
        if (b.lane / 4 < ROWS)
#pragma unroll
          for (int i = 0; i < WIDTH / CHUNK * 2; i++) {
            uint4 v = *(const uint4*)(plain + b.lane / 4 * WIDTH + x.column(b, i / 2, i % 2));
            u32* a = x.a[i / 2] + i % 2 * 4;
            a[0] = v.x, a[1] = v.y, a[2] = v.z, a[3] = v.w;
          }
      } else {
        receive(b, x, words + AT_STREAM, tag);
      }
      MARK(10)
      normalise(b, x, gain);
      MARK(11)
      multiply(b, x, projections);
      MARK(12)
      send_product(b, projections, words + AT_QKV, QKV_WIDTH, tag + 1);
      MARK(13)
    }
    attend(b, t, layer, tag + 1, words);
    MARK(14)
    combine(b, t, tag + 2, words);
    MARK(16)
    tag += 3;
    after_attention(b, t, layer, tag, words, layer == LAYER_COUNT - 1 ? plain : nullptr);
  }
  if (logits) {
    Gain<WIDTH> gain(b, t.get<const u16>(NORM));
    Operand<WIDTH> x;
    receive(b, x, words + AT_STREAM, tag);
    MARK(17)
    normalise(b, x, gain);
    multiply(b, x, logits);
    MARK(18)
    send_logits(b, logits, words + AT_LOGITS, t.get<float>(LOGITS), LOGIT_WIDTH, tag + 1);
  }
  tag++;
  for (int item = b.cta; item < ROWS; item += GRID) {  // two draws a slot
    int slot = item / 2;
    const u64* row = words + AT_LOGITS + 2 * slot * LOGIT_WIDTH;
    if (item % 2 == 0) {
      int token = draw<CODE_LOGITS>(b, row, LOGIT_WIDTH, tag, settings(t, slot, 1, false), BANNED, ALSO_BANNED);
      if (b.tid == 0) keep(t, slot, 0, token);
    } else {
      int token = draw<LOGIT_WIDTH - CODE_LOGITS>(b, row + CODE_LOGITS, LOGIT_WIDTH, tag, settings(t, slot, 0, true),
                                                  -1, -1);
      if (*(volatile u32*)b.error) token = -1;  // tells the host
      if (b.tid == 0) t.get<long long>(DRAWN)[slot * (CODEBOOKS + 1) + CODEBOOKS] = token;
    }
  }
  finish(b, t, tag);
}

#else

// ---- The depformer ----

#define STAGES (CODEBOOKS - 1)

// A row's head over the stages so far, a stage a lane group. What earlier stages left is fetched before the new comes.
__device__ __forceinline__ void attend(Block& b, const Table& t, int layer, int stage, u32 tag, u64* words) {
  int l = b.lane % SHARE, group = b.tid / SHARE;
  const float* angles = b.s.angles[0];
  const uint4* q_gain = (const uint4*)t.layer(layer, Q_NORM);
  const uint4* k_gain = (const uint4*)t.layer(layer, K_NORM);
  uint4 q_low = q_gain[l], q_high = q_gain[HALF / 8 + l], k_low = k_gain[l], k_high = k_gain[HALF / 8 + l];
  for (int item = b.cta; item < ROWS * QUERY_HEADS; item += GRID) {
    int row = item / QUERY_HEADS, head = item % QUERY_HEADS;
    u64 where = (((u64)layer * ROWS * QUERY_HEADS + item) * STAGES + group) * HEAD_DIM;
    uint4 *k_at = (uint4*)(t.get<u16>(K_CACHE) + where), *v_at = (uint4*)(t.get<u16>(V_CACHE) + where);
    uint4 nil = make_uint4(0, 0, 0, 0), old[4] = {nil, nil, nil, nil};
    if (group < stage) {
      old[0] = __ldcg(k_at + l), old[1] = __ldcg(k_at + HALF / 8 + l);
      old[2] = __ldcg(v_at + l), old[3] = __ldcg(v_at + HALF / 8 + l);
    }
    for (int c = b.tid; c < 3 * HALF; c += THREADS) {
      int from = row * QKV_WIDTH + (c / HALF * QUERY_HEADS + head) * HEAD_DIM;
      u32 both = b.receive(words + AT_QKV + from / 2 + c % HALF, tag);
      *(float2*)&b.s.head[2 * c] = make_float2(low_half(both), high_half(both));
    }
    SYNC();
    MARK(15)
    int warps = stage / (32 / SHARE) + 1;
    if (b.warp < warps) {
      float q[16], k[16], v[16];
      load_head(b.s.head, l, q);
      load_head(b.s.head + HEAD_DIM, l, k);
      load_head(b.s.head + 2 * HEAD_DIM, l, v);
      turn(q, q_low, q_high, angles, l);
      turn(k, k_low, k_high, angles, l);
      if (group == stage) {
        k_at[l] = pack8(k), k_at[HALF / 8 + l] = pack8(k + 8);
        v_at[l] = pack8(v), v_at[HALF / 8 + l] = pack8(v + 8);
      } else {
        unpack_head(old[0], old[1], k);
        unpack_head(old[2], old[3], v);
      }
      __syncwarp();
      float score = dot(q, k);
      Mix mix;
      mix.clear();
      if (group <= stage) mix.add(score, v);
      __syncwarp();
      mix.leave(b, b.warp);
    }
    SYNC();
    for (int c = b.tid; c < HALF; c += THREADS) {
      float most = NOTHING, total = 0.0f, low = 0.0f, high = 0.0f;
      for (int warp = 0; warp < warps; warp++) most = fmaxf(most, b.s.most[warp]);
      for (int warp = 0; warp < warps; warp++) {
        float shrink = __expf(b.s.most[warp] - most);
        float2 two = *(float2*)&b.s.red[warp * HEAD_DIM + 2 * c];
        total += b.s.total[warp] * shrink, low += two.x * shrink, high += two.y * shrink;
      }
      send(words + AT_MIXED + (row * MIXED_WIDTH + head * HEAD_DIM) / 2 + c, pack(low / total, high / total), tag + 1);
    }
    SYNC();
  }
}

__device__ __forceinline__ void feed_codes(Block& b, const Table& t) {
  feed(b, t.get<const u16>(PROJECT_IN), GROUP_COUNT * WIDTH, INPUT_WIDTH);
#pragma unroll 1
  for (int stage = 0; stage < STAGES; stage++) {
    u64 group = t.get<const int>(GROUP)[stage];
#pragma unroll 1
    for (int layer = 0; layer < LAYER_COUNT; layer++) {
      feed(b, t.layer(layer, QKV) + group * QKV_WIDTH * WIDTH, QKV_WIDTH, WIDTH);
      feed_after_attention(b, t, layer, t.layer(layer, OUT) + group * WIDTH * MIXED_WIDTH);
    }
    feed(b, t.get<const u16>(HEADS) + (u64)stage * VOCABULARY * WIDTH, LOGIT_WIDTH, WIDTH);
  }
}

// X [ROWS, INPUT_WIDTH], the backbone's last layer, and the drawn codebook 0 -> every other code, drawn.
extern "C" __global__ void __launch_bounds__(THREADS + 32, 1) codes(const u64* table) {
#ifndef EMULATED
  extern __shared__ __align__(128) char memory[];
#endif
  Table t = {table};
  Block b = start(memory, t);
  if (b.warp == WARPS) return feed_codes(b, t);
  u32 tag = *t.get<volatile u32>(STATE);
  u64* words = t.get<u64>(WORDS);
  int projections = units_of(b, QKV_WIDTH), narrow = units_of(b, WIDTH), logits = units_of(b, LOGIT_WIDTH);
  int views = units_of(b, GROUP_COUNT * WIDTH);
  if (b.tid < ROWS / 2) b.s.token[b.tid] = (int)t.get<const long long>(DRAWN)[b.tid * (CODEBOOKS + 1)];
  {  // every group's view of the hidden state
    Gain<INPUT_WIDTH> gain(b, t.get<const u16>(VIEW_NORM));
    Operand<INPUT_WIDTH> x;
    clear(x);
    if (b.lane / 4 < ROWS)
#pragma unroll
      for (int i = 0; i < INPUT_WIDTH / CHUNK * 2; i++) {
        uint4 v = *(const uint4*)(t.get<const u16>(X) + b.lane / 4 * INPUT_WIDTH + x.column(b, i / 2, i % 2));
        u32* a = x.a[i / 2] + i % 2 * 4;
        a[0] = v.x, a[1] = v.y, a[2] = v.z, a[3] = v.w;
      }
    normalise(b, x, gain);
    multiply(b, x, views);
    send_product(b, views, words + AT_PROJECTED, GROUP_COUNT * WIDTH, tag + 1);
  }
  u32 projected = ++tag;
#pragma unroll 1
  for (int stage = 0; stage < STAGES; stage++) {
    int group = t.get<const int>(GROUP)[stage];
    load_angles(b, t, 0, stage);
    const u64* view = words + AT_PROJECTED + group * WIDTH / 2;  // rows GROUP_COUNT * WIDTH apart
    const u16* embed = t.get<const u16>(EMBED) + (u64)stage * VOCABULARY * WIDTH;
    each_output(b, narrow, [&](const Place& p) {
      if (!p.live) return;
      u32 both = b.receive(view + (p.row * GROUP_COUNT * WIDTH + p.column) / 2, projected);
      float came = p.column % 2 ? high_half(both) : low_half(both);
      float code = low_half(__ldg(embed + (u64)b.s.token[p.row / 2] * WIDTH + p.column));
      b.s.residual[p.i * UNIT + p.at] = rounded(came + code);
    });
    __syncwarp();
    MARK(23)
#pragma unroll 1
    for (int layer = 0; layer < LAYER_COUNT; layer++) {
      if (projections) {
        Gain<WIDTH> gain(b, t.layer(layer, PRE_NORM));
        Operand<WIDTH> x;
        if (layer == 0) {
          clear(x);
          int row = b.lane / 4;
          if (row < ROWS)
#pragma unroll
            for (int i = 0; i < WIDTH / CHUNK * 2; i++) {
              int column = x.column(b, i / 2, i % 2);
              uint4 v = __ldg((const uint4*)(embed + (u64)b.s.token[row / 2] * WIDTH + column));
              const u64* from = view + (row * GROUP_COUNT * WIDTH + column) / 2;
              u32 code[4] = {v.x, v.y, v.z, v.w}, *a = x.a[i / 2] + i % 2 * 4;
#pragma unroll
              for (int e = 0; e < 4; e++) {
                u32 came = b.receive(from + e, projected);
                a[e] = pack(low_half(came) + low_half(code[e]), high_half(came) + high_half(code[e]));
              }
            }
          __syncwarp();
        } else {
          receive(b, x, words + AT_STREAM, tag);
        }
        MARK(10)
        normalise(b, x, gain);
        MARK(11)
        multiply(b, x, projections);
        MARK(12)
        send_product(b, projections, words + AT_QKV, QKV_WIDTH, tag + 1);
        MARK(13)
      }
      attend(b, t, layer, stage, tag + 1, words);
      MARK(14)
      tag += 2;
      after_attention(b, t, layer, tag, words);
    }
    if (logits) {
      Gain<WIDTH> gain(b, t.get<const u16>(NORM));
      Operand<WIDTH> x;
      receive(b, x, words + AT_STREAM, tag);
      MARK(17)
      normalise(b, x, gain);
      multiply(b, x, logits);
      MARK(18)
      send_logits(b, logits, words + AT_LOGITS, t.get<float>(LOGITS), LOGIT_WIDTH, tag + 1);
    }
    tag++;
  MARK(19)
#pragma unroll 1
    for (int slot = 0; slot < ROWS / 2; slot++) {
      Settings set = settings(t, slot, 2 + stage, false);
      int token = draw<LOGIT_WIDTH>(b, words + AT_LOGITS + 2 * slot * LOGIT_WIDTH, LOGIT_WIDTH, tag, set, -1, -1);
      if (b.tid == 0) {
        b.s.token[slot] = token;
        if (b.cta == 0) keep(t, slot, stage + 1, token);
      }
    }
    SYNC();
  }
  finish(b, t, tag);
}

#endif
