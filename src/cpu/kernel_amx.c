/*
 * AMX: tiles of 16 x 16 sums, each step 16 x 16 products of 32 BF16 pairs. Keys are rows of the left operand
 * and read where they lie, so that scores come with a lane for each row of q, as the softmax takes them. Values
 * are woven once into right operands; the probabilities, turned round, are the left ones.
 */
#include "cpu/simd_avx512.h"

#include "cpu/words_bf16.h"

#include "cpu/softmax.h"

#include "cpu/rows_of_item.h"

#include "cpu/amx_tiles.h"
#include "cpu/features.h"
#include "cpu/fetch.h"

/* A block's values for 32 columns and its probabilities stay in the first cache while o, in the second, is met.
 */
enum { BLOCK_KEYS = 128, MAX_TILE_ROWS = 512, STEP_KEYS = 32, DIM_STEP = 32 };

/*
 * The lines of the next block that are fetched in each part of the work on this one, so that with few rows,
 * where memory sets the pace, each part has about its share.
 */
enum { LINES_WITH_PAIR = 24, LINES_WITH_VALUES = 20 };

enum { TILE_BYTES = TILE_DIM * TILE_ROW_BYTES };

/* 16 keys as a left operand: their first bytes, and the distance of one key from the other. */
typedef struct key_tile {
  const char *at;
  int64_t stride;
} key_tile;

/* Keys that lie at even distances are read there; others are copied to `staging`, [TILE_DIM][dim]. */
static key_tile find_key_tile(const void *const *keys, int32_t dim, char *staging) {
  const int64_t stride = (const char *)keys[1] - (const char *)keys[0];
  const size_t bytes = (size_t)dim * sizeof(uint16_t);
  bool even = true;
  for (int i = 2; i < TILE_DIM; i++)
    even = even && (const char *)keys[i] - (const char *)keys[i - 1] == stride;
  if (even)
    return (key_tile){.at = keys[0], .stride = stride};
  for (size_t i = 0; i < TILE_DIM; i++)
    memcpy(staging + i * bytes, keys[i], bytes);
  return (key_tile){.at = staging, .stride = (int64_t)bytes};
}

/* ---- Beside the tiles ------------------------------------------------------------------------------- */

/*
 * What vectors do while tiles multiply, in small portions between the steps: the block's keys packed as values,
 * then the probabilities of the lane blocks whose scores are there.
 */
typedef struct side_work {
  const work *w;
  const fmlai_key_block *block;
  packed_values values;
  int32_t packed_keys;
  score_job jobs[2];
  int32_t job, num_jobs;
  fetcher fetch;
} side_work;

/* Probabilities lie [16 key pairs][LANES] for each 32 keys; as left operands they are [LANES][16 key pairs]. */
static void turn_probabilities(float *scores, int32_t key) {
  float *tile = scores + (size_t)(key / KEYS_PER_STEP) * LANES;
  vec_transpose(tile, tile, LANES);
}

/* A portion; false if nothing was left to do. */
static bool work_aside(side_work *s) {
  enum { PORTION_KEYS = 4 };
  if (s->packed_keys < s->block->padded) {
    pack_pair(&s->values, s->w->packed, s->block, s->packed_keys, s->w->p->head_dim_v);
    fetch_lines(&s->fetch, LINES_WITH_PAIR);
    s->packed_keys += KEYS_PER_STEP;
    return true;
  }
  if (s->job == s->num_jobs)
    return false;
  score_job *job = &s->jobs[s->job];
  take_scores(job, PORTION_KEYS);
  if (job->at % STEP_KEYS == 0)
    turn_probabilities(job->scores, job->at - STEP_KEYS);
  if (job->at == job->count) {
    end_scores(job);
    s->job++;
  }
  return true;
}

/* With the scores of `count` lane blocks there, and what was begun before done. */
static void begin_probabilities(side_work *s, int32_t lane_block, int32_t count) {
  s->job = 0;
  s->num_jobs = count;
  for (int32_t i = 0; i < count; i++)
    begin_lane_block(s->w, s->block, lane_block + i, &s->jobs[i]);
}

