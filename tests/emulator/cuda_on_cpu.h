// Runs persistent.cu on a CPU, in one thread: every CUDA thread is a fibre, every wait lets the others run. Slow, and
// exact where it matters: who waits for whom, which bytes go where, in which order sums are added.
#define EMULATED
#define PATIENCE 10000000
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <vector>
using std::max;
using std::min;

#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

struct uint2 { uint32_t x, y; };
struct __attribute__((aligned(16))) uint4 { uint32_t x, y, z, w; };
struct float2 { float x, y; };
struct __attribute__((aligned(16))) float4 { float x, y, z, w; };
struct ulonglong2 { unsigned long long x, y; };
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

struct Meeting {  // of so many fibres
  int expected, come;
  long round;
};
struct Warp {
  Meeting meeting;
  uint64_t lanes[32][4];
};
struct Fibre {
  ucontext_t context;  // to enter it; from then on, jumps, which make no system calls
  jmp_buf place;
  int thread, block;
  bool entered, done;
  std::vector<char> stack;
};
static jmp_buf scheduler;
static Fibre* current;
static std::vector<std::vector<Warp>> warps;  // of every block
static std::vector<Meeting> blocks, whole_blocks;
static std::vector<std::vector<char>> memories;

struct Index { int Fibre::*field; struct Axis { int Fibre::*f; operator unsigned() const { return current->*f; } } x; };
static Index threadIdx = {nullptr, {&Fibre::thread}}, blockIdx = {nullptr, {&Fibre::block}};
static void pause_fibre() {
  if (!_setjmp(current->place)) _longjmp(scheduler, 1);
}
static void go_on(Fibre& f) {
  if (f.done) return;
  current = &f;
  if (_setjmp(scheduler)) return;
  if (f.entered) _longjmp(f.place, 1);
  f.entered = true;
  setcontext(&f.context);
}
static void meet(Meeting& m) {
  long round = m.round;
  if (++m.come == m.expected) { m.come = 0, m.round++; return; }
  while (m.round == round) pause_fibre();
}
static Warp& my_warp() { return warps[current->block][current->thread / 32]; }
#define PAUSE() pause_fibre()
#define SYNC() meet(blocks[current->block])
static void __syncthreads() { meet(whole_blocks[current->block]); }
static void __syncwarp() { meet(my_warp().meeting); }
#define memory (&memories[current->block][0])

template <typename T>
static T from_lane(T value, int lane, int other) {
  Warp& w = my_warp();
  memcpy(&w.lanes[lane][0], &value, sizeof value);
  meet(w.meeting);
  T got = value;
  if (other >= 0 && other < 32) memcpy(&got, &w.lanes[other][0], sizeof got);
  meet(w.meeting);
  return got;
}
template <typename T>
static T __shfl_xor_sync(uint32_t, T v, int mask) {
  int lane = current->thread % 32;
  return from_lane(v, lane, lane ^ mask);
}
template <typename T>
static T __shfl_up_sync(uint32_t, T v, int by) {
  int lane = current->thread % 32;
  return from_lane(v, lane, lane - by);
}
static uint32_t __reduce_add_sync(uint32_t, uint32_t v) {
  for (int step = 1; step < 32; step *= 2) v += __shfl_xor_sync(~0u, v, step);
  return v;
}
static uint32_t __reduce_max_sync(uint32_t, uint32_t v) {
  for (int step = 1; step < 32; step *= 2) v = max(v, __shfl_xor_sync(~0u, v, step));
  return v;
}
static uint32_t __reduce_min_sync(uint32_t, uint32_t v) { return ~__reduce_max_sync(~0u, ~v); }
template <typename T>
static T __shfl_sync(uint32_t, T v, int from) { return from_lane(v, current->thread % 32, from); }
static float __fdividef(float a, float b) { return a / b; }
static float __uint_as_float(uint32_t v) { float f; memcpy(&f, &v, 4); return f; }
static uint32_t __float_as_uint(float f) { uint32_t v; memcpy(&v, &f, 4); return v; }
static float fast_exp(float x) { return expf(x); }
#define __expf fast_exp
static float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static float __fadd_rn(float a, float b) { return a + b; }
static float __fsub_rn(float a, float b) { return a - b; }
static float __fmul_rn(float a, float b) { return a * b; }
static float __fdiv_rn(float a, float b) { return a / b; }
template <typename T> static T __ldg(const T* p) { return *p; }
template <typename T> static T __ldcg(const T* p) { return *p; }

