#include "cuda/decode.h"

#include "cuda/check_gpu.h"
#include "cuda/tensor_map.h"
#include "status.h"

static fmlai_cuda_decode_args make_args(const fmla_decode_params *p, const fmlai_cuda_choice *choice,
                                        const fmlai_cuda_layout *l, char *memory) {
  return (fmlai_cuda_decode_args){
      .q = p->q,
      .q_rope = p->q_rope,
      .kv_cache = p->kv_cache,
      .block_table = p->block_table,
      .cache_seqlens = p->cache_seqlens,
      .cu_seqlens_q = p->cu_seqlens_q,
      .sink = p->sink,
      .out = p->out,
      .lse = p->lse,
      .partial_o = (float *)(void *)(memory + l->partial_o),
      .partial_lse = (float *)(void *)(memory + l->partial_lse),
      .num_rounds = (int32_t *)(void *)(memory + l->num_rounds),
      .split_tiles = (fmlai_cuda_split_tile *)(void *)(memory + l->split_tiles),
      .q_stride_batch = p->q_stride_batch,
      .q_stride_token = p->q_stride_token,
      .q_stride_head = p->q_stride_head,
      .q_rope_stride_batch = p->q_rope_stride_batch,
      .q_rope_stride_token = p->q_rope_stride_token,
      .q_rope_stride_head = p->q_rope_stride_head,
      .kv_stride_page = p->kv_stride_page,
      .kv_stride_token = p->kv_stride_token,
      .kv_stride_head = p->kv_stride_head,
      .block_table_stride = p->block_table_stride,
      .out_stride_batch = p->out_stride_batch,
      .out_stride_token = p->out_stride_token,
      .out_stride_head = p->out_stride_head,
      .lse_stride_batch = p->lse_stride_batch,
      .lse_stride_token = p->lse_stride_token,
      .lse_stride_head = p->lse_stride_head,
      .total_q = p->total_q,
      .batch_size = p->batch_size,
      .num_kv_heads = p->num_kv_heads,
      .group_heads = p->num_q_heads / p->num_kv_heads,
      .head_dim_k = p->head_dim_k,
      .head_dim_v = p->head_dim_v,
      .head_dim_rope = p->head_dim_rope,
      .max_seqlen_q = fmlai_cuda_longest_q(p),
      .max_seqlen_k = p->max_seqlen_k,
      .page_size = p->page_size,
      .num_pages = (int32_t)p->num_pages,
      .out_dtype = p->out_dtype,
      .flags = p->flags,
      .softmax_scale = p->softmax_scale,
      .num_slots = l->num_slots,
      .num_ctas = choice->num_ctas,
      .tiles_together = choice->tiles_together,
      .tiles_together_log2 = __builtin_ctz((unsigned)choice->tiles_together),
      .min_share = fmlai_cuda_variants[choice->variant].min_share,
      .idle_32nds = fmlai_cuda_variants[choice->variant].idle_32nds,
      .tile_rows = fmlai_cuda_variants[choice->variant].rows,
      .tile_rows_log2 = __builtin_ctz((unsigned)fmlai_cuda_variants[choice->variant].rows),
      .num_stages = choice->num_stages,
      .box_keys = fmlai_cuda_variants[choice->variant].is_hopper ? fmlai_cuda_box_keys(p->page_size) : 0,
  };
}

fmla_status fmlai_cuda_decode(const fmlai_cuda_context *c, const fmla_decode_params *p,
                              const fmlai_cuda_choice *choice, const fmlai_cuda_layout *layout, void *workspace,
                              CUstream stream) {
  char *memory = fmlai_cuda_align(workspace);
  fmlai_cuda_decode_args args = make_args(p, choice, layout, memory);
  fmlai_cuda_tensor_map map;
  void *parameters[] = {&args, &map}; /* only Hopper's kernels have the second */
  if ((p->flags & FMLA_CHECKED) != 0)
    FMLAI_TRY(fmlai_cuda_check_values(c, p, &args, memory + layout->check_report, stream));

  if (fmlai_cuda_variants[choice->variant].is_hopper)
    FMLAI_TRY(fmlai_cuda_map_kv_cache(c, p, &map));

  const fmlai_cuda_launch decode = {.function =
                                        c->functions.decode[choice->variant][fmlai_cuda_type(p)].function,
                                    .grid = choice->num_ctas,
                                    .block = fmlai_cuda_variants[choice->variant].warps * 32,
                                    .shared_bytes = choice->shared_bytes};
  const fmlai_cuda_launch merge = {.function = c->functions.merge_splits,
                                   .grid = fmlai_cuda_merge_ctas(c, p),
                                   .block = FMLAI_CUDA_MERGE_SPLITS_THREADS};
  FMLAI_TRY(fmlai_cuda_launch_kernel(c, &decode, parameters, stream));
  return fmlai_cuda_launch_kernel(c, &merge, parameters, stream);
}
