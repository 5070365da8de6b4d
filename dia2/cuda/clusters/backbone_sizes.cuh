// What the backbone's kernel is made for, how the work is divided, and where everything lies in shared memory.
//
// One conversation with guidance is two rows. The grid is 15 clusters of 8 blocks, one block a multiprocessor:
//   clusters 0-7   have a KV head each, with the query heads that share it, and a small part of the MLP;
//   clusters 8-14  have a larger part of the MLP, and nothing else.
// So every block reads about the same number of weights a layer: 864 KB or 768 KB. More units beside heads, which have
// waited for the others' MLP, make a step slower (gpu-notes.md).
#pragma once
#include "types.cuh"

constexpr int ROWS = 2, WIDTH = 2048, HEADS = 8, GROUP = 2, DIM = 128, MLP_WIDTH = 6144;
constexpr int RANKS = 8, WARPS = 8, THREADS = 32 * WARPS;  // and one warp more, which loads
constexpr int CLUSTERS = 15, HEAD_BLOCKS = HEADS * RANKS, OTHER_BLOCKS = (CLUSTERS - HEADS) * RANKS;

// Hidden units of the MLP that one block computes: a block that has a head beside it, and one that has nothing else.
constexpr int UNITS_BESIDE = 40, UNITS_ALONE = 64;
static_assert(HEAD_BLOCKS * UNITS_BESIDE + OTHER_BLOCKS * UNITS_ALONE == MLP_WIDTH, "every hidden unit, once");

// A block sums up SLICE columns of the residual stream; a warp multiplies SPAN inputs of a product with all inputs.
constexpr int SLICE = WIDTH / RANKS, SPAN = WIDTH / WARPS;

// Weights lie in tiles of 16 outputs by 32 inputs, 1 KB in bf16. A chunk of the ring has two of them for each warp, or
// four in 8 bits; a warp takes two at a time.
constexpr int TILE = 512 * WEIGHT_BYTES, PAIR = 2, PAIRS = 2 / WEIGHT_BYTES, PER_CHUNK = PAIRS * PAIR;
constexpr int WARP_PART = PER_CHUNK * TILE, CHUNK = WARPS * WARP_PART;
constexpr int QKV = (GROUP + 2) * DIM;  // outputs of a cluster: queries, then key, then value
constexpr int QKV_TILES = QKV / RANKS / 16, OUT_TILES = SLICE / WARPS / 16;
constexpr int gate_up_tiles(int units) { return 2 * units / 16; }
static_assert(OUT_TILES == PAIR, "a pair of a product by outputs has the same inputs");

// How many chunks of a layer's weights a block takes for each of its products.
constexpr int QKV_CHUNKS = QKV_TILES * (SPAN / 32) / PER_CHUNK, OUT_INPUTS = GROUP * DIM / 32;
constexpr int gate_up_chunks(int units) { return gate_up_tiles(units) * (SPAN / 32) / PER_CHUNK; }
constexpr int down_inputs(int units) { return units * RANKS / 32; }
static_assert(OUT_INPUTS % PAIRS == 0 && down_inputs(UNITS_BESIDE) % PAIRS == 0 && down_inputs(UNITS_ALONE) % PAIRS == 0,
              "every product has whole chunks");
constexpr int mlp_chunks(int units) { return gate_up_chunks(units) + down_inputs(units) / PAIRS; }
constexpr int CHUNKS_BESIDE = QKV_CHUNKS + OUT_INPUTS / PAIRS + mlp_chunks(UNITS_BESIDE);
constexpr int CHUNKS_ALONE = mlp_chunks(UNITS_ALONE);

// The ring: so many chunks; and how many of them are on their way at most. Were all of them, then what a block stores
// for others would wait behind them.
constexpr int SLOTS = 11;
constexpr int IN_FLIGHT = 3;

// A chunk of the cache is 16 columns of both rows, keys and values.
constexpr int COLUMNS = 16, COLUMN = DIM * 2, MOST_COLUMN_CHUNKS = 32;
static_assert(2 * ROWS * COLUMNS * COLUMN == CHUNK, "it fills a chunk");

