/*
 * shape.c: strides, rows and masks of a call.
 *
 * SPDX-License-Identifier: MIT
 */
#include "shape.h"

#include <stdbool.h>

/* A dimension of a tensor. */
typedef struct dimension {
  int64_t *stride;
  int64_t extent;
} dimension;

/* Dimensions come slowest first; `row` elements are contiguous behind them. */
static void resolve(const dimension *dims, int count, int64_t row) {
  int64_t step = row;
  for (int i = count - 1; i >= 0; i--) {
    if (*dims[i].stride == FMLA_PACKED)
      *dims[i].stride = step;
    step = *dims[i].stride * (dims[i].extent > 1 ? dims[i].extent : 1);
  }
}

void verify_resolve_decode(fmla_decode_params *p) {
  const int64_t batch = p->batch_size, heads = p->num_q_heads, q_dim = verify_q_dim(p);
  const int64_t tokens = p->cu_seqlens_q != NULL ? p->total_q : p->max_seqlen_q;
  const bool ragged = p->cu_seqlens_q != NULL; /* then there is no batch dimension */
  const dimension q[] = {{&p->q_stride_batch, batch}, {&p->q_stride_token, tokens}, {&p->q_stride_head, heads}};
  const dimension q_rope[] = {
      {&p->q_rope_stride_batch, batch}, {&p->q_rope_stride_token, tokens}, {&p->q_rope_stride_head, heads}};
  const dimension kv[] = {{&p->kv_stride_page, p->num_pages},
                          {&p->kv_stride_token, p->page_size},
                          {&p->kv_stride_head, p->num_kv_heads}};
  const dimension table[] = {{&p->block_table_stride, batch}};
  const dimension out[] = {
      {&p->out_stride_batch, batch}, {&p->out_stride_token, tokens}, {&p->out_stride_head, heads}};
  const dimension lse[] = {
      {&p->lse_stride_batch, batch}, {&p->lse_stride_head, heads}, {&p->lse_stride_token, tokens}};
  resolve(q + ragged, 3 - ragged, q_dim);
  resolve(q_rope + ragged, 3 - ragged, p->head_dim_k - q_dim);
  resolve(kv, 3, p->head_dim_k);
  resolve(table, 1, p->max_pages_per_seq);
  resolve(out + ragged, 3 - ragged, p->head_dim_v);
  resolve(lse + ragged, 3 - ragged, 1);
}

void verify_resolve_merge(fmla_merge_params *p) {
  const int64_t parts = p->num_parts, batch = p->batch_size, heads = p->num_q_heads, tokens = p->seqlen_q;
  const dimension out_parts[] = {{&p->out_parts_stride_part, parts},
                                 {&p->out_parts_stride_batch, batch},
                                 {&p->out_parts_stride_token, tokens},
                                 {&p->out_parts_stride_head, heads}};
  const dimension lse_parts[] = {{&p->lse_parts_stride_part, parts},
                                 {&p->lse_parts_stride_batch, batch},
                                 {&p->lse_parts_stride_head, heads},
                                 {&p->lse_parts_stride_token, tokens}};
  const dimension out[] = {
      {&p->out_stride_batch, batch}, {&p->out_stride_token, tokens}, {&p->out_stride_head, heads}};
  const dimension lse[] = {
      {&p->lse_stride_batch, batch}, {&p->lse_stride_head, heads}, {&p->lse_stride_token, tokens}};
  resolve(out_parts, 4, p->head_dim_v);
  resolve(lse_parts, 4, 1);
  resolve(out, 3, p->head_dim_v);
  resolve(lse, 3, 1);
}

int32_t verify_q_dim(const fmla_decode_params *p) {
  return p->q_rope != NULL ? p->head_dim_k - p->head_dim_rope : p->head_dim_k;
}

int32_t verify_kv_dtype(const fmla_decode_params *p) {
  return p->kv_format == FMLA_KV_FP16 ? FMLA_DTYPE_FP16 : FMLA_DTYPE_BF16;
}

int64_t verify_num_queries(const fmla_decode_params *p) {
  return p->cu_seqlens_q != NULL ? p->total_q : (int64_t)p->batch_size * p->max_seqlen_q;
}

verify_query verify_query_at(const fmla_decode_params *p, int64_t index) {
  verify_query query = {.sequence = -1, .token = index, .num_keys = 0, .batch_row = 0, .token_row = index};
  int64_t tokens = p->max_seqlen_q;
  if (p->cu_seqlens_q == NULL) {
    query.sequence = (int32_t)(index / tokens);
    query.token = index % tokens;
    query.batch_row = query.sequence;
    query.token_row = query.token;
  } else {
    for (int32_t i = 0; i < p->batch_size; i++)
      if (index >= p->cu_seqlens_q[i] && index < p->cu_seqlens_q[i + 1]) {
        query.sequence = i;
        query.token = index - p->cu_seqlens_q[i];
        tokens = p->cu_seqlens_q[i + 1] - p->cu_seqlens_q[i];
      }
  }
  if (query.sequence >= 0) {
    query.num_keys = p->cache_seqlens[query.sequence];
    if ((p->flags & FMLA_CAUSAL) != 0)
      query.num_keys += query.token + 1 - tokens;
    if (query.num_keys < 0)
      query.num_keys = 0;
  }
  return query;
}

int64_t verify_q_offset(const fmla_decode_params *p, const verify_query *query, int32_t head) {
  return query->batch_row * p->q_stride_batch + query->token_row * p->q_stride_token + head * p->q_stride_head;
}

int64_t verify_q_rope_offset(const fmla_decode_params *p, const verify_query *query, int32_t head) {
  return query->batch_row * p->q_rope_stride_batch + query->token_row * p->q_rope_stride_token +
         head * p->q_rope_stride_head;
}

int64_t verify_kv_offset(const fmla_decode_params *p, int32_t sequence, int64_t key, int32_t kv_head) {
  int64_t page = p->block_table[sequence * p->block_table_stride + key / p->page_size];
  return page * p->kv_stride_page + key % p->page_size * p->kv_stride_token + kv_head * p->kv_stride_head;
}

int64_t verify_out_offset(const fmla_decode_params *p, const verify_query *query, int32_t head) {
  return query->batch_row * p->out_stride_batch + query->token_row * p->out_stride_token +
         head * p->out_stride_head;
}

int64_t verify_lse_offset(const fmla_decode_params *p, const verify_query *query, int32_t head) {
  return query->batch_row * p->lse_stride_batch + query->token_row * p->lse_stride_token +
         head * p->lse_stride_head;
}
