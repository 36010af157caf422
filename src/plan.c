#include "plan.h"

enum {
  SPLIT_GRANULARITY = 64, /* tokens */
  MIN_SPLIT_TOKENS = 256,
  INVARIANT_FEW_ROWS = 32,
  INVARIANT_SPLIT_OF_FEW = 1024,
  INVARIANT_SPLIT_OF_MANY = 2048,
  INVARIANT_SHORT_SPLITS = 4, /* of these at most */
  INVARIANT_LONG_SPLIT = 4096,
  INVARIANT_MAX_SPLITS = 8
};

static int64_t ceil_div(int64_t a, int64_t b) {
  return a / b + (a % b != 0);
}
static int64_t round_up(int64_t a, int64_t multiple) {
  return ceil_div(a, multiple) * multiple;
}
static int64_t min64(int64_t a, int64_t b) {
  return a < b ? a : b;
}
static int64_t max64(int64_t a, int64_t b) {
  return a > b ? a : b;
}

/* Sums and products of extents that no memory could hold stop at the largest integer. */
static int64_t saturating_mul(int64_t a, int64_t b) {
  int64_t product;
  return __builtin_mul_overflow(a, b, &product) ? INT64_MAX : product;
}

static int64_t saturating_add(int64_t a, int64_t b) {
  int64_t sum;
  return __builtin_add_overflow(a, b, &sum) ? INT64_MAX : sum;
}

static int64_t invariant_split_tokens(int64_t rows, int64_t seqlen_k) {
  const int64_t short_split = rows <= INVARIANT_FEW_ROWS ? INVARIANT_SPLIT_OF_FEW : INVARIANT_SPLIT_OF_MANY;
  const int64_t splits = max64(min64(INVARIANT_SHORT_SPLITS, ceil_div(seqlen_k, short_split)),
                               min64(INVARIANT_MAX_SPLITS, ceil_div(seqlen_k, INVARIANT_LONG_SPLIT)));
  return splits == 0 ? SPLIT_GRANULARITY : round_up(ceil_div(seqlen_k, splits), SPLIT_GRANULARITY);
}

/* A sequence without keys is one split, which writes its rows. */
static int64_t num_splits(int64_t split_tokens, int64_t seqlen_k) {
  return max64(1, ceil_div(seqlen_k, split_tokens));
}

static int32_t tile_rows_of(const fmlai_plan_shape *s) {
  const int64_t rows = saturating_mul(s->max_seqlen_q, s->group_heads);
  return (int32_t)max64(1, min64(s->max_tile_rows, rows));
}

static int64_t tiles_of(const fmlai_plan_shape *s, int32_t tile_rows, int64_t seqlen_q) {
  return saturating_mul(s->num_kv_heads, ceil_div(saturating_mul(seqlen_q, s->group_heads), tile_rows));
}

fmlai_plan_limits fmlai_plan_limits_of(const fmlai_plan_shape *s) {
  fmlai_plan_limits limits;
  limits.tile_rows = tile_rows_of(s);
  limits.index_bytes = 3 * ((size_t)s->batch_size + 1) * sizeof(int64_t);

  /* Every sequence has its longest q, or the query tokens are total_q with a tile begun in each sequence. */
  const int64_t full = saturating_mul(s->batch_size, tiles_of(s, limits.tile_rows, s->max_seqlen_q));
  const int64_t begun = saturating_mul(s->num_kv_heads, s->batch_size);
  limits.num_tiles = min64(full, saturating_add(tiles_of(s, limits.tile_rows, s->total_q), begun));

  /* A sequence with few rows has more splits. */
  const int64_t split_tokens =
      s->batch_invariant ? invariant_split_tokens(0, s->max_seqlen_k) : MIN_SPLIT_TOKENS;
  const int64_t splits = num_splits(split_tokens, s->max_seqlen_k);
  limits.num_partials = splits > 1 ? saturating_mul(limits.num_tiles, splits) : 0;
  if (!s->batch_invariant)
    limits.num_partials = min64(limits.num_partials, 2 * (int64_t)s->target_items);
  return limits;
}

static int32_t seqlen_q_of(const fmlai_plan *plan, int32_t batch) {
  return plan->cu_seqlens_q ? plan->cu_seqlens_q[batch + 1] - plan->cu_seqlens_q[batch]
                            : plan->shape.max_seqlen_q;
}

static int64_t split_tokens_of(const fmlai_plan *plan, int32_t batch) {
  return plan->shape.batch_invariant
             ? invariant_split_tokens((int64_t)seqlen_q_of(plan, batch) * plan->shape.group_heads,
                                      plan->cache_seqlens[batch])
             : plan->split_tokens;
}

static int64_t splits_of(const fmlai_plan *plan, int32_t batch) {
  return num_splits(split_tokens_of(plan, batch), plan->cache_seqlens[batch]);
}

