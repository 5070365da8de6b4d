// The instructions that C++ has no names for: barriers in shared memory, messages within a cluster, bulk copies of
// weights, the matrix unit, and loads and stores with a say in what stays in L2.
#pragma once
#include "types.cuh"

#define DEVICE __device__ __forceinline__

// ---- Waiting ----

// How often a thread looks before it gives up, which ends the kernel with an error: some ten seconds. A wait lasts
// microseconds, unless a block of the grid is not there, or compute-sanitizer slows some blocks down and others not.
#ifndef PATIENCE
#define PATIENCE (1u << 24)
#endif

DEVICE void give_up_after(u32& tries) {
  if (++tries > PATIENCE) __trap();
}

DEVICE u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }

// A barrier that counts bytes has one arrival a phase, of the thread that says how many the phase brings. Bytes may come
// before.
DEVICE void barrier_init(u32 barrier, u32 arrivals = 1) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

DEVICE void barrier_arrive(u32 barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

DEVICE void barrier_expect(u32 barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

// Waits for a phase that other blocks of the cluster take part in. Slow: everything in the multiprocessor's L1 cache is
// dropped behind it, because others' stores might be there to be seen.
DEVICE void barrier_wait(u32 barrier, u32 phase) {
  u32 done, tries = 0;
  do {
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(done)
        : "r"(barrier), "r"(phase)
        : "memory");
    give_up_after(tries);
  } while (!done);
}

// The same for a phase of this block's own threads and bulk copies.
DEVICE void own_barrier_wait(u32 barrier, u32 phase) {
  u32 done, tries = 0;
  do {
    asm volatile(
        "{\n.reg .pred p;\n"
        "mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(done)
        : "r"(barrier), "r"(phase)
        : "memory");
    give_up_after(tries);
  } while (!done);
}

DEVICE void cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
DEVICE void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

// ---- Messages within a cluster: stores into another block's shared memory, which its barrier counts ----

DEVICE u32 at_rank(u32 address, u32 rank) {
  u32 there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
  return there;
}

DEVICE void send(u32 address, u32 barrier, u32 rank, u32 a) {
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(
                   at_rank(address, rank)),
               "r"(a), "r"(at_rank(barrier, rank))
               : "memory");
}

DEVICE void send(u32 address, u32 barrier, u32 rank, u32 a, u32 b) {
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%0], {%1, %2}, [%3];" ::"r"(
                   at_rank(address, rank)),
               "r"(a), "r"(b), "r"(at_rank(barrier, rank))
               : "memory");
}

DEVICE void send(u32 address, u32 barrier, u32 rank, const float4& v) {
  asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.b32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(
                   at_rank(address, rank)),
               "r"(__float_as_uint(v.x)), "r"(__float_as_uint(v.y)), "r"(__float_as_uint(v.z)), "r"(__float_as_uint(v.w)),
               "r"(at_rank(barrier, rank))
               : "memory");
}

// ---- Bulk copies ----

DEVICE u64 leave_first() {
  u64 policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

DEVICE u64 stay() {
  u64 policy;
  asm("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

DEVICE void bulk_copy(u32 to, const char* from, int bytes, u32 barrier, u64 policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::"r"(to),
      "l"(from), "r"(bytes), "r"(barrier), "l"(policy)
      : "memory");
}

// Orders this thread's earlier reads of shared memory before bulk copies into it that are begun after a barrier.
DEVICE void reads_before_copies() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// ---- Products ----

// sums += x w: x is two rows by 16 inputs, of the 16 rows that the instruction could take; w is 16 inputs by 8 outputs.
// Lane i < 8 has outputs 2 (i % 4) and 2 (i % 4) + 1 of row i / 4, in sums.x and sums.y.
DEVICE void multiply_add(float4& sums, u32 x0, u32 x1, u32 w0, u32 w1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %5}, {%7, %8}, {%0, %1, %2, %3};"
      : "+f"(sums.x), "+f"(sums.y), "+f"(sums.z), "+f"(sums.w)
      : "r"(x0), "r"(0), "r"(x1), "r"(w0), "r"(w1));
}

