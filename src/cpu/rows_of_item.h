/*
 * What all vector kernels do with an item's rows, whatever multiplies: q packed, a row in each lane, and the
 * softmax's state. Part of each object that includes it, after vectors, words and softmax.
 */
#ifndef FMLAI_CPU_ROWS_OF_ITEM_H
#define FMLAI_CPU_ROWS_OF_ITEM_H

#include "cpu/kernel.h"
#include "numeric.h"

#include <string.h>

/* An item at work. Row r is lane r % LANES of lane block r / LANES. */
typedef struct work {
  const fmla_decode_params *p;
  const fmlai_plan_item *item;
  int32_t num_rows, num_lane_blocks;
  int32_t words;    /* of a row of q, and of a key */
  float *o;         /* [num_rows, head_dim_v] */
  float *reference; /* of the softmax, for each row */
  float *row_sum;   /* likewise */
  float *weight;    /* likewise */
  float *q;         /* packed: [lane blocks][words][LANES] */
  float *scores;    /* of a block of keys, then probabilities: [lane blocks][row_keys][LANES] */
  float *packed;    /* a block of keys */
  int32_t row_keys;
} work;

/* The packed q, in floats. */
static size_t q_words(int32_t rows, int32_t dim_k) {
  return (size_t)(rows + LANES - 1) / LANES * LANES * (size_t)(dim_k / VALUES_PER_WORD);
}

/* Row r of q as words; its two parts joined. */
static void load_q_row(const work *w, int32_t r, float *words) {
  const fmla_decode_params *p = w->p;
  const fmlai_row row = fmlai_row_of(p, &w->item->tile, r);
  const int32_t dim_nope = p->head_dim_k - p->head_dim_rope;
  uint16_t values[FMLA_MAX_HEAD_DIM];
  const int64_t at =
      row.batch * p->q_stride_batch + row.token * p->q_stride_token + row.head * p->q_stride_head;
  memcpy(values, fmlai_at(p->q, p->q_dtype, at), (size_t)dim_nope * sizeof *values);
  if (p->q_rope != NULL) {
    const int64_t at_rope = row.batch * p->q_rope_stride_batch + row.token * p->q_rope_stride_token +
                            row.head * p->q_rope_stride_head;
    memcpy(values + dim_nope, fmlai_at(p->q_rope, p->q_dtype, at_rope),
           (size_t)p->head_dim_rope * sizeof *values);
  }
  const bool fp16 = p->q_dtype == FMLA_DTYPE_FP16;
  for (int32_t j = 0; j < w->words; j += LANES)
    vec_store(words + j, load_words(values, j * VALUES_PER_WORD, fp16));
}

/* All rows of q, [lane blocks][words][LANES]; lanes without a row get zeros. `staging` holds LANES rows. */
static void pack_q(const work *w, float *staging) {
  for (int32_t b = 0; b < w->num_lane_blocks; b++) {
    for (int32_t i = 0; i < LANES; i++) {
      float *to = staging + (size_t)i * (size_t)w->words;
      if (b * LANES + i < w->num_rows)
        load_q_row(w, b * LANES + i, to);
      else
        memset(to, 0, (size_t)w->words * sizeof *to);
    }
    for (int32_t j = 0; j < w->words; j += LANES)
      vec_transpose(w->q + ((size_t)b * (size_t)w->words + (size_t)j) * LANES, staging + j, (size_t)w->words);
  }
}

/* Whether each row sees all of the block, and nothing is to be masked. */
static bool sees_all(const work *w, const fmlai_key_block *block) {
  return block->padded == block->count &&
         fmlai_visible_keys(w->p, &w->item->tile, 0) >= block->begin + block->count;
}

/* Scores of a lane block that its rows do not see become -inf. */
INLINE void mask_lane_block(const work *w, const fmlai_key_block *block, int32_t lane_block, float *scores) {
  float limits[LANES];
  const int32_t smallest = fmlai_key_limits(limits, w->p, &w->item->tile, block, lane_block * LANES, LANES);
  mask_scores(scores, limits, smallest, block->padded);
}

/* fmlai_store_row() for counts that are multiples of LANES, bit for bit. */
static void store_row(void *to, int32_t dtype, const float *from, float scale, int32_t count) {
  uint16_t *half = to;
  const vec scales = vec_set(scale);
  for (int32_t j = 0; j < count; j += LANES) {
    const vec v = vec_mul(vec_load(from + j), scales);
    if (dtype == FMLA_DTYPE_BF16)
      vec_store_bf16(half + j, v);
    else if (dtype == FMLA_DTYPE_FP16)
      vec_store_fp16(half + j, v);
    else
      vec_store((float *)to + j, v);
  }
}

#endif