/* ---- Scores ----------------------------------------------------------------------------------------- */

/* 32 keys and two lane blocks. */
static void score_2x2(const work *w, const key_tile keys[2], int32_t key, int32_t lane_block, side_work *side) {
  const size_t q_bytes = (size_t)w->words * LANES * sizeof(float);
  const char *q0 = (const char *)w->q + (size_t)lane_block * q_bytes, *q1 = q0 + q_bytes;
  TILE_BARRIER();
  tile_zero(0);
  tile_zero(1);
  tile_zero(2);
  tile_zero(3);
  for (int32_t j = 0; j < w->words; j += TILE_DIM, q0 += TILE_BYTES, q1 += TILE_BYTES) {
    const size_t at = (size_t)j * sizeof(float);
    tile_load(6, q0, TILE_ROW_BYTES);
    tile_load(4, keys[0].at + at, keys[0].stride);
    tile_multiply_add(0, 4, 6);
    tile_load(5, keys[1].at + at, keys[1].stride);
    tile_multiply_add(1, 5, 6);
    tile_load(7, q1, TILE_ROW_BYTES);
    tile_multiply_add(2, 4, 7);
    tile_multiply_add(3, 5, 7);
    work_aside(side);
  }
  float *left = block_scores(w, lane_block) + (size_t)key * LANES;
  float *right = block_scores(w, lane_block + 1) + (size_t)key * LANES;
  tile_store(0, left, TILE_ROW_BYTES);
  tile_store(1, left + TILE_DIM * LANES, TILE_ROW_BYTES);
  tile_store(2, right, TILE_ROW_BYTES);
  tile_store(3, right + TILE_DIM * LANES, TILE_ROW_BYTES);
  TILE_BARRIER();
}

/* 64 keys and one lane block. */
static void score_4x1(const work *w, const key_tile keys[4], int32_t key, int32_t lane_block, side_work *side) {
  const char *q = (const char *)(w->q + (size_t)lane_block * (size_t)w->words * LANES);
  TILE_BARRIER();
  tile_zero(0);
  tile_zero(1);
  tile_zero(2);
  tile_zero(3);
  for (int32_t j = 0; j < w->words; j += TILE_DIM, q += TILE_BYTES) {
    const size_t at = (size_t)j * sizeof(float);
    tile_load(6, q, TILE_ROW_BYTES);
    tile_load(4, keys[0].at + at, keys[0].stride);
    tile_multiply_add(0, 4, 6);
    tile_load(5, keys[1].at + at, keys[1].stride);
    tile_multiply_add(1, 5, 6);
    tile_load(4, keys[2].at + at, keys[2].stride);
    tile_multiply_add(2, 4, 6);
    tile_load(5, keys[3].at + at, keys[3].stride);
    tile_multiply_add(3, 5, 6);
    work_aside(side);
    work_aside(side);
  }
  float *to = block_scores(w, lane_block) + (size_t)key * LANES;
  tile_store(0, to, TILE_ROW_BYTES);
  tile_store(1, to + TILE_DIM * LANES, TILE_ROW_BYTES);
  tile_store(2, to + 2 * TILE_DIM * LANES, TILE_ROW_BYTES);
  tile_store(3, to + 3 * TILE_DIM * LANES, TILE_ROW_BYTES);
  TILE_BARRIER();
}

