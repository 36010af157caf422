/*
 * The portable kernel: plain C for any CPU and every call. It is the reference for faster kernels.
 *
 * Online softmax over tiles of keys (Milakov and Gimelshein, arXiv:1805.02867; Dao et al., arXiv:2205.14135): a
 * tile is widened to FP32 once and then met by every row, each keeping its running maximum, its sum and its
 * output.
 */
#include "kernel.h"
#include "kv_cache.h"
#include "numeric.h"

#include <math.h>

enum { TILE_KEYS = 32, MAX_TILE_ROWS = 128 };

/* scores[t] = scale * (q . keys[t]), four keys at a time so that q is loaded once for them. */
static void score_keys(float *restrict scores, const float *restrict q, const float *restrict keys,
                       int32_t num_keys, int32_t dim, float scale) {
  int32_t t = 0;
  for (; t + 4 <= num_keys; t += 4) {
    const float *restrict k0 = keys + (size_t)t * (size_t)dim;
    const float *restrict k1 = k0 + dim, *restrict k2 = k1 + dim, *restrict k3 = k2 + dim;
    float s0 = 0, s1 = 0, s2 = 0, s3 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3)
    for (int32_t j = 0; j < dim; j++) {
      s0 += q[j] * k0[j];
      s1 += q[j] * k1[j];
      s2 += q[j] * k2[j];
      s3 += q[j] * k3[j];
    }
    scores[t] = s0 * scale;
    scores[t + 1] = s1 * scale;
    scores[t + 2] = s2 * scale;
    scores[t + 3] = s3 * scale;
  }
  for (; t < num_keys; t++) {
    const float *restrict k = keys + (size_t)t * (size_t)dim;
    float s = 0;
#pragma omp simd reduction(+ : s)
    for (int32_t j = 0; j < dim; j++)
      s += q[j] * k[j];
    scores[t] = s * scale;
  }
}

/* o += sum of weights[t] * values[t], four values at a time so that o is loaded and stored once for them. */
static void add_values(float *restrict o, const float *restrict weights, const float *restrict values,
                       int32_t num_keys, int32_t stride, int32_t dim) {
  int32_t t = 0;
  for (; t + 4 <= num_keys; t += 4) {
    const float *restrict v0 = values + (size_t)t * (size_t)stride;
    const float *restrict v1 = v0 + stride, *restrict v2 = v1 + stride, *restrict v3 = v2 + stride;
    const float w0 = weights[t], w1 = weights[t + 1], w2 = weights[t + 2], w3 = weights[t + 3];
    for (int32_t j = 0; j < dim; j++)
      o[j] += (w0 * v0[j] + w1 * v1[j]) + (w2 * v2[j] + w3 * v3[j]);
  }
  for (; t < num_keys; t++)
    for (int32_t j = 0; j < dim; j++)
      o[j] += weights[t] * values[(size_t)t * (size_t)stride + (size_t)j];
}

static void scale_row(float *restrict row, float factor, int32_t count) {
  for (int32_t j = 0; j < count; j++)
    row[j] *= factor;
}

/* Rows of the tile as FP32, the two parts of a split q joined. */
static void load_q(float *q, const fmla_decode_params *p, const fmlai_plan_tile *tile) {
  const int32_t dim_nope = p->head_dim_k - p->head_dim_rope;
  for (int32_t r = 0; r < tile->num_rows; r++) {
    const fmlai_row row = fmlai_row_of(p, tile, r);
    float *to = q + (size_t)r * (size_t)p->head_dim_k;
    const int64_t at =
        row.batch * p->q_stride_batch + row.token * p->q_stride_token + row.head * p->q_stride_head;
    fmlai_load_row(to, fmlai_at(p->q, p->q_dtype, at), p->q_dtype, dim_nope);
    if (p->q_rope != NULL) {
      const int64_t at_rope = row.batch * p->q_rope_stride_batch + row.token * p->q_rope_stride_token +
                              row.head * p->q_rope_stride_head;
      fmlai_load_row(to + dim_nope, fmlai_at(p->q_rope, p->q_dtype, at_rope), p->q_dtype, p->head_dim_rope);
    }
  }
}

