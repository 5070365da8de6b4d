// All layers of the backbone for one new column, in one launch: the embedded column becomes the last layer's output.
//
// A layer is two phases, attention and MLP. A phase: every cluster sums up the shares that all clusters left in L2
// (exchange.cuh), each of its blocks a part, and the blocks send their parts to each other. Then each block multiplies
// with its weights, which come through its ring (ring.cuh). The blocks of a cluster exchange the results, multiply
// again, and leave the cluster's share of the phase's result. backbone_sizes.cuh says who has what.
#include "backbone_sizes.cuh"

#include "cached.cuh"
#include "mlp.cuh"

static_assert(place::END == SHARED_BYTES && sizeof(Params) == PARAMS_BYTES, "backbone.py says what the kernel has");

// What both kinds of blocks have.
struct Block {
  const Params& params;
  const Self me;
  char* memory;
  Ring ring;
  Inbox input, hidden;
  Gains gains;
  Tag attention_tag, mlp_tag;

  static constexpr int INPUT_INBOX = 0, HIDDEN_INBOX = 1, QKV_INBOX = 2, PARTS_INBOX = 3;

  DEVICE Block(const Params& params, char* memory, int hidden_bytes)
      : params(params),
        me(memory),
        memory(memory),
        ring(me),
        input(inbox(INPUT_INBOX), INPUT_BYTES),
        hidden(inbox(HIDDEN_INBOX), hidden_bytes) {}

  DEVICE u32 inbox(int number) const { return me.base + place::BARRIERS + 8 * number; }

  // One layer's MLP; `meanwhile` is called while the input is on its way.
  template <int UNITS, typename Meanwhile>
  DEVICE void mlp(int layer, int area, const Meanwhile& meanwhile) {
    float4 x[QUADS];
    sum_shares<HEADS>(me, params.attention_shares, attention_tag, x);
    attention_tag.advance();
    send_input(me, x, gains, input);
    keep_stream(me, memory, area, x);
    meanwhile();
    Scales<2 * UNITS, 4> scales;
    scales.load(me.lane, params.gate_up_scale + 2 * (layer * MLP_WIDTH + first_unit<UNITS>(me)));
    input.wait(me);
    multiply_input<gate_up_tiles(UNITS)>(me, memory, area, ring);
    const float2 factors = norm_factors(me, memory, params.eps);
    meet();
    send_hidden<UNITS>(me, memory, area, factors, scales, hidden);
    ShareScales down_scales;
    down_scales.load(me, params.down_scale + layer * WIDTH);
    hidden.wait(me);
    const u32 from = input_address(me, place::HIDDEN, hidden_pitch(UNITS));
    store_product<down_inputs(UNITS)>(me, memory, area, from, ring, down_scales, params.mlp_shares, mlp_tag);
    mlp_tag.advance();
  }
};

// A block of clusters 0-7.
struct HeadBlock : Block {
  // Areas of shared memory: of attention, and of the MLP behind it.
  static constexpr int FIRST = 0, SECOND = 1;

  CachedAttention cached;
  Inbox qkv, parts;
  Tag read_mlp_tag;

  DEVICE HeadBlock(const Params& params, char* memory)
      : Block(params, memory, hidden_bytes<UNITS_BESIDE>()),
        cached(params, memory),
        qkv(inbox(QKV_INBOX), QKV_BYTES),
        parts(inbox(PARTS_INBOX), PARTS_BYTES) {}

  DEVICE void run() {
    float4 x[QUADS];
    load_embedded(x);
    gains.load(me, params.pre_norm);
#pragma unroll 1
    for (int layer = 0; layer < params.layers; layer++) {
      if (layer) sum_mlp_shares(x);
      attention(layer, x);
      const int next = layer + 1 < params.layers ? layer + 1 : 0;
      mlp<UNITS_BESIDE>(layer, SECOND, [&] { gains.load(me, params.pre_norm + next * WIDTH); });
    }
    if (me.cluster == 0) sum_mlp_shares(x), store_hidden(x);
  }