/* 32 keys and one lane block: the last keys of a sequence. */
static void score_2x1(const work *w, const key_tile keys[2], int32_t key, int32_t lane_block, side_work *side) {
  const char *q = (const char *)(w->q + (size_t)lane_block * (size_t)w->words * LANES);
  TILE_BARRIER();
  tile_zero(0);
  tile_zero(1);
  for (int32_t j = 0; j < w->words; j += TILE_DIM, q += TILE_BYTES) {
    const size_t at = (size_t)j * sizeof(float);
    tile_load(6, q, TILE_ROW_BYTES);
    tile_load(4, keys[0].at + at, keys[0].stride);
    tile_multiply_add(0, 4, 6);
    tile_load(5, keys[1].at + at, keys[1].stride);
    tile_multiply_add(1, 5, 6);
    work_aside(side);
  }
  float *to = block_scores(w, lane_block) + (size_t)key * LANES;
  tile_store(0, to, TILE_ROW_BYTES);
  tile_store(1, to + TILE_DIM * LANES, TILE_ROW_BYTES);
  TILE_BARRIER();
}

/* All scores of a block, and of them the probabilities; the next lane blocks' scores while those of the last
   ones become probabilities. */
static void score_block(const work *w, const fmlai_key_block *block, char *staging, side_work *side) {
  enum { WIDE_KEYS = 64 };
  const size_t tile_bytes = (size_t)TILE_DIM * (size_t)w->p->head_dim_k * sizeof(uint16_t);
  key_tile keys[BLOCK_KEYS / TILE_DIM];
  for (int32_t i = 0; i < block->padded / TILE_DIM; i++)
    keys[i] = find_key_tile(block->keys + i * TILE_DIM, w->p->head_dim_k, staging + (size_t)i * tile_bytes);
  for (int32_t b = 0; b < w->num_lane_blocks; b += 2) {
    const int32_t count = w->num_lane_blocks - b > 1 ? 2 : 1;
    int32_t t = 0;
    for (; count == 2 && t < block->padded; t += STEP_KEYS)
      score_2x2(w, keys + t / TILE_DIM, t, b, side);
    for (; t + WIDE_KEYS <= block->padded; t += WIDE_KEYS)
      score_4x1(w, keys + t / TILE_DIM, t, b, side);
    if (t < block->padded)
      score_2x1(w, keys + t / TILE_DIM, t, b, side);
    while (work_aside(side))
      ;
    begin_probabilities(side, b, count);
  }
  while (work_aside(side))
    ;
}

/* ---- Values ----------------------------------------------------------------------------------------- */

/* Values of a block as right operands: `chunks` of 32 keys. */
typedef struct value_tiles {
  const packed_values *values;
  int32_t chunks;
} value_tiles;

static const char *value_tile(const value_tiles *v, int32_t vector) {
  return (const char *)(v->values->words + (size_t)vector * v->values->vector);
}

/* o of two lane blocks and two vectors of columns. */
static void add_2x2(const work *w, const value_tiles *v, int32_t lane_block, int32_t vector) {
  const int64_t stride = (int64_t)w->p->head_dim_v * (int64_t)sizeof(float);
  float *top = w->o + (size_t)lane_block * LANES * (size_t)w->p->head_dim_v + vector * LANES;
  float *bottom = top + (size_t)LANES * (size_t)w->p->head_dim_v;
  const char *p0 = (const char *)block_scores(w, lane_block),
             *p1 = (const char *)block_scores(w, lane_block + 1);
  const char *v0 = value_tile(v, vector), *v1 = value_tile(v, vector + 1);
  TILE_BARRIER();
  tile_load(0, top, stride);
  tile_load(1, top + LANES, stride);
  tile_load(2, bottom, stride);
  tile_load(3, bottom + LANES, stride);
  for (int32_t c = 0; c < v->chunks; c++) {
    const size_t at = (size_t)c * TILE_BYTES;
    tile_load(4, p0 + at, TILE_ROW_BYTES);
    tile_load(6, v0 + at, TILE_ROW_BYTES);
    tile_multiply_add(0, 4, 6);
    tile_load(7, v1 + at, TILE_ROW_BYTES);
    tile_multiply_add(1, 4, 7);
    tile_load(5, p1 + at, TILE_ROW_BYTES);
    tile_multiply_add(2, 5, 6);
    tile_multiply_add(3, 5, 7);
  }
  tile_store(0, top, stride);
  tile_store(1, top + LANES, stride);
  tile_store(2, bottom, stride);
  tile_store(3, bottom + LANES, stride);
  TILE_BARRIER();
}

