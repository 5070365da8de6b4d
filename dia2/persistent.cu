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

__device__ __forceinline__ void prefetch(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

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
#define X_PITCH (2 * WIDEST + 64)       // bytes from row to row of what is multiplied

#ifndef PATIENCE
#define PATIENCE (1u << 20)  // polls: half a second or so
#endif

struct Settings {
  float scale, temperature, uniform;
  u32 filter_k, top_k;
};

struct Shared {
  u64 full[SLOTS], empty[SLOTS];
  u64 sums[WARPS], table[TABLE];
  __attribute__((aligned(16))) float head[HEAD_FLOATS];  // query heads, key and value of one row, turned
  float angles[CEIL(ROWS, 2)][HEAD_DIM];  // cosines, sines of the position at hand: of every slot, in the backbone
  __attribute__((aligned(16))) float red[RED];  // partial sums: [unit][warp][row, output]; also the parts of attention
  __attribute__((aligned(16))) char x[ROWS * X_PITCH];  // what is multiplied: bfloat16 [ROWS][..]
  float squares[ROWS * WARPS];
  float residual[RESIDUAL * UNIT];  // this block's own outputs of the stream between the layers
  float most[WARPS * 4], total[WARPS * 4], score[32];
  uint2 counts[2][WARPS], best[WARPS];
  int token[CEIL(ROWS, 2)], drawn;
  // What the draws of the depformer need is brought in at the start, what they give is kept until the end: in between,
  // the weights that stream past push everything else out of L2.
  Settings settings[CEIL(ROWS, 2)];
  float uniforms[CEIL(ROWS, 2)][CODEBOOKS];
  int codes[CEIL(ROWS, 2)][CODEBOOKS], group[CODEBOOKS];
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
  if (kind == 1) return __fdividef(x, 1.0f + __expf(-x));
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

// Every product of a step runs through the same few hundred instructions, with what differs in here: a kernel that spells
// each one out spends more time fetching its instructions than its weights.
struct Job {
  const u64* in;     // words [ROWS][in_width / 2], sent with in_tag; or none, and plain [ROWS][in_width]
  const u16* plain;
  const u16* embed;  // a table whose row token[slot] is added first; or none
  const u16* gain;   // of the norm; or none
  int in_width, k, n, kind;
  bool keep;         // the input is the stream between the layers: keep this block's columns of it
  u64* out;
  void* also;        // where the result goes in plain; or none
  u32 in_tag, out_tag;
};
enum { SEND, ADD, GATED, LOGIT };

#define SPAN (THREADS / ROWS)             // threads that bring in a row, four columns at a time
#define PARTS_OF_ROW CEIL(SPAN, 32)
#define KEPT CEIL(WIDEST_NORMED / 4, SPAN)  // groups of four that a thread norms
#define BATCH 6                           // loads in flight, without a norm

// Two words, once both have come.
__device__ __forceinline__ bool come(const ulonglong2& v, u32 tag) {
  return (u32)(v.x >> 32) == tag && (u32)(v.y >> 32) == tag;
}

// Groups first, first + SPAN, .. of a row, as two pairs each; those from `count` on are left alone.
template <int N>
__device__ __forceinline__ void receive(Block& b, uint2 (&x)[N], const u64* words, int first, int count, u32 tag) {
  for (u32 tries = 0;; tries++) {
    bool all = true;
    ulonglong2 got[N];
#pragma unroll
    for (int i = 0; i < N; i++)
      if (first + i * SPAN < count) got[i] = peek2(words + 2 * (first + i * SPAN));
#pragma unroll
    for (int i = 0; i < N; i++)
      if (first + i * SPAN < count) {
        all &= come(got[i], tag);
        x[i] = make_uint2((u32)got[i].x, (u32)got[i].y);
      }
    if (all) break;
    PAUSE();
    if (tries >= b.patience) {
      b.give_up();
      break;
    }
  }
}

__device__ __forceinline__ u32 add_pairs(u32 x, u32 y) {
  return pack(low_half(x) + low_half(y), high_half(x) + high_half(y));
}

__device__ __forceinline__ u32 scale_pair(u32 x, float scale, u32 gain) {
  return pack(low_half(x) * scale * low_half(gain), high_half(x) * scale * high_half(gain));
}

// Brings a job's input to shared memory, normed if it is to be. Two barriers with a norm, one without.
__device__ __forceinline__ void bring(Block& b, const Job& job) {
  int row = b.tid / SPAN, first = b.tid % SPAN, count = job.k / 4;
  uint2* to = (uint2*)(b.s.x + row * X_PITCH);
  const u64* words = job.in + row * job.in_width / 2;
  if (!job.gain) {
#pragma unroll 1
    for (int start = first; start < count; start += BATCH * SPAN) {
      uint2 x[BATCH];
      receive(b, x, words, start, count, job.in_tag);
#pragma unroll
      for (int i = 0; i < BATCH; i++)
        if (start + i * SPAN < count) to[start + i * SPAN] = x[i];
    }
    __syncwarp();
    SYNC();
    return;
  }
  uint2 x[KEPT], gain[KEPT], code[KEPT];
  const uint2* embed = (const uint2*)(job.embed + (u64)b.s.token[row / 2] * job.k);
#pragma unroll
  for (int i = 0; i < KEPT; i++) {
    int at = first + i * SPAN;
    x[i] = make_uint2(0, 0);
    if (at >= count) continue;
    gain[i] = __ldg((const uint2*)job.gain + at);
    if (job.embed) code[i] = __ldg(embed + at);
    if (!job.in) x[i] = *((const uint2*)(job.plain + row * job.in_width) + at);
  }
  if (job.in) receive(b, x, words, first, count, job.in_tag);
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < KEPT; i++) {
    int at = first + i * SPAN;
    if (job.embed && at < count) x[i] = make_uint2(add_pairs(x[i].x, code[i].x), add_pairs(x[i].y, code[i].y));
    float e[4] = {low_half(x[i].x), high_half(x[i].x), low_half(x[i].y), high_half(x[i].y)};
    sum += (e[0] * e[0] + e[1] * e[1]) + (e[2] * e[2] + e[3] * e[3]);
    if (job.keep && at < count && at / 2 % GRID == b.cta)
      *(float4*)&b.s.residual[at / 2 / GRID * UNIT + row * 8 + at % 2 * 4] = make_float4(e[0], e[1], e[2], e[3]);
  }
  __syncwarp();
#pragma unroll
  for (int step = 1; step < min(32, SPAN); step *= 2) sum += __shfl_xor_sync(~0u, sum, step);
  if (b.tid % min(32, SPAN) == 0) b.s.squares[row * PARTS_OF_ROW + first / 32] = sum;
  SYNC();
  sum = 0.0f;
#pragma unroll
  for (int part = 0; part < PARTS_OF_ROW; part++) sum += b.s.squares[row * PARTS_OF_ROW + part];
  float scale = rsqrtf(__fdividef(sum, (float)job.k) + EPS);
#pragma unroll
  for (int i = 0; i < KEPT; i++)
    if (first + i * SPAN < count)
      to[first + i * SPAN] = make_uint2(scale_pair(x[i].x, scale, gain[i].x), scale_pair(x[i].y, scale, gain[i].y));
  SYNC();
}

// Takes this block's units of a weight off the ring and leaves every warp's sums in `red`. A lane multiplies, of row
// lane / 4, columns chunk * CHUNK + warp * 64 + j * 32 + lane % 4 * 8 .. + 8, j = 0, 1.
__device__ __forceinline__ void multiply(Block& b, int k, int units) {
  int row = b.lane / 4, offset = (b.warp * 64 + b.lane % 4 * 8) * 2;
  const char* weights = b.ring + row * PITCH + offset;
  const char* rows = b.s.x + (row < ROWS ? row : 0) * X_PITCH + offset;
  float* to = b.s.red + b.warp * UNIT + row * 8 + b.lane % 4 * 2;
  int chunks = k / CHUNK, chunk = 0;
  float c[4][4] = {};
  b.wait(&b.s.full[b.slot], b.parity);
  uint4 w = *(const uint4*)(weights + b.slot * SLOT), v = *(const uint4*)(weights + b.slot * SLOT + 64);
#pragma unroll 1
  for (int left = units * chunks; left > 0; left--) {
    uint4 p = *(const uint4*)(rows + chunk * 2 * CHUNK), q = *(const uint4*)(rows + chunk * 2 * CHUNK + 64);
    uint4 next_w = w, next_v = v;
    u32 here = b.slot;
    b.next();
    if (left > 1) {  // the next slot is on its way to the registers while this one is multiplied
      b.wait(&b.s.full[b.slot], b.parity);
      next_w = *(const uint4*)(weights + b.slot * SLOT), next_v = *(const uint4*)(weights + b.slot * SLOT + 64);
    }
    multiply_add(c[0], p.x, p.y, w.x, w.y);
    multiply_add(c[1], p.z, p.w, w.z, w.w);
    multiply_add(c[2], q.x, q.y, v.x, v.y);
    multiply_add(c[3], q.z, q.w, v.z, v.w);
    __syncwarp();
    if (b.lane == 0) gate_arrive(&b.s.empty[here]);
    w = next_w, v = next_v;
    if (++chunk < chunks) continue;
    chunk = 0;
    if (row < ROWS)
      *(float2*)to = make_float2((c[0][0] + c[1][0]) + (c[2][0] + c[3][0]), (c[0][1] + c[1][1]) + (c[2][1] + c[3][1]));
    to += WARPS * UNIT;
#pragma unroll
    for (int i = 0; i < 4; i++) c[i][0] = c[i][1] = c[i][2] = c[i][3] = 0.0f;
  }
  __syncwarp();
  SYNC();
}

__device__ __forceinline__ int units_of(const Block& b, int n) {
  int units = CEIL(n, 8);
  return b.cta < units ? (units - b.cta + GRID - 1) / GRID : 0;
}

// The sum of all warps, by four lanes together.
__device__ __forceinline__ float sum_of(const Block& b, int unit, int at) {
  float sum = 0.0f;
#pragma unroll
  for (int warp = 0; warp < WARPS; warp += 4)
    if (warp + b.lane % 4 < WARPS) sum += b.s.red[(unit * WARPS + warp + b.lane % 4) * UNIT + at];
  sum += __shfl_xor_sync(~0u, sum, 1);
  return sum + __shfl_xor_sync(~0u, sum, 2);
}

// Adds up and sends the outputs.
__device__ __forceinline__ void deliver(Block& b, const Job& job, int units) {
#pragma unroll 1
  for (int base = b.warp * 8; base < units * UNIT; base += WARPS * 8) {
    int o = min(base + b.lane / 4, units * UNIT - 1), i = o / UNIT, at = o % UNIT, row = at / 8;
    int column = (b.cta + i * GRID) * 8 + at % 8;
    bool mine = base + b.lane / 4 == o && b.lane % 4 == 0 && column < job.n;
    float y = sum_of(b, job.kind == GATED ? 2 * i : i, at);
    if (job.kind == GATED) {
      float up = rounded(activate(rounded(sum_of(b, 2 * i + 1, at)), UP));
      y = rounded(activate(rounded(y), GATE)) * up;
    }
    if (job.kind == ADD) {
      y = rounded(rounded(y) + b.s.residual[o]);
      __syncwarp();
      if (mine) b.s.residual[o] = y;
      if (mine && job.also) ((u16*)job.also)[row * job.n + column] = (u16)(__float_as_uint(y) >> 16);
    }
    if (job.kind == LOGIT) {
      if (mine) send(job.out + row * job.n + column, __float_as_uint(y), job.out_tag);
      if (mine) ((float*)job.also)[row * job.n + column] = y;
    } else {
      float beside = __shfl_xor_sync(~0u, y, 4);
      if (mine && column % 2 == 0) send(job.out + (row * job.n + column) / 2, pack(y, beside), job.out_tag);
    }
  }
  __syncwarp();
}

__device__ __forceinline__ void work(Block& b, const Job& job, int mark) {
  int units = units_of(b, job.n);
  if (units == 0) return;
  bring(b, job);
  MARK(mark)
  multiply(b, job.k, job.kind == GATED ? 2 * units : units);
  MARK(mark + 1)
  deliver(b, job, units);
  MARK(mark + 2)
}

// ---- Attention ----

#define NOTHING __uint_as_float(0xff800000u)  // -inf
#define HALF (HEAD_DIM / 2)
#define PAIR (HEAD_DIM / 4)  // words of half a head: a lane turns words l and l + PAIR

// A head as another block sent it: for queries and keys normed and turned, rounded after each. Leaves it in `head` and,
// if given, in a cache.
__device__ __forceinline__ void bring_head(Block& b, const u64* words, u32 tag, const u16* gain, const float* angles,
                                           float* head, u16* cache) {
  int l = b.lane < PAIR ? b.lane : 0;
  u32 gains[2] = {0, 0};
  if (gain) gains[0] = __ldg((const u32*)gain + l), gains[1] = __ldg((const u32*)gain + PAIR + l);
  u32 first = b.receive(words + l, tag), second = b.receive(words + PAIR + l, tag);
  __syncwarp();
  float x[4] = {low_half(first), high_half(first), low_half(second), high_half(second)};
  if (gain) {
    float sum = b.lane < PAIR ? (x[0] * x[0] + x[1] * x[1]) + (x[2] * x[2] + x[3] * x[3]) : 0.0f;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) sum += __shfl_xor_sync(~0u, sum, step);
    float scale = rsqrtf(sum / HEAD_DIM + EPS);
#pragma unroll
    for (int i = 0; i < 4; i++) x[i] = rounded(x[i] * scale * (i % 2 ? high_half(gains[i / 2]) : low_half(gains[i / 2])));
#if ROPE
#pragma unroll
    for (int i = 0; i < 2; i++) {
      float cos = angles[2 * l + i], sin = angles[HALF + 2 * l + i];
      float turned = x[i] * cos - x[2 + i] * sin;
      x[2 + i] = rounded(x[2 + i] * cos + x[i] * sin), x[i] = rounded(turned);
    }
#endif
  }
  if (b.lane >= PAIR) return;
  *(float2*)(head + 2 * l) = make_float2(x[0], x[1]);
  *(float2*)(head + HALF + 2 * l) = make_float2(x[2], x[3]);
  if (cache) ((u32*)cache)[l] = pack(x[0], x[1]), ((u32*)cache)[PAIR + l] = pack(x[2], x[3]);
}