 private:
  DEVICE void load_embedded(float4 (&x)[QUADS]) const {
    const bf16* from = params.hidden + me.row * WIDTH + me.stream_column();
#pragma unroll
    for (int i = 0; i < QUADS; i++) x[i] = unpacked(*(const uint2*)(from + 16 * i));
  }
  DEVICE void store_hidden(const float4 (&x)[QUADS]) const {
    bf16* to = params.hidden + me.row * WIDTH + me.stream_column();
    if (me.share == 0)
#pragma unroll
      for (int i = 0; i < QUADS; i++)
        *(uint2*)(to + 16 * i) = make_uint2(packed(x[i].x, x[i].y), packed(x[i].z, x[i].w));
  }
  DEVICE void sum_mlp_shares(float4 (&x)[QUADS]) {
    sum_shares<CLUSTERS>(me, params.mlp_shares, read_mlp_tag, x);
    read_mlp_tag.advance();
  }

  DEVICE void attention(int layer, const float4 (&x)[QUADS]) {
    send_input(me, x, gains, input);
    keep_stream(me, memory, FIRST, x);
    cached.load_gains(layer);
    gains.load(me, params.post_norm + layer * WIDTH);
    Scales<OUTPUTS, 4> scales;
    scales.load(me.lane, params.qkv_scale + (layer * HEAD_BLOCKS + me.block) * OUTPUTS);
    input.wait(me);
    multiply_input<QKV_TILES>(me, memory, FIRST, ring);
    const float2 factors = norm_factors(me, memory, params.eps);
    meet();
    send_qkv(me, memory, FIRST, factors, scales, qkv);
    qkv.wait(me);
    cached.turn_heads(layer);
    meet();
    cached.mix_columns(ring);
    meet();
    cached.send_part(parts);
    ShareScales out_scales;
    out_scales.load(me, params.out_scale + layer * WIDTH);
    parts.wait(me);
    cached.mix_parts();
    meet();
    store_product<OUT_INPUTS>(me, memory, FIRST, input_address(me, place::MIXED, MIXED_PITCH), ring, out_scales,
                              params.attention_shares, attention_tag);
  }
};

// A block of clusters 8-14.
struct OtherBlock : Block {
  DEVICE OtherBlock(const Params& params, char* memory) : Block(params, memory, hidden_bytes<UNITS_ALONE>()) {}

  DEVICE void run() {
    gains.load(me, params.post_norm);
#pragma unroll 1
    for (int layer = 0; layer < params.layers; layer++) {
      const int next = layer + 1 < params.layers ? layer + 1 : 0;
      mlp<UNITS_ALONE>(layer, layer % 2, [&] { gains.load(me, params.post_norm + next * WIDTH); });
    }
  }
};

// Opens all barriers of a block, before anybody in its cluster sends to it.
DEVICE void open_barriers(const char* memory) {
  const u32 base = shared_address(memory), first = base + place::BARRIERS;
  if (threadIdx.x == 0) {
    for (int i = 0; i < 4; i++) barrier_init(first + 8 * i);
    Ring::init(base);
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    const bool has_head = blockIdx.x < HEAD_BLOCKS;
    barrier_expect(first, INPUT_BYTES);
    barrier_expect(first + 8, has_head ? hidden_bytes<UNITS_BESIDE>() : hidden_bytes<UNITS_ALONE>());
    barrier_expect(first + 16, QKV_BYTES);
    barrier_expect(first + 24, PARTS_BYTES);
  }
  __syncthreads();
  cluster_arrive();
  cluster_wait();
}

extern "C" __global__ void __launch_bounds__(THREADS + 32, 1) backbone(const __grid_constant__ Params params) {
  extern __shared__ __align__(128) char memory[];
  open_barriers(memory);
  if (threadIdx.x >= THREADS) Loader(params, memory).run();
  else if (blockIdx.x < HEAD_BLOCKS) HeadBlock(params, memory).run();
  else OtherBlock(params, memory).run();
  __syncwarp();
  // A block's shared memory must be there until nobody sends to it.
  cluster_arrive();
  cluster_wait();
}