/* o of one lane block and four vectors of columns. */
static void add_1x4(const work *w, const value_tiles *v, int32_t lane_block, int32_t vector) {
  const int64_t stride = (int64_t)w->p->head_dim_v * (int64_t)sizeof(float);
  float *o = w->o + (size_t)lane_block * LANES * (size_t)w->p->head_dim_v + vector * LANES;
  const char *p = (const char *)block_scores(w, lane_block);
  const char *v0 = value_tile(v, vector), *v1 = value_tile(v, vector + 1);
  const char *v2 = value_tile(v, vector + 2), *v3 = value_tile(v, vector + 3);
  TILE_BARRIER();
  tile_load(0, o, stride);
  tile_load(1, o + LANES, stride);
  tile_load(2, o + 2 * LANES, stride);
  tile_load(3, o + 3 * LANES, stride);
  for (int32_t c = 0; c < v->chunks; c++) {
    const size_t at = (size_t)c * TILE_BYTES;
    tile_load(4, p + at, TILE_ROW_BYTES);
    tile_load(6, v0 + at, TILE_ROW_BYTES);
    tile_multiply_add(0, 4, 6);
    tile_load(7, v1 + at, TILE_ROW_BYTES);
    tile_multiply_add(1, 4, 7);
    tile_load(6, v2 + at, TILE_ROW_BYTES);
    tile_multiply_add(2, 4, 6);
    tile_load(7, v3 + at, TILE_ROW_BYTES);
    tile_multiply_add(3, 4, 7);
  }
  tile_store(0, o, stride);
  tile_store(1, o + LANES, stride);
  tile_store(2, o + 2 * LANES, stride);
  tile_store(3, o + 3 * LANES, stride);
  TILE_BARRIER();
}

/* o of one lane block and two vectors of columns: the last ones, where their number is not a multiple of four.
 */
static void add_1x2(const work *w, const value_tiles *v, int32_t lane_block, int32_t vector) {
  const int64_t stride = (int64_t)w->p->head_dim_v * (int64_t)sizeof(float);
  float *o = w->o + (size_t)lane_block * LANES * (size_t)w->p->head_dim_v + vector * LANES;
  const char *p = (const char *)block_scores(w, lane_block);
  const char *v0 = value_tile(v, vector), *v1 = value_tile(v, vector + 1);
  TILE_BARRIER();
  tile_load(0, o, stride);
  tile_load(1, o + LANES, stride);
  for (int32_t c = 0; c < v->chunks; c++) {
    const size_t at = (size_t)c * TILE_BYTES;
    tile_load(4, p + at, TILE_ROW_BYTES);
    tile_load(6, v0 + at, TILE_ROW_BYTES);
    tile_multiply_add(0, 4, 6);
    tile_load(7, v1 + at, TILE_ROW_BYTES);
    tile_multiply_add(1, 4, 7);
  }
  tile_store(0, o, stride);
  tile_store(1, o + LANES, stride);
  TILE_BARRIER();
}

static void add_block(const work *w, const value_tiles *v, fetcher *fetch) {
  const int32_t vectors = w->p->head_dim_v / LANES, paired = w->num_lane_blocks & ~1;
  for (int32_t i = 0; i < vectors && paired > 0; i += 2) {
    for (int32_t b = 0; b < paired; b += 2)
      add_2x2(w, v, b, i);
    fetch_lines(fetch, v->chunks * LINES_WITH_VALUES / 2);
  }
  if (paired == w->num_lane_blocks)
    return;
  int32_t i = 0;
  for (; i + 4 <= vectors; i += 4) {
    add_1x4(w, v, paired, i);
    fetch_lines(fetch, v->chunks * LINES_WITH_VALUES);
  }
  if (i < vectors)
    add_1x2(w, v, paired, i);
}

