/*
 * gpu_rules.c: written from flash_mla.h alone.
 *
 * SPDX-License-Identifier: MIT
 */
#include "gpu_rules.h"

#include "number.h"
#include "shape.h"

#include <math.h>

enum { HEAD_DIM_MULTIPLE = 16, MAX_HEAD_DIM_K = 576, STRIDE_BYTES = 16, STRIDE_MULTIPLE = 8 };

/* A stride that is never taken, as there is one element along its dimension, may be anything. */
static bool is_stride_taken(int64_t extent, int64_t stride, int32_t dtype) {
  return extent <= 1 || stride * (int64_t)verify_dtype_bytes(dtype) % STRIDE_BYTES == 0;
}

bool verify_obeys_gpu_rules(const fmla_decode_params *params) {
  fmla_decode_params p = *params;
  verify_resolve_decode(&p);
  const bool varlen = p.cu_seqlens_q != NULL, apart = p.q_rope != NULL;
  const int64_t batch = varlen ? 1 : p.batch_size, tokens = varlen ? p.total_q : p.max_seqlen_q;
  const int64_t heads = p.num_q_heads;
  return p.head_dim_k <= MAX_HEAD_DIM_K && p.head_dim_k % HEAD_DIM_MULTIPLE == 0 &&
         p.head_dim_v % HEAD_DIM_MULTIPLE == 0 && (!apart || p.head_dim_rope % HEAD_DIM_MULTIPLE == 0) &&
         is_stride_taken(batch, p.q_stride_batch, p.q_dtype) &&
         is_stride_taken(tokens, p.q_stride_token, p.q_dtype) &&
         is_stride_taken(heads, p.q_stride_head, p.q_dtype) &&
         (!apart || (is_stride_taken(batch, p.q_rope_stride_batch, p.q_dtype) &&
                     is_stride_taken(tokens, p.q_rope_stride_token, p.q_dtype) &&
                     is_stride_taken(heads, p.q_rope_stride_head, p.q_dtype))) &&
         is_stride_taken(p.num_pages, p.kv_stride_page, p.q_dtype) &&
         is_stride_taken(p.page_size, p.kv_stride_token, p.q_dtype) &&
         is_stride_taken(p.num_kv_heads, p.kv_stride_head, p.q_dtype) &&
         is_stride_taken(batch, p.out_stride_batch, p.out_dtype) &&
         is_stride_taken(tokens, p.out_stride_token, p.out_dtype) &&
         is_stride_taken(heads, p.out_stride_head, p.out_dtype);
}

static int32_t round_up(int32_t dim) {
  return (dim + HEAD_DIM_MULTIPLE - 1) / HEAD_DIM_MULTIPLE * HEAD_DIM_MULTIPLE;
}

verify_case verify_case_for_gpus(const verify_case *c) {
  verify_case apt = *c;
  apt.head_dim_k = round_up(c->head_dim_k);
  apt.head_dim_v = round_up(c->head_dim_v);
  apt.head_dim_rope = round_up(c->head_dim_rope);
  if (apt.head_dim_rope >= apt.head_dim_k) /* q's other part has a dimension, too */
    apt.head_dim_k = apt.head_dim_rope + HEAD_DIM_MULTIPLE;
  if (c->softmax_scale == 1 / sqrtf((float)c->head_dim_k)) /* it was the default */
    apt.softmax_scale = 1 / sqrtf((float)apt.head_dim_k);
  apt.stride_multiple = STRIDE_MULTIPLE;
  return apt;
}