void fmlai_plan_make(fmlai_plan *plan, const fmlai_plan_shape *shape, const int32_t *cache_seqlens,
                     const int32_t *cu_seqlens_q, void *memory) {
  const int32_t batch_size = shape->batch_size;
  plan->shape = *shape;
  plan->cache_seqlens = cache_seqlens;
  plan->cu_seqlens_q = cu_seqlens_q;
  plan->tile_rows = tile_rows_of(shape);
  plan->item_begin = memory;
  plan->tile_begin = plan->item_begin + batch_size + 1;
  plan->partial_begin = plan->tile_begin + batch_size + 1;

  int64_t work = 0;
  plan->tile_begin[0] = 0;
  for (int32_t i = 0; i < batch_size; i++) {
    const int64_t tiles = tiles_of(shape, plan->tile_rows, seqlen_q_of(plan, i));
    plan->tile_begin[i + 1] = plan->tile_begin[i] + tiles;
    work = saturating_add(work, saturating_mul(tiles, cache_seqlens[i]));
  }
  const int64_t even_share = min64(ceil_div(work, shape->target_items), INT32_MAX);
  plan->split_tokens = max64(MIN_SPLIT_TOKENS, round_up(even_share, SPLIT_GRANULARITY));

  plan->item_begin[0] = 0;
  plan->partial_begin[0] = 0;
  for (int32_t i = 0; i < batch_size; i++) {
    const int64_t splits = splits_of(plan, i);
    const int64_t items = (plan->tile_begin[i + 1] - plan->tile_begin[i]) * splits;
    plan->item_begin[i + 1] = plan->item_begin[i] + items;
    plan->partial_begin[i + 1] = plan->partial_begin[i] + (splits > 1 ? items : 0);
  }
}

int64_t fmlai_plan_num_items(const fmlai_plan *plan) {
  return plan->item_begin[plan->shape.batch_size];
}
int64_t fmlai_plan_num_tiles(const fmlai_plan *plan) {
  return plan->tile_begin[plan->shape.batch_size];
}
int64_t fmlai_plan_num_partials(const fmlai_plan *plan) {
  return plan->partial_begin[plan->shape.batch_size];
}

/* The sequence whose range of `begin` holds `index`; empty ranges hold nothing. */
static int32_t find_sequence(const int64_t *begin, int32_t batch_size, int64_t index) {
  int32_t low = 0, high = batch_size;
  while (high - low > 1) {
    const int32_t middle = low + (high - low) / 2;
    if (begin[middle] <= index)
      low = middle;
    else
      high = middle;
  }
  return low;
}

static fmlai_plan_tile tile_of_sequence(const fmlai_plan *plan, int32_t batch, int64_t tile) {
  const fmlai_plan_shape *s = &plan->shape;
  const int32_t seqlen_q = seqlen_q_of(plan, batch);
  const int64_t rows = (int64_t)seqlen_q * s->group_heads;
  const int64_t tiles_per_head = ceil_div(rows, plan->tile_rows);
  const int64_t row_begin = tile % tiles_per_head * plan->tile_rows;
  const int64_t splits = splits_of(plan, batch);
  return (fmlai_plan_tile){.batch = batch,
                           .kv_head = (int32_t)(tile / tiles_per_head),
                           .row_begin = row_begin,
                           .num_rows = (int32_t)min64(plan->tile_rows, rows - row_begin),
                           .q_begin = plan->cu_seqlens_q ? plan->cu_seqlens_q[batch] : 0,
                           .seqlen_q = seqlen_q,
                           .seqlen_k = plan->cache_seqlens[batch],
                           .num_splits = splits,
                           .first_partial = plan->partial_begin[batch] + tile * splits};
}

fmlai_plan_tile fmlai_plan_tile_at(const fmlai_plan *plan, int64_t tile) {
  const int32_t batch = find_sequence(plan->tile_begin, plan->shape.batch_size, tile);
  return tile_of_sequence(plan, batch, tile - plan->tile_begin[batch]);
}

fmlai_plan_item fmlai_plan_item_at(const fmlai_plan *plan, int64_t item) {
  const int32_t batch = find_sequence(plan->item_begin, plan->shape.batch_size, item);
  const int64_t index = item - plan->item_begin[batch];
  const int64_t splits = splits_of(plan, batch);
  const int64_t seqlen_k = plan->cache_seqlens[batch];
  const int64_t tokens = split_tokens_of(plan, batch);
  fmlai_plan_item found = {.tile = tile_of_sequence(plan, batch, index / splits), .split = index % splits};
  found.kv_begin = found.split * tokens;
  found.kv_end = min64(found.kv_begin + tokens, seqlen_k);
  return found;
}