/* ---- The kernel ------------------------------------------------------------------------------------- */

static void take_keys(const work *w, const fmlai_key_block *block, const fmlai_key_block *next, char *staging) {
  side_work side = {.w = w,
                    .block = block,
                    .values = packed_block(w->packed, block),
                    .fetch = fetch_from(next, w->p->head_dim_k * (int32_t)sizeof(uint16_t))};
  score_block(w, block, staging, &side);
  const value_tiles values = {.values = &side.values, .chunks = block->padded / STEP_KEYS};
  add_block(w, &values, &side.fetch);
  fetch_lines(&side.fetch, INT32_MAX);
}

static size_t staging_words(int32_t dim_k) {
  return (size_t)BLOCK_KEYS * (size_t)(dim_k / VALUES_PER_WORD);
}

static size_t scratch_bytes(const fmla_decode_params *p, int32_t tile_rows) {
  return (q_words(tile_rows, p->head_dim_k) + score_words(tile_rows, BLOCK_KEYS) +
          staging_words(p->head_dim_k) + (size_t)BLOCK_KEYS / KEYS_PER_STEP * (size_t)p->head_dim_v) *
         sizeof(float);
}

/* NOLINTBEGIN(readability-non-const-parameter): the analyzer does not see what the work's pointers are for. */
static void decode_item(const fmla_decode_params *p, const fmlai_plan_item *item, float *o, float *row_max,
                        float *row_sum, float *row_weight, void *scratch) {
  const int32_t rows = item->tile.num_rows;
  work w = {.p = p,
            .item = item,
            .num_rows = rows,
            .num_lane_blocks = (rows + LANES - 1) / LANES,
            .words = p->head_dim_k / VALUES_PER_WORD,
            .o = o,
            .reference = row_max,
            .row_sum = row_sum,
            .weight = row_weight,
            .q = scratch,
            .row_keys = BLOCK_KEYS};
  w.scores = w.q + q_words(rows, p->head_dim_k);
  float *staging = w.scores + score_words(rows, BLOCK_KEYS);
  w.packed = staging + staging_words(p->head_dim_k);
  pack_q(&w, staging);
  begin_rows(&w);

  const int64_t end = fmlai_visible_end(p, item);
  fmlai_key_block blocks[2];
  fmlai_find_keys(&blocks[0], p, &item->tile, item->kv_begin, end, BLOCK_KEYS, STEP_KEYS);
  tiles_begin();
  for (int n = 0; blocks[n].count > 0; n ^= 1) {
    fmlai_find_keys(&blocks[n ^ 1], p, &item->tile, blocks[n].begin + BLOCK_KEYS, end, BLOCK_KEYS, STEP_KEYS);
    take_keys(&w, &blocks[n], &blocks[n ^ 1], (char *)staging);
  }
  tiles_end();
  end_rows(&w);
}
/* NOLINTEND(readability-non-const-parameter) */

static bool serves(const fmla_decode_params *p) {
  return reads_dtype(p->q_dtype) && p->head_dim_k % DIM_STEP == 0 && p->head_dim_v % DIM_STEP == 0;
}

const fmlai_cpu_kernel fmlai_cpu_kernel_amx = {
    .name = "amx",
    .needs = "AMX-TILE and AMX-BF16, which the system grants; AVX-512F, AVX-512BW, AVX-512VL, AVX-512-BF16",
    .takes = "BF16, head dims that are multiples of 32",
#if defined(FMLAI_EMULATED_TILES)
    .features = FMLAI_CPU_FOR_AVX512 | FMLAI_CPU_AVX512BF16,
#else
    .features = FMLAI_CPU_FOR_AMX,
#endif
    .probability_dtype = FMLA_DTYPE_BF16,
    .max_tile_rows = MAX_TILE_ROWS,
    .gflops = 2000,
    .serves = serves,
    .scratch_bytes = scratch_bytes,
    .decode_item = decode_item,
    .store_row = store_row,
};
