/*
 * The kernels that multiply vectors: decode_item() for whatever vectors and words were included before. Two
 * forms:
 *
 * Many rows: a lane for each row. A block of keys is packed once for all rows; scores and o are register tiles
 * of TILE_ROWS x TILE_VECTORS, by one inner loop: a word broadcast times TILE_VECTORS vectors.
 *
 * Few rows: lanes along a key. Keys are read twice where they lie, as keys and as values, and packed nowhere.
 */
#ifndef FMLAI_CPU_KERNEL_BODY_H
#define FMLAI_CPU_KERNEL_BODY_H

#include "cpu/fetch.h"
#include "cpu/rows_of_item.h"

/* A line of memory holds so many values of a key; head dims are multiples of it. */
enum { LINE_VALUES = 32, LINE_WORDS = LINE_VALUES / VALUES_PER_WORD };

enum {
  MANY_BLOCK_KEYS = 64,
  FEW_BLOCK_KEYS = 32,
  FEW_AHEAD_KEYS = 64,
  FEW_ROWS = LANES / 2,
  MAX_TILE_ROWS = 512
};

/* Words of a key that are summed up before they are added to the rest: FP32 sums of many terms lose bits. */
enum { SUM_WORDS = 2 * LINE_VALUES };

/* What is in registers at once: sums, and what they are made of. */
#if VECTOR_REGISTERS == 32
enum { TILE_ROWS = 8, TILE_VECTORS = 3, FEW_KEYS = 4, FEW_SUMS = 16 };
#else
enum { TILE_ROWS = 4, TILE_VECTORS = 3, FEW_KEYS = 2, FEW_SUMS = 8 };
#endif

static size_t score_words(int32_t rows, int32_t block_keys) {
  return (size_t)(rows + LANES - 1) / LANES * LANES * (size_t)block_keys;
}

static float *block_scores(const work *w, int32_t lane_block) {
  return w->scores + (size_t)lane_block * (size_t)w->row_keys * LANES;
}

static void begin_rows(const work *w) {
  memset(w->o, 0, (size_t)w->num_rows * (size_t)w->p->head_dim_v * sizeof *w->o);
  for (int32_t r = 0; r < w->num_lane_blocks * LANES; r++) {
    w->reference[r] = -INFINITY;
    w->row_sum[r] = w->weight[r] = 0;
  }
}

/* o in the order of its columns, and the references, which the caller takes for the rows' maxima, to base e. */
static void end_rows(const work *w) {
  for (int32_t r = 0; r < w->num_rows; r++) {
    float *o = w->o + (size_t)r * (size_t)w->p->head_dim_v;
    w->reference[r] *= LN2;
    for (int32_t j = 0; VALUES_ARE_WOVEN && j < w->p->head_dim_v; j += 2 * LANES) {
      vec columns[2] = {vec_load(o + j), vec_load(o + j + LANES)};
      unweave(columns);
      vec_store(o + j, columns[0]);
      vec_store(o + j + LANES, columns[1]);
    }
  }
}

static void rescale_rows(const work *w, int32_t lane_block, const float *factor) {
  for (int32_t i = 0; i < LANES && lane_block * LANES + i < w->num_rows; i++) {
    float *o = w->o + (size_t)(lane_block * LANES + i) * (size_t)w->p->head_dim_v;
    const vec factors = vec_set(factor[i]);
    if (factor[i] != 1)
      for (int32_t j = 0; j < w->p->head_dim_v; j += LANES)
        vec_store(o + j, vec_mul(vec_load(o + j), factors));
  }
}

/* Turns the scores of a block of keys into probabilities, o rescaled for them. */
static void take_block(const work *w, const fmlai_key_block *block) {
  const float scale = w->p->softmax_scale * LOG2E;
  const bool all_visible = sees_all(w, block);
  for (int32_t b = 0; b < w->num_lane_blocks; b++) {
    const int32_t row = b * LANES;
    float *scores = block_scores(w, b), factor[LANES];
    float *reference = w->reference + row, *sum = w->row_sum + row, *weight = w->weight + row;
    if (!all_visible)
      mask_lane_block(w, block, b, scores);
    if (move_references(scores, block->padded, scale, reference, sum, weight, factor))
      rescale_rows(w, b, factor);
    score_job job;
    keep_references(&job, scores, scores, block->padded, scale, reference, sum, weight);
    take_scores(&job, block->padded);
    end_scores(&job);
  }
}

/* ---- Many rows -------------------------------------------------------------------------------------- */

