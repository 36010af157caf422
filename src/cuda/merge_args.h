/* What the host hands to fmlai_merge_parts: fmla_merge's parameters, checked. Plain C, the same in CUDA C. */
#ifndef FMLAI_CUDA_MERGE_ARGS_H
#define FMLAI_CUDA_MERGE_ARGS_H

#include <stdint.h>

enum { FMLAI_CUDA_MERGE_THREADS = 128 };

/* A row is (batch, token, head), numbered in this order; one CTA of FMLAI_CUDA_MERGE_THREADS takes rows
   blockIdx.x, blockIdx.x + gridDim.x, ... Strides in elements; only elements are aligned, not rows. */
typedef struct fmlai_cuda_merge_args {
  const void *out_parts;
  const float *lse_parts;
  const float *sink; /* or NULL */
  void *out;
  float *lse; /* or NULL */

  int64_t out_parts_stride_part, out_parts_stride_batch, out_parts_stride_token, out_parts_stride_head;
  int64_t lse_parts_stride_part, lse_parts_stride_batch, lse_parts_stride_token, lse_parts_stride_head;
  int64_t out_stride_batch, out_stride_token, out_stride_head;
  int64_t lse_stride_batch, lse_stride_token, lse_stride_head;

  int32_t num_parts;
  int32_t batch_size;
  int32_t seqlen_q;
  int32_t num_q_heads;
  int32_t head_dim_v;
  int32_t part_dtype, out_dtype; /* fmla_dtype */
  uint32_t flags;                /* FMLA_EMPTY_LSE_POS_INF */
} fmlai_cuda_merge_args;

#endif