static ulonglong2 peek2(const unsigned long long* p) { return {p[0], p[1]}; }
static unsigned long long peek(const unsigned long long* p) { return *p; }
static void poke(unsigned long long* p, unsigned long long v) { *p = v; }
static uint32_t bfloat(float x) {
  uint32_t bits = __float_as_uint(x);
  if (x != x) return 0x7fff;
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
static uint32_t pack(float low, float high) { return bfloat(high) << 16 | bfloat(low); }
static float half_of(uint32_t v, int half) { return __uint_as_float(half ? v & 0xffff0000u : v << 16); }
static void multiply_add(float (&c)[4], uint32_t a0, uint32_t a2, uint32_t b0, uint32_t b1) {
  Warp& w = my_warp();
  int lane = current->thread % 32;
  w.lanes[lane][0] = a0, w.lanes[lane][1] = a2, w.lanes[lane][2] = b0, w.lanes[lane][3] = b1;
  meet(w.meeting);
  for (int i = 0; i < 2; i++)
    for (int k = 0; k < 16; k++) {
      int row = lane / 4, n = lane % 4 * 2 + i, q = k % 8 / 2;
      c[i] += half_of(w.lanes[row * 4 + q][k / 8], k % 2) * half_of(w.lanes[n * 4 + q][2 + k / 8], k % 2);
    }
  meet(w.meeting);
}
struct Gate { uint8_t phase, expected, pending, unused; int32_t bytes; };
static void gate_turn(Gate* g) {
  if (g->pending == 0 && g->bytes == 0) g->phase ^= 1, g->pending = g->expected;
}
static void gate_init(unsigned long long* gate, uint32_t count) { *(Gate*)gate = {0, (uint8_t)count, (uint8_t)count, 0, 0}; }
static void gate_arrive(unsigned long long* gate) {
  Gate* g = (Gate*)gate;
  if (g->pending == 0) fprintf(stderr, "one arrival too many\n"), abort();
  g->pending--, gate_turn(g);
}
static void gate_expect(unsigned long long* gate, uint32_t bytes) {
  Gate* g = (Gate*)gate;
  g->bytes += bytes, gate_arrive(gate);
}
static bool gate_passed(unsigned long long* gate, uint32_t parity) { return ((Gate*)gate)->phase != parity; }
static void copy_in(void* to, const void* from, uint32_t bytes, unsigned long long* gate) {
  if ((uintptr_t)to % 16 || (uintptr_t)from % 16 || bytes % 16) fprintf(stderr, "copy not aligned\n"), abort();
  memcpy(to, from, bytes);
  Gate* g = (Gate*)gate;
  g->bytes -= bytes, gate_turn(g);
}
static void gates_ready() {}
static void prefetch(const void*) {}

static void (*body)(const unsigned long long*);
static const unsigned long long* body_table;
static void run_fibre() {
  body(body_table);
  current->done = true;
  _longjmp(scheduler, 1);
}
static void run_grid(void (*kernel)(const unsigned long long*), int grid, int warps_each, size_t bytes,
                     const unsigned long long* table) {
  body = kernel, body_table = table;
  memories.assign(grid, std::vector<char>(bytes + 128, (char)0xff));  // NaN, as bfloat16 and as float32
  blocks.assign(grid, Meeting{32 * (warps_each - 1), 0, 0});
  whole_blocks.assign(grid, Meeting{32 * warps_each, 0, 0});
  warps.assign(grid, std::vector<Warp>(warps_each));
  std::vector<Fibre> fibres(grid * warps_each * 32);
  for (auto& block : warps)
    for (auto& warp : block) warp.meeting = Meeting{32, 0, 0};
  for (size_t i = 0; i < fibres.size(); i++) {
    Fibre& f = fibres[i];
    f.block = i / (warps_each * 32), f.thread = i % (warps_each * 32), f.done = f.entered = false;
    f.stack.resize(128 << 10);
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack.data(), f.context.uc_stack.ss_size = f.stack.size();
    f.context.uc_link = nullptr;
    makecontext(&f.context, run_fibre, 0);
  }
  for (bool any = true; any;) {
    any = false;
    for (size_t i = 0; i < fibres.size(); i += 32) {  // a warp as far as it gets alone
      Meeting& meeting = warps[fibres[i].block][fibres[i].thread / 32].meeting;
      for (long before = -1; before != meeting.round;) {
        before = meeting.round;
        for (size_t j = i; j < i + 32; j++) go_on(fibres[j]);
      }
      for (size_t j = i; j < i + 32; j++) any |= !fibres[j].done;
    }
  }
}
