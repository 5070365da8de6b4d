// All stages of the depformer, with their draws, in one launch: a column's codes from its first code and hidden state.
//
// One stage after the other, one layer after the other; a layer is two phases, attention and MLP. A phase: every cluster
// sums up the shares that all clusters left in L2 (exchange.cuh), each of its blocks a part, and the blocks send their
// parts to each other. Then each block multiplies with its weights, which are in shared memory by then (weights.cuh).
// The blocks of a cluster exchange the results, multiply again, and leave the cluster's share of the phase's result.
#include "depformer_sizes.cuh"

#include "attention.cuh"
#include "draw.cuh"
#include "mlp.cuh"

static_assert(place::END == SHARED_BYTES && sizeof(Params) == PARAMS_BYTES, "depformer.py says what the kernel has");

// What both kinds of blocks have.
struct Block {
  const Params& params;
  const Self me;
  char* memory;
  const Pieces pieces;
  Inbox input, qkv, hidden;
  WeightStore in, out, down;
  Gains gains;
  Tag attention_tag, mlp_tag;

  static constexpr int barriers = place::BARRIERS;

  DEVICE Block(const Params& params, char* memory, bool has_head)
      : params(params), me(memory), memory(memory), pieces(params, me),
        input(me.base + barriers, INPUT_BYTES),
        qkv(me.base + barriers + 8, QKV_BYTES),
        hidden(me.base + barriers + 16, has_head ? hidden_bytes<UNITS_BESIDE>() : hidden_bytes<UNITS_ALONE>()),
        in(me.base + place::IN_STORE + me.warp * (has_head ? place::IN_PART : place::IN_PART_ALONE), barrier(0)),
        out(me.base + place::OUT_STORE + me.warp * place::OUT_PART, barrier(1)),
        down(me.base + (has_head ? place::DOWN_STORE + me.warp * place::DOWN_PART
                                 : place::DOWN_STORE_ALONE + me.warp * place::DOWN_PART_ALONE), barrier(2)) {
    if (me.thread == 0) {
      for (int i = 0; i < 3 + 3 * WARPS; i++) barrier_init(me.base + barriers + 8 * i);
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
      input.open(), qkv.open(), hidden.open();
    }
    __syncthreads();
    cluster_arrive();
    cluster_wait();
  }

  DEVICE u32 barrier(int store) const { return me.base + barriers + (3 + store * WARPS + me.warp) * 8; }

  // One layer's MLP. `refill` is called when the first weights are in registers, where they fit; `meanwhile` after it, while
  // the input is on its way; `next` when the share is stored. Tables are loaded in `meanwhile`, because the fence in a
  // refill waits for the loads under way.
  template <int UNITS, typename Meanwhile, typename Refill, typename Next>
  DEVICE void mlp(int layer, int area, const Meanwhile& meanwhile, const Refill& refill, const Next& next) {
    constexpr int TILES = gate_up_tiles(UNITS), HIDDEN_CHUNKS = down_chunks(UNITS);
    constexpr bool IN_REGISTERS = UNITS == UNITS_BESIDE;  // more than that do not fit
    float4 x[2];
    sum_shares<HEADS>(me, params.attention_shares, attention_tag, x);
    attention_tag.advance();
    send_input(me, x, gains, input);
    keep_stream(me, memory, area, x);
    in.wait();
    Scales<2 * UNITS, 4> scales;
    ShareScales down_scales;
    const auto load_scales = [&] {
      scales.load(me.lane, params.gate_up_scale + 2 * (layer * MLP_WIDTH + first_unit<UNITS>(me)));
      down_scales.load(me, params.down_scale + layer * WIDTH);
    };
    float4 sums[TILES] = {};
    if constexpr (IN_REGISTERS) {
      Weights<CHUNKS, TILES> weights;
      weights.read(me, in);
      refill();
      meanwhile();
      load_scales();
      input.wait(me);
      multiply_input(me, [&](int chunk, int tile) { return weights.of[chunk][tile]; }, sums);
    } else {
      meanwhile();
      load_scales();
      input.wait(me);
      multiply_input(me, [&](int chunk, int tile) { return in.tile(me, chunk * TILES + tile); }, sums);
    }
    leave_partial(me, memory, area, sums);
    const float2 factors = norm_factors(me, memory, params.eps);
    __syncthreads();
    send_hidden<UNITS>(me, memory, area, factors, scales, hidden);
    down.wait();
    Weights<OUT_TILES, HIDDEN_CHUNKS> weights;
    weights.read(me, down);
    hidden.wait(me);
    const u32 from = input_address(me, place::HIDDEN, hidden_pitch(UNITS));
    store_product(me, memory, area, from, weights, down_scales, params.mlp_shares, mlp_tag);
    mlp_tag.advance();
    next();
  }
};

