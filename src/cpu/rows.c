#include "rows.h"

#include "numeric.h"

#include <math.h>
#include <stdbool.h>

float fmlai_empty_lse(uint32_t flags) {
  return (flags & FMLA_EMPTY_LSE_POS_INF) != 0 ? INFINITY : -INFINITY;
}

/* The share of the softmax that the sink leaves to the keys. */
static float sink_scale(const float *sink, float lse) {
  return sink == NULL ? 1.0f : 1.0f / (1.0f + expf(*sink - lse));
}

void fmlai_finish_row(const fmlai_row_target *target, const float *o, float row_max, float row_sum,
                      float row_weight) {
  const bool empty = row_sum == 0;
  const float lse = empty ? target->empty_lse : row_max + logf(row_sum);
  if (empty)
    memset(target->out, 0, (size_t)target->head_dim_v * fmlai_dtype_bytes(target->out_dtype));
  else
    target->store_row(target->out, target->out_dtype, o, sink_scale(target->sink, lse) / row_weight,
                      target->head_dim_v);
  if (target->lse != NULL)
    *target->lse = lse;
}

static void add_scaled(float *restrict sum, const float *restrict part, float weight, int32_t count) {
  for (int32_t j = 0; j < count; j++)
    sum[j] += weight * part[j];
}

void fmlai_merge_row(const fmlai_row_target *target, const fmlai_row_parts *parts) {
  float largest = -INFINITY;
  for (int64_t i = 0; i < parts->num_parts; i++) {
    const float lse = parts->lse[i * parts->lse_stride];
    if (lse != target->empty_lse && lse > largest)
      largest = lse;
  }
  float sum[FMLA_MAX_HEAD_DIM], part[FMLA_MAX_HEAD_DIM];
  memset(sum, 0, (size_t)target->head_dim_v * sizeof *sum);
  float weights = 0;
  for (int64_t i = 0; i < parts->num_parts; i++) {
    const float lse = parts->lse[i * parts->lse_stride];
    if (lse == target->empty_lse || lse == -INFINITY)
      continue;
    const float weight = expf(lse - largest);
    const void *from = fmlai_at(parts->out, parts->dtype, i * parts->out_stride);
    if (parts->dtype != FMLA_DTYPE_FP32)
      fmlai_load_row(part, from, parts->dtype, target->head_dim_v);
    add_scaled(sum, parts->dtype == FMLA_DTYPE_FP32 ? from : part, weight, target->head_dim_v);
    weights += weight;
  }
  fmlai_finish_row(target, sum, largest, weights, weights);
}