/* sum[i][j] += a[i][k * a_step] * vector j of b + k * b_step, over k < steps. */
INLINE void multiply(vec sum[TILE_ROWS][TILE_VECTORS], const word *const a[TILE_ROWS], size_t a_step,
                     const float *b, size_t b_step, size_t b_vector, size_t steps, int vectors) {
  for (size_t k = 0; k < steps; k++) {
    vec bs[TILE_VECTORS];
    UNROLL for (int j = 0; j < vectors; j++) bs[j] = vec_load(b + (size_t)j * b_vector + k * b_step);
    UNROLL for (int i = 0; i < TILE_ROWS; i++) {
      const vec as = vec_set(a[i][k * a_step]);
      UNROLL for (int j = 0; j < vectors; j++) sum[i][j] = vec_multiply_add(as, bs[j], sum[i][j]);
    }
  }
}

INLINE void clear(vec sum[TILE_ROWS][TILE_VECTORS], int vectors) {
  UNROLL for (int i = 0; i < TILE_ROWS; i++) UNROLL for (int j = 0; j < vectors; j++) sum[i][j] = vec_zero();
}

/* Scores of TILE_ROWS keys and `vectors` lane blocks. Fetches a line of each `next` key for one of these. */
INLINE void score_tile(const work *w, const void *const *rows, const void *const *next, int32_t key,
                       int32_t lane_block, int vectors) {
  const size_t words = (size_t)w->words;
  const float *q = w->q + (size_t)lane_block * words * LANES;
  float *scores = block_scores(w, lane_block) + (size_t)key * LANES;
  const size_t scores_vector = (size_t)w->row_keys * LANES;
  for (size_t begin = 0; begin < words; begin += SUM_WORDS) {
    vec sum[TILE_ROWS][TILE_VECTORS];
    clear(sum, vectors);
    for (size_t k = begin; k < words && k < begin + SUM_WORDS; k += LINE_WORDS) {
      const word *a[TILE_ROWS];
      UNROLL for (int i = 0; i < TILE_ROWS; i++) {
        a[i] = (const word *)rows[i] + k;
        if (next != NULL)
          __builtin_prefetch((const uint16_t *)next[i] + k * VALUES_PER_WORD, 0, 2);
      }
      multiply(sum, a, 1, q + k * LANES, LANES, words * LANES, LINE_WORDS, vectors);
    }
    UNROLL for (int j = 0; j < vectors; j++) UNROLL for (int i = 0; i < TILE_ROWS; i++) {
      float *to = scores + (size_t)j * scores_vector + i * LANES;
      vec_store(to, begin == 0 ? sum[i][j] : vec_add(vec_load(to), sum[i][j]));
    }
  }
}

static void score_many(const work *w, const void *const *rows, const fmlai_key_block *block,
                       const fmlai_key_block *next) {
  for (int32_t t = 0; t < block->padded; t += TILE_ROWS)
    for (int32_t b = 0; b < w->num_lane_blocks; b += TILE_VECTORS) {
      const void *const *fetched = b == 0 && t < next->padded ? next->keys + t : NULL;
      switch (w->num_lane_blocks - b) {
      case 1:
        score_tile(w, rows + t, fetched, t, b, 1);
        break;
      case 2:
        score_tile(w, rows + t, fetched, t, b, 2);
        break;
      default:
        score_tile(w, rows + t, fetched, t, b, TILE_VECTORS);
      }
    }
}

/* o += probabilities * values for TILE_ROWS rows and `vectors` vectors of them. */
INLINE void add_tile(const work *w, const packed_values *values, size_t steps, int32_t row, size_t vector,
                     int vectors) {
  const word *a[TILE_ROWS];
  const size_t dim = (size_t)w->p->head_dim_v;
  vec sum[TILE_ROWS][TILE_VECTORS];
  UNROLL for (int i = 0; i < TILE_ROWS; i++) a[i] = block_scores(w, row / LANES) + row % LANES + i;
  clear(sum, vectors);
  multiply(sum, a, LANES, values->words + vector * values->vector, values->step, values->vector, steps,
           vectors);
  float *o = w->o + (size_t)row * dim + vector * LANES;
  for (int i = 0; i < TILE_ROWS && row + i < w->num_rows; i++)
    UNROLL for (int j = 0; j < vectors; j++) {
      float *at = o + (size_t)i * dim + j * LANES;
      vec_store(at, vec_add(vec_load(at), sum[i][j]));
    }
}

static void add_many(const work *w, const packed_values *values, const fmlai_key_block *block) {
  const size_t steps = (size_t)block->padded / KEYS_PER_STEP;
  const size_t vectors = (size_t)w->p->head_dim_v / LANES;
  for (size_t v = 0; v < vectors; v += TILE_VECTORS)
    for (int32_t r = 0; r < w->num_rows; r += TILE_ROWS)
      switch (vectors - v) {
      case 1:
        add_tile(w, values, steps, r, v, 1);
        break;
      case 2:
        add_tile(w, values, steps, r, v, 2);
        break;
      default:
        add_tile(w, values, steps, r, v, TILE_VECTORS);
      }
}

/* ---- Few rows --------------------------------------------------------------------------------------- */

