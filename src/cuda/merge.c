#include "cuda/merge_args.h"

#include "cuda/decode.h"

/* Rows are short: this many CTAs of an SM hide each other's waiting. */
enum { MERGE_CTAS_PER_SM = 16 };

fmla_status fmlai_cuda_merge(const fmlai_cuda_context *c, const fmla_merge_params *p, CUstream stream) {
  fmlai_cuda_merge_args args = {
      .out_parts = p->out_parts,
      .lse_parts = p->lse_parts,
      .sink = p->sink,
      .out = p->out,
      .lse = p->lse,
      .out_parts_stride_part = p->out_parts_stride_part,
      .out_parts_stride_batch = p->out_parts_stride_batch,
      .out_parts_stride_token = p->out_parts_stride_token,
      .out_parts_stride_head = p->out_parts_stride_head,
      .lse_parts_stride_part = p->lse_parts_stride_part,
      .lse_parts_stride_batch = p->lse_parts_stride_batch,
      .lse_parts_stride_token = p->lse_parts_stride_token,
      .lse_parts_stride_head = p->lse_parts_stride_head,
      .out_stride_batch = p->out_stride_batch,
      .out_stride_token = p->out_stride_token,
      .out_stride_head = p->out_stride_head,
      .lse_stride_batch = p->lse_stride_batch,
      .lse_stride_token = p->lse_stride_token,
      .lse_stride_head = p->lse_stride_head,
      .num_parts = p->num_parts,
      .batch_size = p->batch_size,
      .seqlen_q = p->seqlen_q,
      .num_q_heads = p->num_q_heads,
      .head_dim_v = p->head_dim_v,
      .part_dtype = p->part_dtype,
      .out_dtype = p->out_dtype,
      .flags = p->flags,
  };
  void *parameters[] = {&args};
  const int64_t most = (int64_t)c->device->num_sms * MERGE_CTAS_PER_SM;
  const int64_t tokens = (int64_t)p->batch_size * p->seqlen_q;
  const int64_t rows = tokens < most ? tokens * p->num_q_heads : most;
  const fmlai_cuda_launch launch = {.function = c->functions.merge_parts,
                                    .grid = (int32_t)(rows < most ? rows : most),
                                    .block = FMLAI_CUDA_MERGE_THREADS};
  return fmlai_cuda_launch_kernel(c, &launch, parameters, stream);
}