// A block of clusters 0-7.
struct HeadBlock : Block {
  // Areas of shared memory: of attention and logits, and of the MLP between them.
  static constexpr int FIRST = 0, SECOND = 1;

  Ahead ahead;
  Tag read_mlp_tag, logits_tag;

  DEVICE HeadBlock(const Params& params, char* memory) : Block(params, memory, true) {}

  DEVICE void run() {
    const Settings settings(params);
    const float* uniforms = params.uniforms + (settings.slot * params.capacity + settings.column) * params.streams + 2;
    pieces.qkv(in, 0, 0), pieces.out(out, 0, 0), pieces.down<UNITS_BESIDE>(down, 0);
    ahead.load_angles(params, me, 0), ahead.load(params, me, 0, 0);
    gains.load(me, params.pre_norm);
    int code = (int)(params.given ? params.given[0] : params.drawn[0]);
#pragma unroll 1
    for (int stage = 0; stage < params.stages; stage++) {
      float4 x[2];
      embed(stage, code, x);
#pragma unroll 1
      for (int layer = 0; layer < params.layers; layer++) {
        if (layer) sum_mlp_shares(x);
        attention(stage, layer, x);
        mlp_beside(stage, layer);
      }
      const float uniform = uniforms[stage];
      head(stage);
      code = drawn(settings, stage, uniform);
    }
  }

 private:
  DEVICE int layer_after(int layer) const { return layer + 1 < params.layers ? layer + 1 : 0; }
  DEVICE int stage_after(int stage, int layer) const { return layer + 1 < params.layers ? stage : stage + 1; }