// To score, a head is held by SHARE lanes: dims 8 l .. 8 l + 8 and as many from the half on. A lane group is a position.
#define SHARE (HEAD_DIM / 16)
#define GROUPS (WARPS * 32 / SHARE)

__device__ __forceinline__ void load_head(const float* from, int l, float (&to)[16]) {
#pragma unroll
  for (int i = 0; i < 16; i += 4) {
    float4 four = *(const float4*)(from + (i < 8 ? l * 8 + i : HALF + l * 8 + i - 8));
    to[i] = four.x, to[i + 1] = four.y, to[i + 2] = four.z, to[i + 3] = four.w;
  }
}

__device__ __forceinline__ void unpack_head(uint4 low, uint4 high, float (&to)[16]) {
  unpack(low, to);
  unpack(high, to + 8);
}

__device__ __forceinline__ float dot(const float (&x)[16], const float (&y)[16]) {
  float sum[4] = {};
#pragma unroll
  for (int i = 0; i < 16; i++) sum[i % 4] += x[i] * y[i];
  sum[0] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
#pragma unroll
  for (int step = 1; step < SHARE; step *= 2) sum[0] += __shfl_xor_sync(~0u, sum[0], step);
  return sum[0];
}

// ---- Draws ----

__device__ __forceinline__ u32 ordered(float x) {  // in the order of the floats, -0.0 below 0.0
  u32 bits = __float_as_uint(x);
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

// A key that exactly k of the block's keys reach, or the k-th largest where ties forbid that. Eighths, then eighths of
// those: how many keys lie in each travels as bytes.
template <int PER>
__device__ __forceinline__ u32 kth_largest(Block& b, const u32 (&key)[PER], u32 k, int& flip) {
  u32 low = 0;
  int bits = 32;  // what is sought lies in low .. low + 2^bits
#pragma unroll 1
  while (bits > 0) {
    int shift = bits > 3 ? bits - 3 : 0;
    u64 mine = 0;
#pragma unroll
    for (int i = 0; i < PER; i++)
      if (key[i] >= low) mine += 1ull << 8 * min((key[i] - low) >> shift, 7u);
    u32 lower = __reduce_add_sync(~0u, (u32)mine), upper = __reduce_add_sync(~0u, (u32)(mine >> 32));
    flip ^= 1;
    if (b.lane == 0) b.s.counts[flip][b.warp] = make_uint2(lower, upper);
    SYNC();
    uint2 of_warp = b.lane < WARPS ? b.s.counts[flip][b.lane] : make_uint2(0, 0);
    u32 even = __reduce_add_sync(~0u, of_warp.x & 0x00ff00ffu), odd = __reduce_add_sync(~0u, of_warp.x >> 8 & 0x00ff00ffu);
    u32 even2 = __reduce_add_sync(~0u, of_warp.y & 0x00ff00ffu), odd2 = __reduce_add_sync(~0u, of_warp.y >> 8 & 0x00ff00ffu);
    u32 count[8] = {even & 0xffff, odd & 0xffff, even >> 16, odd >> 16, even2 & 0xffff, odd2 & 0xffff, even2 >> 16, odd2 >> 16};
    u32 reached = 0, step = 0, above = 0;  // from the top: the first eighth that makes it k
#pragma unroll
    for (int i = 7; i >= 0; i--) {
      above += count[i];
      if (above >= k && reached == 0) reached = above, step = i;
    }
    low += step << shift;
    if (reached == k) break;
    bits = shift;
  }
  return low;
}

// One draw by the whole block: guidance, filter, temperature, top k, inverse CDF in the vocabulary's order.
// words: logits as they were sent, of the conditional row; those of the other row are `stride` further on.
template <int V>
__device__ __forceinline__ int draw(Block& b, const u64* words, int stride, u32 tag, const Settings& set, int banned,
                                    int also_banned) {
  const int PER = 2 * CEIL(V, 2 * THREADS);
  static_assert(V % 2 == 0 && PER * 32 < 256, "logits come in twos, and counts travel as bytes");
  int flip = 0, first = b.tid * PER;
  float raw[PER], logit[PER];
  u32 key[PER];
  bool filtered = set.filter_k > 0 && set.filter_k < V;
  for (u32 tries = 0;; tries++) {
    bool all = true;
#pragma unroll
    for (int e = 0; e < PER; e += 2) {
      ulonglong2 its = {0, 0}, others = {0, 0};
      raw[e] = raw[e + 1] = NOTHING, key[e] = key[e + 1] = 0;
      if (first + e >= V) continue;
      its = peek2(words + first + e);
      if (filtered) others = peek2(words + stride + first + e);
      all &= come(its, tag) && (!filtered || come(others, tag));
      raw[e] = __uint_as_float((u32)its.x), raw[e + 1] = __uint_as_float((u32)its.y);
      if (!filtered) continue;
      float x = __uint_as_float((u32)others.x), y = __uint_as_float((u32)others.y);
      key[e] = ordered(__fadd_rn(x, __fmul_rn(set.scale, __fsub_rn(raw[e], x))));
      key[e + 1] = ordered(__fadd_rn(y, __fmul_rn(set.scale, __fsub_rn(raw[e + 1], y))));
    }
    if (all) break;
    PAUSE();
    if (tries >= b.patience) {
      b.give_up();
      break;
    }
  }
  __syncwarp();
  MARK(24)
  u32 least = filtered ? kth_largest(b, key, set.filter_k, flip) : 0;
  MARK(25)
  u32 best, candidates;
#pragma unroll 1
  for (int round = 0;; round++) {
    best = 0, candidates = 0;
#pragma unroll
    for (int e = 0; e < PER; e++) {
      int i = first + e;
      bool kept = i != banned && i != also_banned && i < V && (round || key[e] >= least);
      logit[e] = kept ? raw[e] : NOTHING;
      candidates += logit[e] > NOTHING;
      best = max(best, ordered(logit[e]));
    }
    candidates = __reduce_add_sync(~0u, candidates), best = __reduce_max_sync(~0u, best);
    if (b.lane == 0) b.s.best[b.warp] = make_uint2(best, candidates);
    SYNC();
    uint2 of_warp = b.lane < WARPS ? b.s.best[b.lane] : make_uint2(0, 0);
    best = __reduce_max_sync(~0u, of_warp.x), candidates = __reduce_add_sync(~0u, of_warp.y);
    if (candidates || round) break;
    SYNC();  // the filter left only what may not be drawn: then all the others are candidates
  }
  if (set.temperature > 0.0f) {
    float warmth = fmaxf(set.temperature, 1e-4f), most = __uint_as_float(best >> 31 ? best & 0x7fffffffu : ~best);
    if (set.top_k > 0 && set.top_k < candidates) {
#pragma unroll
      for (int e = 0; e < PER; e++) key[e] = first + e < V ? ordered(logit[e]) : 0;
      u32 floor = kth_largest(b, key, set.top_k, flip);
#pragma unroll
      for (int e = 0; e < PER; e++)
        if (key[e] < floor) logit[e] = NOTHING;
    }
    // In fixed point: sums of floats taken in parallel need not rise.
    u64 weight[PER], mine = 0;
#pragma unroll
    for (int e = 0; e < PER; e++) {
      weight[e] = (u64)(__expf(__fdividef(logit[e] - most, warmth)) * 4294967296.0f);
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
    // Sums of less than 2^45, in two parts that the warp can add at once.
    u64 its = b.lane < WARPS ? b.s.sums[b.lane] : 0;
    u32 low = (u32)its & 0xffffff, high = (u32)(its >> 24);
    u64 total = (u64)__reduce_add_sync(~0u, high) << 24;
    total += __reduce_add_sync(~0u, low);
    u64 before = (u64)__reduce_add_sync(~0u, b.lane < b.warp ? high : 0) << 24;
    upto += before + __reduce_add_sync(~0u, b.lane < b.warp ? low : 0) - mine;
    u64 drawn = (u64)((double)set.uniform * (double)total);
#pragma unroll
    for (int e = 0; e < PER; e++) {
      if (upto <= drawn && drawn < upto + weight[e]) b.s.drawn = first + e;
      upto += weight[e];
    }
  } else {  // the first of the highest
    u32 found = ~0u;
#pragma unroll
    for (int e = PER - 1; e >= 0; e--)
      if (first + e < V && ordered(logit[e]) == best) found = first + e;
    found = __reduce_min_sync(~0u, found);
    if (b.lane == 0) b.s.counts[flip ^ 1][b.warp].x = found;
    SYNC();
    found = __reduce_min_sync(~0u, b.lane < WARPS ? b.s.counts[flip ^ 1][b.lane].x : ~0u);
    if (b.tid == 0) b.s.drawn = found;
  }
  __syncwarp();
  SYNC();
  int token = b.s.drawn;
  MARK(26)
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
static_assert(TABLE == LAYERS + LAYER_COUNT * PER_LAYER, "the host and this file disagree about the table");
#define STEP_FIELDS 5  // of a slot, int64: column, cache index, known frames, main, second

struct Table {
  const u64* at;
  template <typename T>
  __device__ T* get(int i) const {
    return (T*)at[i];
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

__device__ __forceinline__ Block start(char* bytes, const u64* table) {
  Shared& s = *(Shared*)bytes;
  Block b = {s, bytes + RING, (u32*)table[STATE] + 2, PATIENCE, 0, 0, (int)threadIdx.x, (int)threadIdx.x % 32,
             (int)threadIdx.x / 32, (int)blockIdx.x};
  if (b.tid == 0) {
    for (int i = 0; i < SLOTS; i++) gate_init(&s.full[i], 1), gate_init(&s.empty[i], WARPS);
    gates_ready();
  }
  for (int i = b.tid; i < TABLE; i += THREADS + 32) s.table[i] = table[i];
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

// The products of a layer, in order: into attention, out of it, into the MLP, out of it.
__device__ __forceinline__ Job job_of(const Table& t, int layer, int step, u32 tag, u64* words) {
  Job job = {};
  job.in_tag = tag, job.out_tag = tag + 1;
  job.in = words + (step == 0 ? AT_STREAM : step == 1 ? AT_MIXED : step == 2 ? AT_MIDDLE : AT_HIDDEN);
  job.out = words + (step == 0 ? AT_QKV : step == 1 ? AT_MIDDLE : step == 2 ? AT_HIDDEN : AT_STREAM);
  job.k = job.in_width = step == 1 ? MIXED_WIDTH : step == 3 ? MLP_WIDTH : WIDTH;
  job.n = step == 0 ? QKV_WIDTH : step == 2 ? MLP_WIDTH : WIDTH;
  job.kind = step == 0 ? SEND : step == 2 ? GATED : ADD;
  if (step % 2 == 0) job.gain = t.layer(layer, step ? POST_NORM : PRE_NORM);
  return job;
}

// The small tensors of a layer, brought to L2 before they are asked for; by one block's copying warp.
__device__ __forceinline__ void fetch_gains(const Block& b, const Table& t, int layer) {
  if (b.cta) return;
  for (int i = b.lane * 64; i < WIDTH; i += 32 * 64) {
    prefetch(t.layer(layer, PRE_NORM) + i), prefetch(t.layer(layer, POST_NORM) + i);
    if (layer == LAYER_COUNT - 1) prefetch(t.get<const u16>(NORM) + i);
    if (i < HEAD_DIM) prefetch(t.layer(layer, Q_NORM) + i), prefetch(t.layer(layer, K_NORM) + i);
  }
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
    length = max(CEIL(CEIL(index, SPLITS), 16) * 16, GROUPS);
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

// A lane group's softmax so far: the highest score, the sum of weights, and the weighted sum of values.
struct Mix {
  float most, total, sum[16];

  __device__ __forceinline__ void clear() {
    most = NOTHING, total = 0.0f;
#pragma unroll
    for (int i = 0; i < 16; i++) sum[i] = 0.0f;
  }

  __device__ __forceinline__ void add(float score, const float (&value)[16]) {
    float higher = fmaxf(most, score), shrink = __expf(most - higher), weight = __expf(score - higher);
    total = total * shrink + weight;
#pragma unroll
    for (int i = 0; i < 16; i++) sum[i] = sum[i] * shrink + weight * value[i];
    most = higher;
  }

  // Adds up a warp's groups and leaves the warp's part in shared memory: row `part` of [.., HEAD_DIM] in `red`. Lanes
  // halve what they hold with every step.
  __device__ __forceinline__ void leave(Block& b, int part) {
    float higher = most;
#pragma unroll
    for (int step = SHARE; step < 32; step *= 2) higher = fmaxf(higher, __shfl_xor_sync(~0u, higher, step));
    float shrink = most == NOTHING ? 0.0f : __expf(most - higher);
    total *= shrink;
#pragma unroll
    for (int i = 0; i < 16; i++) sum[i] *= shrink;
    int from = 0;
#pragma unroll
    for (int step = 16, width = 8; step >= SHARE; step /= 2, width /= 2) {
      total += __shfl_xor_sync(~0u, total, step);
      bool upper = b.lane & step;
      from += upper ? width : 0;
#pragma unroll
      for (int i = 0; i < width; i++) {
        float kept = upper ? sum[width + i] : sum[i], given = upper ? sum[i] : sum[width + i];
        sum[i] = kept + __shfl_xor_sync(~0u, given, step);
      }
    }
    if (b.lane == 0) b.s.most[part] = higher, b.s.total[part] = total;
    int l = b.lane % SHARE;
    float* to = b.s.red + part * HEAD_DIM + (from < 8 ? l * 8 + from : HALF + l * 8 + from - 8);
#pragma unroll
    for (int i = 0; i < SHARE / 2; i++) to[i] = sum[i];
  }
};

__device__ __forceinline__ float score_of(const Block& b, int head, int l, const float (&key)[16]) {
  float query[16];
  load_head(b.s.head + head * HEAD_DIM, l, query);
  return dot(query, key);
}

// This block's split of a row's key/value head. Where there is but one split, its result is the attention's.
__device__ __forceinline__ void attend(Block& b, const Table& t, int layer, u32 tag, u64* words) {
  int pair = b.cta / SPLITS, split = b.cta % SPLITS, row = pair / KV_HEADS, kv = pair % KV_HEADS;
  if (pair >= PAIRS) return;
  Splits splits(t, row);
  if (split >= splits.live) return;
  bool last = split == splits.live - 1;
  for (int i = b.warp; i < GROUPED + 2; i += WARPS) {  // query heads, key, value
    int from = i < GROUPED ? kv * GROUPED + i : QUERY_HEADS + (i - GROUPED) * KV_HEADS + kv;
    const u16* gain = i > GROUPED ? nullptr : t.layer(layer, i < GROUPED ? Q_NORM : K_NORM);
    u16* cache = nullptr;
    if (i >= GROUPED && last)
      cache = t.get<u16>(i == GROUPED ? K_CACHE : V_CACHE) + (((u64)layer * PAIRS + pair) * CAPACITY + splits.index) * HEAD_DIM;
    bring_head(b, words + AT_QKV + (row * QKV_WIDTH + from * HEAD_DIM) / 2, tag, gain, b.s.angles[row / 2],
               b.s.head + i * HEAD_DIM, cache);
    __syncwarp();
  }
  SYNC();
  MARK(16)
  int l = b.lane % SHARE, group = b.tid / SHARE, begin = split * splits.length;
  int stop = min(begin + splits.length, splits.index), warps = min(WARPS, max(1, CEIL(stop - begin, 32 / SHARE)));
  float x[16], score[GROUPED];
  Mix mix[GROUPED];
#pragma unroll
  for (int g = 0; g < GROUPED; g++) mix[g].clear();
#pragma unroll 1
  for (int at = begin; at < stop; at += GROUPS) {
    bool mine = at + group < stop;
#pragma unroll
    for (int half = 0; half < 2; half++) {  // keys, values
      b.wait(&b.s.full[b.slot], b.parity);
      if (b.warp < warps) {
        const uint4* from = (const uint4*)(b.ring + b.slot * SLOT + (mine ? group : 0) * HEAD_DIM * 2);
        unpack_head(from[l], from[HALF / 8 + l], x);
      }
      __syncwarp();
      if (b.lane == 0) gate_arrive(&b.s.empty[b.slot]);
      b.next();
      if (b.warp >= warps) continue;
#pragma unroll
      for (int g = 0; g < GROUPED; g++)
        if (half == 0)
          score[g] = score_of(b, g, l, x);
        else if (mine)
          mix[g].add(score[g], x);
      __syncwarp();
    }
  }
  if (last && b.warp == 0) {  // the new column
    float v[16];
    load_head(b.s.head + GROUPED * HEAD_DIM, l, x);
    load_head(b.s.head + (GROUPED + 1) * HEAD_DIM, l, v);
#pragma unroll
    for (int g = 0; g < GROUPED; g++) {
      score[g] = score_of(b, g, l, x);
      if (group == 0) mix[g].add(score[g], v);
    }
    __syncwarp();
  }
  if (b.warp < warps)
#pragma unroll
    for (int g = 0; g < GROUPED; g++) mix[g].leave(b, g * WARPS + b.warp);
  SYNC();
  u64* parts = words + AT_PARTS + (pair * GROUPED * SPLITS + split) * PART;
#pragma unroll 1
  for (int c = b.tid; c < GROUPED * HALF; c += THREADS) {
    int g = c / HALF, d = c % HALF * 2;
    float most = NOTHING, total = 0.0f, low = 0.0f, high = 0.0f;
#pragma unroll 1
    for (int warp = 0; warp < warps; warp++) {
      float its = b.s.most[g * WARPS + warp], higher = fmaxf(most, its);
      float old = __expf(most - higher), fresh = __expf(its - higher);
      float2 two = *(const float2*)&b.s.red[(g * WARPS + warp) * HEAD_DIM + d];
      total = total * old + b.s.total[g * WARPS + warp] * fresh;
      low = low * old + two.x * fresh, high = high * old + two.y * fresh, most = higher;
    }
    u64* to = parts + g * SPLITS * PART;
    if (splits.live == 1) {
      int head = kv * GROUPED + g;
      send(words + AT_MIXED + (row * MIXED_WIDTH + head * HEAD_DIM + d) / 2, pack(__fdividef(low, total), __fdividef(high, total)), tag + 2);
    } else {
      if (d == 0) send(to, __float_as_uint(most), tag + 1), send(to + 1, __float_as_uint(total), tag + 1);
      send(to + 2 + d, __float_as_uint(low), tag + 1), send(to + 3 + d, __float_as_uint(high), tag + 1);
    }
  }
  __syncwarp();
}

// Adds up the splits of a row's query head.
__device__ __forceinline__ void combine(Block& b, const Table& t, u32 tag, u64* words) {
#pragma unroll 1
  for (int item = GRID - 1 - b.cta; item < ROWS * QUERY_HEADS; item += GRID) {
    int row = item / QUERY_HEADS, head = item % QUERY_HEADS, live = Splits(t, row).live;
    if (live == 1) continue;
    SYNC();  // `red` is free
#pragma unroll 1
    for (int c = b.tid; c < live * HALF; c += THREADS) {
      int split = c / HALF, d = c % HALF * 2;
      const u64* from = words + AT_PARTS + (item * SPLITS + split) * PART;
      ulonglong2 sizes, values;
      for (u32 tries = 0;; tries++) {
        sizes = peek2(from), values = peek2(from + 2 + d);
        if (come(sizes, tag) && come(values, tag)) break;
        PAUSE();
        if (tries >= b.patience) {
          b.give_up();
          break;
        }
      }
      *(float2*)&b.s.red[split * HEAD_DIM + d] = make_float2(__uint_as_float((u32)values.x), __uint_as_float((u32)values.y));
      if (d == 0) b.s.most[split] = __uint_as_float((u32)sizes.x), b.s.total[split] = __uint_as_float((u32)sizes.y);
    }
    __syncwarp();
    SYNC();
    if (b.tid < HALF) {
      float most = NOTHING, total = 0.0f, low = 0.0f, high = 0.0f;
#pragma unroll 1
      for (int split = 0; split < live; split++) {
        float its = b.s.most[split], higher = fmaxf(most, its), old = __expf(most - higher), fresh = __expf(its - higher);
        float2 two = *(const float2*)&b.s.red[split * HEAD_DIM + 2 * b.tid];
        total = total * old + b.s.total[split] * fresh;
        low = low * old + two.x * fresh, high = high * old + two.y * fresh, most = higher;
      }
      u64* to = words + AT_MIXED + (row * MIXED_WIDTH + head * HEAD_DIM) / 2 + b.tid;
      send(to, pack(__fdividef(low, total), __fdividef(high, total)), tag + 1);
    }
    __syncwarp();
  }
}

__device__ __forceinline__ void feed_column(Block& b, const Table& t) {
  int pair = b.cta / SPLITS, split = b.cta % SPLITS;
  Splits splits(t, min(pair, PAIRS - 1) / KV_HEADS);
  int begin = split * splits.length, stop = min(begin + splits.length, splits.index);
  if (pair >= PAIRS || split >= splits.live) stop = begin;
#pragma unroll 1
  for (int layer = 0; layer < LAYER_COUNT; layer++) {
    fetch_gains(b, t, layer);
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
  Block b = start(memory, table);
  Table t = {b.s.table};
  if (b.warp == WARPS) return feed_column(b, t);
  u32 tag = *t.get<volatile u32>(STATE);
  u64* words = t.get<u64>(WORDS);
  for (int slot = 0; slot < ROWS / 2; slot++)
    load_angles(b, t, slot, (int)t.get<const long long>(FIELDS)[slot * STEP_FIELDS]);
  if (b.tid < ROWS / 2) b.s.token[b.tid] = 0;
  MARK(30)
#pragma unroll 1
  for (int at = 0; at <= 4 * LAYER_COUNT; at++) {
    int layer = at / 4, step = at % 4;
    if (step == 1) {
      attend(b, t, layer, tag, words);
      MARK(17)
      combine(b, t, tag + 1, words);
      MARK(18)
      tag += 2;
    }
    bool heads = at == 4 * LAYER_COUNT;
    Job job = job_of(t, heads ? 0 : layer, step, tag, words);
    if (at == 0) job.in = nullptr, job.plain = t.get<u16>(X), job.keep = true;
    if (at == 4 * LAYER_COUNT - 1) job.also = t.get<u16>(X);
    if (heads) {
      job.gain = t.get<const u16>(NORM), job.n = LOGIT_WIDTH, job.kind = LOGIT;
      job.out = words + AT_LOGITS, job.also = t.get<float>(LOGITS);
    }
    work(b, job, step * 4);
    tag++;
  }
  for (int item = b.cta; item < ROWS; item += GRID) {  // two draws a slot
    int slot = item / 2;
    const u64* row = words + AT_LOGITS + 2 * slot * LOGIT_WIDTH;
    if (item % 2 == 0) {
      int token = draw<CODE_LOGITS>(b, row, LOGIT_WIDTH, tag, settings(t, slot, 1, false), BANNED, ALSO_BANNED);
      if (b.tid == 0) keep(t, slot, 0, token);
    } else {
      int token = draw<LOGIT_WIDTH - CODE_LOGITS>(b, row + CODE_LOGITS, LOGIT_WIDTH, tag, settings(t, slot, 0, true),
                                                  -1, -1);
      if (b.tid == 0) t.get<long long>(DRAWN)[slot * (CODEBOOKS + 1) + CODEBOOKS] = token;
    }
  }
  finish(b, t, tag);
}

#else

// ---- The depformer ----

#define STAGES (CODEBOOKS - 1)

#define TURNS CEIL(STAGES, WARPS)
#define WORDS_OF_LANE (HEAD_DIM / 64)

// A row's head over the stages so far, at most 32. Keys and values of earlier stages are fetched before the new come:
// keys a stage a lane group, values a stage a warp.
__device__ __forceinline__ void attend(Block& b, const Table& t, int layer, int stage, u32 tag, u64* words) {
#pragma unroll 1
  for (int item = b.cta; item < ROWS * QUERY_HEADS; item += GRID) {
    int row = item / QUERY_HEADS, head = item % QUERY_HEADS, l = b.lane % SHARE, group = b.tid / SHARE;
    u64 where = ((u64)layer * ROWS * QUERY_HEADS + item) * STAGES * HEAD_DIM;
    u16 *keys = t.get<u16>(K_CACHE) + where, *values = t.get<u16>(V_CACHE) + where;
    uint4 low = make_uint4(0, 0, 0, 0), high = low;
    u32 value[TURNS][WORDS_OF_LANE];
    if (group < stage) {
      const uint4* from = (const uint4*)(keys + group * HEAD_DIM);
      low = __ldcg(from + l), high = __ldcg(from + HALF / 8 + l);
    }
#pragma unroll
    for (int i = 0; i < TURNS; i++)
#pragma unroll
      for (int word = 0; word < WORDS_OF_LANE; word++)
        if (b.warp + i * WARPS < stage)
          value[i][word] = __ldcg((const u32*)(values + (b.warp + i * WARPS) * HEAD_DIM) + b.lane * WORDS_OF_LANE + word);
    for (int i = b.warp; i < 3; i += WARPS) {  // query, key, value
      const u16* gain = i == 2 ? nullptr : t.layer(layer, i ? K_NORM : Q_NORM);
      u16* cache = i == 0 ? nullptr : (i == 1 ? keys : values) + stage * HEAD_DIM;
      bring_head(b, words + AT_QKV + (row * QKV_WIDTH + (i * QUERY_HEADS + head) * HEAD_DIM) / 2, tag, gain,
                 b.s.angles[0], b.s.head + i * HEAD_DIM, cache);
      __syncwarp();
    }
    SYNC();
    MARK(16)
    if (b.warp <= stage / (32 / SHARE)) {
      float q[16], k[16];
      load_head(b.s.head, l, q);
      if (group == stage)
        load_head(b.s.head + HEAD_DIM, l, k);
      else
        unpack_head(low, high, k);
      __syncwarp();
      float score = dot(q, k);
      if (l == 0 && group <= stage) b.s.score[group] = score;
    }
    __syncwarp();
    SYNC();
    float score = b.lane <= stage ? b.s.score[b.lane] : NOTHING;
    u32 most = __reduce_max_sync(~0u, ordered(score));
    float weight = __expf(score - __uint_as_float(most >> 31 ? most & 0x7fffffffu : ~most)), total = weight;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) total += __shfl_xor_sync(~0u, total, step);
    float2 sum[WORDS_OF_LANE];
#pragma unroll
    for (int word = 0; word < WORDS_OF_LANE; word++) sum[word] = make_float2(0.0f, 0.0f);
#pragma unroll
    for (int i = 0; i < TURNS; i++) {
      int of = b.warp + i * WARPS;
      float its = __shfl_sync(~0u, weight, min(of, 31));
      if (of > stage) continue;
#pragma unroll
      for (int word = 0; word < WORDS_OF_LANE; word++) {
        float2 two = make_float2(low_half(value[i][word]), high_half(value[i][word]));
        if (of == stage) two = *(const float2*)&b.s.head[2 * HEAD_DIM + 2 * (b.lane * WORDS_OF_LANE + word)];
        sum[word].x += its * two.x, sum[word].y += its * two.y;
      }
    }
    __syncwarp();
#pragma unroll
    for (int word = 0; word < WORDS_OF_LANE; word++)
      *(float2*)&b.s.red[b.warp * HEAD_DIM + 2 * (b.lane * WORDS_OF_LANE + word)] = sum[word];
    SYNC();
    if (b.tid < HALF) {
      float2 all = make_float2(0.0f, 0.0f);
#pragma unroll
      for (int warp = 0; warp < WARPS; warp++) {
        float2 two = *(const float2*)&b.s.red[warp * HEAD_DIM + 2 * b.tid];
        all.x += two.x, all.y += two.y;
      }
      send(words + AT_MIXED + (row * MIXED_WIDTH + head * HEAD_DIM) / 2 + b.tid,
           pack(__fdividef(all.x, total), __fdividef(all.y, total)), tag + 1);
    }
    __syncwarp();
    if (ROWS * QUERY_HEADS > GRID) SYNC();
  }
}

__device__ __forceinline__ void feed_codes(Block& b, const Table& t) {
  feed(b, t.get<const u16>(PROJECT_IN), GROUP_COUNT * WIDTH, INPUT_WIDTH);
#pragma unroll 1
  for (int stage = 0; stage < STAGES; stage++) {
    u64 group = b.s.group[stage];
#pragma unroll 1
    for (int layer = 0; layer < LAYER_COUNT; layer++) {
      fetch_gains(b, t, layer);
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
  Block b = start(memory, table);
  Table t = {b.s.table};
  for (int i = b.tid; i < STAGES; i += THREADS + 32) b.s.group[i] = t.get<const int>(GROUP)[i];
  __syncthreads();
  if (b.warp == WARPS) return feed_codes(b, t);
  u32 tag = *t.get<volatile u32>(STATE), projected = tag + 1;
  u64* words = t.get<u64>(WORDS);
  if (b.tid < ROWS / 2) {
    b.s.token[b.tid] = (int)t.get<const long long>(DRAWN)[b.tid * (CODEBOOKS + 1)];
    b.s.settings[b.tid] = settings(t, b.tid, 1, false);
  }
  for (int i = b.tid; i < ROWS / 2 * STAGES; i += THREADS)
    b.s.uniforms[i / STAGES][i % STAGES] = settings(t, i / STAGES, 2 + i % STAGES, false).uniform;
  SYNC();
  MARK(30)
#pragma unroll 1
  for (int stage = -1; stage < STAGES; stage++) {
    int group = b.s.group[max(stage, 0)];
    float angle = 0.0f;  // of the next stage
#if ROPE
    if (b.tid < HEAD_DIM && stage + 1 < STAGES)
      angle = __ldg(t.get<const float>(b.tid < HALF ? COS : SIN) + (stage + 1) * HALF + b.tid % HALF);
#endif
#pragma unroll 1
    for (int at = stage < 0 ? 4 * LAYER_COUNT : 0; at <= 4 * LAYER_COUNT; at++) {
      int layer = at / 4, step = at % 4;
      if (step == 1) {
        attend(b, t, layer, stage, tag, words);
        MARK(17)
        tag++;
      }
      bool heads = at == 4 * LAYER_COUNT;
      Job job = job_of(t, heads ? 0 : layer, step, tag, words);
      if (at == 0) {  // the hidden state as this stage's group views it, and the code before
        job.in = words + AT_PROJECTED + group * WIDTH / 2, job.in_width = GROUP_COUNT * WIDTH, job.keep = true;
        job.embed = t.get<const u16>(EMBED) + (u64)stage * VOCABULARY * WIDTH;
        job.in_tag = projected;
      }
      if (heads && stage < 0) {  // before the first stage: every group's view of the hidden state
        job.in = nullptr, job.plain = t.get<u16>(X), job.gain = t.get<const u16>(VIEW_NORM);
        job.k = job.in_width = INPUT_WIDTH, job.n = GROUP_COUNT * WIDTH, job.out = words + AT_PROJECTED;
      } else if (heads) {
        job.gain = t.get<const u16>(NORM), job.n = LOGIT_WIDTH, job.kind = LOGIT;
        job.out = words + AT_LOGITS, job.also = t.get<float>(LOGITS);
      }
      work(b, job, heads ? 20 : step * 4);
      tag++;
    }
    if (b.tid < HEAD_DIM) b.s.angles[0][b.tid] = angle;
    if (stage < 0) continue;
#pragma unroll 1
    for (int slot = 0; slot < ROWS / 2; slot++) {
      Settings set = b.s.settings[slot];
      set.uniform = b.s.uniforms[slot][stage];
      int token = draw<LOGIT_WIDTH>(b, words + AT_LOGITS + 2 * slot * LOGIT_WIDTH, LOGIT_WIDTH, tag, set, -1, -1);
      if (b.tid == 0) {
        b.s.token[slot] = token, b.s.codes[slot][stage] = token;
      }
    }
    SYNC();
  }
  if (b.cta == 0)
    for (int i = b.tid; i < ROWS / 2 * STAGES; i += THREADS)
      keep(t, i / STAGES, i % STAGES + 1, b.s.codes[i / STAGES][i % STAGES]);
  finish(b, t, tag);
}

#endif
