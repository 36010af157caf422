/* The end of a row's way: from sums to out and lse, and from partial results to a whole one. */
#ifndef FMLAI_CPU_ROWS_H
#define FMLAI_CPU_ROWS_H

#include "flash_mla.h"

/* Where one row of out and lse goes, and how. */
typedef struct fmlai_row_target {
  void (*store_row)(void *to, int32_t dtype, const float *from, float scale, int32_t count);
  void *out;
  int32_t out_dtype;
  int32_t head_dim_v;
  float *lse;        /* or NULL */
  float empty_lse;   /* lse of a row without keys */
  const float *sink; /* this head's, or NULL */
} fmlai_row_target;

/* -inf, or +inf with FMLA_EMPTY_LSE_POS_INF. */
float fmlai_empty_lse(uint32_t flags);

/* out = o / row_weight and lse = row_max + log(row_sum), with the sink; a row_sum of 0 is a row without keys.
 */
void fmlai_finish_row(const fmlai_row_target *target, const float *o, float row_max, float row_sum,
                      float row_weight);

/* Parts of a row: out_part(i) at `out` + i * out_stride elements, lse_part(i) at lse[i * lse_stride]. */
typedef struct fmlai_row_parts {
  int64_t num_parts;
  const void *out;
  int32_t dtype;
  int64_t out_stride;
  const float *lse;
  int64_t lse_stride;
} fmlai_row_parts;

/* Merges the parts in order, those whose lse is target->empty_lse or -inf left out, and finishes the row. */
void fmlai_merge_row(const fmlai_row_target *target, const fmlai_row_parts *parts);

#endif
