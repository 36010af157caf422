#include "cuda/variant.h"

/* As in the kernels' launch bounds. */
#define CTAS_PER_SM(rows) ((rows) == 16 ? 2 : 1)

const fmlai_cuda_variant fmlai_cuda_variants[FMLAI_CUDA_NUM_VARIANTS] = {
#define X(rows, tile_keys, warps, max_head_dim_v)                                                              \
  {"portable_rows" #rows,                                                                                      \
   {"fmlai_decode_portable_bf16_rows" #rows, "fmlai_decode_portable_fp16_rows" #rows},                         \
   rows,                                                                                                       \
   tile_keys,                                                                                                  \
   warps,                                                                                                      \
   max_head_dim_v,                                                                                             \
   CTAS_PER_SM(rows)},
    FMLAI_CUDA_PORTABLE_VARIANTS(X)
#undef X
};

int32_t fmlai_cuda_shared_bytes(const fmlai_cuda_variant *v, int32_t head_dim_k, int32_t num_stages) {
  return FMLAI_CUDA_STAGES_OFFSET(v->rows, v->tile_keys, v->warps, head_dim_k) +
         num_stages * FMLAI_CUDA_STAGE_BYTES(v->tile_keys, head_dim_k);
}

int32_t fmlai_cuda_stages_in(const fmlai_cuda_variant *v, int32_t head_dim_k, int32_t shared_bytes) {
  const int32_t left = shared_bytes - fmlai_cuda_shared_bytes(v, head_dim_k, 0);
  const int32_t stages = left > 0 ? left / FMLAI_CUDA_STAGE_BYTES(v->tile_keys, head_dim_k) : 0;
  return stages < FMLAI_CUDA_MAX_STAGES ? stages : FMLAI_CUDA_MAX_STAGES;
}
