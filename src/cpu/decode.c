#include "cpu/decode.h"

#include "cpu/rows.h"
#include "cpu/shares.h"
#include "numeric.h"
#include "status.h"

#include <math.h>

enum { ALIGNMENT = 64 };

/* The workspace, in this order; offsets are multiples of ALIGNMENT from its first aligned byte. */
typedef struct layout {
  fmlai_plan_shape shape;
  fmlai_plan_limits limits;
  int32_t max_target; /* of the plan's items, in the normal mode */
  size_t partial_o;   /* float [partials, tile_rows, head_dim_v], normalised */
  size_t partial_lse; /* float [partials, tile_rows] */
  size_t threads;     /* for each thread: o, row_max, row_sum, row_weight, the kernel's scratch */
  size_t thread_row_max, thread_row_sum, thread_row_weight, thread_scratch; /* offsets in a thread's part */
  size_t thread_bytes;
} layout;

/* Appends count * bytes to *end, from the next aligned offset on, which is returned. Overflow sticks to
 * SIZE_MAX. */
static size_t append(size_t *end, size_t count, size_t bytes) {
  size_t size;
  const size_t offset = *end;
  if (__builtin_mul_overflow(count, bytes, &size) || __builtin_add_overflow(size, ALIGNMENT - 1, &size) ||
      __builtin_add_overflow(offset, size / ALIGNMENT * ALIGNMENT, end))
    *end = SIZE_MAX;
  return offset;
}

/* Returns the bytes of the whole, SIZE_MAX if they cannot be counted. */
static size_t lay_out(layout *l, const fmlai_cpu_kernel *kernel, const fmla_decode_params *p,
                      const fmlai_cpu_crew *crew) {
  l->shape = (fmlai_plan_shape){.batch_size = p->batch_size,
                                .max_seqlen_q = p->max_seqlen_q,
                                .total_q = p->total_q,
                                .max_seqlen_k = p->max_seqlen_k,
                                .num_kv_heads = p->num_kv_heads,
                                .group_heads = p->num_q_heads / p->num_kv_heads,
                                .max_tile_rows = kernel->max_tile_rows,
                                .target_items = INT32_MAX,
                                .batch_invariant = (p->flags & FMLA_BATCH_INVARIANT) != 0};
  l->limits = fmlai_plan_limits_of(&l->shape);
  l->max_target = fmlai_cpu_max_target_items(crew->num_processors, l->limits.tile_rows);
  const size_t tile_rows = (size_t)l->limits.tile_rows;
  const size_t most_rows = (size_t)fmlai_cpu_max_partial_rows(crew->num_processors, l->limits.tile_rows);
  const size_t room = (tile_rows + FMLAI_TILE_ROW_STEP - 1) / FMLAI_TILE_ROW_STEP * FMLAI_TILE_ROW_STEP;

  size_t thread_end = 0;
  append(&thread_end, room * (size_t)p->head_dim_v, sizeof(float));
  l->thread_row_max = append(&thread_end, room, sizeof(float));
  l->thread_row_sum = append(&thread_end, room, sizeof(float));
  l->thread_row_weight = append(&thread_end, room, sizeof(float));
  l->thread_scratch = append(&thread_end, kernel->scratch_bytes(p, l->limits.tile_rows), 1);
  l->thread_bytes = thread_end;

  size_t end = 0;
  append(&end, l->limits.index_bytes, 1);
  size_t rows;
  if (__builtin_mul_overflow((size_t)l->limits.num_partials, tile_rows, &rows))
    rows = SIZE_MAX;
  if (!l->shape.batch_invariant && rows > most_rows)
    rows = most_rows;
  l->partial_o = append(&end, rows, (size_t)p->head_dim_v * sizeof(float));
  l->partial_lse = append(&end, rows, sizeof(float));
  l->threads = append(&end, (size_t)fmlai_pool_num_threads(crew->pool), l->thread_bytes);
  append(&end, 1, ALIGNMENT - 1); /* the first aligned byte may lie so far in */
  return end;
}

fmla_status fmlai_cpu_decode_workspace(const fmlai_cpu_kernel *kernel, const fmla_decode_params *p,
                                       const fmlai_cpu_crew *crew, size_t *bytes) {
  layout l;
  const size_t needed = lay_out(&l, kernel, p, crew);
  if (needed > PTRDIFF_MAX)
    return FMLAI_FAIL(
        FMLA_ERROR_UNSUPPORTED,
        "a batch_size of %d with max_seqlen_q %d would need a workspace larger than the address space",
        (int)p->batch_size, (int)p->max_seqlen_q);
  *bytes = needed;
  return FMLA_OK;
}