  // The stage's input: its group's view of the hidden state, and the embedding of the code before.
  DEVICE void embed(int stage, int code, float4 (&x)[2]) const {
    const bf16* hidden = params.projected + (me.row * params.groups + params.group[stage]) * WIDTH;
    const bf16* embedding = params.embeddings + ((i64)stage * params.vocabulary + code) * WIDTH;
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const uint2 h = *(const uint2*)(hidden + me.stream_column() + 16 * i);
      const uint2 e = *(const uint2*)(embedding + me.stream_column() + 16 * i);
      const float2 a = unpacked(h.x) + unpacked(e.x), b = unpacked(h.y) + unpacked(e.y);
      x[i] = make_float4(a.x, a.y, b.x, b.y);
    }
  }

  DEVICE void sum_mlp_shares(float4 (&x)[2]) {
    sum_shares<CLUSTERS>(me, params.mlp_shares, read_mlp_tag, x);
    read_mlp_tag.advance();
  }

  DEVICE void attention(int stage, int layer, const float4 (&x)[2]) {
    send_input(me, x, gains, input);
    keep_stream(me, memory, FIRST, x);
    in.wait();
    Weights<CHUNKS, QKV_TILES> weights;
    weights.read(me, in);
    pieces.gate_up<UNITS_BESIDE>(in, layer);
    gains.load(me, params.post_norm + layer * WIDTH);
    Scales<OUTPUTS, 2> scales;
    scales.load(me.lane, params.qkv_scale + (pieces.of_group(stage, layer) * HEAD_BLOCKS + me.block) * OUTPUTS);
    ShareScales out_scales;
    out_scales.load(me, params.out_scale + pieces.of_group(stage, layer) * WIDTH);
    input.wait(me);
    float4 sums[QKV_TILES] = {};
    multiply_input(me, [&](int chunk, int tile) { return weights.of[chunk][tile]; }, sums);
    leave_partial(me, memory, FIRST, sums);
    const float2 factors = norm_factors(me, memory, params.eps);
    __syncthreads();
    send_qkv(me, memory, FIRST, factors, scales, qkv);
    qkv.wait(me);
    mix_own_stages(params, me, memory, ahead, stage, layer);
    out.wait();
    Weights<OUT_TILES, DIM / 32> projection;
    projection.read(me, out);
    if (layer + 1 < params.layers) pieces.out(out, stage, layer + 1);
    else pieces.head(out, stage);
    __syncthreads();
    mix_all_stages(me, memory);
    __syncthreads();
    const u32 from = input_address(me, place::MIXED, MIXED_PITCH);
    store_product(me, memory, FIRST, from, projection, out_scales, params.attention_shares, attention_tag);
  }

  DEVICE void mlp_beside(int stage, int layer) {
    const int next = layer_after(layer), next_stage = stage_after(stage, layer);
    mlp<UNITS_BESIDE>(
        layer, SECOND,
        [&] {
          gains.load(me, layer + 1 < params.layers ? params.pre_norm + next * WIDTH : params.last_norm);
          if (next) ahead.load(params, me, stage, next);
        },
        [&] { pieces.qkv(in, next_stage, next); },
        [&] {
          if (next_stage < params.stages) pieces.down<UNITS_BESIDE>(down, next);
        });
  }

  // This block's 32 logits of both rows.
  DEVICE void head(int stage) {
    float4 x[2];
    sum_mlp_shares(x);
    send_input(me, x, gains, input);
    gains.load(me, params.pre_norm);
    ahead.load_angles(params, me, stage + 1);
    out.wait();
    input.wait(me);
    float4 sums[HEAD_TILES] = {};
    multiply_input(me, [&](int chunk, int tile) { return out.tile<2>(me, chunk * HEAD_TILES + tile); }, sums);
    leave_partial(me, memory, FIRST, sums);
    const float2 factors = norm_factors(me, memory, params.eps);
    __syncthreads();
    // Before this arrival the block has read its input and written its keys and values. Only behind the wait, in `drawn`,
    // do others send the next stage's input, and read those keys and values.
    cluster_arrive();
    constexpr int OUTPUTS = HEAD_TILES * 8;
    if (me.thread < ROWS * OUTPUTS) {
      const u32 row = me.thread / OUTPUTS, output = me.thread % OUTPUTS;
      const float logit = partial_sum<OUTPUTS, float>(memory, FIRST, row, output) * (row ? factors.y : factors.x);
      store_fresh(params.logits + row * CODES + me.block * OUTPUTS + output, tagged(logit, logits_tag));
    }
  }

  DEVICE int drawn(const Settings& settings, int stage, float uniform) {
    Logits mine;
    read_logits(me, params.logits, logits_tag, mine);
    logits_tag.advance();
    cluster_wait();
    pieces.out(out, stage + 1, 0);
    ahead.load(params, me, stage + 1, 0);
    if (params.seen_logits && me.block == 0) show(mine, stage);
    const int code = draw(me, memory, mine, settings, uniform);
    if (me.block == 0 && me.thread == 0) {
      const i64 column = settings.column + 1;
      params.drawn[stage + 1] = code;
      if (column - params.delay[stage] >= params.fields[2])
        params.codes[(settings.slot * params.codebooks + stage + 1) * params.capacity + column] = code;
    }
    return params.given ? (int)params.given[stage + 1] : code;
  }

  DEVICE void show(const Logits& mine, int stage) const {  // for tests: float [stages][2][CODES]
    float* to = params.seen_logits + stage * ROWS * CODES + me.thread * OWN;
#pragma unroll
    for (int i = 0; i < OWN; i++) to[i] = mine.conditional[i], to[CODES + i] = mine.unconditional[i];
  }
};

// A block of clusters 8-14.
struct OtherBlock : Block {
  DEVICE OtherBlock(const Params& params, char* memory) : Block(params, memory, false) {}

  DEVICE void run() {
    pieces.gate_up<UNITS_ALONE>(in, 0), pieces.down<UNITS_ALONE>(down, 0);
    gains.load(me, params.post_norm);
    const int phases = params.stages * params.layers;
#pragma unroll 1
    for (int phase = 0, layer = 0; phase < phases; phase++) {
      const int now = layer;
      layer = layer + 1 < params.layers ? layer + 1 : 0;  // the next phase's
      mlp<UNITS_ALONE>(
          now, phase % 2, [&] { gains.load(me, params.post_norm + layer * WIDTH); }, [] {},
          [&] {
            if (phase + 1 == phases) return;
            pieces.gate_up<UNITS_ALONE>(in, layer), pieces.down<UNITS_ALONE>(down, layer);
          });
    }
  }
};

extern "C" __global__ void __launch_bounds__(THREADS, 1) depformer(const __grid_constant__ Params params) {
  extern __shared__ __align__(128) char memory[];
  if (blockIdx.x < HEAD_BLOCKS) HeadBlock(params, memory).run();
  else OtherBlock(params, memory).run();
  // A block's shared memory must be there until nobody sends to it.
  cluster_arrive();
  cluster_wait();
}
