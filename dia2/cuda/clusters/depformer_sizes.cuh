// What the kernel is made for, how the work is divided, and where everything lies in a block's shared memory.
//
// One conversation with guidance is two rows. The grid is 15 clusters of 8 blocks, one block a multiprocessor:
//   clusters 0-7   have an attention head each, a small part of the MLP, and the stage's logits and draw;
//   clusters 8-14  have a larger part of the MLP, and nothing else.
#pragma once
#include "types.cuh"

constexpr int ROWS = 2, WIDTH = 1024, HEADS = 8, DIM = 128, MLP_WIDTH = 3072, CODES = 2048, MOST_STAGES = 32;
constexpr int RANKS = 8, WARPS = 8, THREADS = 32 * WARPS;
constexpr int CLUSTERS = 15, HEAD_BLOCKS = HEADS * RANKS, OTHER_BLOCKS = (CLUSTERS - HEADS) * RANKS;

// Hidden units of the MLP that one block computes: a block that has a head beside it, and one that has nothing else.
constexpr int UNITS_BESIDE = 20, UNITS_ALONE = 32;
static_assert(HEAD_BLOCKS * UNITS_BESIDE + OTHER_BLOCKS * UNITS_ALONE == MLP_WIDTH, "every hidden unit, once");

// A block sums up SLICE columns of the residual stream; a warp multiplies SPAN inputs of a product with all inputs.
constexpr int SLICE = WIDTH / RANKS, SPAN = WIDTH / WARPS;

// Weights lie in tiles of 8 outputs by 32 inputs, output by output. A lane reads 8 inputs of one output, which is what two
// matrix instructions want of a tile. The logits' matrix is always bf16.
constexpr int TILE = 256 * WEIGHT_BYTES, LOGITS_TILE = 512, CHUNKS = SPAN / 32;
constexpr int QKV_TILES = 3 * DIM / RANKS / 8, OUT_TILES = SLICE / WARPS / 8, HEAD_TILES = CODES / HEAD_BLOCKS / 8;
constexpr int gate_up_tiles(int units) { return 2 * units / 8; }
constexpr int down_chunks(int units) { return units * RANKS / 32; }

// Bytes of weights that one warp takes in one piece.
constexpr int QKV_PIECE = QKV_TILES * CHUNKS * TILE, OUT_PIECE = OUT_TILES * (DIM / 32) * TILE;
constexpr int HEAD_PIECE = HEAD_TILES * CHUNKS * LOGITS_TILE;
constexpr int gate_up_piece(int units) { return gate_up_tiles(units) * CHUNKS * TILE; }
constexpr int down_piece(int units) { return OUT_TILES * down_chunks(units) * TILE; }

// Rows of activations are padded, so that the two rows of a product lie in different banks.
constexpr int INPUT_PITCH = WIDTH + 32, MIXED_PITCH = DIM + 32;
constexpr int hidden_pitch(int units) { return units * RANKS + (units * RANKS % 64 ? 0 : 32); }

// Shared memory, in bytes from its start. Weights come first: every warp has its own part of each of three stores.
namespace place {
constexpr int IN_STORE = 0, IN_PART = QKV_PIECE;  // q, k, v, then gate and up
constexpr int OUT_STORE = IN_STORE + WARPS * IN_PART, OUT_PART = HEAD_PIECE;  // out projection, or the logits' matrix
constexpr int DOWN_STORE = OUT_STORE + WARPS * OUT_PART, DOWN_PART = down_piece(UNITS_BESIDE);
constexpr int IN_PART_ALONE = gate_up_piece(UNITS_ALONE), DOWN_PART_ALONE = down_piece(UNITS_ALONE);
constexpr int DOWN_STORE_ALONE = WARPS * IN_PART_ALONE;
constexpr int WEIGHTS = DOWN_STORE + WARPS * DOWN_PART;
static_assert(gate_up_piece(UNITS_BESIDE) <= IN_PART && OUT_PIECE <= OUT_PART, "each store holds both of its kinds");
static_assert(DOWN_STORE_ALONE + WARPS * DOWN_PART_ALONE <= WEIGHTS, "blocks without a head have room too");

constexpr int INPUT = WEIGHTS;                               // bf16 [2][INPUT_PITCH]: a product's input
constexpr int SQUARES = INPUT + ROWS * INPUT_PITCH * 2;      // float [2][32]: sums of squares, for its norm
// What a block writes for itself in a phase, and reads later in it, has two areas: phases that follow each other take
// turns. So a warp that is ahead never writes what another one still reads.
constexpr int STREAM_AREA = ROWS * SLICE * 4, PARTIAL_AREA = WARPS * ROWS * 64 * 4;
constexpr int STREAM = SQUARES + ROWS * 32 * 4;              // float [2][2][SLICE]: this block's columns of the stream
constexpr int PARTIAL = STREAM + 2 * STREAM_AREA;            // float [2][WARPS][2][64]: products by warp
constexpr int MIXES = PARTIAL + 2 * PARTIAL_AREA;            // float [WARPS][DIM]: attention by warp
// A draw's search has the place of the MLP's products and of the attention by warp.
constexpr int SEARCH = PARTIAL + PARTIAL_AREA, SEARCH_BYTES = (4 + THREADS + CODES) * 4;
static_assert(SEARCH + SEARCH_BYTES >= MIXES + WARPS * DIM * 4, "it covers both");
constexpr int QKV = SEARCH + SEARCH_BYTES;                   // bf16 [2][3 DIM]
constexpr int SOFTMAX = QKV + ROWS * 3 * DIM * 2;            // float2 [WARPS]: maxima and totals of attention by warp
constexpr int MIXED = SOFTMAX + WARPS * 8;                   // bf16 [2][MIXED_PITCH]: attention
constexpr int HIDDEN = MIXED + ROWS * MIXED_PITCH * 2;       // bf16 [2][hidden_pitch]
constexpr int DRAW = HIDDEN + ROWS * hidden_pitch(UNITS_ALONE) * 2;  // u64 [2][WARPS], then the code that was drawn
constexpr int BARRIERS = DRAW + 2 * WARPS * 8 + 16;          // u64 [3 + 3 WARPS]
constexpr int END = BARRIERS + (3 + 3 * WARPS) * 8;
static_assert(INPUT % 16 == 0 && QKV % 16 == 0 && MIXED % 16 == 0 && HIDDEN % 16 == 0 && DRAW % 16 == 0, "alignment");
static_assert(END <= 227 * 1024, "a block's shared memory");
}  // namespace place

// What the host hands over: dia2/cuda/clusters/depformer.py has the same struct, and says what each of them is.
struct Params {
  const char *qkv, *out, *gate_up_beside, *gate_up_alone, *down_beside, *down_alone, *heads;
  const bf16 *embeddings, *pre_norm, *post_norm, *q_norm, *k_norm, *last_norm;
  const float *cos, *sin;
  const bf16* projected;
  float *attention_shares, *mlp_shares, *logits;
  bf16 *keys, *values;
  const i64* fields;
  const float *scale, *temperature, *uniforms;
  const i64 *filter_k, *top_k;
  i64 *drawn, *codes;
  const i64* given;
  float* seen_logits;
  i64 capacity;
  int layers, stages, groups, vocabulary, streams, codebooks;
  float eps;
  int group[MOST_STAGES], delay[MOST_STAGES];
  const float *qkv_scale, *out_scale, *gate_up_scale, *down_scale;  // of 8-bit weights
};
