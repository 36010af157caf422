#include "cuda/variant.h"

/* As in the kernels' launch bounds. */
#define CTAS_PER_SM(rows) ((rows) == 16 ? 2 : 1)

#define HOPPER_TAKES "BF16 and FP16; head_dim_k 576, head_dim_v 512; page_size a multiple of 16"

const fmlai_cuda_variant fmlai_cuda_variants[FMLAI_CUDA_NUM_VARIANTS] = {
#define X(num_rows, num_keys, num_warps, most_head_dim_v)                                                      \
  {.name = "portable_rows" #num_rows,                                                                          \
   .takes = "BF16 and FP16; head dims that are multiples of 16, head_dim_k up to 576, head_dim_v up "          \
            "to " #most_head_dim_v,                                                                            \
   .image = FMLAI_CUDA_IMAGE_decode_portable,                                                                  \
   .functions = {"fmlai_decode_portable_bf16_rows" #num_rows, "fmlai_decode_portable_fp16_rows" #num_rows},    \
   .rows = num_rows,                                                                                           \
   .tile_keys = num_keys,                                                                                      \
   .warps = num_warps,                                                                                         \
   .max_head_dim_v = most_head_dim_v,                                                                          \
   .ctas_per_sm = CTAS_PER_SM(num_rows),                                                                       \
   .tiles_together = 1,                                                                                        \
   .min_share = 1,                                                                                             \
   .idle_32nds = (num_rows) < 64},
    FMLAI_CUDA_PORTABLE_VARIANTS(X)
#undef X
#define X(num_rows, num_boxes)                                                                                 \
  {.name = "hopper_rows" #num_rows,                                                                            \
   .takes = HOPPER_TAKES,                                                                                      \
   .image = FMLAI_CUDA_IMAGE_decode_hopper_few,                                                                \
   .functions = {"fmlai_decode_hopper_bf16_rows" #num_rows, "fmlai_decode_hopper_fp16_rows" #num_rows},        \
   .rows = num_rows,                                                                                           \
   .tile_keys = 64,                                                                                            \
   .warps = HOPPER_THREADS / 32,                                                                               \
   .max_head_dim_v = 512,                                                                                      \
   .ctas_per_sm = 1,                                                                                           \
   .tiles_together = 1,                                                                                        \
   .min_share = 2,                                                                                             \
   .idle_32nds = 1,                                                                                            \
   .shared_bytes = HOPPER_FEW_SHARED_BYTES(num_rows, num_boxes),                                               \
   .is_hopper = true},
        FMLAI_CUDA_HOPPER_FEW_VARIANTS(X)
#undef X
#define X(num_rows, num_ctas, most_idle_32nds)                                                                 \
  {.name = "hopper_rows" #num_rows,                                                                            \
   .takes = HOPPER_TAKES,                                                                                      \
   .image = FMLAI_CUDA_IMAGE_decode_hopper,                                                                    \
   .functions = {"fmlai_decode_hopper_bf16_rows" #num_rows, "fmlai_decode_hopper_fp16_rows" #num_rows},        \
   .rows = HOPPER_ROWS,                                                                                        \
   .tile_keys = 64,                                                                                            \
   .warps = HOPPER_THREADS / 32,                                                                               \
   .max_head_dim_v = 512,                                                                                      \
   .ctas_per_sm = 1,                                                                                           \
   .tiles_together = num_ctas,                                                                                 \
   .min_share = 2,                                                                                             \
   .idle_32nds = most_idle_32nds,                                                                              \
   .shared_bytes = HOPPER_SHARED_BYTES,                                                                        \
   .is_hopper = true},
            FMLAI_CUDA_HOPPER_VARIANTS(X)
#undef X
};

int32_t fmlai_cuda_shared_bytes(const fmlai_cuda_variant *v, int32_t head_dim_k, int32_t num_stages) {
  return v->shared_bytes > 0 ? v->shared_bytes
                             : FMLAI_CUDA_STAGES_OFFSET(v->rows, v->tile_keys, v->warps, head_dim_k) +
                                   num_stages * FMLAI_CUDA_STAGE_BYTES(v->tile_keys, head_dim_k);
}

int32_t fmlai_cuda_stages_in(const fmlai_cuda_variant *v, int32_t head_dim_k, int32_t shared_bytes) {
  if (v->shared_bytes > 0)
    return shared_bytes >= v->shared_bytes ? 2 : 0;
  const int32_t left = shared_bytes - fmlai_cuda_shared_bytes(v, head_dim_k, 0);
  const int32_t stages = left > 0 ? left / FMLAI_CUDA_STAGE_BYTES(v->tile_keys, head_dim_k) : 0;
  return stages < FMLAI_CUDA_MAX_STAGES ? stages : FMLAI_CUDA_MAX_STAGES;
}
