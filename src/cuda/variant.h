/* The compiled variants of the decode kernel as data. Each is a kernel of its own to fmla_config.kernel. */
#ifndef FMLAI_CUDA_VARIANT_H
#define FMLAI_CUDA_VARIANT_H

#include "cuda/image.h"
#include "cuda/kernels/variants.h"
#include "flash_mla.h"

#include <stdbool.h>

#define X(rows, tile_keys, warps, max_head_dim_v) FMLAI_CUDA_ROWS##rows,
enum {
  FMLAI_CUDA_PORTABLE_VARIANTS(X) FMLAI_CUDA_NUM_PORTABLE,
  FMLAI_CUDA_HOPPER_ROWS16 = FMLAI_CUDA_NUM_PORTABLE,
  FMLAI_CUDA_HOPPER_ROWS32,
  FMLAI_CUDA_HOPPER_ROWS64,
  FMLAI_CUDA_HOPPER_ROWS128,
  FMLAI_CUDA_NUM_VARIANTS
};
#undef X

/* Types of elements that each is compiled for. */
enum { FMLAI_CUDA_BF16, FMLAI_CUDA_FP16, FMLAI_CUDA_NUM_TYPES };

typedef struct fmlai_cuda_variant {
  const char *name;
  const char *takes; /* in words */
  fmlai_cuda_image image;
  const char *functions[FMLAI_CUDA_NUM_TYPES];
  int32_t rows, tile_keys, warps, max_head_dim_v;
  int32_t ctas_per_sm;    /* that its registers allow and it is best with, if shared memory allows as many */
  int32_t tiles_together; /* row tiles of a cluster, a CTA for each; a share may have two clusters */
  int32_t min_share;      /* blocks of 64 keys, the schedule's overhead of a tile included */
  int32_t idle_32nds;   /* of a step, in which CTAs may idle: where memory binds, others have their bandwidth */
  int32_t shared_bytes; /* of a CTA; 0: as many stages as fit */
  bool is_hopper;       /* for compute capability 9.0 alone */
} fmlai_cuda_variant;

/* The portable ones by rows, the fewest first; then Hopper's in the same order. */
extern const fmlai_cuda_variant fmlai_cuda_variants[FMLAI_CUDA_NUM_VARIANTS];

static inline int fmlai_cuda_type(const fmla_decode_params *p) {
  return p->kv_format == FMLA_KV_FP16 ? FMLAI_CUDA_FP16 : FMLAI_CUDA_BF16;
}

/* Shared memory of a CTA with so many stages. */
int32_t fmlai_cuda_shared_bytes(const fmlai_cuda_variant *variant, int32_t head_dim_k, int32_t num_stages);

/* The most stages that fit; a variant needs 2. */
int32_t fmlai_cuda_stages_in(const fmlai_cuda_variant *variant, int32_t head_dim_k, int32_t shared_bytes);

#endif
