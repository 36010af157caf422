/*
 * sample.c: makes the samples' tensors.
 *
 * SPDX-License-Identifier: MIT
 */
#include "sample.h"

#include <stdio.h>
#include <stdlib.h>

enum { SPOILT = 0xa5 };

const sample_shape sample_tiny = {.batch_size = 3,
                                  .num_q_heads = 4,
                                  .num_kv_heads = 2,
                                  .head_dim_k = 24,
                                  .head_dim_v = 16,
                                  .head_dim_rope = 8,
                                  .max_seqlen_q = 2,
                                  .page_size = 4,
                                  .longest = 11,
                                  .out_dtype = FMLA_DTYPE_FP32,
                                  .sink = true};

const sample_shape sample_long = {.batch_size = 4,
                                  .num_q_heads = 96,
                                  .num_kv_heads = 1,
                                  .head_dim_k = 40,
                                  .head_dim_v = 32,
                                  .max_seqlen_q = 2,
                                  .page_size = 16,
                                  .longest = 2300,
                                  .out_dtype = FMLA_DTYPE_BF16,
                                  .flags = FMLA_CAUSAL,
                                  .ragged = true};

static void *allocate(int64_t elements, size_t element_bytes) {
  void *memory = malloc((size_t)elements * element_bytes);
  if (memory == NULL) {
    fprintf(stderr, "no memory for a sample\n");
    exit(EXIT_FAILURE);
  }
  return memory;
}

/* BF16 values of -2 .. 2 that look random. */
static uint16_t *noise(int64_t elements, uint32_t state) {
  uint16_t *values = allocate(elements, sizeof *values);
  for (int64_t i = 0; i < elements; i++) {
    state = state * 1664525u + 1013904223u;
    const float value = ((float)(state >> 24) - 127.5f) / 64;
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    values[i] = (uint16_t)(bits >> 16);
  }
  return values;
}

static void add_queries(sample *s, const sample_shape *shape) {
  fmla_decode_params *p = &s->params;
  int64_t rows = (int64_t)p->batch_size * p->max_seqlen_q;
  if (shape->ragged) {
    s->cu_seqlens_q = allocate(p->batch_size + 1, sizeof *s->cu_seqlens_q);
    s->cu_seqlens_q[0] = 0;
    for (int32_t i = 0; i < p->batch_size; i++)
      s->cu_seqlens_q[i + 1] = s->cu_seqlens_q[i] + (i < p->max_seqlen_q ? p->max_seqlen_q - i : 0);
    rows = p->total_q = s->cu_seqlens_q[p->batch_size] + 1;
  }
  const int64_t q_rows = rows * p->num_q_heads;
  s->q = noise(q_rows * (p->head_dim_k - shape->head_dim_rope), 1);
  if (shape->head_dim_rope > 0)
    s->q_rope = noise(q_rows * shape->head_dim_rope, 2);
  s->out_bytes = (size_t)(q_rows * p->head_dim_v) * (p->out_dtype == FMLA_DTYPE_FP32 ? 4 : 2);
  s->lse_bytes = (size_t)q_rows * sizeof(float);
  s->out = allocate((int64_t)s->out_bytes, 1);
  s->lse = allocate((int64_t)s->lse_bytes, 1);
}

/* Sequence i has longest tokens less i shares of the whole; its pages come from the end of the cache. */
static void add_keys(sample *s, const sample_shape *shape) {
  fmla_decode_params *p = &s->params;
  const int32_t columns = (shape->longest + p->page_size - 1) / p->page_size;
  p->max_pages_per_seq = columns;
  p->num_pages = (int64_t)columns * p->batch_size;
  s->block_table = allocate(p->num_pages, sizeof *s->block_table);
  for (int32_t i = 0; i < p->num_pages; i++)
    s->block_table[i] = (int32_t)p->num_pages - 1 - i;
  s->cache_seqlens = allocate(p->batch_size, sizeof *s->cache_seqlens);
  for (int32_t i = 0; i < p->batch_size; i++)
    s->cache_seqlens[i] = shape->longest - i * shape->longest / p->batch_size;
  s->kv_cache = noise(p->num_pages * p->page_size * p->num_kv_heads * p->head_dim_k, 3);
}

sample sample_new(const sample_shape *shape) {
  sample s = {.params = FMLA_DECODE_PARAMS_INIT};
  fmla_decode_params *p = &s.params;
  p->batch_size = shape->batch_size;
  p->num_q_heads = shape->num_q_heads;
  p->num_kv_heads = shape->num_kv_heads;
  p->head_dim_k = shape->head_dim_k;
  p->head_dim_v = shape->head_dim_v;
  p->head_dim_rope = shape->head_dim_rope;
  p->max_seqlen_q = shape->max_seqlen_q;
  p->page_size = shape->page_size;
  p->out_dtype = shape->out_dtype;
  p->flags = shape->flags;
  p->softmax_scale = 0.125f;
  add_queries(&s, shape);
  add_keys(&s, shape);
  if (shape->sink) {
    s.sink = allocate(p->num_q_heads, sizeof *s.sink);
    for (int32_t i = 0; i < p->num_q_heads; i++)
      s.sink[i] = (float)i;
  }
  p->q = s.q;
  p->q_rope = s.q_rope;
  p->kv_cache = s.kv_cache;
  p->block_table = s.block_table;
  p->cache_seqlens = s.cache_seqlens;
  p->cu_seqlens_q = s.cu_seqlens_q;
  p->sink = s.sink;
  p->out = s.out;
  p->lse = s.lse;
  sample_spoil_outputs(&s);
  return s;
}

void sample_free(sample *s) {
  free(s->q);
  free(s->q_rope);
  free(s->kv_cache);
  free(s->block_table);
  free(s->cache_seqlens);
  free(s->cu_seqlens_q);
  free(s->sink);
  free(s->out);
  free(s->lse);
}

void sample_spoil_outputs(sample *s) {
  memset(s->out, SPOILT, s->out_bytes);
  memset(s->lse, SPOILT, s->lse_bytes);
}

static bool all_spoilt(const void *memory, size_t bytes) {
  const unsigned char *at = memory;
  for (size_t i = 0; i < bytes; i++)
    if (at[i] != SPOILT)
      return false;
  return true;
}

bool sample_outputs_spoilt(const sample *s) {
  return all_spoilt(s->out, s->out_bytes) && all_spoilt(s->lse, s->lse_bytes);
}

fmla_context *sample_context;

int open_sample_context(void **state) {
  (void)state;
  const fmla_config config = {.struct_size = sizeof config, .num_threads = 2};
  return fmla_open(&config, &sample_context) == FMLA_OK ? 0 : -1;
}

int close_sample_context(void **state) {
  (void)state;
  fmla_close(sample_context);
  return 0;
}

fmla_status sample_decode(fmla_context *context, sample *s) {
  size_t bytes = 0;
  fmla_status status = fmla_decode_workspace(context, &s->params, &bytes);
  if (status != FMLA_OK)
    return status;
  void *workspace = allocate((int64_t)bytes, 1);
  status = fmla_decode(context, &s->params, workspace, bytes, NULL);
  free(workspace);
  return status;
}

bool sample_same_outputs(const sample *a, const sample *b) {
  return a->out_bytes == b->out_bytes && memcmp(a->out, b->out, a->out_bytes) == 0 &&
         a->lse_bytes == b->lse_bytes && memcmp(a->lse, b->lse, a->lse_bytes) == 0;
}