/*
 * Memory is kept busy all the time: half of a block's worth of lines is fetched while keys are read, for each
 * line of FEW_KEYS keys; the other half while values are, for each two vectors of the keys of a step.
 */
enum { FETCHES_BESIDE_SUMS = VECTOR_REGISTERS == 32 };
enum { KEYS_FETCH_RATE = 256 * FEW_BLOCK_KEYS / 2 / FETCH_STREAMS * FEW_KEYS / FEW_BLOCK_KEYS };
static int32_t values_fetch_rate(const work *w) {
  const int32_t lines = w->words / LINE_WORDS, vectors = w->p->head_dim_v / LANES;
  return (256 * KEYS_PER_STEP / FETCH_STREAMS * lines + vectors - 1) / vectors;
}

/* Scores of FEW_KEYS keys and `count` rows. */
INLINE void score_few_rows(const work *w, const void *const *keys, fetcher *f, int32_t key, int32_t row,
                           int count, bool fp16) {
  vec sum[4][FEW_KEYS];
  UNROLL for (int r = 0; r < count; r++) UNROLL for (int t = 0; t < FEW_KEYS; t++) sum[r][t] = vec_zero();
  const float *q = w->q + (size_t)row * (size_t)w->words;
  for (int32_t line = 0; line < w->words; line += LINE_WORDS) {
    if (f != NULL)
      fetch(f, KEYS_FETCH_RATE);
    UNROLL for (int32_t j = line; j < line + LINE_WORDS; j += LANES) {
      vec k[FEW_KEYS];
      UNROLL for (int t = 0; t < FEW_KEYS; t++) k[t] = load_words(keys[t], j * VALUES_PER_WORD, fp16);
      UNROLL for (int r = 0; r < count; r++) {
        const vec row_words = vec_load(q + (size_t)r * (size_t)w->words + j);
        UNROLL for (int t = 0; t < FEW_KEYS; t++) sum[r][t] = vec_multiply_add(row_words, k[t], sum[r][t]);
      }
    }
  }
  float *scores = w->scores + (size_t)key * LANES + row;
  UNROLL for (int t = 0; t < FEW_KEYS; t++) UNROLL for (int r = 0; r < count; r++) scores[t * LANES + r] =
      vec_sum(sum[r][t]);
}

/* o += probabilities * values for `count` rows and 2 * pairs vectors of them. */
INLINE void add_few_vectors(const work *w, const fmlai_key_block *block, fetcher *f, int32_t fetch_rate,
                            int32_t row, int32_t at, int count, int pairs, bool fp16) {
  vec sum[4][FEW_SUMS];
  const size_t dim = (size_t)w->p->head_dim_v;
  float *o = w->o + (size_t)row * dim + at;
  UNROLL for (int r = 0; r < count; r++) UNROLL for (int j = 0; j < 2 * pairs; j++) sum[r][j] =
      vec_load(o + (size_t)r * dim + j * LANES);
  if (!FETCHES_BESIDE_SUMS && f != NULL)
    fetch_window(f, fetch_rate * (FEW_BLOCK_KEYS / KEYS_PER_STEP));
  for (int32_t t = 0; t < block->padded; t += KEYS_PER_STEP) {
    const float *p = w->scores + (size_t)(t / KEYS_PER_STEP) * LANES + row;
    if (FETCHES_BESIDE_SUMS && f != NULL)
      fetch_window(f, fetch_rate);
    UNROLL for (int j = 0; j < pairs; j++) {
      vec words[2];
      load_value_words(words, block->keys + t, at + 2 * j * LANES, fp16);
      UNROLL for (int r = 0; r < count; r++) {
        sum[r][2 * j] = vec_multiply_add(vec_set(p[r]), words[0], sum[r][2 * j]);
        sum[r][2 * j + 1] = vec_multiply_add(vec_set(p[r]), words[1], sum[r][2 * j + 1]);
      }
    }
  }
  UNROLL for (int r = 0; r < count; r++) UNROLL for (int j = 0; j < 2 * pairs; j++)
      vec_store(o + (size_t)r * dim + j * LANES, sum[r][j]);
}

INLINE void add_few_rows(const work *w, const fmlai_key_block *block, fetcher *f, int32_t row, int count,
                         bool fp16) {
  enum { PAIRS = FEW_SUMS / 2 };
  const int pairs = PAIRS / count;
  int32_t at = 0;
  const int32_t fetch_rate = values_fetch_rate(w);
  for (; at + 2 * pairs * LANES <= w->p->head_dim_v; at += 2 * pairs * LANES)
    add_few_vectors(w, block, f, pairs * fetch_rate, row, at, count, pairs, fp16);
  for (; at < w->p->head_dim_v; at += 2 * LANES)
    add_few_vectors(w, block, f, fetch_rate, row, at, count, 1, fp16);
}