DEVICE void multiply_add(float4& even, float4& odd, const uint4& x, const uint4& w) {
  multiply_add(even, x.x, x.y, w.x, w.y);
  multiply_add(odd, x.z, x.w, w.z, w.w);
}

// The same with the weights in the instruction's place of 16 rows: w is 16 outputs by 16 inputs, x 16 inputs of 8 columns,
// of which even ones are row 0 and odd ones row 1. So all lanes have results: lane i has output i / 4 of both rows in
// sums.x and sums.y, and output i / 4 + 8 in sums.z and sums.w.
DEVICE void multiply_add(float4& sums, const uint4& w, u32 x0, u32 x1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums.x), "+f"(sums.y), "+f"(sums.z), "+f"(sums.w)
      : "r"(w.x), "r"(w.y), "r"(w.z), "r"(w.w), "r"(x0), "r"(x1));
}

// ---- Loads and stores ----

DEVICE uint4 load_shared(u32 address) {
  uint4 v;
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(address)
               : "memory");
  return v;
}

DEVICE uint2 load_shared_pair(u32 address) {
  uint2 v;
  asm volatile("ld.shared.v2.b32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(address) : "memory");
  return v;
}

// Small tables that nobody writes during the kernel. They stay in L2 while the weights pass through.
DEVICE u32 load_table(const u32* p) {
  u32 v;
  asm volatile("ld.global.nc.L2::cache_hint.b32 %0, [%1], %2;" : "=r"(v) : "l"(p), "l"(stay()));
  return v;
}

DEVICE uint2 load_table(const uint2* p) {
  uint2 v;
  asm volatile("ld.global.nc.L2::cache_hint.v2.b32 {%0, %1}, [%2], %3;" : "=r"(v.x), "=r"(v.y) : "l"(p), "l"(stay()));
  return v;
}

// What other blocks write during the kernel is read from L2 and written to it.
DEVICE u32 load_fresh(const u32* p) {
  u32 v;
  asm volatile("ld.relaxed.gpu.global.L2::cache_hint.b32 %0, [%1], %2;" : "=r"(v) : "l"(p), "l"(stay()) : "memory");
  return v;
}

DEVICE uint2 load_fresh(const uint2* p) {
  uint2 v;
  asm volatile("ld.relaxed.gpu.global.L2::cache_hint.v2.b32 {%0, %1}, [%2], %3;"
               : "=r"(v.x), "=r"(v.y)
               : "l"(p), "l"(stay())
               : "memory");
  return v;
}

DEVICE float4 load_fresh(const float* p) {
  float4 v;
  asm volatile("ld.relaxed.gpu.global.L2::cache_hint.v4.f32 {%0, %1, %2, %3}, [%4], %5;"
               : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
               : "l"(p), "l"(stay())
               : "memory");
  return v;
}

DEVICE void store_fresh(u32* p, u32 v) {
  asm volatile("st.relaxed.gpu.global.L2::cache_hint.b32 [%0], %1, %2;" ::"l"(p), "r"(v), "l"(stay()) : "memory");
}

DEVICE void store_fresh(uint2* p, uint2 v) {
  asm volatile("st.relaxed.gpu.global.L2::cache_hint.v2.b32 [%0], {%1, %2}, %3;" ::"l"(p), "r"(v.x), "r"(v.y), "l"(stay())
               : "memory");
}

DEVICE void store_fresh(float* p, float a) {
  asm volatile("st.relaxed.gpu.global.L2::cache_hint.f32 [%0], %1, %2;" ::"l"(p), "f"(a), "l"(stay()) : "memory");
}

DEVICE void store_fresh(float* p, float a, float b) {
  asm volatile("st.relaxed.gpu.global.L2::cache_hint.v2.f32 [%0], {%1, %2}, %3;" ::"l"(p), "f"(a), "f"(b), "l"(stay())
               : "memory");
}

// ---- Numbers ----

#define INF __int_as_float(0x7f800000)

DEVICE u32 packed(float low, float high) {  // two bf16, rounded to nearest
  u32 pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

DEVICE float2 unpacked(u32 pair) {
  return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
}

DEVICE float rounded(float v) {  // to bf16
  return unpacked(packed(v, 0.f)).x;
}

DEVICE float from_lane(float v, int mask) { return __shfl_xor_sync(~0u, v, mask); }