typedef struct step {
  const fmla_decode_params *params;
  const fmlai_cpu_kernel *kernel;
  fmlai_plan plan;
  layout layout;
  char *memory; /* the workspace's first aligned byte */
} step;

static fmlai_row_target row_target(const step *s, fmlai_row row) {
  const fmla_decode_params *p = s->params;
  const int64_t out =
      row.batch * p->out_stride_batch + row.token * p->out_stride_token + row.head * p->out_stride_head;
  const int64_t lse =
      row.batch * p->lse_stride_batch + row.token * p->lse_stride_token + row.head * p->lse_stride_head;
  return (fmlai_row_target){.store_row = s->kernel->store_row,
                            .out = (char *)p->out + out * (int64_t)fmlai_dtype_bytes(p->out_dtype),
                            .out_dtype = p->out_dtype,
                            .head_dim_v = p->head_dim_v,
                            .lse = p->lse != NULL ? p->lse + lse : NULL,
                            .empty_lse = fmlai_empty_lse(p->flags),
                            .sink = p->sink != NULL ? p->sink + row.head : NULL};
}

static float *partial_o(const step *s, int64_t partial, int32_t row) {
  const int64_t index = partial * s->layout.limits.tile_rows + row;
  return (float *)(void *)(s->memory + s->layout.partial_o) + index * s->params->head_dim_v;
}

static float *partial_lse(const step *s, int64_t partial, int32_t row) {
  return (float *)(void *)(s->memory + s->layout.partial_lse) + partial * s->layout.limits.tile_rows + row;
}

/* A partial result is a row of its own, in FP32 and without the sink. */
static fmlai_row_target partial_target(const step *s, int64_t partial, int32_t row) {
  return (fmlai_row_target){.store_row = s->kernel->store_row,
                            .out = partial_o(s, partial, row),
                            .out_dtype = FMLA_DTYPE_FP32,
                            .head_dim_v = s->params->head_dim_v,
                            .lse = partial_lse(s, partial, row),
                            .empty_lse = -INFINITY,
                            .sink = NULL};
}

static void decode_item(void *argument, int64_t index, int32_t thread) {
  const step *s = argument;
  const fmlai_plan_item item = fmlai_plan_item_at(&s->plan, index);
  char *memory = s->memory + s->layout.threads + (size_t)thread * s->layout.thread_bytes;
  float *o = (float *)(void *)memory;
  float *row_max = (float *)(void *)(memory + s->layout.thread_row_max);
  float *row_sum = (float *)(void *)(memory + s->layout.thread_row_sum);
  float *row_weight = (float *)(void *)(memory + s->layout.thread_row_weight);
  s->kernel->decode_item(s->params, &item, o, row_max, row_sum, row_weight, memory + s->layout.thread_scratch);
  for (int32_t r = 0; r < item.tile.num_rows; r++) {
    const fmlai_row_target target = item.tile.num_splits > 1
                                        ? partial_target(s, item.tile.first_partial + item.split, r)
                                        : row_target(s, fmlai_row_of(s->params, &item.tile, r));
    fmlai_finish_row(&target, o + (size_t)r * (size_t)s->params->head_dim_v, row_max[r], row_sum[r],
                     row_weight[r]);
  }
}

/* Rows of a tile that one thread merges at a time: few, so that one long sequence is shared by all threads. */
enum { MERGE_ROWS = 8 };

static int64_t merges_per_tile(const step *s) {
  return (s->layout.limits.tile_rows + MERGE_ROWS - 1) / MERGE_ROWS;
}

static void merge_row_splits(const step *s, const fmlai_plan_tile *tile, int32_t row) {
  const int32_t tile_rows = s->layout.limits.tile_rows;
  const fmlai_row_target target = row_target(s, fmlai_row_of(s->params, tile, row));
  const fmlai_row_parts parts = {.num_parts = tile->num_splits,
                                 .out = partial_o(s, tile->first_partial, row),
                                 .dtype = FMLA_DTYPE_FP32,
                                 .out_stride = (int64_t)tile_rows * s->params->head_dim_v,
                                 .lse = partial_lse(s, tile->first_partial, row),
                                 .lse_stride = tile_rows};
  fmlai_merge_row(&target, &parts);
}