/* Keys begin .. begin + count - 1 of the tile's sequence as FP32, [count, head_dim_k]. */
static void load_keys(float *keys, const fmla_decode_params *p, const fmlai_plan_tile *tile, int64_t begin,
                      int32_t count) {
  const int32_t dtype = fmlai_kv_dtype(p->kv_format);
  for (int32_t t = 0; t < count;) {
    int64_t run;
    const void *entry = fmlai_kv_entry(p, tile->batch, tile->kv_head, begin + t, &run);
    for (int64_t i = 0; i < run && t < count; i++, t++)
      fmlai_load_row(keys + (size_t)t * (size_t)p->head_dim_k, fmlai_at(entry, dtype, i * p->kv_stride_token),
                     dtype, p->head_dim_k);
  }
}

/* Takes num_keys keys into a row's running softmax. */
static void update_row(const fmla_decode_params *p, float *o, float *row_max, float *row_sum, const float *q,
                       const float *keys, int32_t num_keys) {
  float weights[TILE_KEYS];
  score_keys(weights, q, keys, num_keys, p->head_dim_k, p->softmax_scale);
  float largest = *row_max;
  for (int32_t t = 0; t < num_keys; t++)
    largest = weights[t] > largest ? weights[t] : largest;
  if (largest > *row_max) {
    const float factor = expf(*row_max - largest);
    scale_row(o, factor, p->head_dim_v);
    *row_sum *= factor;
    *row_max = largest;
  }
  float sum = 0;
  for (int32_t t = 0; t < num_keys; t++) {
    weights[t] = expf(weights[t] - largest);
    sum += weights[t];
  }
  *row_sum += sum;
  add_values(o, weights, keys, num_keys, p->head_dim_k, p->head_dim_v);
}

static void decode_item(const fmla_decode_params *p, const fmlai_plan_item *item, float *o, float *row_max,
                        float *row_sum, float *row_weight, void *scratch) {
  const fmlai_plan_tile *tile = &item->tile;
  float *keys = scratch;
  float *q = keys + (size_t)TILE_KEYS * (size_t)p->head_dim_k;
  load_q(q, p, tile);
  memset(o, 0, (size_t)tile->num_rows * (size_t)p->head_dim_v * sizeof *o);
  for (int32_t r = 0; r < tile->num_rows; r++) {
    row_max[r] = -INFINITY;
    row_sum[r] = 0;
  }
  for (int64_t begin = item->kv_begin; begin < item->kv_end; begin += TILE_KEYS) {
    const int64_t left = item->kv_end - begin;
    const int32_t count = left < TILE_KEYS ? (int32_t)left : TILE_KEYS;
    load_keys(keys, p, tile, begin, count);
    for (int32_t r = 0; r < tile->num_rows; r++) {
      const int64_t visible = fmlai_visible_keys(p, tile, r) - begin;
      if (visible > 0)
        update_row(p, o + (size_t)r * (size_t)p->head_dim_v, &row_max[r], &row_sum[r],
                   q + (size_t)r * (size_t)p->head_dim_k, keys, visible < count ? (int32_t)visible : count);
    }
  }
  memcpy(row_weight, row_sum, (size_t)tile->num_rows * sizeof *row_weight);
}

static bool serves(const fmla_decode_params *p) {
  (void)p;
  return true;
}

static size_t scratch_bytes(const fmla_decode_params *p, int32_t tile_rows) {
  return (size_t)(TILE_KEYS + tile_rows) * (size_t)p->head_dim_k * sizeof(float);
}

const fmlai_cpu_kernel fmlai_cpu_kernel_portable = {
    .name = "portable",
    .needs = "any CPU",
    .takes = "every call",
    .features = 0,
    .probability_dtype = FMLA_DTYPE_FP32,
    .max_tile_rows = MAX_TILE_ROWS,
    .gflops = 25,
    .serves = serves,
    .scratch_bytes = scratch_bytes,
    .decode_item = decode_item,
    .store_row = fmlai_store_row,
};