// Rows of activations are padded, so that the two rows of a product lie in different banks.
constexpr int INPUT_PITCH = WIDTH + 32, MIXED_PITCH = GROUP * DIM + 32, TURNED_PITCH = DIM + 32;
constexpr int hidden_pitch(int units) { return units * RANKS + (units * RANKS % 64 ? 0 : 32); }

// Shared memory, in bytes from its start.
namespace place {
constexpr int RING = 0;
constexpr int INPUT = RING + SLOTS * CHUNK;              // bf16 [2][INPUT_PITCH]: a product's input
constexpr int SQUARES = INPUT + ROWS * INPUT_PITCH * 2;  // float [2][32]: sums of squares, for its norm
// What a block writes for itself in a phase, and reads later in it, has two areas: phases that follow each other take
// turns. So a warp that is ahead never writes what another one still reads.
constexpr int larger(int a, int b) { return a > b ? a : b; }
constexpr int MIXES_BYTES = WARPS * GROUP * DIM * 4, MOST_UNITS = larger(UNITS_BESIDE, UNITS_ALONE);
constexpr int STREAM_AREA = ROWS * SLICE * 4, PARTIAL_AREA = larger(WARPS * ROWS * 2 * MOST_UNITS * 4, MIXES_BYTES);
constexpr int STREAM = SQUARES + ROWS * 32 * 4;    // float [2][2][SLICE]: this block's columns of the stream
constexpr int PARTIAL = STREAM + 2 * STREAM_AREA;  // float [2][WARPS][2][outputs]: products by warp
constexpr int MIXES = PARTIAL + PARTIAL_AREA;      // float [WARPS][GROUP][DIM], in the MLP's area: attention by warp
constexpr int PARTS = PARTIAL + 2 * PARTIAL_AREA;  // float [RANKS][2][GROUP][DIM]: attention by block
constexpr int PART_BYTES = ROWS * GROUP * DIM * 4;
constexpr int PART_STATES = PARTS + RANKS * PART_BYTES;         // float2 [RANKS][2][GROUP]: maxima and totals of them
constexpr int STATES = PART_STATES + RANKS * ROWS * GROUP * 8;  // float2 [WARPS][GROUP]: of attention by warp
constexpr int TURNED = STATES + WARPS * GROUP * 8;  // bf16 [6][TURNED_PITCH]: queries of both rows, then keys
constexpr int MIXED = TURNED + ROWS * (GROUP + 1) * TURNED_PITCH * 2;  // bf16 [2][MIXED_PITCH]: attention
constexpr int HIDDEN = MIXED + ROWS * MIXED_PITCH * 2;                 // bf16 [2][hidden_pitch]
constexpr int QKVS = HIDDEN;  // bf16 [2][QKV]: all that is done when hidden units come
constexpr int HIDDEN_BYTES = ROWS * larger(hidden_pitch(MOST_UNITS), QKV) * 2;
constexpr int TABLE = HIDDEN + HIDDEN_BYTES;              // int [MOST_COLUMN_CHUNKS]: where they lie in a layer
constexpr int BARRIERS = TABLE + MOST_COLUMN_CHUNKS * 4;  // u64 [4 + 2 SLOTS]
constexpr int END = BARRIERS + (4 + 2 * SLOTS) * 8;
static_assert(INPUT % 16 == 0 && PARTS % 16 == 0 && TURNED % 16 == 0 && MIXED % 16 == 0 && BARRIERS % 8 == 0,
              "alignment");
static_assert(END <= 227 * 1024, "a block's shared memory");
}  // namespace place

// What the host hands over: dia2/cuda/clusters/backbone.py has the same struct, and says what each of them is.
struct Params {
  const char *head_stream, *other_stream;
  const bf16 *pre_norm, *post_norm, *q_norm, *k_norm;
  const float *cos, *sin;
  bf16* hidden;
  float *attention_shares, *mlp_shares;
  bf16 *keys, *values;
  const i64* fields;
  const int* table;
  int layers, blocks, columns, blocks_a_context;
  float eps;
  const float *qkv_scale, *out_scale, *gate_up_scale, *down_scale;  // of 8-bit weights
};
