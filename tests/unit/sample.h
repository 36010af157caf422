/*
 * sample.h: a small valid decode step in writable memory, for tests that change something about it.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef UNIT_SAMPLE_H
#define UNIT_SAMPLE_H

#include "flash_mla.h"

#include <stdbool.h>

typedef struct sample_shape {
  int32_t batch_size, num_q_heads, num_kv_heads, head_dim_k, head_dim_v;
  int32_t head_dim_rope; /* 0: q in one tensor */
  int32_t max_seqlen_q, page_size, longest;
  int32_t out_dtype;
  uint32_t flags;
  bool
      ragged; /* cu_seqlens_q: sequence i has max_seqlen_q - i query tokens (at least 0), and one row is left */
  bool sink;
} sample_shape;

/* Shapes whose every part matters: several heads, pages, tiles, splits. */
extern const sample_shape sample_tiny; /* a few kilobytes, one split */
extern const sample_shape sample_long; /* long enough for splits in both modes */

/* The pointers of params, without their const; each tensor is an allocation of exactly its size. */
typedef struct sample {
  fmla_decode_params params;
  uint16_t *q, *q_rope, *kv_cache;
  int32_t *block_table, *cache_seqlens, *cu_seqlens_q;
  float *sink;
  void *out;
  float *lse;
  size_t out_bytes, lse_bytes;
} sample;

/* All strides are FMLA_PACKED, q and the cache BF16. Exits the program when memory ran out. */
sample sample_new(const sample_shape *shape);
void sample_free(sample *s);

/* Outputs become bytes that no decode leaves behind; whether they still are. */
void sample_spoil_outputs(sample *s);
bool sample_outputs_spoilt(const sample *s);

/* A context of two threads, for the tests of a group: its setup and teardown. */
extern fmla_context *sample_context;
int open_sample_context(void **state);
int close_sample_context(void **state);

/* fmla_decode with a workspace of exactly the bytes that it asks for. */
fmla_status sample_decode(fmla_context *context, sample *s);

/* Both hold the same bits in out and lse. */
bool sample_same_outputs(const sample *a, const sample *b);

#endif
