/*
 * CPU kernels. A kernel computes one work item: the rows of one tile against the keys of one split. What comes
 * before (checks, plan) and after (normalising, merging, storing) is the backend's and the same for all
 * kernels.
 */
#ifndef FMLAI_CPU_KERNEL_H
#define FMLAI_CPU_KERNEL_H

#include "flash_mla.h"
#include "plan.h"

#include <stdbool.h>

enum { FMLAI_TILE_ROW_STEP = 16 };

typedef struct fmlai_cpu_kernel {
  const char *name;
  const char *needs;         /* in words, for fmla_kernel_info */
  const char *takes;         /* likewise */
  uint32_t features;         /* FMLAI_CPU_... bits (features.h) that the CPU must have */
  int32_t probability_dtype; /* fmla_dtype of the probabilities in the product with V */
  int32_t max_tile_rows;     /* rows that one item may have */
  double gflops;             /* that a core computes in a second, roughly */
  int32_t fit_rows;          /* with fewer for a sequence, the next kernels are faster */

  /* Whether it serves these checked parameters. */
  bool (*serves)(const fmla_decode_params *params);

  /* Memory that decode_item needs for itself, for tiles of up to tile_rows rows. */
  size_t (*scratch_bytes)(const fmla_decode_params *params, int32_t tile_rows);

  /*
   * For each row r of the item's tile, over the keys kv_begin .. kv_end - 1 that the row may see:
   *   row_max[r] = about max(score): at most that, and less by 6 at most; -inf without keys
   *   row_sum[r] = sum(exp(score - row_max[r])), 0 without keys
   *   o[r][0 .. head_dim_v - 1] = sum(exp(score - row_max[r]) * V), 0 without keys
   *   row_weight[r] = the sum of the probabilities as they multiplied V, by which to divide o
   * where score = softmax_scale * (q . k). `o` is [num_rows, head_dim_v]; all are overwritten. The four have
   * room for num_rows rounded up to FMLAI_TILE_ROW_STEP, with any content there. `scratch` has scratch_bytes,
   * aligned to 64 bytes. A row's bits depend on the row, its keys, the split and the number of rows in its
   * tile, not on what the other rows hold.
   */
  void (*decode_item)(const fmla_decode_params *params, const fmlai_plan_item *item, float *o, float *row_max,
                      float *row_sum, float *row_weight, void *scratch);

  /* fmlai_store_row() for rows of head_dim_v values, bit for bit. */
  void (*store_row)(void *to, int32_t dtype, const float *from, float scale, int32_t count);
} fmlai_cpu_kernel;

/* One line for each kernel, the best first. Kernel NAME is fmlai_cpu_kernel_NAME. */
#if defined(__x86_64__)
#define FMLAI_CPU_KERNELS(X) X(amx) X(avx512bf16) X(avx512) X(avx2) X(portable)
#else
#define FMLAI_CPU_KERNELS(X) X(portable)
#endif

#define X(name) extern const fmlai_cpu_kernel fmlai_cpu_kernel_##name;
FMLAI_CPU_KERNELS(X)
#undef X

/* Where row `r` of a tile lies in q, out and lse. With cu_seqlens_q the strides of the batch are 0. */
typedef struct fmlai_row {
  int32_t batch;
  int64_t token;
  int64_t head;
} fmlai_row;

static inline fmlai_row fmlai_row_of(const fmla_decode_params *p, const fmlai_plan_tile *tile, int32_t r) {
  const int32_t group = p->num_q_heads / p->num_kv_heads;
  const int64_t row = tile->row_begin + r;
  return (fmlai_row){.batch = tile->batch,
                     .token = tile->q_begin + row / group,
                     .head = (int64_t)tile->kv_head * group + row % group};
}

/* Row `r` of a tile may see keys 0 .. n - 1 of its sequence; this is n: all, or fewer with FMLA_CAUSAL. */
static inline int64_t fmlai_visible_keys(const fmla_decode_params *p, const fmlai_plan_tile *tile, int32_t r) {
  if ((p->flags & FMLA_CAUSAL) == 0)
    return tile->seqlen_k;
  const int64_t token = (tile->row_begin + r) / (p->num_q_heads / p->num_kv_heads);
  const int64_t visible = (int64_t)tile->seqlen_k - tile->seqlen_q + token + 1;
  return visible > 0 ? visible : 0;
}

#endif
