/*
 * shape.h: what the extents of a call say: strides, rows, and who sees which keys. Written from flash_mla.h
 * alone; shared by what makes cases, computes the truth, and compares.
 *
 * SPDX-License-Identifier: MIT
 */
#ifndef VERIFY_SHAPE_H
#define VERIFY_SHAPE_H

#include "flash_mla.h"

/* Replaces every FMLA_PACKED by the stride it stands for. */
void verify_resolve_decode(fmla_decode_params *params);
void verify_resolve_merge(fmla_merge_params *params);

/* The dimension of q: head_dim_k, less the part that lies in q_rope. */
int32_t verify_q_dim(const fmla_decode_params *params);

/* The fmla_dtype of the cache's elements. */
int32_t verify_kv_dtype(const fmla_decode_params *params);

/* The number of query tokens in all: total_q or batch_size * max_seqlen_q. */
int64_t verify_num_queries(const fmla_decode_params *params);

/* One query token. */
typedef struct verify_query {
  int32_t sequence;  /* -1: past the last sequence */
  int64_t token;     /* within its sequence, or the row of q */
  int64_t num_keys;  /* it sees keys 0 .. num_keys - 1 */
  int64_t batch_row; /* its place along the batch and the token dimension of q, out and lse */
  int64_t token_row;
} verify_query;

verify_query verify_query_at(const fmla_decode_params *params, int64_t index);

/* The first element of a head's row in each tensor of a resolved call. */
int64_t verify_q_offset(const fmla_decode_params *params, const verify_query *query, int32_t head);
int64_t verify_q_rope_offset(const fmla_decode_params *params, const verify_query *query, int32_t head);
int64_t verify_kv_offset(const fmla_decode_params *params, int32_t sequence, int64_t key, int32_t kv_head);
int64_t verify_out_offset(const fmla_decode_params *params, const verify_query *query, int32_t head);
int64_t verify_lse_offset(const fmla_decode_params *params, const verify_query *query, int32_t head);

#endif