/* Rows in groups of 4, 2 and 1, of which the first fetches. */
INLINE void take_few(const work *w, const fmlai_key_block *block, fetcher *f, bool fp16) {
  const int32_t rows = w->num_rows, fours = rows & ~3, twos = rows & ~1;
  memset(w->scores, 0, (size_t)block->padded * LANES * sizeof *w->scores);
  for (int32_t t = 0; t < block->padded; t += FEW_KEYS) {
    for (int32_t r = 0; r < fours; r += 4)
      score_few_rows(w, block->keys + t, r == 0 ? f : NULL, t, r, 4, fp16);
    if (fours < twos)
      score_few_rows(w, block->keys + t, fours == 0 ? f : NULL, t, fours, 2, fp16);
    if (twos < rows)
      score_few_rows(w, block->keys + t, twos == 0 ? f : NULL, t, twos, 1, fp16);
  }
  take_block(w, block);
  for (int32_t r = 0; r < fours; r += 4)
    add_few_rows(w, block, r == 0 ? f : NULL, r, 4, fp16);
  if (fours < twos)
    add_few_rows(w, block, fours == 0 ? f : NULL, fours, 2, fp16);
  if (twos < rows)
    add_few_rows(w, block, twos == 0 ? f : NULL, twos, 1, fp16);
}

static void take_all_few(const work *w, int64_t end) {
  const fmlai_plan_tile *tile = &w->item->tile;
  fmlai_key_block block;
  fetcher f;
  fetch_from(&f, w->p, tile, w->item->kv_begin + FEW_AHEAD_KEYS, end);
  for (int64_t key = w->item->kv_begin; key < end; key += FEW_BLOCK_KEYS) {
    fmlai_find_keys(&block, w->p, tile, key, end, FEW_BLOCK_KEYS, TILE_ROWS);
    f.limit = key + FEW_BLOCK_KEYS + FEW_AHEAD_KEYS;
    if (w->p->kv_format == FMLA_KV_FP16)
      take_few(w, &block, &f, true);
    else
      take_few(w, &block, &f, false);
  }
}

/* ---- The kernel ------------------------------------------------------------------------------------- */

static void take_many(const work *w, const fmlai_key_block *block, const fmlai_key_block *next, bool fp16) {
  const void *rows[MANY_BLOCK_KEYS];
  const packed_values values = pack_block(w->packed, rows, block, w->p->head_dim_k, w->p->head_dim_v, fp16);
  score_many(w, rows, block, next);
  take_block(w, block);
  add_many(w, &values, block);
}

static size_t scratch_bytes(const fmla_decode_params *p, int32_t tile_rows) {
  const size_t staging = (size_t)LANES * (size_t)(p->head_dim_k / VALUES_PER_WORD);
  const size_t packed = (size_t)MANY_BLOCK_KEYS * (size_t)(p->head_dim_k / VALUES_PER_WORD);
  return (q_words(tile_rows, p->head_dim_k) + score_words(tile_rows, MANY_BLOCK_KEYS) +
          (packed > staging ? packed : staging)) *
         sizeof(float);
}

static void decode_item(const fmla_decode_params *p, const fmlai_plan_item *item, float *o, float *row_max,
                        float *row_sum, float *row_weight, void *scratch) {
  const int32_t rows = item->tile.num_rows;
  const bool few = rows <= FEW_ROWS, fp16 = p->kv_format == FMLA_KV_FP16;
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
            .row_keys = few ? FEW_BLOCK_KEYS : MANY_BLOCK_KEYS};
  w.scores = w.q + q_words(rows, p->head_dim_k);
  w.packed = w.scores + score_words(rows, MANY_BLOCK_KEYS);
  if (few)
    for (int32_t r = 0; r < rows; r++)
      load_q_row(&w, r, w.q + (size_t)r * (size_t)w.words);
  else
    pack_q(&w, w.packed);
  begin_rows(&w);

  const int64_t end = fmlai_visible_end(p, item);
  if (few) {
    take_all_few(&w, end);
    end_rows(&w);
    return;
  }
  fmlai_key_block blocks[2];
  fmlai_find_keys(&blocks[0], p, &item->tile, item->kv_begin, end, w.row_keys, TILE_ROWS);
  for (int n = 0; blocks[n].count > 0; n ^= 1) {
    fmlai_find_keys(&blocks[n ^ 1], p, &item->tile, blocks[n].begin + w.row_keys, end, w.row_keys, TILE_ROWS);
    take_many(&w, &blocks[n], &blocks[n ^ 1], fp16);
  }
  end_rows(&w);
}

static bool serves(const fmla_decode_params *p) {
  return reads_dtype(p->q_dtype) && p->head_dim_k % LINE_VALUES == 0 && p->head_dim_v % LINE_VALUES == 0;
}

#endif
