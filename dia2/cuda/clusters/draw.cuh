// Drawing a code from a stage's logits: guidance, filter, temperature, top k, and the inverse CDF of a uniform. The rule is
// that of dia2/cuda/kernels/draws.py. Every block with a head draws for itself, from the same logits by the same
// instructions: so all have the code, and nobody has to wait for a message.
//
// A thread has eight neighbouring codes. All functions are called by the whole block, and give all threads the result.
#pragma once
#include "exchange.cuh"

constexpr int OWN = CODES / THREADS;
static_assert(OWN == 8, "a thread's codes are two loads of four");

struct Logits {
  float conditional[OWN], unconditional[OWN];
};

// Both rows' logits [2][CODES], once all blocks with a head have stored them.
DEVICE void read_logits(const Self& me, const float* logits, Tag tag, Logits& mine) {
  float4* to[ROWS] = {(float4*)mine.conditional, (float4*)mine.unconditional};
  u32 tries = 0;
  bool all;
  do {
    all = true;
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float4 v = load_fresh(logits + i / 2 * CODES + me.thread * OWN + i % 2 * 4);
      to[i / 2][i % 2] = v;
      all &= has_tag(v, tag);
    }
    give_up_after(tries);
  } while (!__all_sync(~0u, all));
}

struct Words {  // one of each warp
  u64 of[WARPS];
};

// Puts one word of each warp before all threads. Two arrays take turns: who writes to one has left the other, and with it
// everything that was read before.
class Board {
  char* words_;
  u32 turn_ = 0;

 public:
  DEVICE explicit Board(char* memory) : words_(memory + place::DRAW) {}
  DEVICE Words show(const Self& me, u64 word) {
    char* words = words_ + turn_ * WARPS * 8;
    turn_ ^= 1;
    if (me.lane == 0) ((u64*)words)[me.warp] = word;
    __syncthreads();
    Words all;
#pragma unroll
    for (int i = 0; i < WARPS; i += 2) {
      const ulonglong2 two = ((const ulonglong2*)words)[i / 2];
      all.of[i] = two.x, all.of[i + 1] = two.y;
    }
    return all;
  }
};