static void merge_splits(void *argument, int64_t index, int32_t thread) {
  (void)thread;
  const step *s = argument;
  const fmlai_plan_tile tile = fmlai_plan_tile_at(&s->plan, index / merges_per_tile(s));
  if (tile.num_splits == 1)
    return;
  const int32_t first = (int32_t)(index % merges_per_tile(s)) * MERGE_ROWS;
  for (int32_t row = first; row < tile.num_rows && row < first + MERGE_ROWS; row++)
    merge_row_splits(s, &tile, row);
}

/* Rows of q that belong to no sequence, from cu_seqlens_q[batch_size] on. */
static void write_unowned_rows(const step *s) {
  const fmla_decode_params *p = s->params;
  for (int64_t token = p->cu_seqlens_q[p->batch_size]; token < p->total_q; token++)
    for (int64_t head = 0; head < p->num_q_heads; head++) {
      const fmlai_row_target target = row_target(s, (fmlai_row){.token = token, .head = head});
      fmlai_finish_row(&target, NULL, 0, 0, 0);
    }
}

void fmlai_cpu_decode(const fmlai_cpu_kernel *kernel, const fmla_decode_params *p, void *workspace,
                      const fmlai_cpu_crew *crew) {
  step s = {.params = p, .kernel = kernel};
  layout *l = &s.layout;
  lay_out(l, kernel, p, crew);
  const fmlai_cpu_costs costs = fmlai_cpu_costs_of(kernel, p, l->limits.tile_rows);
  const size_t misaligned = (uintptr_t)workspace % ALIGNMENT;
  s.memory = (char *)workspace + (misaligned != 0 ? ALIGNMENT - misaligned : 0);
  if (!l->shape.batch_invariant)
    l->shape.target_items =
        fmlai_cpu_target_items(&l->shape, p, &costs, crew->num_processors, l->max_target, s.memory);
  fmlai_plan_make(&s.plan, &l->shape, p->cache_seqlens, p->cu_seqlens_q, s.memory);
  const int32_t threads = fmlai_cpu_useful_threads(&s.plan, &costs);
  fmlai_pool_run(crew->pool, fmlai_plan_num_items(&s.plan), threads, decode_item, &s);
  if (fmlai_plan_num_partials(&s.plan) > 0)
    fmlai_pool_run(crew->pool, fmlai_plan_num_tiles(&s.plan) * merges_per_tile(&s), threads, merge_splits, &s);
  if (p->cu_seqlens_q != NULL)
    write_unowned_rows(&s);
}

static void merge_row(void *argument, int64_t index, int32_t thread) {
  (void)thread;
  const fmla_merge_params *p = argument;
  const int64_t head = index % p->num_q_heads;
  const int64_t token = index / p->num_q_heads % p->seqlen_q;
  const int64_t batch = index / p->num_q_heads / p->seqlen_q;
  const int64_t out = batch * p->out_stride_batch + token * p->out_stride_token + head * p->out_stride_head;
  const int64_t lse = batch * p->lse_stride_batch + token * p->lse_stride_token + head * p->lse_stride_head;
  const int64_t out_part =
      batch * p->out_parts_stride_batch + token * p->out_parts_stride_token + head * p->out_parts_stride_head;
  const int64_t lse_part =
      batch * p->lse_parts_stride_batch + token * p->lse_parts_stride_token + head * p->lse_parts_stride_head;
  const fmlai_row_target target = {.store_row = fmlai_store_row,
                                   .out = (char *)p->out + out * (int64_t)fmlai_dtype_bytes(p->out_dtype),
                                   .out_dtype = p->out_dtype,
                                   .head_dim_v = p->head_dim_v,
                                   .lse = p->lse != NULL ? p->lse + lse : NULL,
                                   .empty_lse = fmlai_empty_lse(p->flags),
                                   .sink = p->sink != NULL ? p->sink + head : NULL};
  fmlai_row_parts parts = {.num_parts = p->num_parts};
  if (p->num_parts > 0) { /* without parts there may be no tensors of them */
    parts.out = fmlai_at(p->out_parts, p->part_dtype, out_part);
    parts.dtype = p->part_dtype;
    parts.out_stride = p->out_parts_stride_part;
    parts.lse = p->lse_parts + lse_part;
    parts.lse_stride = p->lse_parts_stride_part;
  }
  fmlai_merge_row(&target, &parts);
}

void fmlai_cpu_merge(const fmla_merge_params *p, fmlai_pool *pool) {
  fmla_merge_params params = *p;
  fmlai_pool_run(pool, (int64_t)p->batch_size * p->seqlen_q * p->num_q_heads, FMLA_MAX_THREADS, merge_row,
                 &params);
}
