#include "cuda/workspace.h"

#include "cuda/check_gpu.h"
#include "cuda/check_report.h"
#include "cuda/kernels/args.h"
#include "plan.h"
#include "status.h"

enum { ALIGNMENT = 256 };

typedef struct counts {
  int64_t tiles; /* row tiles of the batch */
  double line;   /* their blocks of keys, and some more for each (kernels/schedule.cuh) */
  int64_t slots; /* of partial results */
  int64_t items; /* of all CTAs, and some that are none: num_ctas for each round */
} counts;

/*
 * Normal mode: of the line a CTA begins one split tile at most, and goes on with one; of items that are parts
 * of a tile it has two at most (kernels/schedule.cuh). Batch-invariant: by the plan's formula; the last round
 * may have one item alone. There total_q bounds each sequence but not their sum: wrong cu_seqlens_q may add up
 * to more.
 */
static counts count(const fmlai_cuda_context *c, const fmla_decode_params *p, int32_t variant) {
  const int32_t together = fmlai_cuda_variants[variant].tiles_together;
  const bool invariant = (p->flags & FMLA_BATCH_INVARIANT) != 0;
  const int32_t longest_q = fmlai_cuda_longest_q(p);
  const fmlai_plan_shape shape = {.batch_size = p->batch_size,
                                  .max_seqlen_q = longest_q,
                                  .total_q = invariant ? (int64_t)p->batch_size * longest_q : p->total_q,
                                  .max_seqlen_k = p->max_seqlen_k,
                                  .num_kv_heads = p->num_kv_heads,
                                  .group_heads = p->num_q_heads / p->num_kv_heads,
                                  .max_tile_rows = together * fmlai_cuda_variants[variant].rows,
                                  .target_items = 1,
                                  .batch_invariant = invariant};
  const fmlai_plan_limits limits = fmlai_plan_limits_of(&shape);
  const int64_t tiles = together * limits.num_tiles; /* on one SM they are not taken together */
  const int64_t ctas = fmlai_cuda_max_ctas(c, p, variant), partials = together * limits.num_partials;
  return (counts){.tiles = tiles,
                  .line = (double)tiles * ((double)p->max_seqlen_k / 64 + 3),
                  .slots = invariant ? partials : 2 * ctas,
                  .items = invariant ? tiles + partials + ctas : FMLAI_CUDA_MAX_ROUNDS * ctas};
}

static size_t append(size_t *end, size_t bytes) {
  const size_t offset = *end;
  *end += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  return offset;
}

/* Counts fit 31 bits, rows and head dims ten: no product overflows. */
static size_t place(const counts *n, int32_t rows, int32_t head_dim_v, fmlai_cuda_layout *l) {
  const size_t row_bytes = sizeof(float) * (size_t)rows;
  size_t end = 0;
  l->num_slots = (int32_t)n->slots;
  l->check_report = append(&end, sizeof(fmlai_cuda_check_report));
  l->num_rounds = append(&end, sizeof(int32_t));
  l->split_tiles = append(&end, (size_t)n->items * sizeof(fmlai_cuda_split_tile));
  l->partial_lse = append(&end, (size_t)n->slots * row_bytes);
  l->partial_o = append(&end, (size_t)n->slots * row_bytes * (size_t)head_dim_v);
  return end + ALIGNMENT - 1; /* the first aligned byte may lie so far in */
}

/* For some step that is no larger than this one. */
static bool may_be_chosen(const fmlai_cuda_context *c, const fmla_decode_params *p, int32_t variant) {
  if (c->only >= 0)
    return variant == c->only;
  if (fmlai_cuda_variants[variant].is_hopper)
    return fmlai_cuda_has_variant(c, variant) && variant <= fmlai_cuda_hopper_variant_of_rows(p);
  return variant <= fmlai_cuda_variant_of_rows(p);
}

fmla_status fmlai_cuda_lay_out(const fmlai_cuda_context *c, const fmla_decode_params *p,
                               const fmlai_cuda_choice *choice, fmlai_cuda_layout *layout, size_t *bytes) {
  *bytes = 0;
  for (int32_t v = 0; v < FMLAI_CUDA_NUM_VARIANTS; v++) {
    if (!may_be_chosen(c, p, v))
      continue;
    const counts n = count(c, p, v);
    if (n.tiles > INT32_MAX || n.items > INT32_MAX || n.slots > INT32_MAX)
      return FMLAI_FAIL(
          FMLA_ERROR_UNSUPPORTED,
          "a batch_size of %d with max_seqlen_q %d and %d heads is more than 2^31 - 1 row tiles or partial "
          "results",
          (int)p->batch_size, (int)p->max_seqlen_q, (int)p->num_q_heads);
    if (n.line > INT32_MAX)
      return FMLAI_FAIL(
          FMLA_ERROR_UNSUPPORTED,
          "a batch_size of %d with max_seqlen_q %d, %d heads and max_seqlen_k %d is more than 2^31 - 1 "
          "tiles of rows and keys",
          (int)p->batch_size, (int)p->max_seqlen_q, (int)p->num_q_heads, (int)p->max_seqlen_k);
    fmlai_cuda_layout l;
    const size_t needed = place(&n, fmlai_cuda_variants[v].rows, p->head_dim_v, &l);
    *bytes = needed > *bytes ? needed : *bytes;
    if (v == choice->variant)
      *layout = l;
  }
  return FMLA_OK;
}

char *fmlai_cuda_align(void *workspace) {
  const uintptr_t misaligned = (uintptr_t)workspace % ALIGNMENT;
  return (char *)workspace + (misaligned != 0 ? ALIGNMENT - misaligned : 0);
}