// Floats as integers of the same order.
DEVICE u32 ordered(float v) {
  const u32 bits = __float_as_uint(v);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

DEVICE float from_ordered(u32 order) {
  return __uint_as_float(order & 0x80000000u ? order & 0x7fffffffu : ~order);
}

struct Range {
  float low, high;
};

// The least value above -inf, and the greatest.
DEVICE Range range_of(const Self& me, Board& board, const float (&v)[OWN]) {
  float low = INF, high = -INF;
#pragma unroll
  for (int i = 0; i < OWN; i++) low = fminf(low, v[i] == -INF ? INF : v[i]), high = fmaxf(high, v[i]);
  const u32 least = __reduce_min_sync(~0u, ordered(low)), most = __reduce_max_sync(~0u, ordered(high));
  const Words words = board.show(me, (u64)most << 32 | least);
  u32 all_least = ~0u, all_most = 0;
#pragma unroll
  for (int i = 0; i < WARPS; i++) {
    all_least = min(all_least, (u32)words.of[i]);
    all_most = max(all_most, (u32)(words.of[i] >> 32));
  }
  return {from_ordered(all_least), from_ordered(all_most)};
}

// The search for the k-th largest, in shared memory.
struct Search {
  int bin, rank, count;  // the bin that it is in, its rank there, and how many values that bin has
  float found;
  u32 histogram[THREADS];
  float values[CODES];  // of the bin
};
static_assert(sizeof(Search) == place::SEARCH_BYTES, "as much as there is room for");

// The sum of `own` over this thread and those before it.
DEVICE u64 sum_until(const Self& me, Board& board, u64 own, u64& total) {
  u64 until = own;
#pragma unroll
  for (int distance = 1; distance < 32; distance *= 2) {
    const u64 before = __shfl_up_sync(~0u, until, distance);
    if (me.lane >= distance) until += before;
  }
  const Words words = board.show(me, __shfl_sync(~0u, until, 31));
  total = 0;
#pragma unroll
  for (u32 i = 0; i < WARPS; i++) {
    if (i < me.warp) until += words.of[i];
    total += words.of[i];
  }
  return until;
}

// The k-th largest of the block's values; at least k of them are above -inf, and k is at least 1. All values are counted
// in 256 bins of equal width. The one that holds the k-th has few values, and among those it is found by comparing all.
DEVICE float kth_largest(const Self& me, char* memory, Board& board, const float (&v)[OWN], u32 k) {
  Search& search = *(Search*)(memory + place::SEARCH);
  search.histogram[me.thread] = 0;
  if (me.thread == 0) search.bin = -1, search.rank = 1, search.count = 0, search.found = -INF;
  const Range range = range_of(me, board, v);
  const float bins = THREADS / (range.high - range.low);
  int bin[OWN];
#pragma unroll
  for (int i = 0; i < OWN; i++) {
    bin[i] = v[i] > -INF ? max(0, min(THREADS - 1, (int)((v[i] - range.low) * bins))) : -2;
    if (bin[i] >= 0) atomicAdd(&search.histogram[bin[i]], 1);
  }
  __syncthreads();
  const u32 own = search.histogram[THREADS - 1 - me.thread];  // from the highest bin down
  u64 total;
  const u32 until = (u32)sum_until(me, board, own, total);
  if (until - own < k && k <= until) search.bin = THREADS - 1 - me.thread, search.rank = k - (until - own);
  __syncthreads();
  const int chosen = search.bin, rank = search.rank;
#pragma unroll
  for (int i = 0; i < OWN; i++)
    if (bin[i] == chosen) search.values[atomicAdd(&search.count, 1)] = v[i];
  __syncthreads();
#pragma unroll
  for (int i = 0; i < OWN; i++)
    if (bin[i] == chosen) {
      int greater = 0, equal = 0;
      for (int other = 0; other < search.count; other++) {
        greater += search.values[other] > v[i];
        equal += search.values[other] == v[i];
      }
      if (greater < rank && rank <= greater + equal) search.found = v[i];
    }
  __syncthreads();
  return search.found;
}

// How a slot draws, and the numbers of this step.
struct Settings {
  float scale, temperature;
  i64 filter_k, top_k, column, slot;

  DEVICE explicit Settings(const Params& params) {
    column = params.fields[0];
    slot = max(params.fields[5], (i64)0);
    scale = params.scale[slot], temperature = params.temperature[slot];
    filter_k = params.filter_k[slot], top_k = params.top_k[slot];
  }
};

struct Kept {
  float most;
  u32 count;
};

// The greatest of the values above -inf, and how many there are.
DEVICE Kept kept_of(const Self& me, Board& board, const float (&v)[OWN]) {
  float high = -INF;
  u32 count = 0;
#pragma unroll
  for (int i = 0; i < OWN; i++) high = fmaxf(high, v[i]), count += v[i] > -INF;
  const u32 most = __reduce_max_sync(~0u, ordered(high));
  const Words words = board.show(me, (u64)most << 32 | __reduce_add_sync(~0u, count));
  u32 all_most = 0, all_count = 0;
#pragma unroll
  for (int i = 0; i < WARPS; i++) all_most = max(all_most, (u32)(words.of[i] >> 32)), all_count += (u32)words.of[i];
  return {from_ordered(all_most), all_count};
}

// The first code whose logit is `most`.
DEVICE int first_at(const Self& me, Board& board, const float (&v)[OWN], float most) {
  u32 first = CODES - 1;
#pragma unroll
  for (int i = OWN - 1; i >= 0; i--)
    if (v[i] == most) first = me.thread * OWN + i;
  const Words words = board.show(me, __reduce_min_sync(~0u, first));
#pragma unroll
  for (int i = 0; i < WARPS; i++) first = min(first, (u32)words.of[i]);
  return first;
}

// The code at a uniform's place in the sums of weights, in the order of the codes. The sums are in fixed point: sums of
// floats may differ where they should be equal, and a uniform between two such sums would draw an impossible code.
DEVICE int code_at(const Self& me, char* memory, Board& board, const u64 (&weights)[OWN], float uniform) {
  u64 own = 0;
#pragma unroll
  for (int i = 0; i < OWN; i++) own += weights[i];
  int* code = (int*)(memory + place::DRAW + 2 * WARPS * 8);
  if (me.thread == 0) *code = CODES - 1;
  u64 total, start = sum_until(me, board, own, total) - own;
  const u64 drawn = (u64)((double)uniform * (double)total);
  if (start <= drawn && drawn < start + own) {
    int at = me.thread * OWN;
#pragma unroll
    for (int i = 0; i < OWN; i++) {
      start += weights[i];
      at += start <= drawn;
    }
    *code = at;
  }
  __syncthreads();
  return *code;
}

DEVICE int draw(const Self& me, char* memory, Logits& mine, const Settings& settings, float uniform) {
  Board board(memory);
  float(&v)[OWN] = mine.conditional;
  if (settings.filter_k > 0 && settings.filter_k < CODES) {
    float guided[OWN];
#pragma unroll
    for (int i = 0; i < OWN; i++)
      guided[i] = mine.unconditional[i] + settings.scale * (v[i] - mine.unconditional[i]);
    const float least = kth_largest(me, memory, board, guided, (u32)settings.filter_k);
#pragma unroll
    for (int i = 0; i < OWN; i++) v[i] = guided[i] >= least ? v[i] : -INF;
  }
  const Kept kept = kept_of(me, board, v);
  if (settings.temperature <= 0) return first_at(me, board, v, kept.most);
  const float temperature = fmaxf(settings.temperature, 1e-4f), most = __fdividef(kept.most, temperature);
#pragma unroll
  for (int i = 0; i < OWN; i++) v[i] = __fdividef(v[i], temperature);
  if (settings.top_k > 0 && settings.top_k < kept.count) {
    const float least = kth_largest(me, memory, board, v, (u32)settings.top_k);
#pragma unroll
    for (int i = 0; i < OWN; i++) v[i] = v[i] >= least ? v[i] : -INF;
  }
  u64 weights[OWN];
#pragma unroll
  for (int i = 0; i < OWN; i++) {
    weights[i] = 0;
    if (v[i] > -INF) weights[i] = (u64)(__expf(v[i] - most) * 4294967296.f);  // few are: most warps skip it
  }
  return code_at(me, memory, board, weights, uniform);
}
